package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// hosted is a network on which host a serves a guestbook.
func hosted() *lan {
	l := newLAN()
	a, _ := l.node("a")
	if _, err := a.Host(context.Background(), "guestbook.example", newGuestbook, migrate.Policy{}); err != nil {
		panic(err)
	}
	return l
}

// A client dials the name of a service. It gives up when its context does, and says why.
func ExampleDial() {
	l := hosted()
	defer l.close()
	tr := l.transport("client")

	c, err := migrate.Dial(context.Background(), "guestbook.example", migrate.ClientConfig{Resolver: l.names, Transport: tr})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	reply, err := c.Do(context.Background(), []byte("hello"))
	fmt.Printf("line %s from host %s, %v\n", reply, c.Where().ID, err)

	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = migrate.Dial(ctx, "nowhere.example", migrate.ClientConfig{Resolver: l.names, Transport: tr})
	fmt.Println(errors.Is(err, migrate.ErrNoService), errors.Is(err, context.DeadlineExceeded))
	// Output:
	// line 1 from host a, <nil>
	// true true
}

// Go sends many commands without waiting for each; they take effect in order.
func ExampleClient_Go() {
	ctx := context.Background()
	l := hosted()
	defer l.close()
	c := l.dial("client", "guestbook.example", migrate.ClientConfig{})

	var calls []*migrate.Call
	for _, line := range []string{"one", "two", "three"} {
		call, err := c.Go([]byte(line))
		if err != nil {
			fmt.Println(err)
			return
		}
		calls = append(calls, call)
	}
	for _, call := range calls {
		reply, err := call.Reply(ctx)
		fmt.Printf("%s %v\n", reply, err)
	}
	// Output:
	// 1 <nil>
	// 2 <nil>
	// 3 <nil>
}

// Events are numbered, so that a reader can go on where it stopped; from 1 on is everything that is still kept.
func ExampleClient_Events() {
	ctx := context.Background()
	l := hosted()
	defer l.close()
	c := l.dial("client", "guestbook.example", migrate.ClientConfig{})
	c.Do(ctx, []byte("hello"))
	c.Do(ctx, []byte("world"))

	for ev, err := range c.Events(ctx, 1) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%d %s\n", ev.Seq, ev.Body)
		if ev.Seq == 2 {
			break
		}
	}
	// Output:
	// 1 hello
	// 2 world
}

// A query changes nothing and sees every command that was acknowledged.
func ExampleQuerier() {
	ctx := context.Background()
	l := hosted()
	defer l.close()
	writer := l.dial("writer", "guestbook.example", migrate.ClientConfig{})
	reader := l.dial("reader", "guestbook.example", migrate.ClientConfig{})

	writer.Do(ctx, []byte("hello"))
	answer, err := reader.Query(ctx, []byte("how many?"))
	fmt.Printf("%s %v\n", answer, err)
	// Output: 1 <nil>
}

// A refused command does not reach Apply; its client gets the error, with the code of an application where it has none.
func ExampleValidator() {
	ctx := context.Background()
	l := hosted()
	defer l.close()
	c := l.dial("client", "guestbook.example", migrate.ClientConfig{})

	_, err := c.Do(ctx, []byte("  "))
	fmt.Println(err)
	fmt.Println(transport.CodeOf(err) == migrate.CodeApplication)
	reply, err := c.Do(ctx, []byte("hello"))
	fmt.Printf("%s %v\n", reply, err)
	// Output:
	// guestbook: the line is empty
	// true
	// 1 <nil>
}

// A service learns that a client has left, and may tell the others.
func ExampleSessionCloser() {
	ctx := context.Background()
	l := hosted()
	defer l.close()
	stays := l.dial("stays", "guestbook.example", migrate.ClientConfig{})
	leaves := l.dial("leaves", "guestbook.example", migrate.ClientConfig{})

	leaves.Do(ctx, []byte("goodbye"))
	fmt.Println(leaves.Shutdown(ctx))
	for ev, err := range stays.Events(ctx, 1) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s\n", ev.Body)
		if ev.Seq == 2 {
			break
		}
	}
	// Output:
	// <nil>
	// goodbye
	// (somebody left)
}

// A host dies; its standby goes on, and the client's command waits for that.
func ExampleMove() {
	ctx := context.Background()
	l := newLAN()
	defer l.close()
	a, changed := l.node("a")
	b, _ := l.node("b")
	if _, err := a.Host(ctx, "guestbook.example", newGuestbook, migrate.Policy{}); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := b.Standby(ctx, "guestbook.example", newGuestbook, migrate.Policy{}); err != nil {
		fmt.Println(err)
		return
	}
	inSync(changed, 2)
	moves := make(chan migrate.Move, 1)
	c := l.dial("client", "guestbook.example", migrate.ClientConfig{OnMove: func(m migrate.Move) { moves <- m }})
	c.Do(ctx, []byte("before"))

	l.net.Crash("a")
	reply, err := c.Do(ctx, []byte("after"))
	fmt.Printf("line %s, %v\n", reply, err)
	move := <-moves
	fmt.Println("on", move.Host.ID, "in epoch", move.Epoch, "planned:", move.Planned)
	// Output:
	// line 2, <nil>
	// on b in epoch 2 planned: false
}
