package apply

import (
	"slices"
	"sync"
	"time"
)

// Executor runs the appliers of a node, each on one goroutine at a time: on one that reads a connection and is lent, as long
// as the service is quick, else on one of its own. If a quick service becomes slow on a lent goroutine, another goroutine
// continues to read the connection.
type Executor struct {
	// Stuck is called when a service has been in one call for [StuckAfter], and again each time that has doubled, until it
	// ends.
	Stuck func(a *Applier, entry uint64, d time.Duration)

	mu       sync.Mutex    // guards the fields below
	running  []*Applier    // those that were started and have not ended, in any order
	spawned  int           // calls of Spawn that have not returned
	loans    []*loan       // the goroutines that are lent, in any order
	watch    *time.Timer   // looks after loans; nil: there never was one
	watching bool          // watch is about to fire
	lent     bool          // there was a loan since watch fired last
	ended    chan struct{} // closed when something has ended; nil: nobody waits
}

// Lender is a connection whose reading goroutine can be relieved: see transport.Lender.
type Lender interface {
	Turn() uint64
	Release(turn uint64) bool
}

// loan is a goroutine that was lent; the executor's mutex guards it.
type loan struct {
	a    *Applier
	conn Lender
	turn uint64
	seen bool   // the watch has seen it
	stop func() // of watchStuck; nil: the goroutine still reads
}

var loanPool = sync.Pool{New: func() any { return new(loan) }}

const (
	// lendFor is how long a lent goroutine applies entries before they go to a goroutine of their own.
	lendFor = 500 * time.Microsecond
	// watchEvery is the interval of the watch: a loan that it sees twice is relieved of reading.
	watchEvery = 5 * time.Millisecond
	// StuckAfter is how long a service may be in one call before that is reported.
	StuckAfter = 5 * time.Second
)

// Go runs a, whose Push has asked for it, on a goroutine of its own.
func (x *Executor) Go(a *Applier) {
	x.mu.Lock()
	x.begin(a)
	x.mu.Unlock()
	go x.work(a)
}

// work is the rest of a's work, on a goroutine that has nothing else to do.
func (x *Executor) work(a *Applier) {
	stop := x.watchStuck(a)
	a.Run(0)
	stop()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.end(a)
}

// Lend runs a, whose Push has asked for it, on the caller's goroutine, which reads c. It is called for each command of a
// quick service, so it only starts the watch's timer if that does not run.
func (x *Executor) Lend(a *Applier, c Lender) {
	l := loanPool.Get().(*loan)
	*l = loan{a: a, conn: c, turn: c.Turn()}
	x.mu.Lock()
	x.begin(a)
	x.loans = append(x.loans, l)
	x.lent = true
	switch {
	case x.watch == nil:
		x.watch = time.AfterFunc(watchEvery, x.look)
	case !x.watching:
		x.watch.Reset(watchEvery)
	}
	x.watching = true
	x.mu.Unlock()

	idle := a.Run(lendFor)

	x.mu.Lock()
	stop := l.stop
	x.loans = without(x.loans, l)
	if idle {
		x.end(a)
	}
	x.mu.Unlock()
	*l = loan{}
	loanPool.Put(l)
	if stop != nil {
		stop()
	}
	switch {
	case idle:
	case stop != nil:
		x.work(a)
	default:
		go x.work(a)
	}
}

// look relieves the loans that it has seen before of reading. Its timer runs until nothing is lent.
func (x *Executor) look() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.watching, x.lent = x.lent, false
	for _, l := range x.loans {
		// With the lock: then Lend sees whether its goroutine still reads.
		if l.seen && l.stop == nil && l.conn.Release(l.turn) {
			l.a.slowUntil.Store(now() + int64(slowFor))
			l.stop = x.watchStuck(l.a)
		}
		l.seen = true
		x.watching = x.watching || l.stop == nil
	}
	if x.watching {
		x.watch.Reset(watchEvery)
	}
}

// watchStuck reports it when the service is in one call for too long. stop ends that; so does the end of the call.
func (x *Executor) watchStuck(a *Applier) (stop func()) {
	var (
		mu    sync.Mutex
		timer *time.Timer
		over  bool
		wait  = StuckAfter
	)
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(wait, func() {
		entry, d := a.Busy()
		if d >= wait && x.Stuck != nil {
			x.Stuck(a, entry, d)
			wait *= 2
		} else if d < StuckAfter {
			wait = StuckAfter
		}
		x.mu.Lock()
		runs := a.starts > 0
		x.mu.Unlock()
		mu.Lock()
		defer mu.Unlock()
		if !over && runs {
			timer.Reset(max(wait-d, time.Second))
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		timer.Stop()
	}
}

// begin notes that a was started; x.mu is held.
func (x *Executor) begin(a *Applier) {
	if a.starts == 0 {
		x.running = append(x.running, a)
	}
	a.starts++
}

// end notes that a has ended; it may have been started again since. x.mu is held.
func (x *Executor) end(a *Applier) {
	if a.starts--; a.starts == 0 {
		x.running = without(x.running, a)
	}
	x.tell()
}

// without removes v from list, which is short: it holds what is at work at the moment.
func without[T comparable](list []T, v T) []T {
	i := slices.Index(list, v)
	return slices.Delete(list, i, i+1)
}

// tell wakes those that wait for something to end; x.mu is held.
func (x *Executor) tell() {
	if x.ended != nil {
		close(x.ended)
		x.ended = nil
	}
}

// Spawn runs f, which calls a service beside its applier, on a goroutine of its own.
func (x *Executor) Spawn(f func()) {
	x.mu.Lock()
	x.spawned++
	x.mu.Unlock()
	go func() {
		f()
		x.mu.Lock()
		defer x.mu.Unlock()
		x.spawned--
		x.tell()
	}()
}

// Wait returns when nothing runs any more, or after d with what still runs.
func (x *Executor) Wait(d time.Duration) (left []*Applier) {
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	for {
		x.mu.Lock()
		left = slices.Clone(x.running)
		if x.spawned > 0 {
			left = append(left, nil) // whatever Spawn has started
		}
		if len(left) == 0 {
			x.mu.Unlock()
			return nil
		}
		if x.ended == nil {
			x.ended = make(chan struct{})
		}
		ended := x.ended
		x.mu.Unlock()
		select {
		case <-ended:
		case <-timeout.C:
			return left
		}
	}
}
