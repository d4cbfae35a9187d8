package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

// redirected is a host's view of the name service, which may be another copy of it later.
type redirected struct{ at atomic.Pointer[forgetful] }

func (r *redirected) Get(ctx context.Context, name string) (resolver.Record, error) {
	return r.at.Load().Get(ctx, name)
}

func (r *redirected) CompareAndSwap(ctx context.Context, expect uint64, next resolver.Record) (resolver.Record, error) {
	return r.at.Load().CompareAndSwap(ctx, expect, next)
}

func (r *redirected) Watch(ctx context.Context, name string, after uint64) (resolver.Record, error) {
	for {
		wait, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		rec, err := r.at.Load().Watch(wait, name, after)
		cancel()
		if err == nil || ctx.Err() != nil {
			return rec, err
		}
	}
}

func (r *redirected) Announce(ctx context.Context, h resolver.Host, services []string, ttl time.Duration) error {
	return r.at.Load().Announce(ctx, h, services, ttl)
}

func (r *redirected) Hosts(ctx context.Context, name string) ([]resolver.Host, error) {
	return r.at.Load().Hosts(ctx, name)
}

// clone is a copy of the name service with the record of the version, which continues on its own. Both list the same hosts.
func (r *forgetful) clone(version uint64) *forgetful {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &forgetful{Memory: r.Memory, generation: r.generation}
	for _, rec := range r.past {
		if rec.Version <= version {
			c.record, c.past = rec, append(c.past, rec)
		}
	}
	return c
}

// lossRow is a row of the table of lost records: hosts a, which is active, and b, which stands by, and c, a newcomer.
type lossRow struct {
	*world
	first  *forgetful
	views  map[string]*redirected
	failed map[string]*failures

	mu     sync.Mutex // guards the fields below
	epochs map[[2]uint64]string
	loss   map[uint64]bool // of active hosts
}

func newLossRow(t *testing.T) *lossRow {
	w := &lossRow{
		world: newWorld(t), first: &forgetful{Memory: resolver.NewMemory(), generation: 7},
		views: map[string]*redirected{}, failed: map[string]*failures{}, epochs: map[[2]uint64]string{}, loss: map[uint64]bool{},
	}
	w.resolverOf = func(host string) resolver.Resolver {
		if w.views[host] == nil {
			w.views[host] = new(redirected)
			w.views[host].at.Store(w.first)
		}
		return w.views[host]
	}
	for _, name := range []string{"a", "b", "c"} {
		f := new(failures)
		w.failed[name], w.hooks.Failed = f, f.failed
		w.hooks.Changed = func(st Status) { w.changed(name, st) }
		w.node(name)
	}
	return w
}

// changed checks that no two hosts are active in one epoch.
func (w *lossRow) changed(host string, st Status) {
	if st.Role != Active {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	at := [2]uint64{st.Record.Loss, st.Record.Epoch}
	if other := w.epochs[at]; other != "" && other != host {
		w.t.Errorf("hosts %s and %s are both active in epoch %d", other, host, st.Record.Epoch)
	}
	w.epochs[at], w.loss[st.Record.Loss] = host, true
}

// services returns how many services there have been: a reset begins another one.
func (w *lossRow) services() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.loss)
}

// newcomer has host c call Host until it succeeds, or a minute is over. It returns the last error.
func (w *lossRow) newcomer() <-chan error {
	done, n := make(chan error, 1), w.nodes["c"]
	go func() {
		var err error
		for range 300 {
			if _, err = n.Host(w.t.Context(), "svc", newTally, Policy{}); err == nil {
				break
			}
			time.Sleep(200 * time.Millisecond)
		}
		done <- err
	}()
	return done
}

// moveWithin requires that a handoff succeeds within 5 s.
func (w *lossRow) moveWithin() {
	w.t.Helper()
	var err error
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, n := range w.nodes {
			if s := n.service("svc"); s != nil && s.Status().Role == Active {
				ctx, cancel := context.WithDeadline(w.t.Context(), end)
				_, err = s.Handoff(ctx, "")
				cancel()
				if err == nil {
					return
				}
			}
		}
	}
	w.t.Fatalf("no handoff succeeds within 5 s: %v", err)
}

// kept requires that the service has all that it has acknowledged, which are at least so many commands, each once and at its
// place.
func (w *lossRow) kept(least int) {
	w.t.Helper()
	c := w.dial("reader", "svc", ClientConfig{})
	b, err := c.Query(w.t.Context(), []byte("all"))
	require.NoError(w.t, err)
	var all []string
	require.NoError(w.t, json.Unmarshal(b, &all))
	seen := map[string]bool{}
	for _, cmd := range all {
		require.False(w.t, seen[cmd], "%s was executed twice", cmd)
		seen[cmd] = true
	}
	w.world.mu.Lock()
	defer w.world.mu.Unlock()
	require.GreaterOrEqual(w.t, len(w.acked), least)
	for cmd, at := range w.acked {
		require.GreaterOrEqual(w.t, len(all), at, "%s is lost", cmd)
		require.Equal(w.t, cmd, all[at-1])
	}
}

// The name service loses the record, goes back to an old one, or is replaced by a copy with an old one. The active host is
// alive, dies just before that, or soon after. A newcomer calls Host at once. There are never two services, nothing that was
// acknowledged is lost, and the service moves again within 5 s. If the active host dies before it has restored the record,
// only a person knows that it does not come back: one error on the standby, and each of the newcomer, names the call that
// continues.
func TestLossTable(t *testing.T) {
	const old = 1 // the record's version: host a alone
	records := map[string]func(w *lossRow) (over func()){
		"deleted":     func(w *lossRow) func() { w.first.lose(); return func() {} },
		"rolled back": func(w *lossRow) func() { w.first.goBack(old); return func() {} },
		"cloned": func(w *lossRow) func() {
			clone := w.first.clone(old)
			w.views["b"].at.Store(clone)
			w.views["c"].at.Store(clone)
			return func() { // the first one ends
				for _, v := range w.views {
					v.at.Store(clone)
				}
			}
		},
	}
	type fate struct {
		name  string
		after time.Duration // when host a dies; negative: just before the loss
		dies  bool
	}
	fates := []fate{{name: "alive"}, {"dead before", -1, true}}
	for _, after := range []time.Duration{0, 50 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second} {
		fates = append(fates, fate{fmt.Sprintf("killed after %s", after), after, true})
	}
	for name, spoil := range records {
		for _, f := range fates {
			t.Run(name+", active host "+f.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newLossRow(t)
					defer w.close()
					w.pair(Policy{})
					wr := w.write(w.dial("client", "svc", ClientConfig{}))
					time.Sleep(time.Second)
					wr.slow(5 * time.Millisecond)
					if f.after < 0 {
						w.crash("a")
					}
					over := time.AfterFunc(time.Second, spoil(w))
					defer over.Stop()
					came := w.newcomer()
					if f.dies && f.after >= 0 {
						time.Sleep(f.after)
						w.crash("a")
					}
					time.Sleep(2 * time.Second)
					person := f.dies && !w.continues()
					require.Equal(t, f.dies && f.after < time.Second, person, "a person decides")
					if person {
						w.decide("b", "a")
					} else {
						w.moveWithin()
						require.Equal(t, 1, w.services())
						wr.end()
					}
					require.NoError(t, <-came)
					w.moveWithin()
					w.kept(100)
				})
			})
		}
	}
}

// continues reports whether a host is active within 5 s.
func (w *lossRow) continues() bool {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, n := range w.nodes {
			if s := n.service("svc"); s != nil && s.Status().Role == Active {
				return true
			}
		}
	}
	return false
}

// decide checks the errors that name the call that continues, and makes that call: a reset of the host, which waits for
// another that is dead.
func (w *lossRow) decide(host, dead string) {
	t := w.t
	t.Helper()
	do := "Node.Reset on host " + host + " continues"
	errs := w.failed[host].take()
	require.NotEmpty(t, errs)
	last := errs[len(errs)-1]
	require.ErrorIs(t, last, ErrNoHost)
	require.ErrorContains(t, last, "not all hosts that may hold later entries answer ("+dead+")")
	require.ErrorContains(t, last, do)
	for _, err := range errs[:len(errs)-1] {
		require.NotContains(t, err.Error(), do, "the failure is reported once")
	}
	active := w.nodes[host].service("svc").Status().Role == Active
	w.node("d")
	w.views["d"].at.Store(w.views[host].at.Load())
	for _, call := range []func(context.Context, string, func() Migratable, Policy) (*Service, error){
		w.nodes["d"].Host, w.nodes["d"].Reset,
	} {
		if active {
			break // it could still commit if the other one came back
		}
		_, err := call(t.Context(), "svc", newTally, Policy{})
		require.ErrorIs(t, err, ErrNoHost)
		require.ErrorContains(t, err, "host "+host+" holds its state up to entry")
		require.ErrorContains(t, err, do)
	}
	require.Equal(t, 1, w.services())
	_, err := w.nodes[host].Reset(t.Context(), "svc", nil, Policy{})
	require.NoError(t, err)
	st := w.nodes[host].service("svc").Status()
	require.Equal(t, Active, st.Role)
	require.Len(t, st.Record.ISR, 1)
	time.Sleep(10 * time.Millisecond) // for the hook
	require.Equal(t, 2, w.services())
}

// The resolver goes back to a record whose only host has died since. A newcomer stands by at once, because another host is
// active.
func TestHostAfterRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLossRow(t)
		defer w.close()
		_, b := w.pair(Policy{})
		wr := w.write(w.dial("client", "svc", ClientConfig{}))
		time.Sleep(time.Second)
		w.crash("a")
		w.role(b, Active)
		w.first.goBack(1)
		c := w.host("c", "svc", Policy{})
		require.Equal(t, Latent, c.Status().Role)
		w.moveWithin()
		wr.end()
		w.kept(100)
		require.Equal(t, 1, w.services())
	})
}

// The standby dies while the record is lost: the active host cannot commit without it, nor remove it. A reset of the active
// host continues with all that it holds, and no other host may be reset.
func TestStandbyDiesWhileRecordIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLossRow(t)
		defer w.close()
		a, _ := w.pair(Policy{})
		_, err := w.nodes["a"].Reset(t.Context(), "svc", newTally, Policy{})
		require.ErrorIs(t, err, ErrExists)
		w.write(w.dial("client", "svc", ClientConfig{}))
		time.Sleep(time.Second)
		w.first.lose()
		w.crash("b")
		came := w.newcomer()
		time.Sleep(10 * time.Second)
		require.True(t, a.Status().Suspended)
		last := a.Status().Last
		_, err = w.nodes["c"].Reset(t.Context(), "svc", newTally, Policy{})
		require.ErrorIs(t, err, ErrExists)
		w.decide("a", "b")
		require.Greater(t, a.Status().Last, last)
		require.NoError(t, <-came)
		w.moveWithin()
		w.kept(100)
		require.Equal(t, 2, w.services())
	})
}

// Three copies: two hosts of the in-sync set are left without the active one. Both report what to do, and the one that holds
// less refuses a reset and names the other.
func TestTwoStandbysAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLossRow(t)
		defer w.close()
		p := Policy{Copies: 3}
		a := w.host("a", "svc", p)
		b, c := w.standby("b", "svc", p), w.standby("c", "svc", p)
		w.inSync(a, 3)
		wr := w.write(w.dial("client", "svc", ClientConfig{}))
		time.Sleep(time.Second)
		w.net.Block("a", "c") // host c misses the last entries
		time.Sleep(20 * time.Millisecond)
		w.first.lose()
		w.crash("a")
		time.Sleep(10 * time.Second)
		require.Greater(t, b.Status().Last, c.Status().Last)
		for _, name := range []string{"b", "c"} {
			errs := w.failed[name].take()
			require.NotEmpty(t, errs)
			require.ErrorContains(t, errs[len(errs)-1], "Node.Reset on host "+name+" continues")
		}
		_, err := w.nodes["c"].Reset(t.Context(), "svc", nil, Policy{})
		require.ErrorIs(t, err, ErrNoHost)
		require.ErrorContains(t, err, "Node.Reset on host b continues")
		_, err = w.nodes["b"].Reset(t.Context(), "svc", nil, Policy{})
		require.NoError(t, err)
		<-wr.done
		require.ErrorIs(t, wr.err, ErrStateLost)
		w.moveWithin()
		w.kept(100)
		require.Equal(t, 2, w.services())
	})
}

// Two name services serve the same hosts at once, each on its own. As long as the hosts reach one another, there is one
// service. If they are also cut off from one another, no host can tell that another one is active: both acknowledge
// commands, and those of one are lost.
func TestTwoResolversAtOnce(t *testing.T) {
	for _, cut := range []bool{false, true} {
		t.Run(fmt.Sprintf("cut %v", cut), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newLossRow(t)
				defer w.close()
				a, b := w.pair(Policy{})
				left, right := w.dial("left", "svc", ClientConfig{}), w.dial("right", "svc", ClientConfig{})
				require.NoError(t, w.do(t.Context(), left, "before"))
				require.NoError(t, w.do(t.Context(), right, "before too"))
				second := w.first.clone(a.Status().Record.Version)
				w.views["b"].at.Store(second)
				w.views["right"].at.Store(second)
				if cut {
					w.net.Partition("a", "b")
					w.net.Partition("a", "right")
					w.net.Partition("b", "left")
				}
				time.Sleep(10 * time.Second)
				_, err := left.Do(t.Context(), []byte("left"))
				require.NoError(t, err)
				_, err = right.Do(t.Context(), []byte("right"))
				require.NoError(t, err)
				require.Equal(t, Active, a.Status().Role)
				require.Equal(t, cut, b.Status().Role == Active)
				w.net.HealAll()
				for _, v := range w.views {
					v.at.Store(second)
				}
				w.inSync(w.active("svc"), 2)
				w.moveWithin()
				w.kept(2)
				seen, ok := w.state(w.active("svc"))
				require.True(t, ok)
				require.Contains(t, seen, "right")
				require.Equal(t, cut, !slices.Contains(seen, "left"))
			})
		})
	}
}

// The resolver goes back to a record that says that the service has ended, after which another host began it anew. A
// newcomer that does not reach that host waits for it if it is present. If it is not, the newcomer begins the service as
// well, but in a term of its own.
func TestRetiredRecordIsOld(t *testing.T) {
	for _, present := range []bool{true, false} {
		t.Run(fmt.Sprintf("present %v", present), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newLossRow(t)
				defer w.close()
				require.ErrorIs(t, w.host("a", "svc", Policy{}).Leave(t.Context()), ErrNoTarget)
				clone := w.first.clone(2)
				b := w.host("b", "svc", Policy{})
				require.NoError(t, w.do(t.Context(), w.dial("client", "svc", ClientConfig{}), "x"))
				if !present {
					clone.Memory = resolver.NewMemory()
				}
				w.net.Partition("b", "c")
				w.views["c"].at.Store(clone)
				s, err := w.nodes["c"].Host(t.Context(), "svc", newTally, Policy{})
				if present {
					require.ErrorIs(t, err, ErrNoHost)
					require.ErrorContains(t, err, "host b at b:1, which is present for it, does not answer")
					return
				}
				require.NoError(t, err)
				require.Equal(t, Active, s.Status().Role)
				w.net.HealAll()
				w.views["b"].at.Store(clone)
				w.inSync(s, 2)
				w.role(b, Standby)
				errs := w.failed["b"].take()
				require.NotEmpty(t, errs)
				require.ErrorIs(t, errs[len(errs)-1], ErrStateLost)
				require.ErrorContains(t, errs[len(errs)-1], "service svc began anew on host c")
			})
		})
	}
}

// The silent member is back while a person resets the active host, which then has no need of it: the call returns.
func TestResetOutrun(t *testing.T) {
	for after := time.Duration(0); after <= 1200*time.Millisecond; after += 100 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			w := newLossRow(t)
			defer w.close()
			a, _ := w.pair(Policy{})
			require.NoError(t, w.do(t.Context(), w.dial("client", "svc", ClientConfig{}), "x"))
			w.first.lose()
			w.net.Partition("a", "b")
			time.Sleep(10 * time.Second)
			require.True(t, a.Status().Suspended)
			time.AfterFunc(after, w.net.HealAll)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if _, err := w.nodes["a"].Reset(ctx, "svc", nil, Policy{}); err != nil {
				require.ErrorIs(t, err, ErrExists, "after %v", after)
				require.ErrorContains(t, err, "active on host a")
			}
			w.inSync(a, 2)
			w.kept(1)
		})
	}
}

// A host knows of a later beginning of the service, whose only host has died: the hosts of the earlier one cannot restore
// their record, which would hide it. They report that, and the call that continues.
func TestLaterBeginningIsGone(t *testing.T) {
	for _, alive := range []bool{true, false} {
		t.Run(fmt.Sprintf("active host alive %v", alive), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newLossRow(t)
				defer w.close()
				w.pair(Policy{})
				require.NoError(t, w.do(t.Context(), w.dial("client", "svc", ClientConfig{}), "x"))
				second := &forgetful{Memory: resolver.NewMemory(), generation: 8}
				w.node("d")
				w.views["c"].at.Store(second)
				w.views["d"].at.Store(second)
				d := w.host("d", "svc", Policy{Copies: 1})
				c := w.standby("c", "svc", Policy{Copies: 1})
				time.Sleep(time.Second)
				require.Equal(t, d.Status().Record, c.Status().Record)
				w.crash("d")
				w.views["c"].at.Store(w.first)
				time.Sleep(2 * time.Second) // until host c is present
				w.first.lose()
				lone := "a"
				if !alive {
					w.crash("a")
					lone = "b"
				}
				time.Sleep(10 * time.Second)
				errs := w.failed[lone].take()
				require.Len(t, errs, 2)
				require.ErrorIs(t, errs[1], ErrNoHost)
				require.ErrorContains(t, errs[1], "host c knows of later entries, or of a later beginning, than host "+lone)
				require.ErrorContains(t, errs[1], "Node.Reset on host "+lone+" continues")
				_, err := w.nodes[lone].Reset(t.Context(), "svc", newTally, Policy{})
				require.NoError(t, err)
				w.inSync(w.nodes[lone].service("svc"), 2)
				w.kept(1)
			})
		})
	}
}

// The resolver goes back to a record whose only host has left the service since, and the later ones have died. That its
// process still runs does not count: Host says that nobody holds the state, and Reset begins the service anew.
func TestOldRecordNamesHostThatLeft(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprintf("it stands by again %v", again), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newLossRow(t)
				defer w.close()
				a, b := w.pair(Policy{})
				require.NoError(t, w.do(t.Context(), w.dial("client", "svc", ClientConfig{}), "x"))
				require.NoError(t, a.Leave(t.Context()))
				w.role(b, Active)
				w.crash("b")
				w.first.goBack(1)
				if again {
					w.standby("a", "svc", Policy{})
				}
				time.Sleep(10 * time.Second)
				_, err := w.nodes["c"].Host(t.Context(), "svc", newTally, Policy{})
				require.ErrorIs(t, err, ErrNoHost)
				require.ErrorContains(t, err, "was last held by host a at a:1, by a record that may be old")
				s, err := w.nodes["c"].Reset(t.Context(), "svc", newTally, Policy{})
				require.NoError(t, err)
				require.Equal(t, Active, s.Status().Role)
			})
		})
	}
}

// A service is reset on one host, the resolver goes back to the record before that, and the service is reset on another
// host. The clients of the first reset receive ErrStateLost as well.
func TestResetTwiceAfterOneRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLossRow(t)
		defer w.close()
		w.host("a", "svc", Policy{})
		w.crash("a")
		time.Sleep(5 * time.Second)
		b, err := w.nodes["b"].Reset(t.Context(), "svc", newTally, Policy{})
		require.NoError(t, err)
		client := w.dial("client", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), client, "x"))
		loss := b.Status().Record.Loss
		w.crash("b")
		w.first.goBack(1)
		time.Sleep(5 * time.Second)
		c, err := w.nodes["c"].Reset(t.Context(), "svc", newTally, Policy{})
		require.NoError(t, err)
		require.Greater(t, c.Status().Record.Loss, loss)
		require.ErrorIs(t, w.do(t.Context(), client, "y"), ErrStateLost)
	})
}
