package apply

import (
	"slices"
	"sync"
	"time"
)

// Executor runs the appliers of a node, each on one goroutine at a time: on one that reads a connection, works for the
// service's loop and is lent, as long as the service is quick, else on one of its own. If a quick service becomes slow on a
// lent goroutine, others continue with the loop and read the connection.
type Executor struct {
	// Stuck is called when a service has been in one call for [StuckAfter], and again each time that has doubled, until it
	// ends.
	Stuck func(a *Applier, entry uint64, d time.Duration)

	mu       sync.Mutex // guards the fields below
	running  []*Applier // those that have a goroutine of their own, in any order; one that was started again is there twice
	spawned  int        // calls of Spawn that have not returned
	loans    []*loan    // loans[:out] are the goroutines that are lent, in any order; the others can be used again
	out      int
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

// Loop is the loop of a service, for which a lent goroutine works.
type Loop interface {
	// Release relieves that goroutine of the loop: another one continues with it, and collects the results of a.
	Release(a *Applier)
}

// loan is a goroutine that was lent; the executor's mutex guards it.
type loan struct {
	a        *Applier
	conn     Lender
	turn     uint64
	loop     Loop
	seen     bool   // the watch has seen it
	released bool   // the goroutine was relieved of the loop, and of reading if conn allows that
	stop     func() // of watchStuck; nil: the goroutine still reads
}

const (
	// lendFor is how long a lent goroutine applies entries before they go to a goroutine of their own.
	lendFor = 500 * time.Microsecond
	// watchEvery is the interval of the watch: the goroutine of a loan that it sees twice is relieved.
	watchEvery = 2 * time.Millisecond
	// StuckAfter is how long a service may be in one call before that is reported.
	StuckAfter = 5 * time.Second
)

// Go runs a, whose Push has asked for it, on a goroutine of its own.
func (x *Executor) Go(a *Applier) {
	x.mu.Lock()
	x.running = append(x.running, a)
	x.mu.Unlock()
	go x.work(a)
}

// work is the rest of the work of a, which is in running, on a goroutine that has nothing else to do.
func (x *Executor) work(a *Applier) {
	stop := x.watchStuck(a)
	a.Run(0)
	stop()
	x.mu.Lock()
	defer x.mu.Unlock()
	i := slices.Index(x.running, a)
	x.running = slices.Delete(x.running, i, i+1)
	x.tell()
}

// Lend runs a, whose Push has asked for it, on the caller's goroutine, which reads c and works for l. The caller must then
// collect the results, unless Lend returns false: another goroutine works for l meanwhile. Lend is called for each command of
// a quick service, so it only starts the watch's timer if that does not run.
func (x *Executor) Lend(a *Applier, c Lender, l Loop) bool {
	n := x.lend(a, c, l)
	idle := a.Run(lendFor)
	stop, released := x.giveBack(n, idle)
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
	return !released
}

// lend begins a loan.
func (x *Executor) lend(a *Applier, c Lender, l Loop) *loan {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.out == len(x.loans) {
		x.loans = append(x.loans, new(loan))
	}
	n := x.loans[x.out]
	x.out++
	*n = loan{a: a, conn: c, turn: c.Turn(), loop: l}
	if !x.watching {
		x.startWatch()
	}
	x.lent = true
	return n
}

// giveBack ends a loan. If a is not idle, it is to be run by a goroutine of its own.
func (x *Executor) giveBack(n *loan, idle bool) (stop func(), released bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.out--
	i := slices.Index(x.loans, n)
	x.loans[i], x.loans[x.out] = x.loans[x.out], n
	if !idle {
		x.running = append(x.running, n.a)
	}
	stop, released = n.stop, n.released
	*n = loan{}
	x.tell()
	return stop, released
}

// startWatch makes the watch look at the loans; x.mu is held.
func (x *Executor) startWatch() {
	x.watching = true
	if x.watch == nil {
		x.watch = time.AfterFunc(watchEvery, x.look)
	} else {
		x.watch.Reset(watchEvery)
	}
}

// look relieves the goroutines of the loans that it has seen before. Its timer runs until nothing is lent.
func (x *Executor) look() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.watching, x.lent = x.lent, false
	for _, n := range x.loans[:x.out] {
		// With the lock: then Lend sees what its goroutine was relieved of.
		if n.seen && !n.released {
			n.released = true
			n.loop.Release(n.a)
			if n.conn.Release(n.turn) {
				n.stop = x.watchStuck(n.a)
			}
		}
		n.seen = true
		x.watching = x.watching || !n.released
	}
	if x.watching {
		x.startWatch()
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
	_, d := a.Busy()
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(wait-d, func() {
		entry, d := a.Busy()
		if d >= wait && x.Stuck != nil {
			x.Stuck(a, entry, d)
			wait *= 2
		} else if d < StuckAfter {
			wait = StuckAfter
		}
		mu.Lock()
		defer mu.Unlock()
		if !over {
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
		left = left[:0]
		for _, n := range x.loans[:x.out] {
			left = append(left, n.a)
		}
		left = append(left, x.running...)
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
