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

// A host whose round trip is most of the time after which it would be taken for silent can still stand by.
func TestFarHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		w.net.SetDelay(120 * time.Millisecond)
		a := w.host("a", "svc", Policy{})
		w.standby("b", "svc", Policy{})
		w.inSync(a, 2)
		time.Sleep(10 * time.Second)
		require.Len(t, a.Status().Record.ISR, 2)
		require.EqualValues(t, 1, a.Status().Record.Epoch)
	})
}

// A host that has started again elsewhere, with one of two services, is spoken to over one connection, and at first over its
// own, by the service that knows where it is, whatever the other one tries; and the other one finds it when it hosts that, too.
func TestLinkToEachAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		defer w.close()
		p, dir := Policy{MinInSync: 2}, t.TempDir()
		start := func(addr string) {
			n, err := NewNode(NodeConfig{Resolver: w.res, Transport: w.transport("b"), ID: "b", Listen: addr, Dir: dir})
			require.NoError(t, err)
			w.nodes["b"] = n
		}
		start("b:1")
		for _, name := range []string{"svc", "other"} {
			a := w.host("a", name, p)
			w.standby("b", name, p)
			w.inSync(a, 2)
		}
		require.NoError(t, w.nodes["b"].Close())
		start("b:2")
		w.standby("b", "svc", p)
		c := w.dial("client", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), c, "one"))
		from := map[*inbound]bool{}
		for i := range 100 {
			require.NoError(t, w.do(t.Context(), c, fmt.Sprint("more ", i)))
			time.Sleep(20 * time.Millisecond)
			for _, s := range connsOf(w.nodes["b"]) {
				from[s] = true
			}
		}
		require.LessOrEqual(t, len(from), 2)
		w.standby("b", "other", p)
		c = w.dial("client", "other", ClientConfig{})
		_, err := c.Do(t.Context(), []byte("one"))
		require.NoError(t, err)
	})
}

// A connection that ends after the greetings, but before the link has taken it into use, is not kept as one that works.
func TestLinkBrokenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "b")
		defer w.close()
		tr := &brokenOnce{Transport: w.transport("a")}
		n, err := NewNode(NodeConfig{Resolver: w.res, Transport: tr, ID: "a", Listen: "a:1"})
		require.NoError(t, err)
		w.nodes["a"] = n
		w.pair(Policy{})
		require.True(t, tr.broken)
	})
}

// brokenOnce breaks the first connection that it dials, once the first call on it is answered.
type brokenOnce struct {
	transport.Transport
	broken bool
}

func (b *brokenOnce) Dial(ctx context.Context, to transport.Peer, h transport.Handler) (transport.Conn, error) {
	if b.broken {
		return b.Transport.Dial(ctx, to, h)
	}
	b.broken = true
	e := &endNoted{h, make(chan struct{})}
	c, err := b.Transport.Dial(ctx, to, e)
	return &breaksAfterCall{c, e.ended}, err
}

type endNoted struct {
	transport.Handler
	ended chan struct{}
}

func (e *endNoted) Closed(c transport.Conn, err error) {
	e.Handler.Closed(c, err)
	close(e.ended)
}

type breaksAfterCall struct {
	transport.Conn
	ended chan struct{}
}

func (c *breaksAfterCall) Call(ctx context.Context, method string, params []byte) ([]byte, error) {
	reply, err := c.Conn.Call(ctx, method, params)
	c.Conn.Close()
	<-c.ended
	return reply, err
}

// What a burst has left for a service that stops before the burst's end is disposed of: its connection is read on.
func TestStopInBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		defer w.close()
		s := w.standby("a", "svc", Policy{})
		c := &inbound{node: w.nodes["a"]}
		c.enter(10)
		c.post(s, item{kind: itemEvent, from: c, size: 10})
		s.stop()
		c.work()
		calls, bytes := c.conn.InFlight()
		require.Zero(t, calls)
		require.Zero(t, bytes)
	})
}
