package apply

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
)

// app is a service without state, which ending a session calls.
type app struct {
	machine.App
	ended func(entry uint64)
}

func (app) Hash() (sum uint64, ok bool)         { return 0, false }
func (s app) SessionClosed(cmd machine.Command) { s.ended(cmd.Index) }

// entries returns entries that no service is called for.
func entries(from, to uint64) (es []core.Entry) {
	for i := from; i <= to; i++ {
		es = append(es, core.Entry{Index: i, Epoch: 1, Kind: core.EpochStart})
	}
	return es
}

// newApplier makes an applier. woken counts the calls of wake.
func newApplier() (a *Applier, woken *atomic.Int32) {
	woken = new(atomic.Int32)
	return New(machine.New("svc", app{}, machine.Limits{}), wakeFunc(func(*Applier) { woken.Add(1) })), woken
}

// wakeFunc is a loop that is a function.
type wakeFunc func(*Applier)

func (f wakeFunc) Wake(a *Applier) { f(a) }

// sleep is a call that takes d.
func sleep(d time.Duration) func(*machine.Machine) { return func(*machine.Machine) { time.Sleep(d) } }

// collect collects the results of a, and returns which entries they are of.
func collect(a *Applier) (entries []uint64) {
	_ = a.Collect(func(r *machine.Result) error {
		entries = append(entries, r.At)
		return nil
	})
	return entries
}

// Entries are applied in the order of the log, and a call finds the state between those that were pushed before and after
// it.
func TestOrder(t *testing.T) {
	a, woken := newApplier()
	require.True(t, a.Push(entries(1, 3), nil), "nobody runs")
	var at uint64
	var before []uint64
	require.False(t, a.Push(nil, func(m *machine.Machine) {
		require.Same(t, a.Machine(), m)
		at, _ = m.Applied()
		require.EqualValues(t, 1, woken.Load(), "the loop must know the results before the call")
		before = collect(a)
	}), "the first caller has Run called")
	require.False(t, a.Push(entries(4, 5), nil))
	require.True(t, a.Run(0))
	require.EqualValues(t, 3, at)
	require.Equal(t, []uint64{1, 2, 3}, before)
	require.Equal(t, []uint64{4, 5}, collect(a))
	require.EqualValues(t, 2, woken.Load())
	require.Empty(t, collect(a))
	require.True(t, a.Push(entries(6, 6), nil), "Run has returned")
}

// Step does one thing at a time, and Next names it.
func TestStep(t *testing.T) {
	a, woken := newApplier()
	_, ok := a.Next()
	require.False(t, ok)
	a.Push(entries(1, 2), nil)
	called := false
	a.Push(nil, func(*machine.Machine) { called = true })
	for i := range uint64(2) {
		e, ok := a.Next()
		require.True(t, ok)
		require.Equal(t, i+1, e.Index)
		require.True(t, a.Step())
		require.EqualValues(t, 1, woken.Load(), "once until results are collected")
	}
	e, ok := a.Next()
	require.True(t, ok)
	require.Zero(t, e.Index)
	require.False(t, called)
	require.True(t, a.Step())
	require.True(t, called)
	require.False(t, a.Step())
}

// The results of Collect stay as they are while more are added. An error ends it, and those after it are gone.
func TestCollect(t *testing.T) {
	a, _ := newApplier()
	for i := uint64(1); i <= 20; i += 2 {
		a.Push(entries(i, i+1), nil)
		require.True(t, a.Run(0))
		var got []uint64
		require.NoError(t, a.Collect(func(r *machine.Result) error {
			if len(got) == 0 {
				a.Push(entries(i+2, i+3), nil)
				require.True(t, a.Run(0))
			}
			got = append(got, r.At)
			return nil
		}))
		require.Equal(t, []uint64{i, i + 1}, got)
		i += 2
		require.Equal(t, []uint64{i, i + 1}, collect(a))
	}
	require.Empty(t, collect(a))
	a.Push(entries(21, 22), nil)
	require.True(t, a.Run(0))
	broken := errors.New("broken")
	calls := 0
	require.Equal(t, broken, a.Collect(func(*machine.Result) error { calls++; return broken }))
	require.Equal(t, 1, calls)
	require.Empty(t, collect(a))
}

// Drop forgets what waits, the results included, and nothing comes of the call that runs.
func TestDrop(t *testing.T) {
	a, woken := newApplier()
	a.Push(entries(1, 1), nil)
	a.Push(nil, func(*machine.Machine) { a.Drop() })
	a.Push(entries(2, 2), nil)
	require.True(t, a.Run(0))
	require.EqualValues(t, 1, woken.Load())
	require.Empty(t, collect(a))
	require.False(t, a.Push(entries(2, 2), nil), "nothing is to be run")
	require.True(t, a.Run(0))
	at, _ := a.Machine().Applied()
	require.EqualValues(t, 1, at)
}

// Nothing after an entry of an unknown kind is applied.
func TestUnknownKind(t *testing.T) {
	a, _ := newApplier()
	es := entries(1, 3)
	es[1].Kind = 99
	a.Push(es, nil)
	require.True(t, a.Run(0))
	var results []machine.Result
	_ = a.Collect(func(r *machine.Result) error { results = append(results, *r); return nil })
	require.Len(t, results, 2)
	require.NoError(t, results[0].Halt)
	require.Error(t, results[1].Halt)
}

// A backlog that never empties takes no more memory than what waits.
func TestBacklogIsBounded(t *testing.T) {
	a, _ := newApplier()
	a.Push(nil, func(*machine.Machine) {})
	done := 0
	for i := range 10_000 {
		a.Push(nil, func(*machine.Machine) {
			require.Equal(t, i, done)
			done++
		})
		require.True(t, a.Step())
	}
	require.Equal(t, 9_999, done)
	require.Less(t, cap(a.jobs), 1000)
}

// Run returns when its budget is used up, and the next Run continues.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newApplier()
		a.Push(nil, sleep(Quick/2))
		a.Push(nil, sleep(Quick/2))
		require.False(t, a.Run(Quick), "there may be more to do")
		require.True(t, a.Slow(), "it has used up a lent goroutine")
		time.Sleep(slowFor)
		require.False(t, a.Slow())
		require.False(t, a.Push(entries(1, 1), nil), "it has yet to be run again")
		require.True(t, a.Run(Quick))
		require.Len(t, collect(a), 1)

		a.Push(nil, sleep(Quick-1))
		require.True(t, a.Run(2*Quick))
		require.False(t, a.Slow())
		a.Push(nil, sleep(Quick))
		require.True(t, a.Run(2*Quick))
		require.False(t, a.Slow(), "once may be the system's doing")
		for range strikeJobs {
			a.Push(nil, func(*machine.Machine) {})
		}
		a.Push(nil, sleep(Quick))
		require.True(t, a.Run(2*Quick))
		require.False(t, a.Slow(), "the first is forgotten")
		a.Push(nil, sleep(Quick))
		require.True(t, a.Run(2*Quick))
		require.True(t, a.Slow())
	})
}

// Results do not wait for the end of a long run, and Busy names the entry that takes so long.
func TestSlowEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a *Applier
		var woken, took []int
		wakes := 0
		a = New(machine.New("svc", app{ended: func(entry uint64) {
			if woken = append(woken, wakes); len(woken) == 2 {
				took = append(took, len(collect(a)))
			}
			time.Sleep(wakeEvery)
			busy, d := a.Busy()
			require.Equal(t, entry, busy)
			require.Equal(t, wakeEvery, d)
		}}, machine.Limits{}), wakeFunc(func(*Applier) { wakes++ }))
		var es []core.Entry
		for i := range uint64(3) {
			es = append(es, core.Entry{Index: i + 1, Epoch: 1, Kind: core.OpenSession, Session: i + 1, Body: make([]byte, 32)})
		}
		for i := range uint64(3) {
			es = append(es, core.Entry{Index: i + 4, Epoch: 1, Kind: core.CloseSession, Session: i + 1})
		}
		a.Push(es, nil)
		require.True(t, a.Run(0))
		require.Equal(t, []int{0, 1, 2}, woken)
		require.Equal(t, []int{4}, took)
		require.Equal(t, []uint64{5, 6}, collect(a))
		_, d := a.Busy()
		require.Zero(t, d)
	})
}

// lender is a connection. Its turn can be released once.
type lender struct {
	turn     uint64
	released []time.Time
	refuse   bool
}

func (l *lender) Turn() uint64 { return l.turn }
func (l *lender) Release(turn uint64) bool {
	if l.refuse || turn != l.turn || len(l.released) > 0 {
		return false
	}
	l.released = append(l.released, time.Now())
	return true
}

// taken is the loop of a lent goroutine. It counts how often the goroutine was relieved of it.
type taken struct{ times int }

func (l *taken) Release(*Applier) { l.times++ }

// lend lends the caller's goroutine to an applier with the given jobs, and returns how long that took.
func lend(t *testing.T, x *Executor, a *Applier, l *lender, jobs ...func(*machine.Machine)) time.Duration {
	for i, j := range jobs {
		require.Equal(t, i == 0, a.Push(nil, j))
	}
	began := time.Now()
	var loop taken
	kept := x.Lend(a, l, &loop)
	require.Equal(t, kept, loop.times == 0)
	return time.Since(began)
}

// A goroutine that is lent returns at once if the service is quick, and when the budget is used up, without being released.
func TestLendQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var x Executor
		a, woken := newApplier()
		l := &lender{turn: 7}
		a.Push(entries(1, 1), nil)
		require.True(t, x.Lend(a, l, &taken{}))
		require.Zero(t, woken.Load(), "the caller knows")
		require.Equal(t, []uint64{1}, collect(a))
		require.Empty(t, x.Wait(0))

		var done atomic.Bool
		took := lend(t, &x, a, l, sleep(lendFor/2), sleep(lendFor/2), sleep(time.Second),
			func(*machine.Machine) { done.Store(true) })
		require.Equal(t, lendFor, took)
		require.False(t, done.Load(), "another goroutine does the rest")
		require.Empty(t, x.Wait(2*time.Second))
		require.True(t, done.Load())
		require.Empty(t, l.released)
	})
}

// A service that is slow on a lent goroutine is kept from the loop and the connection within two intervals of the watch, and
// then has the goroutine.
func TestLendSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var x Executor
		a, _ := newApplier()
		l := &lender{turn: 7}
		began := time.Now()
		took := lend(t, &x, a, l, sleep(time.Second), sleep(time.Second), sleep(time.Second))
		require.Equal(t, 3*time.Second, took, "a goroutine that was released does the rest")
		require.Len(t, l.released, 1)
		after := l.released[0].Sub(began)
		require.GreaterOrEqual(t, after, watchEvery)
		require.LessOrEqual(t, after, 2*watchEvery)
		require.True(t, a.Slow())
		require.Empty(t, x.Wait(0))
	})
}

// While a goroutine is lent, the loop is woken for no results: it collects them after the loan. Afterwards it is woken again.
func TestLendResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var x Executor
		a, woken := newApplier()
		a.Push(entries(1, 2), nil)
		a.Push(nil, sleep(lendFor)) // the rest is for another goroutine
		a.Push(entries(3, 3), nil)
		require.True(t, x.Lend(a, &lender{}, &taken{}))
		synctest.Wait()
		require.Zero(t, woken.Load())
		require.Equal(t, []uint64{1, 2, 3}, collect(a))
		a.Push(entries(4, 4), nil)
		x.Go(a)
		synctest.Wait()
		require.EqualValues(t, 1, woken.Load())
		require.Equal(t, []uint64{4}, collect(a))
	})
}

// An applier may be started again before Lend, where it was idle, has returned. It then still runs, and is watched.
func TestStartedBeforeLendReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports atomic.Int32
		x := Executor{Stuck: func(*Applier, uint64, time.Duration) { reports.Add(1) }}
		a, _ := newApplier()
		n := x.lend(a, &lender{}, &taken{})
		require.True(t, a.Run(lendFor))
		require.True(t, a.Push(nil, sleep(StuckAfter+time.Second)))
		x.Go(a)
		stop, released := x.giveBack(n, true)
		require.Nil(t, stop)
		require.False(t, released)
		require.Equal(t, []*Applier{a}, x.Wait(0))
		time.Sleep(StuckAfter)
		synctest.Wait()
		require.EqualValues(t, 1, reports.Load())
		require.Empty(t, x.Wait(time.Minute))
	})
}

// A goroutine whose call of Handle has ended, as far as the connection knows, is not kept.
func TestLendNotReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var x Executor
		a, _ := newApplier()
		took := lend(t, &x, a, &lender{turn: 7, refuse: true}, sleep(time.Second), sleep(time.Second))
		require.Equal(t, time.Second, took)
		require.Empty(t, x.Wait(time.Minute))
	})
}

// A call that does not return is reported after 5 s, 10 s, 20 s, on a goroutine of its own and on a lent one.
func TestStuck(t *testing.T) {
	for name, start := range map[string]func(*Executor, *Applier){
		"own":  (*Executor).Go,
		"lent": func(x *Executor, a *Applier) { x.Lend(a, &lender{}, &taken{}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, _ := newApplier()
				var mu sync.Mutex
				var reports []time.Duration
				x := Executor{Stuck: func(b *Applier, entry uint64, d time.Duration) {
					mu.Lock()
					defer mu.Unlock()
					require.Same(t, a, b)
					require.Zero(t, entry)
					reports = append(reports, d.Round(time.Second/10))
				}}
				a.Push(nil, sleep(time.Second))
				a.Push(nil, sleep(25*time.Second))
				start(&x, a)
				require.Empty(t, x.Wait(time.Minute))
				require.Equal(t, []time.Duration{StuckAfter, 2 * StuckAfter, 4 * StuckAfter}, reports)
				time.Sleep(time.Minute)
				require.Len(t, reports, 3, "it has returned")
			})
		})
	}
}

// Wait returns when nothing runs any more, or with what still runs.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var x Executor
		require.Empty(t, x.Wait(0))
		a, _ := newApplier()
		b, _ := newApplier()
		for n, v := range []*Applier{a, b} {
			v.Push(nil, sleep(time.Duration(n+1)*time.Second))
			x.Go(v)
		}
		x.Spawn(func() { time.Sleep(4 * time.Second) })
		began := time.Now()
		require.ElementsMatch(t, []*Applier{b, nil}, x.Wait(1500*time.Millisecond))
		require.Equal(t, []*Applier{nil}, x.Wait(time.Second))
		require.Empty(t, x.Wait(time.Minute))
		require.Equal(t, 4*time.Second, time.Since(began))
	})
}
