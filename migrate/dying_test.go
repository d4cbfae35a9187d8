package migrate

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/peer"
	"github.com/roam-go/roam/transport"
)

// dyingTransport breaks the next dials, as a process does whose connections the system closes before its listener.
type dyingTransport struct {
	transport.Transport
	breaks atomic.Int32
}

func (d *dyingTransport) Dial(ctx context.Context, to transport.Peer, h transport.Handler) (transport.Conn, error) {
	if d.breaks.Add(-1) >= 0 {
		return nil, syscall.ECONNRESET
	}
	return d.Transport.Dial(ctx, to, h)
}

// A host that is killed may still accept connections for a moment after the old ones have ended. Its standby must not take
// that for life.
func TestFailoverFromDyingHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		defer w.close()
		tr := &dyingTransport{Transport: w.transport("b")}
		b, err := NewNode(NodeConfig{Resolver: w.res, Transport: tr, ID: "b", Listen: "b:1", Logger: w.log})
		require.NoError(t, err)
		w.nodes["b"] = b
		a, s := w.pair(Policy{})
		require.Equal(t, Active, a.Status().Role)
		c := w.dial("client", "svc", ClientConfig{})
		wr := w.write(c)
		time.Sleep(time.Second)
		wr.resetGap()
		tr.breaks.Store(peer.Redials)
		w.crash("a")
		time.Sleep(3 * time.Second)
		require.Equal(t, Active, s.Status().Role)
		require.Less(t, wr.longest(), 300*time.Millisecond)
		w.check(c)
	})
}
