package migrate

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

func TestConfigNamesField(t *testing.T) {
	tr := transport.NewMemory().Host("a")
	defer tr.Close()
	for field, cfg := range map[string]NodeConfig{
		"NodeConfig.Resolver":       {Transport: tr},
		"NodeConfig.Transport":      {Resolver: resolver.NewMemory()},
		"NodeConfig.Heartbeat":      {Resolver: resolver.NewMemory(), Transport: tr, Heartbeat: -1},
		"NodeConfig.FailureTimeout": {Resolver: resolver.NewMemory(), Transport: tr, FailureTimeout: time.Millisecond},
		"NodeConfig.PresenceTTL":    {Resolver: resolver.NewMemory(), Transport: tr, PresenceTTL: -1},
		`NodeConfig.ID is "a b"`:    {Resolver: resolver.NewMemory(), Transport: tr, ID: "a b"},
		`NodeConfig.ID is "long`: {
			Resolver: resolver.NewMemory(), Transport: tr, ID: "long" + strings.Repeat("g", resolver.MaxHostID),
		},
		`NodeConfig.Advertise`: {Resolver: resolver.NewMemory(), Transport: tr, Advertise: "a b"},
	} {
		_, err := NewNode(cfg)
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, field)
	}
	n, err := NewNode(NodeConfig{Resolver: resolver.NewMemory(), Transport: tr, Listen: "a:1"})
	require.NoError(t, err)
	defer n.Close()
	for field, p := range map[string]Policy{
		"Policy.Every":          {Every: time.Millisecond},
		"Policy.Copies":         {Copies: 17},
		"Policy.SessionTimeout": {SessionTimeout: -1},
		"Policy.EventBytes":     {EventBytes: -1},
		"Policy.Spread":         {Spread: -1},
	} {
		_, err := n.Host(t.Context(), "svc", newTally, p)
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, field)
	}
	for _, name := range []string{"", "a b", "a\x00b", strings.Repeat("s", 254)} {
		_, err = n.Host(t.Context(), name, newTally, Policy{})
		require.ErrorIs(t, err, ErrConfig)
		_, err = n.Standby(t.Context(), name, newTally, Policy{})
		require.ErrorIs(t, err, ErrConfig)
		_, err = Dial(t.Context(), name, ClientConfig{Resolver: resolver.NewMemory(), Transport: tr})
		require.ErrorIs(t, err, ErrConfig)
	}
	_, err = n.Host(t.Context(), "svc", nil, Policy{})
	require.ErrorIs(t, err, ErrConfig)
	require.Empty(t, n.Services())
}

// Two processes with one ID and one key: the one that came first is told. The key matters: see TestIDBelongsToKey.
func TestTwoOfOneID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := transport.NewIdentity()
		w := newWorld(t, "b")
		defer w.close()
		first, second := make(chan error, 10), make(chan error, 10)
		w.hooks.Failed = func(_ string, err error) { first <- err }
		for _, name := range []string{"a", "c"} {
			tr, err := w.net.HostWith(name, transport.TCPConfig{Identity: id})
			require.NoError(t, err)
			w.trs[name] = tr
		}
		w.node("a")
		w.host("a", "svc", Policy{})
		time.Sleep(10 * time.Second)
		require.Empty(t, first)
		n, err := NewNode(NodeConfig{Resolver: w.res, Transport: w.transport("c"), ID: "a", Listen: "c:1",
			Hooks: Hooks{Failed: func(_ string, err error) { second <- err }}})
		require.NoError(t, err)
		defer n.Close()
		_, err = n.Standby(t.Context(), "svc", newTally, Policy{})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Len(t, first, 1)
		err = <-first
		require.ErrorIs(t, err, resolver.ErrRefused)
		require.ErrorContains(t, err, "host a is not announced")
		require.ErrorContains(t, err, "c:1")
		require.Empty(t, second)
	})
}

// A process with another key does not take the ID of one that is present. It gets the ID when that one has gone.
func TestIDBelongsToKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a := w.host("a", "svc", Policy{})
		time.Sleep(time.Second)
		failed := make(chan error, 10)
		n, err := NewNode(NodeConfig{Resolver: w.res, Transport: w.transport("c"), ID: "a", Listen: "c:1",
			Logger: w.log, Hooks: Hooks{Failed: func(_ string, err error) { failed <- err }}})
		require.NoError(t, err)
		defer n.Close()
		_, err = n.Standby(t.Context(), "svc", newTally, Policy{})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Len(t, failed, 1)
		err = <-failed
		require.ErrorIs(t, err, resolver.ErrRefused)
		require.ErrorContains(t, err, "a:1")
		hosts, err := w.res.Hosts(t.Context(), "svc")
		require.NoError(t, err)
		require.Equal(t, []resolver.Host{a.node.self}, hosts)

		require.NoError(t, w.nodes["a"].Close())
		time.Sleep(10 * time.Second)
		hosts, err = w.res.Hosts(t.Context(), "svc")
		require.NoError(t, err)
		require.Equal(t, []resolver.Host{n.self}, hosts)
	})
}

func TestHostTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		w.host("a", "svc", Policy{})
		_, err := w.nodes["a"].Host(t.Context(), "svc", newTally, Policy{})
		require.ErrorIs(t, err, ErrExists)
		_, err = w.nodes["a"].Standby(t.Context(), "svc", newTally, Policy{})
		require.ErrorIs(t, err, ErrExists)
		_, err = w.nodes["b"].Reset(t.Context(), "svc", newTally, Policy{})
		require.ErrorIs(t, err, ErrExists, "a is alive")
		b := w.host("b", "svc", Policy{Copies: 1})
		require.NotEqual(t, Active, b.Status().Role, "who serves goes on")
	})
}

// Hosts that begin at the same time agree on one.
func TestHostAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		var wg sync.WaitGroup
		for name := range w.nodes {
			wg.Go(func() { w.host(name, "svc", Policy{Copies: 3}) })
		}
		wg.Wait()
		w.inSync(w.active("svc"), 3)
		require.Equal(t, uint64(1), w.active("svc").Status().Record.Epoch)
	})
}

func TestCopiesKept(t *testing.T) {
	for _, members := range []int{1, 2, 3, 4} {
		t.Run(fmt.Sprint(members), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				names := []string{"a", "b", "c", "d", "e"}
				w := newWorld(t, names...)
				defer w.close()
				p := Policy{Copies: members}
				w.host("a", "svc", p)
				for _, name := range names[1:] {
					w.standby(name, "svc", p)
				}
				c := w.dial("client", "svc", ClientConfig{})
				wr := w.write(c)
				wr.slow(20 * time.Millisecond)
				w.inSync(w.active("svc"), members)
				// Each host is active once. However many held a copy meanwhile, the others drop it.
				for range names {
					_, err := w.active("svc").Handoff(t.Context(), "")
					require.NoError(t, err)
					time.Sleep(7 * time.Second)
					require.Len(t, w.active("svc").Status().Record.ISR, members)
					copies := 0
					for _, n := range w.nodes {
						if _, ok := w.state(n.service("svc")); ok {
							copies++
						}
					}
					require.Equal(t, members, copies)
				}
				// A standby that dies is replaced.
				if members > 1 {
					isr := w.active("svc").Status().Record.ISR
					for _, h := range isr {
						if h.ID != w.active("svc").node.self.ID {
							w.crash(h.ID)
							break
						}
					}
					time.Sleep(3 * time.Second)
					require.Len(t, w.active("svc").Status().Record.ISR, members)
					require.Less(t, wr.longest(), 300*time.Millisecond)
				}
				w.check(c)
			})
		})
	}
}

func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		a, b := w.pair(Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		w.read(c)
		wr := w.write(c)
		time.Sleep(100 * time.Millisecond)
		// A standby leaves: nothing is lost, and its copy is gone when it has.
		require.NoError(t, b.Leave(t.Context()))
		require.Empty(t, w.nodes["b"].Services())
		require.Len(t, a.Status().Record.ISR, 1)
		// A latent host leaves at once.
		l := w.standby("b", "svc", Policy{Copies: 1})
		require.NoError(t, l.Leave(t.Context()))
		// The active host hands over first.
		w.standby("c", "svc", Policy{})
		time.Sleep(time.Second)
		require.NoError(t, a.Leave(t.Context()))
		require.Equal(t, "c", w.active("svc").node.self.ID)
		time.Sleep(time.Second)
		require.Less(t, wr.longest(), 50*time.Millisecond)
		require.Equal(t, []resolver.Host{w.nodes["c"].self}, w.active("svc").Status().Record.ISR)
		w.check(c)
	})
}

// late is a service whose first copy is not read on before it is let.
type late struct {
	tally
	read *atomic.Bool
	wait <-chan struct{}
	err  chan<- error
}

func (l *late) Restore(r io.Reader) error {
	if l.read.Swap(true) {
		return l.tally.Restore(r)
	}
	io.ReadFull(r, make([]byte, 1))
	<-l.wait
	_, err := io.Copy(io.Discard, r)
	l.err <- err
	return err
}

// Who leaves gives up the copy that is on its way. What comes of that later is nothing to the same host that stands by
// again.
func TestLeaveWhileCopying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		defer w.close()
		a := w.host("a", "svc", Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		for range 12 { // more than is on its way at one time
			_, err := c.Do(t.Context(), bytes.Repeat([]byte("x"), 250<<10))
			require.NoError(t, err)
		}
		failed := make(chan error, 1)
		b, err := NewNode(NodeConfig{
			Resolver: w.res, Transport: w.transport("b"), ID: "b", Listen: "b:1", Dir: t.TempDir(),
			Hooks: Hooks{Failed: func(_ string, err error) { failed <- err }},
		})
		require.NoError(t, err)
		w.nodes["b"] = b
		var read atomic.Bool
		letGo, ended := make(chan struct{}), make(chan error, 1)
		fresh := func() Migratable { return &late{read: &read, wait: letGo, err: ended} }
		s, err := b.Standby(t.Context(), "svc", fresh, Policy{})
		require.NoError(t, err)
		w.eventually(read.Load, "the copy comes")
		require.NoError(t, s.Leave(t.Context()))
		s, err = b.Standby(t.Context(), "svc", fresh, Policy{})
		require.NoError(t, err)
		close(letGo)
		require.ErrorIs(t, <-ended, context.Canceled)
		w.inSync(a, 2)
		w.role(s, Standby)
		require.NoError(t, w.do(t.Context(), c, "goes on"))
		require.Empty(t, failed)
	})
}

func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		w.pair(Policy{})
		w.standby("c", "svc", Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		w.read(c)
		wr := w.write(c)
		time.Sleep(time.Second)
		wr.resetGap()
		for range 2 {
			s := w.active("svc")
			require.NoError(t, s.node.Shutdown(t.Context()))
			require.NoError(t, s.node.Close())
			delete(w.nodes, s.node.self.ID)
			time.Sleep(2 * time.Second)
		}
		require.Less(t, wr.longest(), 50*time.Millisecond)
		w.check(c)

		// The last one ends with its state, says so, and leaves the name free.
		last := w.active("svc")
		err := last.node.Shutdown(t.Context())
		require.ErrorIs(t, err, ErrNoTarget)
		delete(w.nodes, last.node.self.ID)
		rec, err := w.res.Get(t.Context(), "svc")
		require.NoError(t, err)
		require.Empty(t, rec.Active.ID)

		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err = Dial(ctx, "svc", ClientConfig{Resolver: w.res, Transport: w.transport("late")})
		require.ErrorIs(t, err, ErrNoService)

		w.node("d")
		d := w.host("d", "svc", Policy{})
		require.Greater(t, d.Status().Record.Loss, rec.Loss)
		time.Sleep(5 * time.Second)
		_, err = c.Do(t.Context(), []byte("late"))
		require.ErrorIs(t, err, ErrStateLost, "the client of before is told")
		fresh := w.dial("late", "svc", ClientConfig{})
		reply, err := fresh.Do(t.Context(), []byte("new"))
		require.NoError(t, err)
		require.Equal(t, "1", string(reply))
	})
}

func TestShutdownWithoutTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		w.host("a", "svc", Policy{Copies: 1})
		w.standby("b", "svc", Policy{Copies: 1})
		w.net.Throttle("a", "b", 10)
		time.Sleep(100 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err := w.nodes["a"].Shutdown(ctx)
		require.ErrorIs(t, err, ErrTransferFailed)
		require.ErrorContains(t, err, "svc")
		require.Less(t, time.Since(began), 2*time.Second)
	})
}

// All hosts that held the state are gone.
func TestNoHostAndReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		a, _ := w.pair(Policy{})
		loss := a.Status().Record.Loss
		c := w.dial("client", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), c, "x"))
		w.net.Crash("b") // both at once
		w.crash("a")
		w.crash("b")
		_, err := w.nodes["c"].Host(t.Context(), "svc", newTally, Policy{})
		require.ErrorIs(t, err, ErrNoHost)
		require.ErrorContains(t, err, "svc")
		require.ErrorContains(t, err, "host a at a:1")
		require.Empty(t, w.nodes["c"].Services())
		s, err := w.nodes["c"].Reset(t.Context(), "svc", newTally, Policy{})
		require.NoError(t, err)
		require.Equal(t, Active, s.Status().Role)
		require.Greater(t, s.Status().Record.Loss, loss)
		_, err = c.Do(t.Context(), []byte("y"))
		require.ErrorIs(t, err, ErrStateLost)
		require.ErrorIs(t, c.Err(), ErrStateLost)
	})
}

func TestCloseFromManyGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, _ := w.pair(Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		w.write(c)
		w.read(c)
		var wg sync.WaitGroup
		wg.Go(func() { a.Handoff(t.Context(), "b") })
		for range 10 {
			wg.Go(func() { w.nodes["a"].Close() })
			wg.Go(func() { w.nodes["a"].Shutdown(t.Context()) })
		}
		wg.Wait()
		_, err := w.nodes["a"].Host(t.Context(), "other", newTally, Policy{})
		require.ErrorIs(t, err, transport.ErrClosed)
		_, err = a.Handoff(t.Context(), "b")
		require.Error(t, err)
		time.Sleep(3 * time.Second)
		w.check(c)
	})
}

// slowAnnouncer takes longer to tell that a host is there than that it is gone.
type slowAnnouncer struct{ resolver.Resolver }

func (r slowAnnouncer) Announce(ctx context.Context, h resolver.Host, services []string, ttl time.Duration) error {
	if len(services) > 0 {
		time.Sleep(100 * time.Millisecond)
	}
	return r.Resolver.Announce(context.WithoutCancel(ctx), h, services, ttl)
}

// A host that has closed is not announced any more: not by an announcement that was on its way either.
func TestCloseWithdraws(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.resolverOf = func(string) resolver.Resolver { return slowAnnouncer{w.res} }
		n := w.node("a")
		w.host("a", "svc", Policy{})
		require.NoError(t, n.Close())
		time.Sleep(time.Second)
		hosts, err := w.res.Hosts(t.Context(), "svc")
		require.NoError(t, err)
		require.Empty(t, hosts)
	})
}
