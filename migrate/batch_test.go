package migrate

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/roam-go/roam/migrate/internal/serve"
	"github.com/roam-go/roam/migrate/internal/wire"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// gated holds the loop of a service up just before the answer that makes it active.
type gated struct {
	resolver.Resolver
	before func()
}

func (g *gated) CompareAndSwap(ctx context.Context, expect uint64, next resolver.Record) (resolver.Record, error) {
	rec, err := g.Resolver.CompareAndSwap(ctx, expect, next)
	g.before()
	return rec, err
}

// A client's request may come in one batch with the event that makes the host active.
func TestClientInTheBatchOfActivation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		g := &gated{Resolver: w.res}
		w.res = g
		n := w.node("a")
		s, err := n.add("svc", newTally, Policy{Copies: 1})
		require.NoError(t, err)
		hold := make(chan struct{})
		g.before = func() {
			standing := make(chan struct{})
			go s.call(func() { close(standing); <-hold }) // what comes in is the next batch
			<-standing
		}
		go s.create(t.Context())
		synctest.Wait()

		answered := make(chan error, 1)
		req := transport.NewRequest(wire.MethodOpen, nil, func(_ []byte, err error) { answered <- err })
		conn, err := w.transport("client").Dial(t.Context(), transport.Peer{Addr: "a:1"}, nil)
		require.NoError(t, err)
		defer conn.Close()
		from := &inbound{node: n, conn: serve.Conn{Conn: conn}}
		q := serve.NewRequest(&from.conn, req)
		from.take(q)
		s.post(item{kind: itemClient, req: q, params: &wire.OpenParams{Service: "svc", Session: 5}})
		close(hold)
		require.NoError(t, <-answered)
		require.Equal(t, Active, s.Status().Role)
	})
}
