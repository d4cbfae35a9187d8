package roam_test

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// counter is the service. It implements migrate.Migratable.
type counter int64

func (c *counter) Apply(migrate.Command) ([]byte, error) {
	*c++
	return strconv.AppendInt(nil, int64(*c), 10), nil
}

func (c *counter) Snapshot() (migrate.Snapshot, error) { return *c, nil }

func (c *counter) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err == nil {
		_, err = fmt.Sscan(string(b), c)
	}
	return err
}

// A counter is its own snapshot, because it is a value.
func (c counter) WriteTo(w io.Writer) (int64, error) {
	n, err := fmt.Fprint(w, int64(c))
	return int64(n), err
}

func (c counter) Release() {}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func Example() {
	ctx := context.Background()
	names := resolver.NewMemory()    // on a real network: resolver.NewClient
	network := transport.NewMemory() // on a real network: transport.NewTCP
	policy := migrate.Policy{Every: 100 * time.Millisecond}
	empty := func() migrate.Migratable { return new(counter) }

	a := must(migrate.NewNode(migrate.NodeConfig{ID: "a", Resolver: names, Transport: network.Host("a")}))
	defer a.Close()
	b := must(migrate.NewNode(migrate.NodeConfig{ID: "b", Resolver: names, Transport: network.Host("b")}))
	defer b.Close()
	must(a.Host(ctx, "counter.example", empty, policy))
	must(b.Standby(ctx, "counter.example", empty, policy))

	moves := make(chan migrate.Move, 1000)
	client := must(migrate.Dial(ctx, "counter.example", migrate.ClientConfig{
		Resolver: names, Transport: network.Host("client"),
		OnMove: func(m migrate.Move) { moves <- m },
	}))
	defer client.Close()

	fmt.Printf("%s\n", must(client.Do(ctx, []byte("+1"))))
	fmt.Println("moved to", (<-moves).Host.ID)
	fmt.Printf("%s\n", must(client.Do(ctx, []byte("+1"))))
	// Output:
	// 1
	// moved to b
	// 2
}
