package migrate

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// forgetful is a resolver that can lose its records, or go back to old ones. The inner resolver knows which hosts are
// present.
type forgetful struct {
	*resolver.Memory

	mu         sync.Mutex // guards the fields below
	generation uint64
	record     resolver.Record // of the only service; zero: none
	past       []resolver.Record
}

func (r *forgetful) Get(_ context.Context, name string) (resolver.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.record.Version == 0 {
		return resolver.Record{}, transport.Errorf(resolver.CodeNotFound, "no record of %s", name)
	}
	return r.record, nil
}

func (r *forgetful) CompareAndSwap(ctx context.Context, expect uint64, next resolver.Record) (resolver.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cur := &r.record
	switch {
	case cur.Version != expect:
		return *cur, resolver.ErrConflict
	case cur.Version == 0:
		cur = nil
	}
	if err := resolver.Check(cur, next); err != nil {
		return resolver.Record{}, err
	}
	next.Generation, next.Version = r.generation, expect+1
	r.record = next
	r.past = append(r.past, next)
	return next, nil
}

func (r *forgetful) Watch(ctx context.Context, name string, after uint64) (resolver.Record, error) {
	for {
		if rec, err := r.Get(ctx, name); err == nil && rec.Version > after {
			return rec, nil
		}
		select {
		case <-ctx.Done():
			return resolver.Record{}, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// lose drops the record.
func (r *forgetful) lose() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.generation++
	r.record = resolver.Record{}
}

// goBack brings back the record of the version.
func (r *forgetful) goBack(version uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.past {
		if rec.Version == version {
			r.record = rec
			return
		}
	}
	panic("no such version")
}

// failures collects what Hooks.Failed reports.
type failures struct {
	mu   sync.Mutex
	errs []error
}

func (f *failures) failed(_ string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = append(f.errs, err)
}

// take returns the failures so far, and forgets them.
func (f *failures) take() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	errs := f.errs
	f.errs = nil
	return errs
}

// newForgetful is newWorld with a resolver that can lose records. It returns the failures of each host.
func newForgetful(t *testing.T, names ...string) (*world, *forgetful, map[string]*failures) {
	w := newWorld(t)
	r := &forgetful{Memory: resolver.NewMemory(), generation: 7}
	w.res = r
	failed := map[string]*failures{}
	for _, name := range names {
		f := new(failures)
		failed[name], w.hooks.Failed = f, f.failed
		w.node(name)
	}
	return w, r, failed
}

// The resolver loses the record, or goes back to an old one, while commands continue: the active host restores it, and both
// handoff and failover work afterwards.
func TestRecordRestored(t *testing.T) {
	for name, spoil := range map[string]func(*forgetful){
		"lost":          (*forgetful).lose,
		"back to alone": func(r *forgetful) { r.goBack(1) },
		"back to none": func(r *forgetful) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.record = resolver.Record{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, r, failed := newForgetful(t, "a", "b", "c")
				defer w.close()
				a, b := w.pair(Policy{})
				c := w.dial("client", "svc", ClientConfig{})
				w.read(c)
				wr := w.write(c)
				time.Sleep(time.Second)
				before := a.Status().Record
				require.Len(t, before.ISR, 2)
				wr.resetGap()
				spoil(r)
				time.Sleep(5 * time.Second)
				rec, err := r.Get(t.Context(), "svc")
				require.NoError(t, err)
				require.Equal(t, before.Active, rec.Active)
				require.Len(t, rec.ISR, 2)
				require.Greater(t, rec.Epoch, before.Epoch)
				require.Equal(t, before.Loss, rec.Loss)
				require.Equal(t, Active, a.Status().Role)
				require.Equal(t, Standby, b.Status().Role)
				require.Less(t, wr.longest(), time.Second)
				errs := failed["a"].take()
				require.Len(t, errs, 1)
				require.ErrorIs(t, errs[0], resolver.ErrAmnesia)
				require.ErrorContains(t, errs[0], "has lost the record of service svc")
				require.ErrorContains(t, errs[0], "host a")
				require.Empty(t, failed["b"].take())
				_, err = a.Handoff(t.Context(), "b")
				require.NoError(t, err)
				w.role(b, Active)
				w.inSync(b, 2)
				w.crash("b")
				w.role(a, Active)
				w.check(c)
			})
		})
	}
}

// A newcomer that calls Host before the record is restored stands by: it does not begin a second service.
func TestHostWhileRecordIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, failed := newForgetful(t, "a", "b", "c")
		defer w.close()
		a, b := w.pair(Policy{Copies: 3})
		c := w.dial("client", "svc", ClientConfig{})
		w.write(c)
		time.Sleep(time.Second)
		before := a.Status().Record
		r.lose()
		s := w.host("c", "svc", Policy{Copies: 3})
		rec, err := r.Get(t.Context(), "svc")
		require.ErrorIs(t, err, resolver.ErrNotFound, "%+v", rec)
		require.Equal(t, Latent, s.Status().Role)
		_, err = w.node("d").Reset(t.Context(), "svc", newTally, Policy{})
		require.ErrorIs(t, err, ErrExists)
		require.ErrorContains(t, err, "active on host a")
		w.inSync(a, 3)
		require.Equal(t, Active, a.Status().Role)
		require.Equal(t, before.Loss, a.Status().Record.Loss)
		w.role(b, Standby)
		w.role(s, Standby)
		require.Empty(t, failed["c"].take())
		w.check(c)
	})
}

// A host that is present may hold the service, even if it does not answer: no host begins another one in its place.
func TestHostWaitsForTheSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, _ := newForgetful(t, "a", "b", "c")
		defer w.close()
		a, _ := w.pair(Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), c, "x"))
		r.lose()
		w.crash("b") // so that host a cannot restore the record
		w.net.Partition("a", "c")
		began := time.Now()
		_, err := w.nodes["c"].Host(t.Context(), "svc", newTally, Policy{})
		require.ErrorIs(t, err, ErrNoHost)
		require.ErrorContains(t, err, "host a at")
		require.ErrorContains(t, err, "does not answer")
		require.Less(t, time.Since(began), 10*time.Second)
		require.Empty(t, w.nodes["c"].Services())
		_, err = r.Get(t.Context(), "svc")
		require.ErrorIs(t, err, resolver.ErrNotFound)
		require.Equal(t, Active, a.Status().Role)

		w.crash("a")
		time.Sleep(4 * time.Second)
		s := w.host("c", "svc", Policy{})
		require.Equal(t, Active, s.Status().Role, "nobody is present any more")
	})
}

// The active host dies before it has restored the record: only the standby holds the state. It reports that, a newcomer is
// referred to it, and Reset on it keeps all acknowledged commands.
func TestStandbyAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, failed := newForgetful(t, "a", "b", "c")
		defer w.close()
		a, b := w.pair(Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		wr := w.write(c)
		time.Sleep(time.Second)
		loss := a.Status().Record.Loss
		_, err := w.nodes["b"].Reset(t.Context(), "svc", nil, Policy{})
		require.ErrorIs(t, err, ErrExists)
		require.ErrorContains(t, err, "active on host a")
		require.Equal(t, Standby, b.Status().Role)
		wr.slow(10 * time.Millisecond)
		r.lose()
		time.Sleep(100 * time.Millisecond)
		w.crash("a")
		time.Sleep(5 * time.Second)
		require.Equal(t, Standby, b.Status().Role)
		last := b.Status().Last
		errs := failed["b"].take()
		require.Len(t, errs, 2, "%v", errs)
		require.ErrorIs(t, errs[0], resolver.ErrAmnesia)
		require.ErrorIs(t, errs[1], ErrNoHost)
		require.ErrorContains(t, errs[1], "Node.Reset on host b continues")
		time.Sleep(time.Minute)
		require.Empty(t, failed["b"].take(), "the failure is reported once")

		for _, call := range []func() (*Service, error){
			func() (*Service, error) { return w.nodes["c"].Host(t.Context(), "svc", newTally, Policy{}) },
			func() (*Service, error) { return w.nodes["c"].Reset(t.Context(), "svc", newTally, Policy{}) },
		} {
			_, err := call()
			require.ErrorIs(t, err, ErrNoHost)
			require.ErrorContains(t, err, "host b holds its state up to entry")
			require.ErrorContains(t, err, "Node.Reset on host b")
			require.Empty(t, w.nodes["c"].Services())
		}
		_, err = r.Get(t.Context(), "svc")
		require.ErrorIs(t, err, resolver.ErrNotFound)

		again, err := w.nodes["b"].Reset(t.Context(), "svc", nil, Policy{})
		require.NoError(t, err)
		require.Same(t, b, again)
		require.Equal(t, Active, b.Status().Role)
		require.Greater(t, b.Status().Record.Loss, loss)
		require.GreaterOrEqual(t, b.Status().Last, last)
		var seen []string
		w.eventually(func() bool { seen, _ = w.state(b); return len(seen) >= w.highest }, "host b has applied all")
		w.mu.Lock()
		require.GreaterOrEqual(t, len(w.acked), 100)
		for cmd, at := range w.acked {
			require.Equal(t, cmd, seen[at-1])
		}
		w.mu.Unlock()
		require.Empty(t, failed["b"].take())
		<-wr.done
		require.ErrorIs(t, wr.err, ErrStateLost)
	})
}

// The active host dies before it has restored the record, and restarts with its directory: all members of the in-sync set
// answer, so that one of them restores the record.
func TestDurableRecordLost(t *testing.T) {
	d := newDurable(t)
	r := &forgetful{Memory: resolver.NewMemory(), generation: 7}
	d.res = r
	a, b := d.start("a"), d.start("b")
	sa, sb := d.host(a), d.host(b)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, sa.wait(ctx, func(st Status) bool { return len(st.Record.ISR) == 2 }))
	c := d.client()
	for range 10 {
		_, err := c.Do(ctx, []byte("x"))
		require.NoError(t, err)
	}
	loss := sa.Status().Record.Loss
	r.lose()
	a.Close()
	a = d.start("a")
	_, err := a.Standby(ctx, "svc", newTally, Policy{})
	require.NoError(t, err)
	reply, err := c.Do(ctx, []byte("y"))
	require.NoError(t, err)
	require.Equal(t, "11", string(reply))
	require.NoError(t, sb.wait(ctx, func(st Status) bool { return st.Record.Generation == 8 && len(st.Record.ISR) == 2 }))
	require.Equal(t, loss, sb.Status().Record.Loss)
}

// A host whose copy counted drops it, because a person has continued with another copy.
func TestCopyDroppedAfterReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, failed := newForgetful(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), c, "x"))
		w.net.Isolate("a")
		r.lose()
		time.Sleep(2 * time.Second)
		failed["a"].take()
		_, err := w.nodes["b"].Reset(t.Context(), "svc", nil, Policy{})
		require.NoError(t, err)
		w.role(b, Active)
		w.net.HealAll()
		w.inSync(b, 2)
		w.role(a, Standby)
		var lost []error
		for _, err := range failed["a"].take() {
			if transport.CodeOf(err) == CodeStateLost {
				lost = append(lost, err)
			}
		}
		require.Len(t, lost, 1)
		require.ErrorContains(t, lost[0], "began anew on host b")
		require.ErrorContains(t, lost[0], "host a has dropped its copy")
	})
}

// A host answers inquiries of hosts alone, also while the service's code does not return.
func TestInquiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		release := make(chan struct{})
		defer close(release)
		fresh := func() Migratable { return &blockedService{release: release} }
		a, err := w.nodes["a"].Host(t.Context(), "svc", fresh, Policy{})
		require.NoError(t, err)
		b, err := w.nodes["b"].Standby(t.Context(), "svc", fresh, Policy{})
		require.NoError(t, err)
		w.inSync(a, 2)
		asker := &w.standby("c", "svc", Policy{}).registrar
		c := w.dial("client", "svc", ClientConfig{})
		go c.Do(t.Context(), []byte("x"))
		time.Sleep(100 * time.Millisecond)
		require.Positive(t, a.Status().Busy)
		hosts := []resolver.Host{a.node.self, b.node.self, w.nodes["c"].self, {ID: "gone", Incarnation: 3, Addr: "gone:1"}}
		began := time.Now()
		answers, silent := asker.inquire(t.Context(), hosts)
		require.Less(t, time.Since(began), 20*time.Millisecond)
		require.Len(t, silent, 1)
		require.Equal(t, "gone", silent[0].ID)
		require.Len(t, answers, 2)
		for _, ans := range answers {
			require.Equal(t, ans.From.ID == "a", ans.Active)
			require.True(t, ans.Copy)
			require.Equal(t, a.Status().Record, ans.Record)
			require.Equal(t, a.Status().Last, ans.Last.Index)
		}
		conn, err := w.transport("x").Dial(t.Context(), transport.Peer{Addr: "a:1"}, nil)
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.Call(t.Context(), wire.MethodAsk, mustMarshal(t, wire.AskParams{Service: "svc"}))
		require.ErrorIs(t, err, ErrForbidden)
	})
}

// blockedService does not return from Apply until it is released.
type blockedService struct {
	tally
	release chan struct{}
}

func (s *blockedService) Apply(cmd Command) ([]byte, error) {
	<-s.release
	return s.tally.Apply(cmd)
}
