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

// rogue is a process with a key of its own that talks to a host as another host would.
type rogue struct {
	t    *testing.T
	conn transport.Conn
	self resolver.Host
}

func (w *world) rogue(to string, claim resolver.Host) *rogue {
	tr := w.transport("rogue")
	claim.Key = tr.Key()
	conn, err := tr.Dial(w.t.Context(), transport.Peer{Addr: to + ":1"}, nil)
	require.NoError(w.t, err)
	params, err := transport.Marshal(wire.HostHello{Host: claim})
	require.NoError(w.t, err)
	_, err = conn.Call(w.t.Context(), wire.MethodHello, params)
	require.NoError(w.t, err)
	return &rogue{w.t, conn, claim}
}

func (r *rogue) send(m core.Msg) {
	m.From = r.self
	b, err := core.AppendMsg(nil, m)
	require.NoError(r.t, err)
	params, err := transport.Marshal(wire.MsgParams{Service: "svc", Msg: b})
	require.NoError(r.t, err)
	require.NoError(r.t, r.conn.Notify(wire.MethodMsg, params))
}

// A process that is in no record is not heeded, whatever it claims: not with a term of its own, not in the name of a member.
func TestStrangerIsNotHeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		wr := w.write(c)
		rec := a.Status().Record
		forged := rec
		forged.Epoch, forged.Version, forged.ISR = 1000, 1000, []resolver.Host{{ID: "x", Incarnation: 7, Addr: "rogue:1"}}
		forged.Active = forged.ISR[0]
		for _, claim := range []resolver.Host{{ID: "x", Incarnation: 7, Addr: "rogue:1"}, a.node.self, b.node.self} {
			for _, to := range []string{"a", "b"} {
				r := w.rogue(to, claim)
				for typ := core.MsgAppend; typ <= core.MsgLeave; typ++ {
					for _, term := range []core.Term{core.TermOf(rec), {Loss: rec.Loss, Epoch: 1000}, {Loss: rec.Loss + 1, Epoch: 1000}} {
						r.send(core.Msg{Type: typ, Term: term, Index: 1 << 40, Prev: 1, Record: &forged, Flag: true})
					}
				}
				defer r.conn.Close()
			}
		}
		time.Sleep(2 * time.Second)
		require.Equal(t, Active, a.Status().Role)
		require.Equal(t, Standby, b.Status().Role)
		require.Equal(t, rec.Version, a.Status().Record.Version)
		require.Less(t, wr.longest(), 100*time.Millisecond)
		wr.end()
		w.check(c)
	})
}

// A host does not give its state to one that only claims to be the host that it was offered to.
func TestStrangerGetsNoState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{})
		snap := make(chan uint64)
		a.post(item{kind: itemFunc, fn: func() {
			s, err := a.machine().Snapshot()
			require.NoError(t, err)
			go func() { snap <- a.node.offers.Add(b.node.self, s, nil) }()
		}})
		r := w.rogue("a", b.node.self)
		defer r.conn.Close()
		copied := bulk.Receive(t.Context(), r.conn, <-snap, 1<<20)
		defer copied.Close()
		_, err := copied.Read(make([]byte, 1))
		require.ErrorIs(t, err, ErrForbidden)
	})
}
