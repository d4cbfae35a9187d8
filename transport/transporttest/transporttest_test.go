package transporttest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/transporttest"
)

func tcp(t *testing.T, cfg transport.TCPConfig) *transport.TCP {
	tr, err := transport.NewTCP(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tr.Close()) })
	return tr
}

func TestTLS(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Pair {
		return transporttest.Pair{
			Listener: tcp(t, transport.TCPConfig{Open: true}), Dialer: tcp(t, transport.TCPConfig{Open: true}), Addr: "127.0.0.1:0",
		}
	})
}

func TestPlaintext(t *testing.T) {
	cfg := transport.TCPConfig{InsecurePlaintext: true}
	transporttest.Run(t, func(t *testing.T) transporttest.Pair {
		return transporttest.Pair{Listener: tcp(t, cfg), Dialer: tcp(t, cfg), Addr: "127.0.0.1:0"}
	})
}

func TestMemory(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Pair {
		n := transport.NewMemory()
		a, b := n.Host("a"), n.Host("b")
		t.Cleanup(func() { a.Close(); b.Close() })
		return transporttest.Pair{Listener: a, Dialer: b, Addr: "a:0"}
	})
}
