package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

// tap is a resolver that can fail.
type tap struct {
	resolver.Resolver
	absent atomic.Bool // no host is present
	down   atomic.Bool // no answers
	// cas stands for CompareAndSwap, which it may do; nil: do
	cas func(ctx context.Context, next resolver.Record, do func() (resolver.Record, error)) (resolver.Record, error)
}

func (r *tap) dead(ctx context.Context) bool {
	if r.down.Load() {
		<-ctx.Done()
		return true
	}
	return false
}

func (r *tap) Get(ctx context.Context, name string) (resolver.Record, error) {
	if r.dead(ctx) {
		return resolver.Record{}, ctx.Err()
	}
	return r.Resolver.Get(ctx, name)
}

func (r *tap) CompareAndSwap(ctx context.Context, expect uint64, next resolver.Record) (resolver.Record, error) {
	if r.dead(ctx) {
		return resolver.Record{}, ctx.Err()
	}
	do := func() (resolver.Record, error) { return r.Resolver.CompareAndSwap(ctx, expect, next) }
	if r.cas != nil {
		return r.cas(ctx, next, do)
	}
	return do()
}

func (r *tap) Announce(ctx context.Context, h resolver.Host, services []string, ttl time.Duration) error {
	if r.dead(ctx) {
		return ctx.Err()
	}
	return r.Resolver.Announce(ctx, h, services, ttl)
}

func (r *tap) Hosts(ctx context.Context, name string) ([]resolver.Host, error) {
	if r.dead(ctx) {
		return nil, ctx.Err()
	}
	if r.absent.Load() {
		return nil, nil
	}
	return r.Resolver.Hosts(ctx, name)
}

// newTapped is newWorld with a resolver that can fail.
func newTapped(t *testing.T, names ...string) (*world, *tap) {
	w := newWorld(t)
	r := &tap{Resolver: w.res}
	w.res = r
	for _, name := range names {
		w.node(name)
	}
	return w, r
}

func TestHandoffByTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		p := Policy{Every: 30 * time.Second}
		a := w.host("a", "svc", p)
		c := w.dial("client", "svc", ClientConfig{})
		wr := w.write(c)
		wr.slow(100 * time.Millisecond)
		began := a.Status().Record.Epoch
		time.Sleep(2 * time.Minute)
		require.Equal(t, began, a.Status().Record.Epoch, "there is nowhere to go")
		w.standby("b", "svc", p)
		w.standby("c", "svc", p)
		time.Sleep(30*time.Second + 500*time.Millisecond)
		for turn := range uint64(4) {
			require.Equal(t, began+1+turn, w.active("svc").Status().Record.Epoch)
			time.Sleep(30*time.Second + 50*time.Millisecond)
		}
		require.Less(t, wr.longest(), 50*time.Millisecond)
		w.check(c)
	})
}

func TestHandoffToNamedHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		a, b := w.pair(Policy{})
		latent := w.standby("c", "svc", Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		w.read(c)
		w.write(c)
		time.Sleep(time.Second)
		require.Equal(t, Latent, latent.Status().Role)

		_, err := a.Handoff(t.Context(), "nobody")
		require.ErrorIs(t, err, ErrNoTarget)
		require.ErrorContains(t, err, "nobody")
		_, err = a.Handoff(t.Context(), "a")
		require.ErrorIs(t, err, ErrNoTarget, "the host itself is no target")
		_, err = b.Handoff(t.Context(), "c")
		require.ErrorIs(t, err, ErrNotActive)

		rep, err := a.Handoff(t.Context(), "c")
		require.NoError(t, err)
		require.Equal(t, "c", rep.To.ID)
		require.Positive(t, rep.Join)
		require.Positive(t, rep.Bytes)
		require.Equal(t, Active, latent.Status().Role)
		w.inSync(latent, 2) // the set is trimmed
		time.Sleep(time.Second)
		for _, s := range []*Service{a, b} {
			if s.Status().Role == Standby {
				rep, err = latent.Handoff(t.Context(), s.node.self.ID)
				require.NoError(t, err)
				require.Zero(t, rep.Join)
				require.Zero(t, rep.Bytes, "a host in sync needs no copy")
				require.Equal(t, uint64(3), rep.Epoch)
				require.Equal(t, 1, rep.Clients)
				require.Equal(t, 1, rep.Ready)
			}
		}
		w.check(c)
	})
}

func TestHandoffWithoutOtherHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		defer w.close()
		a := w.host("a", "svc", Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		wr := w.write(c)
		_, err := a.Handoff(t.Context(), "")
		require.ErrorIs(t, err, ErrNoTarget)
		time.Sleep(time.Second)
		require.Less(t, wr.longest(), 5*time.Millisecond)
		w.check(c)
	})
}

func TestHandoffTwiceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		a, _ := w.pair(Policy{})
		w.standby("c", "svc", Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		w.write(c)
		time.Sleep(time.Second)
		errs := make(chan error, 2)
		for _, to := range []string{"b", "c"} {
			go func() { _, err := a.Handoff(t.Context(), to); errs <- err }()
		}
		first, second := <-errs, <-errs
		require.True(t, (first == nil) != (second == nil), "%v, %v", first, second)
		require.ErrorIs(t, errors.Join(first, second), ErrTransferFailed)
		require.ErrorContains(t, errors.Join(first, second), "another handoff is under way")
		w.check(c)
	})
}

func TestHandoffCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		a, _ := w.pair(Policy{})
		w.standby("c", "svc", Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		wr := w.write(c)
		time.Sleep(time.Second)
		wr.resetGap()
		w.net.Throttle("a", "c", 100) // the copy takes for ever
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := a.Handoff(ctx, "c")
		require.ErrorIs(t, err, ErrTransferFailed)
		require.Equal(t, 500*time.Millisecond, time.Since(began))
		require.Equal(t, Active, a.Status().Role)
		w.net.Throttle("a", "c", 0)
		time.Sleep(5 * time.Second)
		require.Less(t, wr.longest(), 10*time.Millisecond)
		_, err = a.Handoff(t.Context(), "c")
		require.NoError(t, err)
		w.check(c)
	})
}

// At one moment after the other of a handoff the target or the source dies or falls silent. The resolver is on a host of its
// own.
func TestHandoffCutShort(t *testing.T) {
	for _, victim := range []string{"source", "target"} {
		for _, target := range []string{"b", "c"} { // in sync and latent
			for _, fault := range []string{"crash", "silence"} {
				t.Run(fmt.Sprintf("%s of %s, to %s", fault, victim, target), func(t *testing.T) {
					var worst time.Duration
					const step = 3 * time.Millisecond
					for offset := rand.N(step); offset < 30*time.Millisecond; offset += step {
						synctest.Test(t, func(t *testing.T) {
							worst = max(worst, cutShort(t, victim, target, fault, offset))
						})
					}
					t.Logf("longest gap %s", worst)
				})
			}
		}
	}
}

func cutShort(t *testing.T, victim, target, fault string, offset time.Duration) time.Duration {
	w := newWorld(t)
	defer w.close()
	w.remoteResolver()
	for _, name := range []string{"a", "b", "c"} {
		w.node(name)
	}
	a, _ := w.pair(Policy{})
	w.standby("c", "svc", Policy{})
	c := w.dial("client", "svc", ClientConfig{})
	w.read(c)
	wr := w.write(c)
	time.Sleep(100 * time.Millisecond)
	wr.resetGap()
	ended := make(chan error, 1)
	go func() { _, err := a.Handoff(t.Context(), target); ended <- err }()
	time.Sleep(offset)
	host := target
	if victim == "source" {
		host = "a"
	}
	if fault == "crash" {
		w.crash(host)
	} else {
		w.net.Isolate(host)
	}
	began := time.Now()
	err := <-ended
	wr.slow(50 * time.Millisecond)
	if victim == "target" {
		require.Less(t, time.Since(began), 3*time.Second, "the handoff ends: %v", err)
	}
	if err != nil && victim == "target" {
		require.ErrorIs(t, err, ErrTransferFailed)
	}
	time.Sleep(3 * time.Second)
	if fault == "silence" {
		w.net.HealAll()
	}
	time.Sleep(4 * time.Second)
	w.inSync(w.active("svc"), 2)
	gap := wr.longest()
	require.Less(t, gap, 1200*time.Millisecond, "at %s", offset)
	w.check(c)
	return gap
}

func TestHandoffWithoutResolver(t *testing.T) {
	for _, target := range []string{"b", "c", ""} {
		for _, after := range []time.Duration{-1, 0, 2 * time.Millisecond, 4 * time.Millisecond, 6 * time.Millisecond,
			8 * time.Millisecond} {
			t.Run(fmt.Sprint(target, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, r := newTapped(t, "a", "b", "c")
					defer w.close()
					a, _ := w.pair(Policy{})
					w.standby("c", "svc", Policy{})
					c := w.dial("client", "svc", ClientConfig{})
					wr := w.write(c)
					time.Sleep(time.Second)
					wr.resetGap()
					down := func() { r.down.Store(true) }
					if after < 0 {
						down()
					} else {
						time.AfterFunc(after, down)
					}
					began := time.Now()
					_, err := a.Handoff(t.Context(), target)
					if err != nil {
						require.ErrorIs(t, err, ErrTransferFailed)
					}
					t.Log(time.Since(began), err)
					require.LessOrEqual(t, time.Since(began), time.Second)
					wr.slow(50 * time.Millisecond)
					time.Sleep(10 * time.Second)
					require.Less(t, wr.longest(), 25*time.Millisecond, "commands are acknowledged all the time")
					r.down.Store(false)
					time.Sleep(5 * time.Second)
					w.inSync(w.active("svc"), 2)
					_, err = w.active("svc").Handoff(t.Context(), "")
					require.NoError(t, err)
					w.check(c)
				})
			})
		}
	}
}

// sickly is a tally whose snapshots fail.
type sickly struct {
	tally
	h *health
}

type health struct {
	snapshot, restore, write atomic.Bool
	calls, failed, released  atomic.Int32
}

func (s *sickly) Snapshot() (Snapshot, error) {
	s.h.calls.Add(1)
	if s.h.snapshot.Load() {
		s.h.failed.Add(1)
		return nil, errors.New("no snapshot today")
	}
	snap, err := s.tally.Snapshot()
	return &sicklySnapshot{snap, s.h}, err
}

func (s *sickly) Restore(r io.Reader) error {
	if s.h.restore.Load() {
		return errors.New("no restore today")
	}
	return s.tally.Restore(r)
}

type sicklySnapshot struct {
	Snapshot
	h *health
}

func (s *sicklySnapshot) WriteTo(w io.Writer) (int64, error) {
	if s.h.write.Load() {
		n, _ := w.Write([]byte("half of it"))
		return int64(n), errors.New("no writing today")
	}
	return s.Snapshot.WriteTo(w)
}

func (s *sicklySnapshot) Release() { s.h.released.Add(1) }

func TestHandoffWithBadSnapshot(t *testing.T) {
	for _, tc := range []struct {
		name   string
		break_ func(w *world, h *health)
		mend   func(w *world, h *health)
	}{
		{"Snapshot fails", func(_ *world, h *health) { h.snapshot.Store(true) },
			func(_ *world, h *health) { h.snapshot.Store(false) }},
		{"WriteTo fails", func(_ *world, h *health) { h.write.Store(true) }, func(_ *world, h *health) { h.write.Store(false) }},
		{"Restore fails", func(_ *world, h *health) { h.restore.Store(true) },
			func(_ *world, h *health) { h.restore.Store(false) }},
		{"flipped bit", func(w *world, _ *health) { w.net.FlipAfter("a", "b", 3000) }, func(*world, *health) {}},
		{"cut", func(w *world, _ *health) { w.net.CutAfter("a", "b", 3000) }, func(*world, *health) {}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.close()
				var failed atomic.Int32
				w.hooks.Failed = func(_ string, err error) { failed.Add(1); t.Log(err) }
				w.node("a")
				w.node("b")
				h := new(health)
				fresh := func() Migratable { return &sickly{h: h} }
				a, err := w.nodes["a"].Host(t.Context(), "svc", fresh, Policy{Copies: 1})
				require.NoError(t, err)
				b, err := w.nodes["b"].Standby(t.Context(), "svc", fresh, Policy{Copies: 1})
				require.NoError(t, err)
				c := w.dial("client", "svc", ClientConfig{})
				w.read(c)
				wr := w.write(c)
				time.Sleep(time.Second)
				wr.resetGap()
				tc.break_(w, h)
				began := time.Now()
				_, err = a.Handoff(t.Context(), "b")
				t.Log(time.Since(began), err)
				time.Sleep(10 * time.Millisecond)
				if tc.name != "cut" && tc.name != "flipped bit" {
					require.ErrorIs(t, err, ErrTransferFailed)
					require.Less(t, time.Since(began), 3*time.Second)
					require.Equal(t, Active, a.Status().Role)
					require.Positive(t, failed.Load(), "the Failed hook was told")
					time.Sleep(time.Second)
				}
				calls := h.calls.Load()
				require.Less(t, wr.longest(), 20*time.Millisecond)
				tc.mend(w, h)
				wr.slow(50 * time.Millisecond)
				time.Sleep(10 * time.Second)
				if a.Status().Role == Active {
					require.LessOrEqual(t, h.calls.Load(), calls, "no further snapshots are taken: nobody wants one")
					_, err = a.Handoff(t.Context(), "b")
					require.NoError(t, err)
				}
				require.Equal(t, Active, b.Status().Role)
				w.check(c)
				time.Sleep(15 * time.Second)
				require.Equal(t, h.calls.Load()-h.failed.Load(), h.released.Load(), "each snapshot is released once")
			})
		})
	}
}

// A host joins while commands come without a break, although a host that is alone commits each of them at once.
func TestJoinUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a := w.host("a", "svc", Policy{})
		for i := range 10 {
			c := w.dial(fmt.Sprint("client", i), "svc", ClientConfig{})
			w.write(c)
			time.Sleep(100 * time.Microsecond)
		}
		time.Sleep(time.Second)
		w.standby("b", "svc", Policy{})
		began := time.Now()
		w.inSync(a, 2)
		require.Less(t, time.Since(began), time.Second)
		_, err := a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		for _, wr := range w.writers {
			require.Less(t, wr.longest(), 20*time.Millisecond)
		}
		w.check(w.cls[0])
	})
}

// A handoff ends when the service halts, or is closed, in the midst of it: nobody is left who could say how it went on.
func TestHandoffHalts(t *testing.T) {
	for name, end := range map[string]func(*Service){
		"halted": func(s *Service) { s.post(item{kind: itemFunc, fn: func() { panic("broken") }}) },
		"closed": func(s *Service) { s.remove(false) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "a", "b")
				defer w.close()
				a, b := w.host("a", "svc", Policy{Copies: 1}), w.standby("b", "svc", Policy{})
				time.Sleep(time.Second)
				w.net.Partition("a", "b")
				time.AfterFunc(10*time.Millisecond, func() { end(a) })
				began := time.Now()
				_, err := a.Handoff(t.Context(), b.node.Self().ID)
				require.ErrorIs(t, err, ErrTransferFailed)
				require.Equal(t, 10*time.Millisecond, time.Since(began))
			})
		})
	}
}
