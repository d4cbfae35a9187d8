package migrate_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// host is what a process does that hosts a guestbook and keeps it, and the key that it proves, in a directory.
func host(ctx context.Context, dir string, server transport.Peer) (stop func(), err error) {
	id, err := transport.LoadIdentity(filepath.Join(dir, "key.pem")) // made at the first start
	if err != nil {
		return nil, err
	}
	tr, err := transport.NewTCP(transport.TCPConfig{Open: true, Identity: id})
	if err != nil {
		return nil, err
	}
	names, err := resolver.NewClient(resolver.ClientConfig{Transport: tr, Server: server})
	if err != nil {
		return nil, err
	}
	node, err := migrate.NewNode(migrate.NodeConfig{
		Resolver: names, Transport: tr, ID: "a", Listen: "127.0.0.1:0", Dir: filepath.Join(dir, "services"),
	})
	if err != nil {
		return nil, err
	}
	if _, err := node.Host(ctx, "guestbook.example", newGuestbook, migrate.Policy{}); err != nil {
		return nil, err
	}
	return func() { node.Close(); names.Close(); tr.Close() }, nil
}

// With a directory what was acknowledged outlives the processes. The resolver, which has a file, is a process of its own.
func ExampleNewNode_directory() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "guestbook")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	id, err := transport.LoadIdentity(filepath.Join(dir, "resolver.pem"))
	if err != nil {
		fmt.Println(err)
		return
	}
	tr, err := transport.NewTCP(transport.TCPConfig{Open: true, Identity: id})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer tr.Close()
	server, err := resolver.NewServer(resolver.ServerConfig{Transport: tr, File: filepath.Join(dir, "records")})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	addr, err := server.Listen("127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	pinned := transport.Peer{Addr: addr, Key: tr.Key()} // hosts and clients are told the key beside the address

	for range 2 {
		stop, err := host(ctx, dir, pinned)
		if err != nil {
			fmt.Println(err)
			return
		}
		names, err := resolver.NewClient(resolver.ClientConfig{Transport: tr, Server: pinned})
		if err != nil {
			fmt.Println(err)
			return
		}
		c, err := migrate.Dial(ctx, "guestbook.example", migrate.ClientConfig{Resolver: names, Transport: tr})
		if err != nil {
			fmt.Println(err)
			return
		}
		n, err := c.Do(ctx, []byte("here I was"))
		fmt.Println("line", string(n), err)
		c.Close()
		names.Close()
		stop() // as a power cut would
	}
	// Output:
	// line 1 <nil>
	// line 2 <nil>
}
