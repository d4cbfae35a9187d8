package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/roam-go/roam/transport"
)

// A connection carries calls both ways: here the one that accepted it asks back.
func ExampleConn() {
	ctx := context.Background()
	network := transport.NewMemory()
	accepted := make(chan transport.Conn, 1)
	l, err := network.Host("server").Listen(":0", func(c transport.Conn) transport.Handler {
		accepted <- c
		return adder{}
	})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	c, err := network.Host("client").Dial(ctx, transport.Peer{Addr: l.Addr()}, adder{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(add(ctx, c, 1, 2))
	fmt.Println(add(ctx, <-accepted, 3, 4))
	// Output:
	// 3 <nil>
	// 7 <nil>
}

// echo is a handler that answers with the params, and reports the end of its connection.
type echo struct{ ended chan error }

func (echo) Handle(c transport.Conn, r *transport.Request) { r.Reply(r.Params, nil) }
func (e echo) Closed(c transport.Conn, err error)          { e.ended <- err }

func ExampleHandler() {
	ctx := context.Background()
	network := transport.NewMemory()
	h := echo{make(chan error, 1)}
	l, err := network.Host("server").Listen(":0", func(transport.Conn) transport.Handler { return h })
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	c, err := network.Host("client").Dial(ctx, transport.Peer{Addr: l.Addr()}, nil)
	if err != nil {
		log.Fatal(err)
	}
	params, err := transport.Marshal("hello")
	if err != nil {
		log.Fatal(err)
	}
	result, err := c.Call(ctx, "echo", params)
	fmt.Println(bytes.Equal(result, params), err)
	c.Close()
	fmt.Println(errors.Is(<-h.ended, io.EOF))
	// Output:
	// true <nil>
	// true
}

func ExampleListener() {
	network := transport.NewMemory()
	l, err := network.Host("server").Listen("server:7000", func(transport.Conn) transport.Handler { return nil })
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(l.Addr())
	_, err = network.Host("server").Listen("server:7000", func(transport.Conn) transport.Handler { return nil })
	fmt.Println(err)
	fmt.Println(l.Close(), l.Close())
	// Output:
	// server:7000
	// transport: listen at server:7000: address already in use
	// <nil> <nil>
}

// A test of a handler needs no connection.
func ExampleNewRequest() {
	params, _ := transport.Marshal([]int{2, 3})
	adder{}.Handle(nil, transport.NewRequest("add", params, func(result []byte, err error) {
		var sum int
		fmt.Println(transport.Unmarshal(result, &sum), sum, err)
	}))
	// Output: <nil> 5 <nil>
}

func ExampleNewIdentity() {
	a, b := transport.NewIdentity(), transport.NewIdentity()
	key := a.Key()
	fmt.Println(key == b.Key(), len(key.String()))
	// Output: false 43
}

// A process that keeps its identity over a restart is known by the same key.
func ExampleLoadIdentity() {
	dir, err := os.MkdirTemp("", "identity")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "key.pem")
	first, err := transport.LoadIdentity(path) // makes it
	if err != nil {
		log.Fatal(err)
	}
	again, err := transport.LoadIdentity(path)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(first.Key() == again.Key())
	// Output: true
}

// shout sends a notification to many connections.
func shout(conns []transport.Conn, method string, params []byte) {
	if b, ok := conns[0].(transport.Broadcaster); ok {
		b.NotifyAll(conns, method, params)
		return
	}
	for _, c := range conns {
		_ = c.Notify(method, params)
	}
}

// printer prints the methods of its requests.
type printer struct{ ended chan struct{} }

func (printer) Handle(c transport.Conn, r *transport.Request) { fmt.Println(r.Method) }
func (p printer) Closed(c transport.Conn, err error)          { p.ended <- struct{}{} }

func ExampleBroadcaster() {
	network := transport.NewMemory()
	h := printer{make(chan struct{}, 2)}
	l, err := network.Host("server").Listen(":0", func(transport.Conn) transport.Handler { return h })
	if err != nil {
		log.Fatal(err)
	}
	var conns []transport.Conn
	for range 2 {
		c, err := network.Host("client").Dial(context.Background(), transport.Peer{Addr: l.Addr()}, nil)
		if err != nil {
			log.Fatal(err)
		}
		conns = append(conns, c)
	}
	shout(conns, "news", nil)
	for _, c := range conns {
		c.Close()
		<-h.ended
	}
	// Output:
	// news
	// news
}

// A result that is copied anyway can be borrowed.
func ExampleBorrower() {
	network := transport.NewMemory()
	l, err := network.Host("server").Listen(":0", func(transport.Conn) transport.Handler { return adder{} })
	if err != nil {
		log.Fatal(err)
	}
	c, err := network.Host("client").Dial(context.Background(), transport.Peer{Addr: l.Addr()}, nil)
	if err != nil {
		log.Fatal(err)
	}
	params, err := transport.Marshal([]int{2, 3})
	if err != nil {
		log.Fatal(err)
	}
	call := c.Go
	if b, ok := c.(transport.Borrower); ok {
		call = b.GoBorrow
	}
	buf, done := make([]byte, 8), make(chan []byte)
	call("add", params, func(result []byte, err error) { done <- buf[:copy(buf, result)] })
	fmt.Printf("% x\n", <-done)
	network.Host("client").Close()
	network.Host("server").Close()
	// Output: 05
}
