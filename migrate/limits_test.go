package migrate

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roam-go/roam/migrate/internal/serve"
	"github.com/roam-go/roam/migrate/internal/wire"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/transport"
)

// send makes a call and counts what comes of it.
func (r *raw) send(method string, params any, done func(error)) {
	b, err := transport.Marshal(params)
	require.NoError(r.t, err)
	r.conn.Go(method, b, func(_ []byte, err error) { done(err) })
}

// look has s's loop call f.
func (w *world) look(s *Service, f func()) {
	done := make(chan struct{})
	s.post(item{kind: itemFunc, fn: func() { f(); close(done) }})
	<-done
}

// underWay is the most that one connection has under way at a host.
func underWay(n *Node) (calls, bytes int) {
	for _, c := range connsOf(n) {
		n, size := c.conn.InFlight()
		calls, bytes = max(calls, n), max(bytes, size)
	}
	return calls, bytes
}

// A client that asks without end, of a host that can't answer for now, takes up no more than its share, and gets every
// answer in the end.
func TestFloodIsHeldBack(t *testing.T) {
	for _, kind := range []string{"queries", "the same command", "large commands"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "a", "b")
				defer w.close()
				a, _ := w.pair(Policy{})
				tr, err := w.net.HostWith("flood", transport.TCPConfig{Open: true, MaxPending: 64 << 20})
				require.NoError(t, err)
				w.trs["flood"] = tr
				r := w.raw("flood", a, 7)
				require.NoError(t, r.open(false))
				c := w.dial("client", "svc", ClientConfig{})
				busy := make(chan struct{})
				letGo := sync.OnceFunc(func() { close(busy) })
				defer letGo()
				go a.post(item{kind: itemFunc, fn: func() { <-busy }}) // the loop stands still
				var answers, failed atomic.Int32
				n := 3 * serve.MaxCalls
				if kind == "large commands" {
					n = 3 * serve.MaxBytes / (256 << 10)
				}
				for i := range n {
					method, p := wire.MethodDo, any(wire.DoParams{Service: "svc", Session: 7, Seq: 1, Low: 1, Body: []byte("one")})
					switch kind {
					case "queries":
						method, p = wire.MethodQuery, wire.QueryParams{Service: "svc", Session: 7}
					case "large commands":
						p = wire.DoParams{Service: "svc", Session: 7, Seq: uint64(i + 1), Low: 1, Body: make([]byte, 256<<10)}
					}
					r.send(method, p, func(err error) {
						if answers.Add(1); err != nil {
							failed.Add(1)
						}
					})
				}
				time.Sleep(100 * time.Millisecond)
				calls, bytes := underWay(a.node)
				require.LessOrEqual(t, calls, serve.MaxCalls)
				require.LessOrEqual(t, bytes, serve.MaxBytes)
				require.Less(t, int(answers.Load()), n/2)
				require.Greater(t, calls+bytes/4096, serve.MaxCalls*9/10, "it is held back, not refused")
				letGo()
				require.NoError(t, w.do(t.Context(), c, "mine"))
				time.Sleep(5 * time.Second)
				require.Equal(t, n, int(answers.Load()))
				require.Zero(t, failed.Load())
				calls, bytes = underWay(a.node)
				require.Zero(t, calls+bytes, "everything that was under way is over")
			})
		})
	}
}

// Neither a node that is closed nor its transport waits for a reader that is held back.
func TestCloseLetsGoWhoIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, _ := w.pair(Policy{})
		r := w.raw("flood", a, 7)
		require.NoError(t, r.open(false))
		w.net.Partition("a", "b") // so that nothing is answered
		for range 2 * serve.MaxCalls {
			r.send(wire.MethodQuery, wire.QueryParams{Service: "svc", Session: 7}, func(error) {})
		}
		time.Sleep(100 * time.Millisecond)
		conns := connsOf(a.node)
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			w.nodes["a"].Close()
			w.trs["a"].Close()
		}()
		select {
		case <-closed:
		case <-time.After(time.Minute):
			t.Error("a reader is held back for ever")
			for _, c := range conns { // so that the test ends
				c.conn.Ended()
			}
			<-closed
		}
		delete(w.nodes, "a")
		delete(w.trs, "a")
	})
}

// A client that has more under way than its connection may, of a service that stands still, keeps that connection, and gets
// every answer when the service goes on.
func TestHeldBackWhileTheServiceStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		p := Policy{MinInSync: 2}
		a, _ := w.pair(p)
		c := w.dial("client", "svc", ClientConfig{})
		w.crash("b")
		var calls []*Call
		for i := range serve.MaxCalls + 100 {
			call, err := c.Go(fmt.Append(nil, i))
			require.NoError(t, err)
			calls = append(calls, call)
		}
		time.Sleep(2 * time.Minute)
		require.Len(t, connsOf(a.node), 1)
		n, _ := underWay(a.node)
		require.Equal(t, serve.MaxCalls, n)
		require.Zero(t, c.Stats().Reconnects)
		w.node("b")
		w.standby("b", "svc", p)
		for i, call := range calls {
			reply, err := call.Reply(t.Context())
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i+1), string(reply))
		}
	})
}

// A host is rid of a connection that it holds back, and of all that waits for it, when the peer has gone; and where it has
// vanished without a word, when the client is there again.
func TestHeldBackConnectionEnds(t *testing.T) {
	for _, way := range []string{"closed", "vanished"} {
		for _, method := range []string{wire.MethodDo, wire.MethodQuery, wire.MethodOpen} {
			t.Run(way+" "+method, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, "a", "b")
					defer w.close()
					a, _ := w.pair(Policy{MinInSync: 2})
					r := w.raw("x", a, 7)
					require.NoError(t, r.open(false))
					w.crash("b")
					time.Sleep(time.Second)
					for i := range uint64(2 * serve.MaxCalls) {
						switch method {
						case wire.MethodDo:
							r.send(method, wire.DoParams{Service: "svc", Session: 7, Seq: i/2 + 1, Low: 1}, func(error) {})
						case wire.MethodQuery:
							r.send(method, wire.QueryParams{Service: "svc", Session: 7}, func(error) {})
						case wire.MethodOpen:
							r.send(method, wire.OpenParams{Service: "svc", Session: 100 + i}, func(error) {})
						}
					}
					time.Sleep(time.Second)
					n, _ := underWay(a.node)
					require.Equal(t, serve.MaxCalls, n)
					if way == "closed" {
						r.conn.Close()
						time.Sleep(10 * time.Second)
						require.Empty(t, connsOf(a.node))
					} else {
						w.net.Blackhole("x", "a")
						w.net.Blackhole("a", "x")
						r = w.raw("x", a, 7)
						require.NoError(t, r.open(true))
						time.Sleep(10 * time.Second)
						require.Len(t, connsOf(a.node), 1)
					}
					w.look(a, func() {
						require.Zero(t, a.clients.Usage().Commands)
						require.Zero(t, a.clients.Usage().Queries)
						require.Zero(t, a.clients.Usage().Opens)
					})
				})
			})
		}
	}
}

// A stranger's messages wait at its own end, too.
func TestStrangersFloodIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{})
		rogue := w.rogue("a", a.node.self)
		defer rogue.conn.Close()
		busy := make(chan struct{})
		letGo := sync.OnceFunc(func() { close(busy) })
		defer letGo()
		go a.post(item{kind: itemFunc, fn: func() { <-busy }}) // the loop stands still
		synctest.Wait()
		for range 2 * serve.MaxCalls {
			rogue.send(core.Msg{Type: core.MsgAck, Term: core.Term{Epoch: 1}})
		}
		time.Sleep(50 * time.Millisecond)
		waiting := a.loop.Len()
		require.LessOrEqual(t, waiting, serve.MaxCalls+100)
		require.Greater(t, waiting, serve.MaxCalls/2)
		letGo()
		time.Sleep(time.Second)
		require.Equal(t, Active, a.Status().Role)
		require.Equal(t, Standby, b.Status().Role)
		calls, _ := underWay(a.node)
		require.LessOrEqual(t, calls, 1)
	})
}

// What a host notes about one connection does not grow with what that connection says.
func TestOneConnectionIsNotedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{})
		loss := a.Status().Record.Loss
		early, ahead, many := w.raw("x", b, 1), w.raw("y", a, 1), w.raw("z", a, 1)
		for i := range uint64(serve.MaxSessionsPerConn + 100) {
			early.session, ahead.session, many.session = 10000+i, 20000+i, 30000+i
			require.NoError(t, early.call(wire.MethodPark, wire.ParkParams{Service: "svc", Session: early.session}, nil))
			seen := wire.OpenParams{Service: "svc", Session: ahead.session, Loss: loss, Epoch: 9}
			require.ErrorIs(t, ahead.call(wire.MethodOpen, seen, nil), ErrNotActive)
			if i < serve.MaxSessionsPerConn {
				require.NoError(t, many.open(false))
			} else {
				require.ErrorIs(t, many.open(false), ErrTooLarge)
			}
		}
		w.look(b, func() { require.Equal(t, 1, b.clients.Usage().Parked) })
		w.look(a, func() {
			require.Equal(t, 1, a.clients.Usage().Ahead)
			require.Equal(t, serve.MaxSessionsPerConn, a.clients.Usage().Sessions)
		})
		// A session is attached to the connection that took it up last.
		again := w.raw("z", a, 30000)
		require.NoError(t, again.open(true))
		w.look(a, func() { require.Equal(t, serve.MaxSessionsPerConn, a.clients.Usage().Sessions) })
		many.session = 40000
		require.NoError(t, many.open(false), "there is room for another")
		for _, r := range []*raw{early, ahead, many, again} {
			r.conn.Close()
		}
		time.Sleep(time.Second)
		w.look(b, func() { require.Zero(t, b.clients.Usage().Parked) })
		w.look(a, func() {
			require.Zero(t, a.clients.Usage().Ahead)
			require.Zero(t, a.clients.Usage().Sessions)
			require.Zero(t, a.clients.Usage().Connections)
		})
	})
}

// A client that has seen a higher term is not served by a lower one, whatever it says next.
func TestAheadStaysAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, _ := w.pair(Policy{})
		loss := a.Status().Record.Loss
		r := w.raw("x", a, 7)
		require.NoError(t, r.open(false))
		seen := wire.OpenParams{Service: "svc", Session: 7, Resume: true, Loss: loss, Epoch: 2}
		require.ErrorIs(t, r.call(wire.MethodOpen, seen, nil), ErrNotActive)
		_, err := r.do(1, "one")
		require.ErrorIs(t, err, ErrNotActive)
		_, err = r.query()
		require.ErrorIs(t, err, ErrNotActive)
		for _, to := range []string{"b", "a"} {
			_, err := w.active("svc").Handoff(t.Context(), to)
			require.NoError(t, err)
		}
		w.role(a, Active)
		require.NoError(t, r.call(wire.MethodOpen, wire.OpenParams{Service: "svc", Session: 7, Resume: true, Epoch: 2}, nil))
		_, err = r.do(1, "one")
		require.NoError(t, err)
	})
}

// Where there are as many sessions as allowed, newcomers take the places of those who are away, and of nobody else.
func TestNewcomersDoNotPushOutTheConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places = 8
		w := newWorld(t, "a", "b")
		defer w.close()
		w.nodes["a"].limits.Sessions, w.nodes["b"].limits.Sessions = places, places
		a, _ := w.pair(Policy{})
		c := w.dial("client", "svc", ClientConfig{}) // and never says a word
		var here []*raw
		for i := range uint64(3 * places) {
			r := w.raw(fmt.Sprint("away", i), a, 100+i)
			require.NoError(t, r.open(false))
			r.conn.Close()
			time.Sleep(10 * time.Millisecond)
		}
		for i := range uint64(places - 1) {
			r := w.raw(fmt.Sprint("here", i), a, 200+i)
			require.NoError(t, r.open(false), "the places of those who are away are free")
			here = append(here, r)
		}
		for i := range uint64(places) {
			require.ErrorIs(t, w.raw(fmt.Sprint("late", i), a, 300+i).open(false), ErrRetry)
		}
		require.NoError(t, w.do(t.Context(), c, "still here"))
		for _, r := range here {
			_, err := r.do(1, fmt.Sprint("me too ", r.session))
			require.NoError(t, err)
		}
		here[0].conn.Close()
		time.Sleep(10 * time.Millisecond)
		require.NoError(t, w.raw("late", a, 400).open(false))
	})
}

// verbose says at length what it has against a command.
type verbose struct{ tally }

func (v *verbose) Validate(cmd Command) error {
	if cmd.Body[0] == 'b' {
		return fmt.Errorf("bad command %q", cmd.Body)
	}
	return nil
}

// A large refusal behind a large command reaches the standby, though they have no room in one message.
func TestLargeRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		fresh := func() Migratable { return new(verbose) }
		p := Policy{MinInSync: 2}
		s, err := w.nodes["a"].Host(t.Context(), "svc", fresh, p)
		require.NoError(t, err)
		_, err = w.nodes["b"].Standby(t.Context(), "svc", fresh, p)
		require.NoError(t, err)
		w.inSync(s, 2)
		c := w.dial("c", "svc", ClientConfig{})
		w.net.Block("a", "b")
		first, err := c.Go(make([]byte, 250<<10))
		require.NoError(t, err)
		bad := make([]byte, 220<<10) // quoted, four times as much
		bad[0] = 'b'
		second, err := c.Go(bad)
		require.NoError(t, err)
		time.Sleep(100 * time.Millisecond)
		w.net.HealAll()
		w.net.Cut("a", "b") // what was on this connection is sent again
		_, err = first.Reply(t.Context())
		require.NoError(t, err)
		_, err = second.Reply(t.Context())
		require.ErrorContains(t, err, "bad command")
	})
}
