package transporttest_test

import (
	"testing"

	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/transporttest"
)

// A transport of one's own is checked with a test like this one.
func ExampleRun() {
	TestMyTransport := func(t *testing.T) {
		transporttest.Run(t, func(t *testing.T) transporttest.Pair {
			network := transport.NewMemory()
			a, b := network.Host("a"), network.Host("b")
			t.Cleanup(func() { a.Close(); b.Close() })
			return transporttest.Pair{Listener: a, Dialer: b, Addr: "a:0"}
		})
	}
	_ = TestMyTransport
}
