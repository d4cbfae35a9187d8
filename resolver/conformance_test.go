package resolver_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/resolver/resolvertest"
	"github.com/roam-go/roam/transport"
)

// serve starts a server and returns where it listens.
func serve(t testing.TB, cfg resolver.ServerConfig, addr string) transport.Peer {
	t.Helper()
	cfg.HostsDelay(-1)
	s, err := resolver.NewServer(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	bound, err := s.Listen(addr)
	require.NoError(t, err)
	return transport.Peer{Addr: bound, Key: cfg.Transport.Key()}
}

// connect returns a client of the server at a peer.
func connect(t testing.TB, tr transport.Transport, to transport.Peer) *resolver.Client {
	t.Helper()
	c, err := resolver.NewClient(resolver.ClientConfig{Transport: tr, Server: to})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestConformance(t *testing.T) {
	t.Run("Memory", func(t *testing.T) {
		resolvertest.Run(t, func(t *testing.T) resolvertest.Subject {
			m := resolver.NewMemory()
			return resolvertest.Subject{A: m, B: m, Key: transport.Key{1}}
		})
	})
	t.Run("Memory in a bubble", func(t *testing.T) {
		resolvertest.RunSynctest(t, func(t *testing.T) resolvertest.Subject {
			m := resolver.NewMemory()
			return resolvertest.Subject{A: m, B: m}
		})
	})
	for _, file := range []bool{false, true} {
		name := " without a file"
		if file {
			name = " with a file"
		}
		config := func(t *testing.T, tr transport.Transport) (cfg resolver.ServerConfig) {
			cfg.Transport = tr
			if file {
				cfg.File = filepath.Join(t.TempDir(), "records")
			}
			return cfg
		}
		t.Run("memory transport"+name, func(t *testing.T) {
			resolvertest.RunSynctest(t, func(t *testing.T) resolvertest.Subject {
				net := transport.NewMemory()
				dns, tr := net.Host("dns"), net.Host("client")
				t.Cleanup(func() { dns.Close(); tr.Close() })
				to := serve(t, config(t, dns), "dns:0")
				return resolvertest.Subject{A: connect(t, tr, to), B: connect(t, tr, to), Key: tr.Key()}
			})
		})
		t.Run("TLS"+name, func(t *testing.T) {
			resolvertest.Run(t, func(t *testing.T) resolvertest.Subject {
				dns, tr := newTCP(t, transport.TCPConfig{Open: true}), newTCP(t, transport.TCPConfig{Open: true})
				to := serve(t, config(t, dns), "127.0.0.1:0")
				return resolvertest.Subject{A: connect(t, tr, to), B: connect(t, tr, to), Key: tr.Key()}
			})
		})
	}
	t.Run("plaintext", func(t *testing.T) {
		resolvertest.Run(t, func(t *testing.T) resolvertest.Subject {
			tr := newTCP(t, transport.TCPConfig{InsecurePlaintext: true})
			to := serve(t, resolver.ServerConfig{Transport: tr}, "127.0.0.1:0")
			return resolvertest.Subject{A: connect(t, tr, to), B: connect(t, tr, to)}
		})
	})
}

func newTCP(t testing.TB, cfg transport.TCPConfig) *transport.TCP {
	t.Helper()
	tr, err := transport.NewTCP(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { tr.Close() })
	return tr
}
