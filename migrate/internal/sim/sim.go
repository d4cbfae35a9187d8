// Package sim runs the protocol's core on several simulated hosts, with a resolver, clients, a network and faults, in
// virtual time and on one goroutine. All chance comes from a seed, so that a run that breaks an invariant can be repeated
// exactly, with its history.
package sim

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
)

// Options say what to run.
type Options struct {
	Seed uint64
	// Log receives the history; nil discards.
	Log func(at time.Duration, line string)
	// Amnesia makes the resolver lose its records in this run. Otherwise the seed decides.
	Amnesia bool

	shape func(*profile) // changes what the seed has made; nil: nothing
}

// Stats counts what happened in a run.
type Stats struct {
	Virtual   time.Duration
	Steps     int
	Commands  int // acknowledged
	Reads     int
	Events    int // heard by clients
	Gaps      int // they were told of
	Entries   int // committed
	Epochs    int
	Losses    int
	Beyond    int // runs that ended where a host could not know better than the resolver, which went back
	Restored  int // records brought back after the resolver had lost them
	Handoffs  int // asked for
	Moved     int // taken
	Crashes   int
	Pauses    int
	Cuts      int // partitions and one-way cuts
	Outages   int // of the resolver
	Snapshots int // restored
	Expired   int // sessions
	Poisoned  int // hosts killed by a command
	Halts     int // hosts that did not take over for that
	// Recoveries counts starts of a host with what its disk held, Powers cuts of the power of all hosts.
	Recoveries, Powers, DiskErrors int
	// Linear counts runs for which a search found an order of all that clients did, and Undecided those in which it gave up.
	Linear, Undecided int
	// Faults counts the runs that have each kind of fault.
	Faults  map[string]int
	Healing time.Duration
}

// Add sums up.
func (s *Stats) Add(o Stats) {
	s.Virtual += o.Virtual
	s.Steps += o.Steps
	s.Commands += o.Commands
	s.Reads += o.Reads
	s.Events += o.Events
	s.Gaps += o.Gaps
	s.Linear += o.Linear
	s.Undecided += o.Undecided
	if s.Faults == nil {
		s.Faults = make(map[string]int)
	}
	for kind, n := range o.Faults {
		s.Faults[kind] += n
	}
	s.Entries += o.Entries
	s.Epochs += o.Epochs
	s.Losses += o.Losses
	s.Beyond += o.Beyond
	s.Restored += o.Restored
	s.Handoffs += o.Handoffs
	s.Moved += o.Moved
	s.Crashes += o.Crashes
	s.Pauses += o.Pauses
	s.Cuts += o.Cuts
	s.Outages += o.Outages
	s.Snapshots += o.Snapshots
	s.Expired += o.Expired
	s.Recoveries += o.Recoveries
	s.Powers += o.Powers
	s.DiskErrors += o.DiskErrors
	s.Poisoned += o.Poisoned
	s.Halts += o.Halts
	s.Healing = max(s.Healing, o.Healing)
}

func (s Stats) String() string {
	const year = 365.25 * 24
	hours := s.Virtual.Hours()
	var faults []string
	for _, kind := range slices.Sorted(maps.Keys(s.Faults)) {
		faults = append(faults, fmt.Sprintf("%s %d", kind, s.Faults[kind]))
	}
	return fmt.Sprintf("%.1f hours (%.3f years) of virtual time, %d steps, %d entries, %d commands and %d reads acknowledged, "+
		"%d events heard and %d gaps, %d histories linearizable and %d undecided, %d epochs, %d losses, "+
		"%d records restored, %d beyond what is promised, %d of %d handoffs, %d crashes, %d pauses, %d cuts, %d resolver outages, %d snapshots, %d sessions expired, "+
		"%d recoveries from disk, %d power cuts, %d disk errors, %d hosts poisoned, %d halted, healed in %v at most; "+
		"runs by kind of fault: %s",
		hours, hours/year, s.Steps, s.Entries, s.Commands, s.Reads,
		s.Events, s.Gaps, s.Linear, s.Undecided, s.Epochs, s.Losses, s.Restored, s.Beyond,
		s.Moved, s.Handoffs, s.Crashes, s.Pauses, s.Cuts, s.Outages, s.Snapshots, s.Expired,
		s.Recoveries, s.Powers, s.DiskErrors, s.Poisoned, s.Halts, s.Healing.Round(time.Millisecond),
		strings.Join(faults, ", "))
}

// failure is what a failed check panics with.
type failure string

// beyond is what a run ends with, without a failure, when what follows is no longer what the service promises.
type beyond string

// Run runs one seed to its end, or to the first invariant that breaks.
func Run(o Options) (stats Stats, err error) {
	w := newWorld(o)
	defer func() {
		w.stats.Virtual = w.now
		stats = w.stats
		switch v := recover().(type) {
		case nil:
		case beyond:
			w.tracef("ends: %s", string(v))
			w.stats.Beyond++
		case failure:
			err = fmt.Errorf("seed %d, at %v: %w", o.Seed, w.now, errors.New(string(v)))
		case core.Violation:
			err = fmt.Errorf("seed %d, at %v: %w", o.Seed, w.now, v)
		default:
			err = fmt.Errorf("seed %d, at %v: panic: %v\n%s", o.Seed, w.now, v, debug.Stack())
		}
		if err != nil {
			w.tracef("FAILED: %v", err)
		}
	}()
	w.run()
	return w.stats, nil
}

// world is all that there is.
type world struct {
	o       Options
	rng     *rand.Rand
	now     time.Duration
	queue   queue
	prof    profile
	hosts   []*host
	links   [][]*link
	res     *nameService
	clients []*client
	chk     *checker
	stats   Stats
	healed  bool
	wiped   bool // a disk was lost
	forced  bool // a reset was asked for that need not have been

	poison   bool   // the next command kills whoever applies it
	poisoned cmdKey // that one
	why      string // the healing is not complete
}

func newWorld(o Options) *world {
	w := &world{o: o, rng: rand.New(rand.NewPCG(o.Seed, 0x726f616d))}
	w.prof = newProfile(w.rng, o.Amnesia)
	if o.shape != nil {
		o.shape(&w.prof)
	}
	w.stats.Faults = w.prof.faults()
	w.chk = newChecker(w)
	w.res = newNameService(w)
	for i := range w.prof.hosts {
		w.hosts = append(w.hosts, newHost(w, i))
	}
	w.links = make([][]*link, len(w.hosts))
	for i := range w.links {
		for range w.hosts {
			w.links[i] = append(w.links[i], &link{})
		}
	}
	for i := range w.prof.clients {
		w.clients = append(w.clients, newClient(w, i))
	}
	return w
}

func (w *world) run() {
	w.tracef("%+v", w.prof)
	for _, h := range w.hosts {
		h.start()
	}
	w.create()
	for _, c := range w.clients {
		c.begin()
	}
	w.startFaults()
	w.until(w.prof.duration, func() bool { return false })
	w.heal()
	began := w.now
	if w.prof.steady {
		if !w.until(w.now+healBound, w.staffed) {
			w.failf("not healed under load after %v: %s", healBound, w.why)
		}
		w.slowStandby()
	}
	for _, c := range w.clients {
		c.finish()
	}
	if !w.until(w.now+healBound, func() bool { return w.staffed() && w.converged() }) {
		w.failf("not healed after %v: %s", healBound, w.why)
	}
	w.stats.Healing = w.now - began
	w.chk.linear()
}

// slowStandby makes a standby slow that still answers: commands must go on without it.
func (w *world) slowStandby() {
	rec := w.res.truth()
	p := w.hosts[hostIndex(rec.Active)].proc
	if p.core.Suspended() || p.core.Pending() {
		return // something from before the healing is still on its way
	}
	if p.core.Record().Generation != rec.Generation {
		return // the resolver has forgotten: an operator has to help before anything can change
	}
	least := max(w.prof.cfg.MinInSync, 1)
	for _, h := range rec.ISR {
		if h.Same(rec.Active) || len(rec.ISR) <= least {
			continue
		}
		l := w.links[hostIndex(rec.Active)][hostIndex(h)]
		w.tracef("%s is slow to answer entries", label(h))
		l.lag = 10 * time.Second
		never := func() bool { return false }
		w.until(w.now+2*time.Second, never)
		last, term := p.core.Last(), p.core.Term()
		w.until(w.now+2*time.Second, never)
		if len(p.core.Record().ISR) <= least {
			return // another one, whose service takes its time, was removed before
		}
		if !p.dead && p.core.Role().Active() && p.core.Term() == term && p.core.Commit() < last {
			w.failf("a slow standby holds up all commands: %s", p)
		}
		l.lag = 0
		return
	}
}

// until runs to a time, or until done, which is asked from time to time.
func (w *world) until(end time.Duration, done func() bool) bool {
	check := w.now
	for {
		if w.now >= check {
			if done() {
				return true
			}
			check = w.now + 200*time.Millisecond
		}
		at, ok := w.queue.peek()
		if !ok || at > end {
			w.now = end
			return done()
		}
		e := w.queue.pop()
		w.now = e.at
		w.stats.Steps++
		if w.stats.Steps > maxSteps {
			w.failf("more than %d steps", maxSteps)
		}
		e.fn()
	}
}

const (
	healBound = 40 * time.Second
	maxSteps  = 3_000_000
)

func (w *world) failf(format string, args ...any) { panic(failure(fmt.Sprintf(format, args...))) }

func (w *world) tracef(format string, args ...any) {
	if w.o.Log != nil {
		w.o.Log(w.now, fmt.Sprintf(format, args...))
	}
}

// after calls fn later.
func (w *world) after(d time.Duration, fn func()) { w.queue.push(w.now+max(d, 0), fn) }

func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

// exp draws a time with the given mean, exponentially.
func (w *world) exp(mean time.Duration) time.Duration {
	return time.Duration(min(w.rng.ExpFloat64(), 20) * float64(mean))
}

func (w *world) between(a, b time.Duration) time.Duration {
	if b <= a {
		return a
	}
	return a + time.Duration(w.rng.Int64N(int64(b-a)))
}

// queue holds what will happen, by time and then in order of entry.
type queue struct {
	heap []happening
	n    uint64
}

type happening struct {
	at time.Duration
	n  uint64
	fn func()
}

func (h happening) before(o happening) bool { return h.at < o.at || h.at == o.at && h.n < o.n }

func (q *queue) peek() (time.Duration, bool) {
	if len(q.heap) == 0 {
		return 0, false
	}
	return q.heap[0].at, true
}

func (q *queue) push(at time.Duration, fn func()) {
	q.n++
	q.heap = append(q.heap, happening{at, q.n, fn})
	i := len(q.heap) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !q.heap[i].before(q.heap[up]) {
			break
		}
		q.heap[i], q.heap[up] = q.heap[up], q.heap[i]
		i = up
	}
}

func (q *queue) pop() happening {
	top := q.heap[0]
	n := len(q.heap) - 1
	q.heap[0] = q.heap[n]
	q.heap[n] = happening{}
	q.heap = q.heap[:n]
	for i := 0; ; {
		c := 2*i + 1
		if c >= n {
			break
		}
		if c+1 < n && q.heap[c+1].before(q.heap[c]) {
			c++
		}
		if !q.heap[c].before(q.heap[i]) {
			break
		}
		q.heap[c], q.heap[i] = q.heap[i], q.heap[c]
		i = c
	}
	return top
}
