package resolver_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// BenchmarkClient is the work of a resolver over TLS on the loopback, with its file on the disk of the machine.
func BenchmarkClient(b *testing.B) {
	open := func(b *testing.B, file string) (*resolver.Client, resolver.Record) {
		dns, tr := newTCP(b, transport.TCPConfig{Open: true}), newTCP(b, transport.TCPConfig{Open: true})
		c := connect(b, tr, serve(b, resolver.ServerConfig{Transport: dns, File: file}, "127.0.0.1:0"))
		h := resolver.Host{ID: "a", Incarnation: 1, Addr: "a:1", Key: tr.Key()}
		r, err := c.CompareAndSwap(b.Context(), 0, resolver.Record{
			Name: "backend.com", Epoch: 1, Active: h, ISR: []resolver.Host{h}, Proposer: h, Nonce: 1,
		})
		require.NoError(b, err)
		return c, r
	}
	b.Run("get", func(b *testing.B) {
		c, r := open(b, "")
		for b.Loop() {
			_, err := c.Get(b.Context(), r.Name)
			require.NoError(b, err)
		}
	})
	for _, file := range []string{"", "records"} {
		b.Run("cas/file="+file, func(b *testing.B) {
			if file != "" {
				file = filepath.Join(b.TempDir(), file)
			}
			c, r := open(b, file)
			for b.Loop() {
				var err error
				r.Nonce++
				r, err = c.CompareAndSwap(b.Context(), r.Version, r)
				require.NoError(b, err)
			}
		})
	}
	for _, n := range []int{1, 1_000, 100_000} {
		services := make([]string, n)
		for i := range services {
			services[i] = fmt.Sprintf("service-%06d.example", i)
		}
		b.Run(fmt.Sprint("announce/services=", n), func(b *testing.B) {
			c, r := open(b, "")
			h := r.Active
			for i := 0; b.Loop(); i++ {
				services[0] = fmt.Sprintf("service-%06d.other", i) // No list is known from before.
				require.NoError(b, c.Announce(context.Background(), h, services, time.Minute))
			}
		})
		b.Run(fmt.Sprint("renew/services=", n), func(b *testing.B) {
			c, r := open(b, "")
			for b.Loop() {
				require.NoError(b, c.Announce(context.Background(), r.Active, services, time.Minute))
			}
		})
	}
}
