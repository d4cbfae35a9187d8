package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/roam-go/roam/migrate/internal/bulk"
	"github.com/roam-go/roam/migrate/internal/wire"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// clientMethods is what a client may call, and hostMethods what a host may.
var (
	clientMethods = []string{wire.MethodOpen, wire.MethodDo, wire.MethodQuery, wire.MethodListen, wire.MethodLeave,
		wire.MethodReady, wire.MethodPark}
	hostMethods = []string{wire.MethodHello, wire.MethodMsg, wire.MethodAsk, bulk.MethodPull, bulk.MethodStop}
)

func mustMarshal(tb testing.TB, v any) []byte {
	b, err := transport.Marshal(v)
	require.NoError(tb, err)
	return b
}

// hostile makes a bubble with a service on one host, and a connection of which call says what came. With all, everything
// must be answered.
func hostile(t *testing.T, all bool, f func(s *Service, call func(method string, params []byte))) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		defer w.close()
		s := w.host("a", "svc", Policy{Copies: 1})
		conn, err := w.transport("x").Dial(t.Context(), transport.Peer{Addr: "a:1"}, nil)
		require.NoError(t, err)
		from := w.nodes["a"].accept(conn).(*inbound)
		asked, answered := 0, 0
		f(s, func(method string, params []byte) {
			asked++
			from.Handle(conn, transport.NewRequest(method, params, func([]byte, error) { answered++ }))
			synctest.Wait()
		})
		time.Sleep(100 * time.Millisecond)
		from.Closed(conn, nil)
		synctest.Wait()
		require.Equal(t, Active, s.Status().Role, "nothing that comes from a connection halts a service")
		require.True(t, answered == asked || answered < asked && !all, "%d answers to %d calls", answered, asked)
		calls, bytes := underWay(w.nodes["a"])
		require.Zero(t, calls+bytes)
		w.look(s, func() { require.Zero(t, s.clients.Len()) })
	})
}

// Whatever a client sends, the service goes on, and everything is answered.
func FuzzClientRequests(f *testing.F) {
	for i, v := range []any{
		wire.OpenParams{Service: "svc", Session: 7, Epoch: 1},
		wire.DoParams{Service: "svc", Session: 7, Seq: 1, Low: 1, Body: []byte("one")},
		wire.QueryParams{Service: "svc", Session: 7}, wire.ListenParams{Service: "svc", Session: 7, From: 1},
		wire.LeaveParams{Service: "svc", Session: 7}, wire.ReadyParams{Service: "svc", Session: 7},
		wire.ParkParams{Service: "svc", Session: 7},
	} {
		f.Add(byte(i), mustMarshal(f, v), byte(1), mustMarshal(f, wire.DoParams{Service: "svc", Session: 7, Seq: 1,
			Body: []byte("x")}))
	}
	f.Add(byte(0), []byte{0x95, 0xa3, 's', 'v', 'c', 7, 0xc3, 0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0}, byte(2),
		[]byte{0xc0})
	f.Fuzz(func(t *testing.T, m1 byte, p1 []byte, m2 byte, p2 []byte) {
		hostile(t, true, func(s *Service, call func(string, []byte)) {
			call(wire.MethodOpen, mustMarshal(t, wire.OpenParams{Service: "svc", Session: 7}))
			call(clientMethods[int(m1)%len(clientMethods)], p1)
			call(clientMethods[int(m2)%len(clientMethods)], p2)
			call(clientMethods[int(m1)%len(clientMethods)], p1)
		})
	})
}

// Whatever somebody sends who says that it is a host, the service goes on.
func FuzzHostRequests(f *testing.F) {
	rec := resolver.Record{Name: "svc", Generation: 1, Version: 99, Epoch: 9,
		Active: resolver.Host{ID: "x", Incarnation: 3, Addr: "x:1"}}
	rec.ISR, rec.Proposer = []resolver.Host{rec.Active}, rec.Active
	for typ := core.MsgAppend; typ <= core.MsgLeave; typ++ {
		b, err := core.AppendMsg(nil, core.Msg{Type: typ, From: rec.Active, Term: core.Term{Epoch: 9}, Record: &rec, Index: 5,
			Flag: true})
		require.NoError(f, err)
		f.Add(byte(1), mustMarshal(f, wire.MsgParams{Service: "svc", Msg: b}), byte(3), []byte{0x92, 7, 0})
	}
	f.Add(byte(0), mustMarshal(f, wire.HostHello{Host: rec.Active}), byte(4), []byte{0x91, 7})
	f.Add(byte(2), mustMarshal(f, wire.AskParams{Service: "svc"}), byte(2), mustMarshal(f, wire.AskParams{Service: "other"}))
	f.Fuzz(func(t *testing.T, m1 byte, p1 []byte, m2 byte, p2 []byte) {
		hostile(t, false, func(s *Service, call func(string, []byte)) {
			me := rec.Active
			me.Key = s.node.cfg.Transport.(*transport.MemoryTransport).Key()
			call(wire.MethodHello, mustMarshal(t, wire.HostHello{Host: me}))
			call(hostMethods[int(m1)%len(hostMethods)], p1)
			call(hostMethods[int(m2)%len(hostMethods)], p2)
		})
	})
}
