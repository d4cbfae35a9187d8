package client

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// When many clients have lost their host, an idle one lets the others reconnect first. It reconnects at once for a request.
func TestDefersToOthers(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		var idle, busy []*Client
		for range 20 {
			idle = append(idle, w.dial())
			busy = append(busy, w.dial())
		}
		w.mu.Lock()
		w.hosts["a"].notifyAll(wire.MethodSpread, &wire.SpreadParams{Service: testService, SpreadMS: 8000})
		w.mu.Unlock()
		synctest.Wait()
		w.crash("a")
		w.serve("b", false)
		began := time.Now()
		for i, c := range busy {
			if i%2 == 0 {
				_, err := c.Do(t.Context(), []byte("x"))
				require.NoError(t, err)
			} else {
				_, err := c.Query(t.Context(), nil)
				require.NoError(t, err)
			}
		}
		require.Less(t, time.Since(began), 2*time.Second)
		there := func() (n int) {
			for _, c := range idle {
				if c.Where().ID == "b" {
					n++
				}
			}
			return n
		}
		early := there()
		time.Sleep(4*time.Second - time.Since(began))
		half := there()
		time.Sleep(6 * time.Second)
		require.Equal(t, 20, there())
		require.Less(t, early, 12)
		require.Greater(t, half, early)
		require.Less(t, half, 18, "after 4 s of 8")
		for _, c := range append(idle, busy...) {
			c.Close()
		}
	})
}

// An overloaded host closes new connections: idle clients do not reconnect at once.
func TestOverloadedHost(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		idle, dials := w.dialCounted()
		w.mu.Lock()
		w.hosts["a"].notifyAll(wire.MethodSpread, &wire.SpreadParams{Service: testService, SpreadMS: 8000})
		w.mu.Unlock()
		synctest.Wait()
		dials.mu.Lock()
		dials.err = fmt.Errorf("TLS handshake: %w", io.EOF)
		dials.n = make(map[string]int)
		dials.mu.Unlock()
		w.crash("a")
		w.serve("b", false)
		time.Sleep(40 * time.Second)
		dials.mu.Lock()
		n := 0
		for _, k := range dials.n {
			n += k
		}
		dials.err = nil
		dials.mu.Unlock()
		require.Greater(t, n, 0)
		require.LessOrEqual(t, n, 12)
		_, err := idle.Do(t.Context(), []byte("x"))
		require.NoError(t, err)
		idle.Close()
	})
}

// deadOnce is a transport whose first connection is closed, and has called Closed, before Dial returns it.
type deadOnce struct {
	transport.Transport
	once sync.Once
}

type closedHandler struct {
	transport.Handler
	closed chan struct{}
}

func (h closedHandler) Closed(c transport.Conn, err error) {
	h.Handler.Closed(c, err)
	close(h.closed)
}

func (d *deadOnce) Dial(ctx context.Context, to transport.Peer, h transport.Handler) (c transport.Conn, err error) {
	first := false
	d.once.Do(func() { first = true })
	if !first {
		return d.Transport.Dial(ctx, to, h)
	}
	closed := make(chan struct{})
	if c, err = d.Transport.Dial(ctx, to, closedHandler{h, closed}); err == nil {
		c.Close()
		<-closed
	}
	return c, err
}

// A connection that ends before the client uses it counts as a failure: the client makes another one after a delay.
func TestConnectionDiesAtOnce(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial(func(cfg *Config) { cfg.Transport = &deadOnce{Transport: cfg.Transport} })
		_, err := c.Do(t.Context(), []byte("x"))
		require.NoError(t, err)
		c.Close()
	})
}

// dialCounter counts the dials to each address. If err is set, they fail.
type dialCounter struct {
	transport.Transport
	mu  sync.Mutex
	n   map[string]int
	err error
}

// dialCounted is dial with a dialCounter.
func (w *fakeWorld) dialCounted() (*Client, *dialCounter) {
	dials := &dialCounter{n: make(map[string]int)}
	return w.dial(func(cfg *Config) { dials.Transport, cfg.Transport = cfg.Transport, dials }), dials
}

func (d *dialCounter) Dial(ctx context.Context, to transport.Peer, h transport.Handler) (transport.Conn, error) {
	d.mu.Lock()
	d.n[to.Addr]++
	err := d.err
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return d.Transport.Dial(ctx, to, h)
}

// A new record does not cancel a dial that goes to its active host.
func TestDialContinues(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c, dials := w.dialCounted()
		defer c.Close()
		_, err := c.Do(t.Context(), []byte("x"))
		require.NoError(t, err)
		w.net.SetDelay(50 * time.Millisecond)
		w.crash("a")
		call := mustGo(t, c, "y")
		time.AfterFunc(150*time.Millisecond, func() { w.serve("b", false) })
		requireReply(t, call, "re:y")
		dials.mu.Lock()
		defer dials.mu.Unlock()
		require.Equal(t, 1, dials.n["b:1"], fmt.Sprint(dials.n))
	})
}
