package migrate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/roam-go/roam/migrate/internal/apply"
)

// board shows the state of a service to other goroutines. The loop writes it; end and halt also end it.
type board struct {
	over    atomic.Bool                   // the service has ended on this host; changed under mu
	halted  atomic.Bool                   // status.Role is Halted
	applier atomic.Pointer[apply.Applier] // of this host's copy; nil: no copy

	mu      sync.Mutex // guards the fields below
	status  Status
	changed chan struct{} // closed when status changes; nil: nobody waits
	stats   published     // returned by Stats
	why     error         // why the service has halted; nil: it has not
}

// errEnded is the error of a wait for a service that has ended on this host.
var errEnded = errors.New("the service has ended on this host")

// ended reports whether the service has ended on this host. It takes no lock.
func (b *board) ended() bool { return b.over.Load() }

// hasHalted reports whether the service has halted on this host. It takes no lock.
func (b *board) hasHalted() bool { return b.halted.Load() }

// read returns the current status.
func (b *board) read() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := b.status
	st.Record.ISR = slices.Clone(st.Record.ISR)
	if a := b.applierNow(); a != nil {
		_, st.Busy = a.Busy()
		st.Applied, _ = a.Machine().Applied()
	}
	return st
}

// readStats returns the statistics as of the last batch, and the number of connected clients.
func (b *board) readStats() (p published, clients int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p = b.stats
	p.lags = slices.Clone(p.lags)
	if b.ended() {
		p.activeAt, p.suspendedAt, p.lags = 0, 0, nil
	}
	return p, b.status.Clients
}

// applierNow returns the applier of this host's copy, or nil if there is no copy. It takes no lock.
func (b *board) applierNow() *apply.Applier { return b.applier.Load() }

// use makes a the applier of this host's copy. If the service has ended, nobody else would drop it.
func (b *board) use(a *apply.Applier) {
	if b.applier.Load() == a {
		return
	}
	b.applier.Store(a)
	if a != nil && b.ended() {
		a.Drop()
	}
}

// reason returns why the service has halted, or nil.
func (b *board) reason() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.why
}

// wait returns when ok reports true for the status, when ctx ends, or with errEnded. ok must not lock anything.
func (b *board) wait(ctx context.Context, ok func(Status) bool) error {
	for {
		b.mu.Lock()
		if ok(b.status) {
			b.mu.Unlock()
			return nil
		}
		changed, ended := b.change(), b.ended()
		b.mu.Unlock()
		if ended {
			return errEnded
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// watch returns a channel that is closed when the status changes, and whether the service has ended.
func (b *board) watch() (changed <-chan struct{}, ended bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.change(), b.ended()
}

// change returns a channel that is closed when the status changes; b.mu is held.
func (b *board) change() <-chan struct{} {
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.changed
}

// signal wakes the goroutines that wait for the status; b.mu is held.
func (b *board) signal() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// wake lets the goroutines that wait for the status look again.
func (b *board) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.signal()
}

// set publishes a changed status, and returns the previous one.
func (b *board) set(st Status) (old Status) {
	b.halted.Store(st.Role == Halted)
	b.mu.Lock()
	defer b.mu.Unlock()
	old, b.status = b.status, st
	b.signal()
	return old
}

// update publishes what may change with every batch. It wakes nobody.
func (b *board) update(f func(*Status, *published)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.status, &b.stats)
}

// end marks the service as ended on this host.
func (b *board) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over.Store(true)
	if b.status.Role != Halted {
		b.status.Role = Latent
	}
	b.signal()
}

// halt marks the service as ended on this host because of an error.
func (b *board) halt(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over.Store(true)
	b.halted.Store(true)
	b.status.Role, b.why = Halted, why
	b.signal()
}
