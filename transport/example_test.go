package transport_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/roam-go/roam/transport"
)

// adder is a [transport.Handler] that adds numbers.
type adder struct{}

func (adder) Handle(c transport.Conn, r *transport.Request) {
	if r.Method != "add" {
		r.Reply(nil, transport.ErrNoMethod)
		return
	}
	var n []int
	if err := transport.Unmarshal(r.Params, &n); err != nil {
		r.Reply(nil, err)
		return
	}
	sum := 0
	for _, k := range n {
		sum += k
	}
	r.Reply(transport.Marshal(sum))
}

func (adder) Closed(c transport.Conn, err error) {}

// add calls it.
func add(ctx context.Context, c transport.Conn, n ...int) (sum int, err error) {
	params, err := transport.Marshal(n)
	if err != nil {
		return 0, err
	}
	result, err := c.Call(ctx, "add", params)
	if err != nil {
		return 0, err
	}
	return sum, transport.Unmarshal(result, &sum)
}

// Any two processes speak in this way; here both are in memory.
func ExampleTransport() {
	ctx := context.Background()
	network := transport.NewMemory()
	var server, client transport.Transport = network.Host("server"), network.Host("client")

	l, err := server.Listen(":0", func(transport.Conn) transport.Handler { return adder{} })
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	c, err := client.Dial(ctx, transport.Peer{Addr: l.Addr(), Key: server.Key()}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(add(ctx, c, 1, 2, 3))

	_, err = c.Call(ctx, "multiply", nil)
	fmt.Println(err, errors.Is(err, transport.ErrNoMethod))
	// Output:
	// 6 <nil>
	// no such method true
}

// The server makes a realm and hands out a code. A process with the code connects, a stranger does not.
func ExampleRealm() {
	ctx := context.Background()
	realm := transport.NewRealm() // or LoadRealm, which keeps it in a file
	server, err := transport.NewTCP(transport.TCPConfig{Realm: realm})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	l, err := server.Listen("127.0.0.1:0", func(c transport.Conn) transport.Handler {
		fmt.Println("a", c.Peer().Role, "connects")
		return adder{}
	})
	if err != nil {
		log.Fatal(err)
	}
	code, err := realm.Code(transport.RoleGuest, transport.Peer{Addr: l.Addr(), Key: server.Key()})
	if err != nil {
		log.Fatal(err)
	}

	joined, peer, err := transport.ParseCode(code)
	if err != nil {
		log.Fatal(err)
	}
	client, err := transport.NewTCP(transport.TCPConfig{Realm: joined})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	c, err := client.Dial(ctx, peer, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(add(ctx, c, 20, 22))

	stranger, err := transport.NewTCP(transport.TCPConfig{Realm: transport.NewRealm()})
	if err != nil {
		log.Fatal(err)
	}
	defer stranger.Close()
	_, err = stranger.Dial(ctx, peer, nil)
	fmt.Println(errors.Is(err, transport.ErrNotMember))
	// Output:
	// a guest connects
	// 42 <nil>
	// true
}

// Over TCP each side has a key, and the dialer says which one it expects.
func ExampleNewTCP() {
	ctx := context.Background()
	realm := transport.NewRealm()
	server, err := transport.NewTCP(transport.TCPConfig{Realm: realm})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	l, err := server.Listen("127.0.0.1:0", func(transport.Conn) transport.Handler { return adder{} })
	if err != nil {
		log.Fatal(err)
	}

	client, err := transport.NewTCP(transport.TCPConfig{Realm: realm, Identity: transport.NewIdentity()})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	c, err := client.Dial(ctx, transport.Peer{Addr: l.Addr(), Key: server.Key()}, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(add(ctx, c, 20, 22))

	_, err = client.Dial(ctx, transport.Peer{Addr: l.Addr(), Key: client.Key()}, nil)
	fmt.Println(errors.Is(err, transport.ErrWrongKey))
	// Output:
	// 42 <nil>
	// true
}

// An array of values is read into a struct's fields in their order.
func ExampleMarshal() {
	b, err := transport.Marshal([]any{"a", "b", 7})
	fmt.Printf("% x %v\n", b, err)

	var move struct {
		From, To string
		Epoch    uint64
	}
	err = transport.Unmarshal(b, &move)
	fmt.Println(move, err)

	err = transport.Unmarshal(append(b, 1), &move)
	fmt.Println(err)
	// Output:
	// 93 a1 61 a1 62 07 <nil>
	// {a b 7} <nil>
	// transport: 1 bytes after the end of a MessagePack value
}

// A network in memory has the faults that a test asks for.
func ExampleMemory() {
	network := transport.NewMemory()
	server, client := network.Host("server"), network.Host("client")
	l, err := server.Listen(":0", func(transport.Conn) transport.Handler { return adder{} })
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	c, err := client.Dial(ctx, transport.Peer{Addr: l.Addr()}, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(add(ctx, c, 1, 1))

	network.Cut("server", "client")
	_, err = add(ctx, c, 1, 1)
	fmt.Println(err != nil)

	network.Crash("server")
	_, err = client.Dial(ctx, transport.Peer{Addr: l.Addr()}, nil)
	fmt.Println(err)
	// Output:
	// 2 <nil>
	// true
	// transport: dial server:1: connection refused
}
