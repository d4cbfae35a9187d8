package migrate

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/peer"
)

// A host that starts again at once, with its old name and nothing in its memory, is another one: it comes back with a copy
// of its own, and until then what the first one held is gone.
func TestRestartWithTheSameName(t *testing.T) {
	t.Run("comes back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "a", "b")
			defer w.close()
			a, _ := w.pair(Policy{})
			c := w.dial("client", "svc", ClientConfig{})
			wr := w.write(c)
			for range 5 {
				time.Sleep(time.Second)
				w.crash("b")
				w.node("b")
				w.standby("b", "svc", Policy{})
				w.eventually(func() bool {
					rec := a.Status().Record
					return len(rec.ISR) == 2 && (rec.ISR[0].Same(w.nodes["b"].self) || rec.ISR[1].Same(w.nodes["b"].self))
				}, "the new b is in sync")
			}
			require.Less(t, wr.longest(), 100*time.Millisecond, "a restart of a standby is noticed at once")
			wr.end()
			w.check(c)
		})
	})
	t.Run("is not taken for the first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "a", "b")
			defer w.close()
			w.pair(Policy{})
			c := w.dial("client", "svc", ClientConfig{})
			require.NoError(t, w.do(t.Context(), c, "one"))
			w.crash("b")
			w.crash("a")
			w.node("b")
			b := w.standby("b", "svc", Policy{})
			w.node("a")
			a := w.standby("a", "svc", Policy{})
			time.Sleep(10 * time.Second)
			require.Equal(t, Latent, b.Status().Role)
			require.Equal(t, Latent, a.Status().Role)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := c.Query(ctx, nil)
			require.Error(t, err, "nobody answers for a state that is gone")
		})
	})
}

// An entry of a kind that a host does not know stops the service there, and nothing after it is applied; other services go
// on.
func TestUnknownKindOfEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		var failed atomic.Int32
		w.hooks.Failed = func(service string, _ error) {
			if service == "svc" {
				failed.Add(1)
			}
		}
		w.node("a")
		w.node("b")
		a, b := w.pair(Policy{})
		other := w.host("a", "other", Policy{})
		w.standby("b", "other", Policy{})
		w.inSync(other, 2)
		c, oc := w.dial("client", "svc", ClientConfig{}), w.dial("client", "other", ClientConfig{})
		require.NoError(t, w.do(t.Context(), c, "before"))
		w.look(a, func() {
			require.True(t, a.replica.Propose(core.Entry{Kind: 99}))
			require.True(t, a.replica.Propose(core.Entry{Kind: core.Command, Session: 1, Seq: 1, Body: []byte("after")}))
		})
		time.Sleep(5 * time.Second)
		require.Equal(t, Halted, a.Status().Role)
		require.Equal(t, Halted, b.Status().Role)
		require.EqualValues(t, 2, failed.Load())
		require.Equal(t, []string{"before"}, appOf(b).(*tally).Seen, "what follows is not applied")
		_, err := oc.Do(t.Context(), []byte("goes on"))
		require.NoError(t, err)
	})
}

// A message of a type that a host does not know is ignored.
func TestUnknownTypeOfMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), c, "one"))
		before := slices.Concat(connsOf(a.node), connsOf(b.node))
		for _, pair := range [][2]*Service{{a, b}, {b, a}} {
			from, to := pair[0], pair[1]
			w.look(from, func() {
				for _, typ := range []core.Type{0, 99, 255} {
					from.node.links.Send(to.node.self, "svc", core.Msg{Type: typ, From: from.node.self, Term: from.core.Term()})
				}
			})
		}
		time.Sleep(time.Second)
		require.Equal(t, Active, a.Status().Role)
		require.Equal(t, Standby, b.Status().Role)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		require.NoError(t, w.do(ctx, c, "two"))
		require.Len(t, a.Status().Record.ISR, 2)
		after := slices.Concat(connsOf(a.node), connsOf(b.node))
		for _, c := range before {
			require.True(t, slices.Contains(after, c), "a connection was closed for it")
		}
	})
}

// connsOf are the connections that others made to a host.
func connsOf(n *Node) []*inbound {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.inbound))
}

// What a host said in an earlier term changes nothing when it is said again.
func TestReplayBetweenHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), c, "one"))
		old, term := a.Status().Record, core.Term{Epoch: 1}
		for _, to := range []string{"b", "a"} {
			_, err := w.active("svc").Handoff(t.Context(), to)
			require.NoError(t, err)
		}
		w.inSync(a, 2)
		now := a.Status().Record
		for typ := core.MsgAppend; typ < core.MsgLeave; typ++ { // a host may wish to leave in any term
			for _, pair := range [][2]*Service{{a, b}, {b, a}} {
				from, to := pair[0], pair[1]
				m := core.Msg{Type: typ, From: from.node.self, Term: term, Record: &old, Index: 2, Commit: 2, Round: 1, Flag: true}
				w.look(from, func() { from.node.links.Send(to.node.self, "svc", m) })
			}
		}
		time.Sleep(2 * time.Second)
		require.Equal(t, now, a.Status().Record, "nobody transfers, leaves or is removed")
		require.Equal(t, Active, a.Status().Role)
		require.Equal(t, Standby, b.Status().Role)
		require.NoError(t, w.do(t.Context(), c, "two"))
	})
}

// A copy that is of another moment than the one announced is refused.
func TestSnapshotOfAnotherMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{})
		fetch := func(change func(*core.Fetch)) error {
			f := core.Fetch{From: a.node.self}
			w.look(a, func() {
				snap, err := a.machine().Snapshot()
				require.NoError(t, err)
				f.Index, f.Epoch = a.machine().Applied()
				f.ID = a.node.offers.Add(b.node.self, snap, func(int64, error) {})
			})
			change(&f)
			_, _, err := b.node.fetcher.Fetch(t.Context(), f, b.receiver())
			return err
		}
		require.NoError(t, fetch(func(*core.Fetch) {}))
		require.ErrorContains(t, fetch(func(f *core.Fetch) { f.Epoch++ }), "it ends at entry")
		require.ErrorContains(t, fetch(func(f *core.Fetch) { f.Index++ }), "it ends at entry")
		require.ErrorIs(t, fetch(func(f *core.Fetch) { f.ID++ }), ErrForbidden)
		require.ErrorIs(t, fetch(func(f *core.Fetch) { f.From.Incarnation++ }), peer.ErrOtherStart)
	})
}

// A host's clock may be far off: the time of the log never goes back, and no session ends for it.
func TestClockGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{SessionTimeout: time.Minute})
		r := w.raw("x", a, 7)
		require.NoError(t, r.open(false))
		// a's clock is 2 hours ahead for a moment, then right again; b's has been right all the time.
		w.look(a, func() {
			e, ok := a.core.Propose(a.node.now(), core.Entry{
				Kind: core.Command, Session: 7, Seq: 1, Low: 1, Time: time.Now().Add(2 * time.Hour).UnixMilli(), Body: []byte("ahead"),
			})
			require.True(t, ok)
			a.machine().Ordered(e)
			a.replica.Step(core.Tick{})
		})
		_, err := r.do(2, "right again")
		require.NoError(t, err)
		ahead := time.Now().Add(2 * time.Hour).UnixMilli()
		w.look(a, func() { require.InDelta(t, ahead, a.machine().LogTime(), 1000) })
		_, err = a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		time.Sleep(30 * time.Second)
		back := w.raw("x", b, 7)
		require.NoError(t, back.open(true), "no session has expired by the log's time")
		_, err = back.do(3, "on b")
		require.NoError(t, err)
		w.look(b, func() {
			require.GreaterOrEqual(t, b.machine().LogTime(), ahead-1000, "the log's time goes on from where it was")
		})
	})
}
