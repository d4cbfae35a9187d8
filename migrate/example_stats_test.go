package migrate_test

import (
	"context"
	"expvar"
	"fmt"

	"github.com/roam-go/roam/migrate"
)

// What is to be seen from outside is for the program to choose. Here package expvar shows it, at /debug/vars of the
// program's HTTP server if it has one.
func ExampleService_Stats() {
	ctx := context.Background()
	l := newLAN()
	defer l.close()
	a, _ := l.node("a")
	svc, err := a.Host(ctx, "guestbook.example", newGuestbook, migrate.Policy{})
	if err != nil {
		fmt.Println(err)
		return
	}
	expvar.Publish("guestbook.example", expvar.Func(func() any {
		st := svc.Stats()
		return map[string]uint64{"answered": st.Answered, "failovers": st.Failovers, "handoffs": st.HandoffsIn + st.HandoffsOut}
	}))

	c := l.dial("client", "guestbook.example", migrate.ClientConfig{})
	c.Do(ctx, []byte("hello"))
	c.Do(ctx, []byte("is anybody there?"))
	c.Close()
	a.Close() // which leaves nothing to be counted
	fmt.Println(expvar.Get("guestbook.example"))
	// Output: {"answered":2,"failovers":0,"handoffs":0}
}

// A client counts what it did to stay with its service.
func ExampleClient_Stats() {
	l := hosted()
	defer l.close()
	c := l.dial("client", "guestbook.example", migrate.ClientConfig{})
	c.Do(context.Background(), []byte("hello"))
	st := c.Stats()
	fmt.Println(st.Acknowledged, "of", st.Sent, "acknowledged,", st.Moves, "moves")
	// Output: 1 of 1 acknowledged, 0 moves
}
