package chatcore_test

import (
	"context"
	"fmt"
	"log"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// host starts a host for the chat on an in-memory network.
func host(ctx context.Context, net *transport.Memory, res resolver.Resolver, cfg chatcore.Config) *migrate.Node {
	node, err := migrate.NewNode(migrate.NodeConfig{Resolver: res, Transport: net.Host("host"), Listen: "host:1"})
	if err != nil {
		log.Fatal(err)
	}
	factory, err := chatcore.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := node.Host(ctx, "backend.com", factory, migrate.Policy{}); err != nil {
		log.Fatal(err)
	}
	return node
}

func join(ctx context.Context, net *transport.Memory, res resolver.Resolver, name string) *chatcore.Client {
	c, err := chatcore.Join(ctx, "backend.com", chatcore.ClientConfig{
		Name: name, Resolver: res, Transport: net.Host(name), Listen: name + ":0",
	})
	if err != nil {
		log.Fatal(err)
	}
	return c
}

// The room holds messages until two participants have joined.
func ExampleNew() {
	ctx := context.Background()
	net, res := transport.NewMemory(), resolver.NewMemory()
	node := host(ctx, net, res, chatcore.Config{MinParticipants: 2})
	defer node.Close()

	ann := join(ctx, net, res, "ann")
	defer ann.Close()
	_ = ann.Say(ctx, "anybody here?")
	bob := join(ctx, net, res, "bob")
	defer bob.Close()
	for m := range ann.Messages(ctx) {
		fmt.Println(m)
		if m.Kind == chatcore.KindMessage {
			break
		}
	}

	_, err := chatcore.New(chatcore.Config{MaxName: 1000})
	fmt.Println(err)
	// Output:
	// ann joined; waiting for 1 more to begin
	// bob joined
	// the chat has begun
	// ann: anybody here?
	// chat: Config.MaxName is 1000, want 1 to 64
}

func ExampleJoin() {
	ctx := context.Background()
	net, res := transport.NewMemory(), resolver.NewMemory()
	node := host(ctx, net, res, chatcore.Config{})
	defer node.Close()

	ann := join(ctx, net, res, "ann")
	defer ann.Close()
	_ = ann.Say(ctx, "first")

	bob := join(ctx, net, res, "bob")
	_ = bob.Say(ctx, "hello, all")
	for m, err := range bob.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(m)
		if m.From == "bob" && m.Kind == chatcore.KindMessage {
			break
		}
	}
	who, _ := bob.Who(ctx)
	fmt.Println(len(who), "are here")
	_ = bob.Leave(ctx)

	_, err := chatcore.Join(ctx, "backend.com", chatcore.ClientConfig{
		Name: "ANN", Resolver: res, Transport: net.Host("mallory"),
	})
	fmt.Println(err)
	// Output:
	// ann: first
	// bob joined
	// bob: hello, all
	// 2 are here
	// chat: join "backend.com" as "ANN": chat: the name "ANN" is taken: "ann", a confusable name, belongs to a participant in the room
}

func ExampleClient_Private() {
	ctx := context.Background()
	net, res := transport.NewMemory(), resolver.NewMemory()
	node := host(ctx, net, res, chatcore.Config{})
	defer node.Close()

	ann, bob := join(ctx, net, res, "ann"), join(ctx, net, res, "bob")
	defer ann.Close()
	if err := ann.Private(ctx, "bob", "between us"); err != nil {
		log.Fatal(err)
	}
	for m := range bob.Messages(ctx) {
		if m.Kind == chatcore.KindPrivate {
			fmt.Println(m)
			break
		}
	}

	_ = bob.Leave(ctx)
	fmt.Println(ann.Private(ctx, "bob", "still there?"))
	// Output:
	// ann (private): between us
	// chat: no participant is called "bob"
}
