package migrate

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// lateTransport takes its time for every dial but the first.
type lateTransport struct {
	transport.Transport
	dialled bool
	late    time.Duration
}

func (d *lateTransport) Dial(ctx context.Context, to transport.Peer, h transport.Handler) (transport.Conn, error) {
	if d.dialled {
		select {
		case <-time.After(d.late):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	d.dialled = true
	return d.Transport.Dial(ctx, to, h)
}

// Where it takes long until all clients are connected to the next host, a move waits as long as some still come, and not
// for long for one that has gone to sleep.
func TestPrepareWaitsForClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, _ := w.pair(Policy{})
		const n = 8
		for i := range n {
			name := fmt.Sprintf("client-%d", i)
			tr := &lateTransport{Transport: w.transport(name), late: time.Duration(i) * 300 * time.Millisecond}
			c, err := Dial(t.Context(), "svc", ClientConfig{Resolver: w.res, Transport: tr})
			require.NoError(t, err)
			defer c.Close()
		}
		w.net.Partition(fmt.Sprintf("client-%d", n-1), "a")
		rep, err := a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		require.Equal(t, n, rep.Clients)
		require.Equal(t, n-1, rep.Ready)
		require.Less(t, rep.Prepare, 4*time.Second)
	})
}

// A client that leaves while a move waits for it does not hold the move up.
func TestPrepareDoesNotWaitForTheGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, _ := w.pair(Policy{})
		tr := &lateTransport{Transport: w.transport("client"), late: time.Hour}
		c, err := Dial(t.Context(), "svc", ClientConfig{Resolver: w.res, Transport: tr})
		require.NoError(t, err)
		time.AfterFunc(50*time.Millisecond, func() { c.Close() })
		rep, err := a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		require.Equal(t, 1, rep.Clients)
		require.Zero(t, rep.Ready)
		require.Less(t, rep.Prepare, 100*time.Millisecond)
	})
}
