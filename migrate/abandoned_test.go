package migrate

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// What becomes of those whom a host, a client or a caller has left in the middle.

// listener is a client that only listens: nothing else would tell it that its host serves no more.
type listener struct {
	t   *testing.T
	got chan string
}

func (w *world) listen(c *Client) *listener {
	l := &listener{t: w.t, got: make(chan string, 100)}
	go func() {
		for ev, err := range c.Events(w.t.Context(), 1) {
			if err != nil {
				l.got <- err.Error()
				return
			}
			l.got <- string(ev.Body)
		}
	}()
	time.Sleep(time.Second)
	return l
}

// hears waits for an event or the error that ends the stream.
func (l *listener) hears(want string) {
	l.t.Helper()
	select {
	case s := <-l.got:
		require.Contains(l.t, s, want)
	case <-time.After(5 * time.Minute):
		l.t.Fatalf("not in 5 minutes: %s", want)
	}
}

// say has another client say something.
func (w *world) say(text string) {
	w.t.Helper()
	_, err := w.dial("speaker", "svc", ClientConfig{}).Do(w.t.Context(), []byte(text))
	require.NoError(w.t, err)
}

func TestListenerOfHaltedHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{})
		l := w.listen(w.dial("client", "svc", ClientConfig{}))
		a.post(item{kind: itemFunc, fn: func() { panic(errors.New("the disk has failed")) }})
		w.role(b, Active)
		w.say("hello")
		l.hears("hello")
	})
}

// The record of the new active host gets lost with a connection: the old one learns from its entries that it is no more.
func TestListenerOfDeposedHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r := newTapped(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{})
		l := w.listen(w.dial("client", "svc", ClientConfig{}))
		w.net.Refuse("client", "b") // it can't connect ahead
		r.cas = func(ctx context.Context, next resolver.Record, do func() (resolver.Record, error)) (resolver.Record, error) {
			rec, err := do()
			if err == nil && rec.Active.ID == "b" {
				w.net.Blackhole("a", "b")
				w.net.Blackhole("b", "a")
				time.AfterFunc(20*time.Millisecond, func() {
					w.net.Cut("a", "b")
					w.net.HealAll()
				})
			}
			return rec, err
		}
		done := make(chan moveResult, 1)
		to := b.node.self
		a.call(func() { a.mover.begin(Report{To: to}, true, done) }) // although the client can't follow
		w.role(b, Active)
		w.role(a, Standby)
		w.say("hello")
		l.hears("hello")
	})
}

func TestListenerOfRetiredService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a := w.host("a", "svc", Policy{})
		l := w.listen(w.dial("client", "svc", ClientConfig{}))
		require.ErrorIs(t, a.Leave(t.Context()), ErrNoTarget)
		time.Sleep(time.Second)
		w.host("b", "svc", Policy{})
		w.say("hello")
		l.hears("restarted without its state")
	})
}

// lateOpen delays what the client sends on its second connection for longer than the 2 s that it waits for the answer.
type lateOpen struct {
	transport.Transport
	w     *world
	dials int
}

func (l *lateOpen) Dial(ctx context.Context, to transport.Peer, h transport.Handler) (transport.Conn, error) {
	l.dials++
	if l.dials == 3 {
		l.w.net.SetLinkDelay("client", "a", time.Millisecond)
	}
	conn, err := l.Transport.Dial(ctx, to, h)
	if l.dials == 2 {
		l.w.net.SetLinkDelay("client", "a", 2500*time.Millisecond)
	}
	return conn, err
}

// A request to open the session arrives after the client has given it up and sent another one.
func TestOpenComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		defer w.close()
		a := w.host("a", "svc", Policy{Copies: 1, SessionTimeout: 10 * time.Minute})
		c, err := Dial(t.Context(), "svc", ClientConfig{
			Resolver: w.res, Transport: &lateOpen{Transport: w.transport("client"), w: w},
		})
		require.NoError(t, err)
		defer c.Close()
		l := w.listen(c)
		w.net.Cut("client", "a")
		time.Sleep(15 * time.Minute)
		require.Equal(t, 1, a.Status().Clients)
		w.say("hello")
		l.hears("hello")
		_, err = c.Do(t.Context(), []byte("the session has not expired"))
		require.NoError(t, err)
	})
}

// A connection ends in the batch in which the opening of its session is committed.
func TestOpenedForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, _ := w.pair(Policy{SessionTimeout: time.Second})
		conn, err := w.transport("client").Dial(t.Context(), transport.Peer{Addr: "a:1"}, nil)
		require.NoError(t, err)
		conn.Go(wire.MethodOpen, mustMarshal(t, &wire.OpenParams{Service: "svc", Session: 5}), func([]byte, error) {})
		time.Sleep(time.Millisecond)
		synctest.Wait() // ordered, and on its way to b
		hold := make(chan struct{})
		go a.post(item{kind: itemFunc, fn: func() { <-hold }})
		conn.Close()
		time.Sleep(5 * time.Millisecond)
		close(hold)
		time.Sleep(time.Minute)
		require.Zero(t, a.Status().Clients)
		w.look(a, func() { require.Zero(t, a.machine().Usage().Sessions) })
	})
}

// A host on which the service has halted is no host for it.
func TestHaltedIsNotAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		p := Policy{Rank: func(hs []resolver.Host) []resolver.Host {
			slices.SortFunc(hs, func(x, y resolver.Host) int { return strings.Compare(x.ID, y.ID) })
			return hs
		}}
		a, b := w.pair(p)
		w.standby("c", "svc", p)
		a.post(item{kind: itemFunc, fn: func() { panic(errors.New("the disk has failed")) }})
		w.role(b, Active)
		w.inSync(b, 2)
		hosts, err := w.res.Hosts(t.Context(), "svc")
		require.NoError(t, err)
		require.False(t, slices.ContainsFunc(hosts, w.nodes["a"].self.Same))
		_, err = b.Handoff(t.Context(), "")
		require.NoError(t, err)
	})
}

// A broken invariant of the core halts the service.
func TestBrokenInvariantHalts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{})
		a.post(item{kind: itemEvent, ev: core.Persisted{Seq: 1 << 40}})
		require.Equal(t, Halted, a.Status().Role)
		err := a.wait(t.Context(), func(Status) bool { return false })
		require.ErrorAs(t, err, new(core.Violation))
		require.Equal(t, CodeHalted, transport.CodeOf(err))
		w.role(b, Active)
	})
}

// Host is given up before the resolver has answered: the name is free again when it is known what became of it.
func TestHostGivenUp(t *testing.T) {
	for name, made := range map[string]bool{"made": true, "not made": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, r := newTapped(t, "a", "b")
				defer w.close()
				var slow atomic.Bool
				slow.Store(true)
				r.cas = func(ctx context.Context, next resolver.Record, do func() (resolver.Record, error)) (resolver.Record, error) {
					if !slow.Load() {
						return do()
					}
					if made {
						do()
					}
					<-ctx.Done()
					return resolver.Record{}, ctx.Err()
				}
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				_, err := w.nodes["a"].Host(ctx, "svc", newTally, Policy{})
				require.ErrorIs(t, err, context.DeadlineExceeded)
				_, err = w.nodes["a"].Host(t.Context(), "svc", newTally, Policy{})
				require.ErrorContains(t, err, "given up")
				slow.Store(false)
				time.Sleep(10 * time.Second)
				require.Empty(t, w.nodes["a"].Services())
				rec, err := w.res.Get(t.Context(), "svc")
				if err == nil {
					require.Empty(t, rec.Active.ID)
				}
				w.host("b", "svc", Policy{})
				w.say("hello")
			})
		})
	}
}

// Who names a host wants that one.
func TestHandoffToHostOfNoRank(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		p := Policy{Rank: func([]resolver.Host) []resolver.Host { return nil }}
		a := w.host("a", "svc", p)
		w.standby("b", "svc", p)
		time.Sleep(time.Second)
		_, err := a.Handoff(t.Context(), "")
		require.ErrorIs(t, err, ErrNoTarget)
		_, err = a.Handoff(t.Context(), "b")
		require.NoError(t, err)
	})
}

// A handle that has left already does nothing to the service that is hosted anew.
func TestDurableLeaveTwice(t *testing.T) {
	d := newDurable(t)
	n, m := d.start("a"), d.start("b")
	sm := d.host(m)
	wait := func(n int) {
		require.NoError(t, sm.wait(t.Context(), func(st Status) bool { return len(st.Record.ISR) == n }))
	}
	old, err := n.Standby(t.Context(), "svc", newTally, Policy{})
	require.NoError(t, err)
	wait(2)
	require.NoError(t, old.Leave(t.Context()))
	wait(1)
	s, err := n.Standby(t.Context(), "svc", newTally, Policy{})
	require.NoError(t, err)
	wait(2)
	require.NoError(t, s.wait(t.Context(), func(st Status) bool { return st.Role == Standby }))
	require.NoError(t, old.Leave(t.Context()))
	require.DirExists(t, d.dirs["a"]+"/service-svc")
}
