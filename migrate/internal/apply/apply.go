// Package apply executes the committed entries of a service beside the loop of the protocol.
//
// The loop pushes entries, in the order of the log, and other jobs that need the service's state between them: a query, a
// snapshot, a validation. One goroutine at a time does these jobs and calls the service, which may take any time. Meanwhile
// the loop acknowledges, sends heartbeats and orders more. It collects the results of the entries when it is woken.
//
// The goroutine of the loop itself does the jobs of a quick service, and collects the results at once. If a job takes long,
// another goroutine takes its place in the loop: see [Executor].
package apply

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
)

// Applier is the queue between the protocol's loop and one copy of a service, and executes the jobs in it. The loop calls
// Push and Collect. Run and Step are called by one goroutine at a time; Push reports when one is needed.
//
// The queue needs no bound of its own: the core orders and accepts no more while too many entries are not applied, and the
// limits of a connection bound its requests.
type Applier struct {
	m     *machine.Machine
	waker Waker

	since     atomic.Int64  // when the current call of the service began, in ns of the clock of this package; 0: none
	entry     atomic.Uint64 // the entry that the call applies; 0: another job
	slowUntil atomic.Int64  // until then the service counts as slow; 0: it never was
	strikes   int           // of Run: above 0, a job was slow lately

	mu      sync.Mutex // guards the fields below
	jobs    []job      // jobs[next:] wait
	next    int
	busy    bool // Run is running, or about to be called
	dropped bool
	woken   bool              // results wait to be collected, and the loop knows
	results *[]machine.Result // from resultPool; nil: none
}

// Waker is the loop that collects the results of an applier.
type Waker interface {
	// Wake has Collect called. It is called on the goroutine of Run, without a lock.
	Wake(a *Applier)
}

// resultPool has empty lists of results: an idle applier has none.
var resultPool = sync.Pool{New: func() any { return new([]machine.Result) }}

// maxPooled bounds the results for which a list that is used again has room.
const maxPooled = 1024

// job is entries to apply, or something else to do with the service.
type job struct {
	entries []core.Entry
	call    func(*machine.Machine)
}

// Quick is the longest job of a service that counts as quick. Quick services run on lent goroutines.
const Quick = 250 * time.Microsecond

// slowFor is how long a service counts as slow after a job that was not quick.
const slowFor = time.Second

// wakeEvery is the longest that results wait for those of the next entries.
const wakeEvery = 100 * time.Microsecond

// New makes the applier of m. w is woken when there are results.
func New(m *machine.Machine, w Waker) *Applier { return &Applier{m: m, waker: w} }

// Machine is what the applier works on.
func (a *Applier) Machine() *machine.Machine { return a.m }

// Push adds entries, or a call, behind what was pushed before. It reports whether the caller must have Run called.
func (a *Applier) Push(entries []core.Entry, call func(*machine.Machine)) (start bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dropped {
		return false
	}
	if a.next > 64 && a.next > len(a.jobs)/2 { // else a backlog that never empties would grow for ever
		n := copy(a.jobs, a.jobs[a.next:])
		clear(a.jobs[n:])
		a.jobs, a.next = a.jobs[:n], 0
	} else if a.next == len(a.jobs) {
		a.jobs, a.next = a.jobs[:0], 0
	}
	a.jobs = append(a.jobs, job{entries, call})
	start = !a.busy
	a.busy = true
	return start
}

// Drop discards the jobs that wait. It does not interrupt a call of the service, whose result is discarded.
func (a *Applier) Drop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dropped, a.jobs, a.next, a.results = true, nil, 0, nil
}

// Collect calls f with each result since it was last called, in the order of the log, until f returns an error. The result is
// valid until f returns.
func (a *Applier) Collect(f func(*machine.Result) error) error {
	a.mu.Lock()
	list := a.results
	a.results, a.woken = nil, false
	a.mu.Unlock()
	if list == nil {
		return nil
	}
	for i := range *list {
		if err := f(&(*list)[i]); err != nil {
			return err
		}
	}
	clear(*list)
	if cap(*list) <= maxPooled {
		*list = (*list)[:0]
		resultPool.Put(list)
	}
	return nil
}

// Run works until nothing waits, or, with a budget above 0, until that is used up: then it returns false, and must be called
// again, on whatever goroutine. A caller with a budget collects the results afterwards, without being woken.
func (a *Applier) Run(budget time.Duration) (idle bool) {
	var began, told int64
	for {
		start, end, ok := a.step(budget > 0)
		if !ok {
			return true
		}
		if began == 0 {
			began, told = start, start
		}
		slow := end-start >= int64(Quick)
		a.judge(end, slow)
		if end-told >= int64(wakeEvery) {
			told = end
			a.tell()
		}
		if budget > 0 && end-began >= int64(budget) {
			if !slow { // many jobs, not one
				a.slowUntil.Store(end + int64(slowFor))
			}
			return false
		}
	}
}

// judge counts slow jobs. A single one among quick ones says little: the system may have taken the processor away.
func (a *Applier) judge(t int64, slow bool) {
	switch {
	case slow && a.strikes > 0:
		a.slowUntil.Store(t + int64(slowFor))
		a.strikes = strikeJobs
	case slow:
		a.strikes = strikeJobs
	case a.strikes > 0:
		a.strikes--
	}
}

// strikeJobs is the number of quick jobs after which a slow one is forgotten.
const strikeJobs = 8

// Step does one job, or applies one entry, and reports whether there may be more to do. A caller with a clock of its own
// uses it instead of Run.
func (a *Applier) Step() (more bool) {
	_, _, ok := a.step(false)
	if ok {
		a.tell()
	}
	return ok
}

// Next returns the next job of Step: it applies e, or does another job if e.Index is 0. ok is false if nothing waits. The
// goroutine that calls Step calls it.
func (a *Applier) Next() (e core.Entry, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == len(a.jobs) {
		return core.Entry{}, false
	}
	if j := &a.jobs[a.next]; j.call == nil {
		e = j.entries[0]
	}
	return e, true
}

// step does one job, or applies one entry, and returns when the service was called and when that ended. ok is false if there
// was none: the applier is then idle. The loop does not need to be woken if the caller collects.
func (a *Applier) step(callerCollects bool) (start, end int64, ok bool) {
	e, call, ok := a.take(callerCollects)
	if !ok {
		return 0, 0, false
	}
	if call != nil {
		a.tell() // whatever comes of call comes after what was applied before it
	}
	a.entry.Store(e.Index)
	start = now()
	a.since.Store(start)
	if call != nil {
		call(a.m)
	} else {
		a.result(a.m.Apply(e))
	}
	end = now()
	a.since.Store(0)
	return start, end, true
}

// take removes the next job from the queue. If there is none, the loop knows of all results, and the applier is idle.
func (a *Applier) take(callerCollects bool) (e core.Entry, call func(*machine.Machine), ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.woken = a.woken || callerCollects
	for a.next == len(a.jobs) {
		if a.results != nil && !a.woken {
			a.woken = true
			a.mu.Unlock()
			a.waker.Wake(a) // which may push more
			a.mu.Lock()
			continue
		}
		a.busy = false
		if cap(a.jobs) > 64 {
			a.jobs, a.next = nil, 0
		}
		return e, nil, false
	}
	j := &a.jobs[a.next]
	call = j.call
	if call == nil {
		e, j.entries = j.entries[0], j.entries[1:]
	}
	if len(j.entries) == 0 {
		*j = job{}
		a.next++
	}
	return e, call, true
}

// result keeps the result of an entry for the loop.
func (a *Applier) result(r machine.Result) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dropped {
		return
	}
	if a.results == nil {
		a.results = resultPool.Get().(*[]machine.Result)
	}
	*a.results = append(*a.results, r)
	if r.Halt != nil {
		a.jobs, a.next = nil, 0 // nothing after it may be applied
	}
}

// tell wakes the loop if there are results for which it was not woken.
func (a *Applier) tell() {
	a.mu.Lock()
	wake := a.results != nil && !a.woken
	a.woken = a.woken || wake
	a.mu.Unlock()
	if wake {
		a.waker.Wake(a)
	}
}

// Busy returns the entry that the service is applying and for how long. entry is 0 if the current call is another job; both
// are 0 if the service is idle. It is safe for concurrent use.
func (a *Applier) Busy() (entry uint64, d time.Duration) {
	since := a.since.Load()
	if since == 0 {
		return 0, 0
	}
	return a.entry.Load(), time.Duration(now() - since)
}

// Slow reports whether the service has lately taken longer than [Quick] for a job, or does so now.
func (a *Applier) Slow() bool {
	if _, d := a.Busy(); d >= Quick {
		return true
	}
	until := a.slowUntil.Load()
	return until != 0 && now() < until
}

var epoch = time.Now()

// now is the time since the process started, in ns, and never 0.
func now() int64 { return int64(time.Since(epoch)) + 1 }
