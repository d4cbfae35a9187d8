package replica

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

// timers are the clocks of hosts of one service, whose monotonic clocks differ too.
type timers struct {
	t     *testing.T
	now   time.Duration // true
	names []string
	hosts map[string]*timer
	last  int64
}

type timer struct {
	clock
	host    resolver.Host
	started time.Duration
	wrong   time.Duration // of its wall clock
	away    bool
	told    []string
}

const truth0 = 1_700_000_000_000

func newTimers(t *testing.T, names ...string) *timers {
	w := &timers{t: t, now: time.Hour, names: names, hosts: map[string]*timer{}}
	for i, n := range names {
		w.hosts[n] = &timer{host: resolver.Host{ID: n, Incarnation: 1}, started: time.Duration(i) * time.Minute}
	}
	return w
}

func (w *timers) truth() int64 { return truth0 + w.now.Milliseconds() }

// serve has a host active for a time, with a command and a heartbeat every 100 ms, and returns log time minus the truth.
func (w *timers) serve(name string, d time.Duration) time.Duration {
	a := w.hosts[name]
	var isr []resolver.Host
	for _, n := range w.names {
		if !w.hosts[n].away {
			isr = append(isr, w.hosts[n].host)
		}
	}
	if a.time == 0 {
		a.time, a.at = w.truth()+a.wrong.Milliseconds(), w.now-a.started
	}
	for end := w.now + d; w.now < end; w.now += 100 * time.Millisecond {
		now, wall := w.now-a.started, w.truth()+a.wrong.Milliseconds()
		if a.due(now, wall) {
			for _, e := range a.compare(now, wall, isr, name) {
				a.told = append(a.told, e.Error())
			}
		}
		log := a.log(now, wall)
		require.GreaterOrEqual(w.t, log, w.last-2*clockSlack)
		w.last = max(w.last, log) // as the core does
		for _, n := range w.names {
			if h := w.hosts[n]; n != name && !h.away {
				h.hear(w.now-h.started, log)
				wall := w.truth() + h.wrong.Milliseconds()
				if e := h.judge(n, log-wall); e != nil {
					h.told = append(h.told, e.Error())
				}
				a.read(w.now-a.started, h.host, wall)
			}
		}
	}
	return time.Duration(w.last-w.truth()) * time.Millisecond
}

const year = 365 * 24 * time.Hour

func TestClock(t *testing.T) {
	close := func(t *testing.T, err time.Duration) { t.Helper(); require.Less(t, err.Abs(), 5*time.Second) }
	for name, wrong := range map[string]time.Duration{"ahead": year, "behind": -year, "by an hour": time.Hour} {
		for _, names := range [][]string{{"a", "b"}, {"a", "b", "c"}} {
			t.Run(name, func(t *testing.T) {
				w := newTimers(t, names...)
				w.hosts["b"].wrong = wrong
				close(t, w.serve("a", time.Minute))
				close(t, w.serve("b", time.Minute))
				require.Len(t, w.hosts["b"].told, 1, "the owner is told once")
				before := w.last
				close(t, w.serve("a", time.Minute))
				require.InDelta(t, 60_000, w.last-before, 4000, "timestamps stand still")
				close(t, w.serve("b", time.Minute))
				w.hosts["b"].wrong = 0 // it is set right while it is active
				close(t, w.serve("b", time.Minute))
				close(t, w.serve("a", time.Minute))
			})
		}
	}
	t.Run("step of the active host's", func(t *testing.T) {
		w := newTimers(t, "a", "b")
		close(t, w.serve("a", time.Minute))
		w.hosts["a"].wrong = time.Hour
		close(t, w.serve("a", 10*time.Minute))
		require.Empty(t, w.hosts["b"].told)
		close(t, w.serve("b", time.Minute))
		close(t, w.serve("a", time.Minute))
		w.hosts["a"].wrong = 0
		close(t, w.serve("a", time.Minute))
	})
	t.Run("left alone", func(t *testing.T) {
		w := newTimers(t, "a", "b")
		w.hosts["b"].wrong = year
		close(t, w.serve("a", time.Minute))
		w.hosts["a"].away = true
		close(t, w.serve("b", time.Minute))
		w.now += 8 * time.Hour // it sleeps: its wall clock goes on, its monotonic clock does not
		w.hosts["b"].started += 8 * time.Hour
		close(t, w.serve("b", time.Minute))
		w.hosts["b"].wrong = 0
		close(t, w.serve("b", time.Minute))
	})
	t.Run("all asleep", func(t *testing.T) {
		w := newTimers(t, "a", "b")
		close(t, w.serve("a", time.Minute))
		w.now += 8 * time.Hour
		for _, h := range w.hosts {
			h.started += 8 * time.Hour
		}
		close(t, w.serve("b", time.Minute))
		require.Contains(t, w.hosts["b"].told[0], "jumped forward")
	})
	t.Run("the first host's is behind", func(t *testing.T) {
		w := newTimers(t, "a", "b", "c")
		w.hosts["a"].wrong = -year
		w.hosts["b"].away, w.hosts["c"].away = true, true
		w.serve("a", time.Minute)
		w.hosts["b"].away, w.hosts["c"].away = false, false
		close(t, w.serve("a", time.Minute))
	})
	t.Run("the first host's is ahead", func(t *testing.T) {
		w := newTimers(t, "a", "b", "c")
		w.hosts["a"].wrong = 10 * time.Minute
		w.hosts["b"].away, w.hosts["c"].away = true, true
		w.serve("a", time.Minute)
		w.hosts["b"].away, w.hosts["c"].away = false, false
		before := w.last
		w.serve("a", time.Minute)
		require.InDelta(t, 30_000, w.last-before, 2000, "half speed")
		close(t, w.serve("b", 25*time.Minute))
	})
}

// clockEnv has a wall clock, and keeps what is reported.
type clockEnv struct {
	testEnv
	wall     int64
	reported []error
}

func (e *clockEnv) Wall() int64      { return e.wall }
func (e *clockEnv) Report(err error) { e.reported = append(e.reported, err) }

// A message that comes late, for example after the process was stopped, does not make the clock look wrong.
func TestLateMessage(t *testing.T) {
	env := &clockEnv{wall: truth0}
	a, b := resolver.Host{ID: "a", Incarnation: 1}, resolver.Host{ID: "b", Incarnation: 2}
	r := New(env, core.New(b, core.Config{Name: "svc"}))
	r.Step(core.Told{Record: resolver.Record{Name: "svc", Generation: 1, Version: 1, Epoch: 1, Active: a, ISR: []resolver.Host{a}}})
	require.NoError(t, r.Settle())
	hear := func(late time.Duration) {
		env.now, env.wall = env.now+2*time.Second, env.wall+2000
		r.Step(core.Recv{Msg: core.Msg{
			Type: core.MsgAppend, From: a, Term: core.Term{Epoch: 1}, Served: time.Duration(env.wall - late.Milliseconds()),
		}})
		require.NotNil(t, r.clock)
	}
	hear(0)
	hear(7 * time.Second)
	hear(0)
	require.Empty(t, env.reported)
	hear(7 * time.Second)
	hear(7 * time.Second)
	require.Len(t, env.reported, 1)
}
