package resolver_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// Dial says at once that nobody answers.
func ExampleDial() {
	net := transport.NewMemory()
	host := net.Host("host-a")
	defer host.Close()
	_, err := resolver.Dial(context.Background(), resolver.ClientConfig{
		Transport: host,
		Server:    transport.Peer{Addr: "dns:8000"},
	})
	fmt.Println(err)
	fmt.Println(errors.Is(err, syscall.ECONNREFUSED))
	// Output:
	// resolver: no resolver answers at dns:8000: transport: dial dns:8000: connection refused
	// true
}
