package apply

import (
	"sync"
	"time"
)

// Executor runs the appliers of a node, each on one goroutine at a time: on one that reads a connection and is lent, as long as the
// service is quick, else on one of its own. A service that suddenly takes long on a lent goroutine loses it: another one reads on.
type Executor struct {
	// Stuck is called when a service has been in one call for [StuckAfter], and again each time that has doubled, until it ends.
	Stuck func(a *Applier, entry uint64, d time.Duration)

	mu      sync.Mutex            // guards what follows
	running map[*Applier]int      // how often each was started and has not come to rest
	lent    map[*Applier]struct{} // those on goroutines that were lent
	watch   *time.Timer           // looks after what was lent; nil: nothing was lately
	ended   chan struct{}         // closed when an applier has come to rest; nil: nobody waits
}

// Lender is a connection whose reading goroutine can be relieved: see transport.Lender.
type Lender interface {
	Turn() uint64
	Release(turn uint64) bool
}

// loan is the goroutine that was lent to an applier; the executor's mutex guards it.
type loan struct {
	conn Lender
	turn uint64
	seen bool   // the watch has seen it
	stop func() // of watchStuck; nil: the goroutine still reads
}

const (
	// lendFor is how long a lent goroutine applies entries before they go to a goroutine of their own.
	lendFor = 500 * time.Microsecond
	// watchEvery is how often the watch looks at what is lent: what it sees twice is relieved of reading.
	watchEvery = 5 * time.Millisecond
	// StuckAfter is how long a service may be in one call before that is reported.
	StuckAfter = 5 * time.Second
)

// Go runs a, whose Push has asked for it, on a goroutine of its own.
func (x *Executor) Go(a *Applier) {
	x.begin(a)
	go x.run(a)
}

// run is the rest of a's work, on a goroutine that has nothing else to do.
func (x *Executor) run(a *Applier) {
	stop := x.watchStuck(a)
	a.Run(0)
	stop()
	x.end(a)
}

// Lend runs a, whose Push has asked for it, on the caller's goroutine, which reads c.
func (x *Executor) Lend(a *Applier, c Lender) {
	x.begin(a)
	x.mu.Lock()
	if x.lent == nil {
		x.lent = make(map[*Applier]struct{})
	}
	x.lent[a] = struct{}{}
	a.loan = loan{conn: c, turn: c.Turn()}
	switch {
	case x.watch == nil:
		x.watch = time.AfterFunc(watchEvery, x.look)
	case len(x.lent) == 1:
		x.watch.Reset(watchEvery)
	}
	x.mu.Unlock()

	idle := a.Run(lendFor)

	x.mu.Lock()
	delete(x.lent, a)
	stop := a.loan.stop
	a.loan = loan{}
	x.mu.Unlock()
	if stop != nil {
		stop()
	}
	switch {
	case idle:
		x.end(a)
	case stop != nil:
		x.run(a)
	default:
		go x.run(a)
	}
}

// look relieves those of reading that are still at work since it looked last.
func (x *Executor) look() {
	x.mu.Lock()
	for a := range x.lent {
		l := &a.loan
		// With the lock: then Lend sees whether its goroutine still reads.
		if l.seen && l.stop == nil && l.conn.Release(l.turn) {
			a.slowUntil.Store(now() + int64(slowFor))
			l.stop = x.watchStuck(a)
		}
		l.seen = true
	}
	if len(x.lent) > 0 {
		x.watch.Reset(watchEvery)
	}
	x.mu.Unlock()
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
		runs := x.running[a] > 0
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

func (x *Executor) begin(a *Applier) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.running == nil {
		x.running = make(map[*Applier]int)
	}
	x.running[a]++
}

// end notes that a has come to rest; it may have been started again since.
func (x *Executor) end(a *Applier) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.running[a]--; x.running[a] == 0 {
		delete(x.running, a)
	}
	if x.ended != nil {
		close(x.ended)
		x.ended = nil
	}
}

// Spawn runs f, which calls a service beside its applier, on a goroutine of its own.
func (x *Executor) Spawn(f func()) {
	x.begin(nil)
	go func() {
		f()
		x.end(nil)
	}()
}

// Wait returns when nothing runs any more, or after d with what still runs.
func (x *Executor) Wait(d time.Duration) (left []*Applier) {
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	for {
		x.mu.Lock()
		left = nil // those of Spawn stand in it as nil
		for a := range x.running {
			left = append(left, a)
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
