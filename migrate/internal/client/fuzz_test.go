package client

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

func mustMarshal(tb testing.TB, v any) []byte {
	b, err := transport.Marshal(v)
	require.NoError(tb, err)
	return b
}

// liar is a host that sends given answers.
type liar struct{ open, do []byte }

func (l liar) Handle(_ transport.Conn, r *transport.Request) {
	switch r.Method {
	case wire.MethodOpen:
		r.Reply(l.open, nil)
	case wire.MethodDo:
		if len(l.do) > 0 && l.do[0] == 0xff { // never a value
			r.Reply(nil, &transport.Error{Code: wire.CodeNotActive, Message: "no", Data: l.do[1:]})
		} else {
			r.Reply(l.do, nil)
		}
	default:
		r.Reply(l.do, nil)
	}
}

func (liar) Closed(transport.Conn, error) {}

// Whatever a host answers and sends, the client keeps trying, and ends when it is closed.
func FuzzHostAnswers(f *testing.F) {
	open := mustMarshal(f, wire.OpenResult{Epoch: 1, NextEvent: 5})
	rec := resolver.Record{Name: "svc", Generation: 1, Version: 9, Epoch: 2,
		Active: resolver.Host{ID: "h", Incarnation: 1, Addr: "h:1"}}
	done := mustMarshal(f, wire.DoResult{Index: 1, Epoch: 1, Replicas: 1, Reply: []byte("1")})
	events := mustMarshal(f, wire.EventsParams{Service: "svc", Epoch: 1, First: 5, Times: []int64{1, 2},
		Bodies: [][]byte{{1}, {2}}})
	f.Add(open, done, byte(0), events)
	f.Add(open, append([]byte{0xff}, mustMarshal(f, rec)...), byte(1),
		mustMarshal(f, wire.MovedParams{Service: "svc", Record: rec}))
	f.Add(open, mustMarshal(f, wire.ListenResult{Next: 5}), byte(2),
		mustMarshal(f, wire.PrepareParams{Service: "svc", Next: rec.Active, SpreadMS: -1}))
	f.Add([]byte{0xc0}, []byte{0xff}, byte(0), []byte{0x96, 0xa3, 's', 'v', 'c', 0, 1, 5, 0x91, 1, 0x90})
	f.Fuzz(func(t *testing.T, open, do []byte, push byte, params []byte) {
		synctest.Test(t, func(t *testing.T) {
			net := transport.NewMemory()
			h, tr := net.Host("h"), net.Host("c")
			defer h.Close()
			defer tr.Close()
			var conn transport.Conn
			_, err := h.Listen("h:1", func(c transport.Conn) transport.Handler { conn = c; return liar{open, do} })
			require.NoError(t, err)
			names := resolver.NewMemory()
			r := resolver.Record{Name: "svc", Epoch: 1, Nonce: 1,
				Active: resolver.Host{ID: "h", Incarnation: 1, Addr: "h:1", Key: h.Key()}}
			r.ISR, r.Proposer = []resolver.Host{r.Active}, r.Active
			_, err = names.CompareAndSwap(t.Context(), 0, r)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			c, err := Dial(ctx, "svc", Config{Resolver: names, Transport: tr})
			if err != nil {
				return
			}
			defer c.Close()
			go func() { _, _ = c.Query(ctx, nil) }()
			go func() {
				for range c.Events(ctx, 0) {
				}
			}()
			go func() { _, _ = c.Do(ctx, []byte("x")) }()
			for range 2 {
				synctest.Wait()
				_ = conn.Notify([]string{wire.MethodEvents, wire.MethodMoved, wire.MethodPrepare}[push%3], params)
			}
			time.Sleep(time.Second)
		})
	})
}
