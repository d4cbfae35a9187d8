package resolver_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

func ExampleNewMemory() {
	ctx := context.Background()
	res := resolver.NewMemory()

	// A host says that it is there, for a minute.
	a := resolver.Host{ID: "host-a", Incarnation: 4711, Addr: "10.0.0.1:7000"}
	if err := res.Announce(ctx, a, []string{"backend.com"}, time.Minute); err != nil {
		fmt.Println(err)
	}
	hosts, err := res.Hosts(ctx, "backend.com")
	fmt.Println(len(hosts), hosts[0].ID, err)

	// Nobody serves the name so far.
	_, err = res.Get(ctx, "backend.com")
	fmt.Println(errors.Is(err, resolver.ErrNotFound), err)
	// Output:
	// 1 host-a <nil>
	// true resolver: no service "backend.com"
}

// A record changes only by compare-and-swap, and only as [resolver.Check] allows.
func ExampleResolver() {
	ctx := context.Background()
	var res resolver.Resolver = resolver.NewMemory()
	a := resolver.Host{ID: "host-a", Incarnation: 4711, Addr: "10.0.0.1:7000"}
	b := resolver.Host{ID: "host-b", Incarnation: 1234, Addr: "10.0.0.2:7000"}

	// Host a creates the service, and adds b when b holds a copy of its state.
	rec, err := res.CompareAndSwap(ctx, 0, resolver.Record{
		Name: "backend.com", Epoch: 1, Active: a, ISR: []resolver.Host{a}, Proposer: a, Nonce: 1,
	})
	fmt.Println("version", rec.Version, "active", rec.Active.ID, err)
	next := rec
	next.ISR, next.Nonce = []resolver.Host{a, b}, 2
	rec, err = res.CompareAndSwap(ctx, rec.Version, next)
	fmt.Println("version", rec.Version, "active", rec.Active.ID, err)

	// Host b takes over, in the next epoch.
	next = rec
	next.Epoch, next.Active, next.Proposer, next.Nonce = 2, b, b, 3
	rec, err = res.CompareAndSwap(ctx, rec.Version, next)
	fmt.Println("version", rec.Version, "active", rec.Active.ID, err)

	// Host a missed that. The version says so, whatever it proposes.
	late := next
	late.Epoch, late.Active, late.Proposer, late.Nonce = 1, a, a, 4
	present, err := res.CompareAndSwap(ctx, 2, late)
	fmt.Println(errors.Is(err, resolver.ErrConflict), "active", present.Active.ID, err)
	// And with the right version the rules do.
	_, err = res.CompareAndSwap(ctx, present.Version, late)
	fmt.Println(errors.Is(err, resolver.ErrRefused), err)
	// Output:
	// version 1 active host-a <nil>
	// version 2 active host-a <nil>
	// version 3 active host-b <nil>
	// true active host-b resolver: service "backend.com" has version 3, not 2
	// true resolver: service "backend.com": host host-a/4711 may not go from epoch 2 to 1: host-b/1234 is active, and a promotion raises the epoch by one
}

// A name service for other processes. With transport.NewTCP in the place of the network in memory it serves a LAN.
func ExampleNewServer() {
	net := transport.NewMemory()
	dns := net.Host("dns")
	defer dns.Close()
	dir, err := os.MkdirTemp("", "resolver")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	server, err := resolver.NewServer(resolver.ServerConfig{Transport: dns, File: filepath.Join(dir, "records")})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	addr, err := server.Listen("dns:8000")
	fmt.Println(addr, err)
	// Output: dns:8000 <nil>
}

func ExampleNewClient() {
	net := transport.NewMemory()
	dns, host := net.Host("dns"), net.Host("host-a")
	defer dns.Close()
	defer host.Close()
	server, err := resolver.NewServer(resolver.ServerConfig{Transport: dns})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	addr, err := server.Listen("dns:8000")
	if err != nil {
		fmt.Println(err)
		return
	}

	// The client trusts a resolver that proves this key, and no other.
	client, err := resolver.NewClient(resolver.ClientConfig{
		Transport: host,
		Server:    transport.Peer{Addr: addr, Key: dns.Key()},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	// A watcher waits for the first record while the host makes it.
	watched := make(chan resolver.Record)
	go func() {
		rec, err := client.Watch(ctx, "backend.com", 0)
		if err != nil {
			fmt.Println(err)
		}
		watched <- rec
	}()
	a := resolver.Host{ID: "host-a", Incarnation: 4711, Addr: "host-a:7000", Key: host.Key()}
	_, err = client.CompareAndSwap(ctx, 0, resolver.Record{
		Name: "backend.com", Epoch: 1, Active: a, ISR: []resolver.Host{a}, Proposer: a, Nonce: 1,
	})
	fmt.Println(err)
	rec := <-watched
	fmt.Println(rec.Name, "is at", rec.Active.Addr)
	// Output:
	// <nil>
	// backend.com is at host-a:7000
}

func ExampleCheck() {
	a := resolver.Host{ID: "host-a", Incarnation: 4711}
	b := resolver.Host{ID: "host-b", Incarnation: 1234}
	cur := resolver.Record{Name: "backend.com", Epoch: 1, Active: a, ISR: []resolver.Host{a}, Proposer: a, Nonce: 1}
	next := cur
	next.Epoch, next.Active, next.ISR, next.Proposer = 2, b, []resolver.Host{a, b}, b
	fmt.Println(resolver.Check(&cur, next))
	// Output:
	// resolver: service "backend.com": host host-b/1234 may not change it: the host is not in the in-sync set {host-a/4711}
}
