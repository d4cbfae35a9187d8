package migrate_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// cards is a table at which each player draws cards that nobody else sees. A player is a key.
type cards struct {
	Deck  []string
	Hands map[string][]string // by key
}

func newCards() migrate.Migratable {
	return &cards{Deck: []string{"7 of clubs", "queen of hearts", "2 of spades"}, Hands: map[string][]string{}}
}

// Apply deals one card. The event, which everybody receives, must not contain it.
func (c *cards) Apply(cmd migrate.Command) ([]byte, error) {
	if len(c.Deck) == 0 {
		return nil, errors.New("cards: the deck is empty")
	}
	player := cmd.Key.String()
	c.Hands[player] = append(c.Hands[player], c.Deck[0])
	c.Deck = c.Deck[1:]
	cmd.Emit(fmt.Appendf(nil, "%d cards left", len(c.Deck)))
	return nil, nil
}

// Query shows the cards of the player who asks.
func (c *cards) Query(q migrate.Query) ([]byte, error) {
	if hand := c.Hands[q.Key.String()]; len(hand) > 0 {
		return []byte(strings.Join(hand, ", ")), nil
	}
	return nil, transport.Errorf(migrate.CodeForbidden, "cards: you have not drawn a card")
}

func (c *cards) Snapshot() (migrate.Snapshot, error) {
	b, err := json.Marshal(c)
	return table(b), err
}

func (c *cards) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, c)
}

// table is a snapshot of cards.
type table []byte

func (s table) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s)
	return int64(n), err
}

func (s table) Release() {}

// A service knows the key of the client that asks: each player sees only their own cards, on whichever host the service is.
func ExampleQuery() {
	ctx := context.Background()
	l := newLAN()
	defer l.close()
	a, _ := l.node("a")
	b, _ := l.node("b")
	svc, err := a.Host(ctx, "cards.example", newCards, migrate.Policy{})
	if err == nil {
		_, err = b.Standby(ctx, "cards.example", newCards, migrate.Policy{})
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, player := range []string{"ann", "bob"} {
		l.dial(player, "cards.example", migrate.ClientConfig{}).Do(ctx, nil)
	}
	if _, err := svc.Handoff(ctx, "b"); err != nil {
		fmt.Println(err)
		return
	}
	for _, player := range []string{"ann", "bob", "eve"} {
		c := l.dial(player, "cards.example", migrate.ClientConfig{}) // another session of the same key
		hand, err := c.Query(ctx, nil)
		fmt.Println(player, string(hand), err)
	}
	// Output:
	// ann 7 of clubs <nil>
	// bob queen of hearts <nil>
	// eve  cards: you have not drawn a card
}
