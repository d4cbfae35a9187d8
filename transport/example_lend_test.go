package transport_test

import (
	"context"
	"fmt"

	"github.com/roam-go/roam/transport"
)

// slowHandler takes long for one message.
type slowHandler struct {
	turns chan uint64
	done  chan struct{}
}

func (h slowHandler) Handle(c transport.Conn, r *transport.Request) {
	if r.Method == "slow" {
		h.turns <- c.(transport.Lender).Turn()
		<-h.done // code that takes an unknown time
		return
	}
	fmt.Println("handled:", r.Method)
	close(h.done)
}

func (h slowHandler) Closed(transport.Conn, error) {}

// While Handle takes long, another goroutine reads on in its place.
func ExampleLender() {
	network := transport.NewMemory()
	h := slowHandler{turns: make(chan uint64), done: make(chan struct{})}
	accepted := make(chan transport.Conn, 1)
	l, err := network.Host("b").Listen("b:1", func(c transport.Conn) transport.Handler {
		accepted <- c
		return h
	})
	if err != nil {
		panic(err)
	}
	defer l.Close()
	c, err := network.Host("a").Dial(context.Background(), transport.Peer{Addr: "b:1"}, nil)
	if err != nil {
		panic(err)
	}
	defer c.Close()

	c.Notify("slow", nil)
	c.Notify("next", nil)
	turn := <-h.turns
	released := (<-accepted).(transport.Lender).Release(turn)
	<-h.done
	fmt.Println("released:", released)
	// Output:
	// handled: next
	// released: true
}
