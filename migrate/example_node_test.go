package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// lan is a network in memory with a resolver, as the examples use it.
type lan struct {
	net    *transport.Memory
	names  *resolver.Memory
	closes []func() error
}

func newLAN() *lan { return &lan{net: transport.NewMemory(), names: resolver.NewMemory()} }

// close ends everything, the latest first.
func (l *lan) close() {
	for _, f := range slices.Backward(l.closes) {
		f()
	}
}

func (l *lan) transport(host string) *transport.MemoryTransport {
	tr := l.net.Host(host)
	l.closes = append(l.closes, tr.Close)
	return tr
}

// node makes a node that tells of each change of its role and of the record.
func (l *lan) node(host string) (*migrate.Node, chan migrate.Status) {
	changed := make(chan migrate.Status, 1024)
	node, err := migrate.NewNode(migrate.NodeConfig{
		ID: host, Resolver: l.names, Transport: l.transport(host),
		Hooks: migrate.Hooks{Changed: func(st migrate.Status) { changed <- st }},
	})
	if err != nil {
		panic(err)
	}
	l.closes = append(l.closes, node.Close)
	return node, changed
}

// dial makes a client.
func (l *lan) dial(host, service string, cfg migrate.ClientConfig) *migrate.Client {
	cfg.Resolver, cfg.Transport = l.names, l.transport(host)
	c, err := migrate.Dial(context.Background(), service, cfg)
	if err != nil {
		panic(err)
	}
	l.closes = append(l.closes, c.Close)
	return c
}

// inSync waits until n hosts hold every acknowledged command.
func inSync(changed chan migrate.Status, n int) {
	for st := range changed {
		if len(st.Record.ISR) == n {
			return
		}
	}
}

// A node needs a resolver and a transport; here both live in memory.
func ExampleNewNode() {
	network := transport.NewMemory()
	tr := network.Host("host-a")
	defer tr.Close()
	node, err := migrate.NewNode(migrate.NodeConfig{
		Resolver:  resolver.NewMemory(),
		Transport: tr,
		ID:        "host-a",
		Listen:    ":7000",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close()
	fmt.Println(node.Self().ID, "at", node.Self().Addr)

	_, err = migrate.NewNode(migrate.NodeConfig{Transport: tr})
	fmt.Println(err)
	// Output:
	// host-a at host-a:7000
	// migrate: NodeConfig.Resolver is required
}

// The first host of a service creates it; whoever hosts it next stands by.
func ExampleNode_Host() {
	l := newLAN()
	defer l.close()
	a, changed := l.node("a")
	b, _ := l.node("b")

	svc, err := a.Host(context.Background(), "guestbook.example", newGuestbook, migrate.Policy{})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := b.Host(context.Background(), "guestbook.example", newGuestbook, migrate.Policy{}); err != nil {
		fmt.Println(err)
		return
	}
	inSync(changed, 2) // the standby that the policy wants by default
	st := svc.Status()
	fmt.Println(st.Role, "with", len(st.Record.ISR)-1, "standby")
	// Output: active with 1 standby
}

// A handoff moves a service while clients use it.
func ExampleService_Handoff() {
	ctx := context.Background()
	l := newLAN()
	defer l.close()
	a, changed := l.node("a")
	b, _ := l.node("b")
	svc, err := a.Host(ctx, "guestbook.example", newGuestbook, migrate.Policy{})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := b.Standby(ctx, "guestbook.example", newGuestbook, migrate.Policy{}); err != nil {
		fmt.Println(err)
		return
	}
	inSync(changed, 2)
	c := l.dial("client", "guestbook.example", migrate.ClientConfig{})
	c.Do(ctx, []byte("said on a"))

	report, err := svc.Handoff(ctx, "b")
	fmt.Println(report.From.ID, "to", report.To.ID, "in epoch", report.Epoch, "for", report.Cause, err)
	reply, err := c.Do(ctx, []byte("said on b"))
	fmt.Printf("line %s, %v\n", reply, err)

	_, err = svc.Handoff(ctx, "c")
	fmt.Println(errors.Is(err, migrate.ErrNotActive))
	// Output:
	// a to b in epoch 2 for demand <nil>
	// line 2, <nil>
	// true
}

// A node that shuts down hands over first. The last one ends the service with its state, and says so.
func ExampleNode_Shutdown() {
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

	fmt.Println(a.Shutdown(ctx))
	rec, err := l.names.Get(ctx, "guestbook.example")
	fmt.Println("now on", rec.Active.ID, err)
	fmt.Println(errors.Is(b.Shutdown(ctx), migrate.ErrNoTarget))
	// Output:
	// <nil>
	// now on b <nil>
	// true
}

// Rank puts the hosts that could take the service in order, and drops those that should not.
func ExamplePolicy() {
	policy := migrate.Policy{
		Copies: 1,
		Rank: func(hosts []resolver.Host) []resolver.Host {
			hosts = slices.DeleteFunc(hosts, func(h resolver.Host) bool { return h.ID == "laptop" })
			slices.SortFunc(hosts, func(a, b resolver.Host) int { return strings.Compare(a.ID, b.ID) })
			return hosts
		},
	}
	for _, h := range policy.Rank([]resolver.Host{{ID: "server-2"}, {ID: "laptop"}, {ID: "server-1"}}) {
		fmt.Println(h.ID)
	}
	// Output:
	// server-1
	// server-2
}
