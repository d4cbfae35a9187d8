// Package replica drives the protocol of one service on one host: it gives the core events, carries out what the core asks
// for, and has committed entries applied. It does no I/O, has no clock and no goroutine: its host provides them, be it a
// node or the simulator.
package replica

import (
	"errors"
	"slices"

	"github.com/roam-go/roam/migrate/internal/apply"
	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/resolver"

	"time"
)

// Env is what a replica needs of its host. Except for Wake, which an applier calls, its methods are called on the loop.
type Env interface {
	Now() time.Duration // of the clock that the core lives in
	Wall() int64        // the wall clock, in Unix milliseconds

	Send(core.Outgoing)      // a message to another host
	Save(core.Save)          // to the store; Persisted comes back
	CompareAndSwap(core.CAS) // asks the resolver; CASDone comes back
	Get()                    // asks the resolver; Got comes back
	Seek()                   // asks the resolver; Candidates comes back
	Ask([]resolver.Host)     // asks other hosts; Answers comes back
	Fetch(core.Fetch)        // a snapshot; [Replica.Restored] is called with it
	Moved(core.MoveEvent)

	// Machine makes the machine of an empty copy.
	Machine() (*machine.Machine, error)
	// Start has a's Run called, on whatever goroutine, once the present event is handled.
	Start(a *apply.Applier)
	// Wake has [Replica.Collect] called on the loop. It is called by a goroutine that runs a.
	Wake(a *apply.Applier)
	// Post has f called on the loop, or drop, on any goroutine, if there is no loop any more. It may be called by any
	// goroutine.
	Post(f func(), drop func())
	// Offer lets another host fetch what was captured, under the number returned; 0: it can't.
	Offer(to resolver.Host, c *machine.Capture) uint64

	Activated(handedOver bool) // this host has become active; nothing of its epoch is applied yet
	Deposed()                  // this host is no longer active
	Applied(r *machine.Result) // an entry was applied
	Read(id uint64)            // everything acknowledged before a read was asked is applied when what is now pushed runs
	ReadsFailed()              // all reads that are not answered must be asked elsewhere
	Resent(entries uint64)     // entries were sent again
	Diverged(entry uint64)     // the copy here is not what the active host has
	CaptureFailed(to string, err error)
	Report(err error) // a condition that users should know: an item of [core.Ready].Reports
}

// Replica is one service on one host. It belongs to the service's loop.
type Replica struct {
	env  Env
	core *core.Core

	machine *machine.Machine // nil: there is no copy
	applier *apply.Applier   // of machine

	dirty     bool   // the core was given something since it was last asked what is to be done
	changed   bool   // role, term or record changed since Changed was last called
	lastCheck uint64 // the entry up to which hosts have compared hashes

	captures []*capture    // that have no outcome
	clock    *clock        // nil: this host has always been alone, and has its own clock to go by
	now      time.Duration // as last read
}

// capture is what is to be called with the captured copy.
type capture struct {
	then func(c *machine.Capture, index, epoch uint64, err error)
}

// ErrDropped is the error of [Replica.Capture] if the copy is dropped before it is captured.
var ErrDropped = errors.New("the copy was dropped")

// HashEvery is the number of entries between two checks that hosts agree.
const HashEvery = 4096

// New makes a replica around a core that was given nothing yet.
func New(env Env, c *core.Core) *Replica { return &Replica{env: env, core: c, dirty: true} }

// Core is the protocol's state, to look at.
func (r *Replica) Core() *core.Core { return r.core }

// Machine is the copy; nil if there is none.
func (r *Replica) Machine() *machine.Machine { return r.machine }

// Applier applies what is committed to the copy; nil if there is none.
func (r *Replica) Applier() *apply.Applier { return r.applier }

// Changed reports whether role, term or record have changed since it was last called.
func (r *Replica) Changed() bool {
	c := r.changed
	r.changed = false
	return c
}

// Step gives the core an event.
func (r *Replica) Step(ev core.Event) {
	r.dirty = true
	r.core.Step(r.read(), ev)
	if m, ok := ev.(core.Recv); ok {
		r.heed(&m.Msg)
	}
}

// read reads the monotonic clock.
func (r *Replica) read() time.Duration {
	r.now = r.env.Now()
	return r.now
}

// Align carries out a change of role that the core has decided, or drops the copy, if either is due: what comes next must
// find the copy that belongs to it.
func (r *Replica) Align() error {
	if !r.core.Switching() {
		return r.core.Err()
	}
	r.dirty = true
	return r.Settle()
}

// Settle does what the core has made due since it was last given something. After an error the service must stop here.
func (r *Replica) Settle() error {
	for r.dirty {
		r.dirty = false
		if err := r.do(r.core.Ready()); err != nil {
			return err
		}
		if err := r.core.Err(); err != nil {
			return err
		}
	}
	return nil
}

// do carries out what the core asks for.
func (r *Replica) do(d core.Ready) error {
	r.changed = r.changed || d.Changed
	if d.Drop {
		r.drop()
	}
	if d.Save != nil {
		r.env.Save(*d.Save)
	}
	for _, m := range d.Msgs {
		r.stamp(&m.Msg)
		r.env.Send(m) // before clients hear of anything: a new active host waits for it
	}
	if d.Deposed {
		if r.machine != nil {
			r.machine.ResetOrdered(nil)
		}
		r.env.Deposed()
	}
	if d.Activated {
		if err := r.activate(d.Gained != nil); err != nil {
			return err
		}
	}
	if d.Resent > 0 {
		r.env.Resent(d.Resent)
	}
	if len(d.Committed) > 0 {
		r.push(d.Committed, nil)
	}
	if d.CAS != nil {
		r.env.CompareAndSwap(*d.CAS)
	}
	if d.Get {
		r.env.Get()
	}
	if d.Seek {
		r.env.Seek()
	}
	if d.Ask != nil {
		r.env.Ask(d.Ask)
	}
	for _, h := range d.Snapshots {
		r.offer(h)
	}
	if d.Fetch != nil {
		r.env.Fetch(*d.Fetch)
	}
	for _, id := range d.Reads {
		r.env.Read(id)
	}
	if d.ReadsFail {
		r.env.ReadsFailed()
	}
	for _, err := range d.Reports {
		r.env.Report(err)
	}
	for _, ev := range d.Moves {
		r.env.Moved(ev)
	}
	r.checkHash()
	return nil
}

func (r *Replica) activate(handedOver bool) error {
	if r.machine == nil {
		m, err := r.env.Machine()
		if err != nil {
			return err
		}
		r.use(m)
	}
	index, _ := r.machine.Applied()
	r.machine.ResetOrdered(r.core.Tail(index))
	r.env.Activated(handedOver)
	return nil
}

// use takes a copy into use.
func (r *Replica) use(m *machine.Machine) {
	r.machine, r.applier = m, apply.New(m, r.env)
}

// drop lets go of the copy. A call of the service that runs has no effect any more.
func (r *Replica) drop() {
	if r.applier != nil {
		r.applier.Drop()
	}
	r.machine, r.applier, r.lastCheck = nil, nil, 0
	// What waits to be captured is not captured any more, and nothing would tell.
	captures := r.captures
	r.captures = nil
	for _, w := range captures {
		w.then(nil, 0, 0, ErrDropped)
	}
}

// Stop has nothing more applied.
func (r *Replica) Stop() {
	if r.applier != nil {
		r.applier.Drop()
	}
}

func (r *Replica) push(entries []core.Entry, call func(*machine.Machine)) {
	if r.applier.Push(entries, call) {
		r.env.Start(r.applier)
	}
}

// Later has call run with the service's state as it is when everything committed so far is applied, and nothing else runs.
// It reports whether there is a copy.
func (r *Replica) Later(call func(*machine.Machine)) bool {
	if r.applier == nil {
		return false
	}
	r.push(nil, call)
	return true
}

// Collect takes what came of entries that a has applied.
func (r *Replica) Collect(a *apply.Applier) error {
	if a != r.applier {
		return nil // of a copy that was dropped
	}
	return a.Collect(func(res *machine.Result) error {
		if res.Halt != nil {
			return res.Halt
		}
		if r.core.Applied(r.read(), res.At) {
			r.dirty = true
		}
		if res.Mismatch {
			r.env.Diverged(res.Checked)
		}
		r.env.Applied(res)
		return nil
	})
}

// Propose orders an entry, if there is room.
func (r *Replica) Propose(e core.Entry) bool {
	now := r.read()
	e.Time = r.logTime()
	r.dirty = true
	e, ok := r.core.Propose(now, e)
	if ok {
		if r.clock != nil {
			r.clock.ordered(now, e.Time)
		}
		r.machine.Ordered(e)
	}
	return ok
}

// checkHash orders a check of the hash from time to time.
func (r *Replica) checkHash() {
	if r.core.Role() != core.Serving || r.core.Replicas() == 1 {
		return
	}
	index, _ := r.machine.Applied()
	if index-r.lastCheck < HashEvery {
		return
	}
	if low, body, ok := r.machine.HashCheck(); ok {
		r.lastCheck = index
		r.Propose(core.Entry{Kind: core.HashCheck, Low: low, Body: body})
	}
}

// Capture captures the copy when everything committed so far is applied, and calls then once on the loop: with the capture
// and the place of the last entry in it, or with an error. It reports whether there is a copy; if not, then is not called.
func (r *Replica) Capture(then func(c *machine.Capture, index, epoch uint64, err error)) bool {
	if r.applier == nil {
		return false
	}
	w := &capture{then}
	r.captures = append(r.captures, w)
	return r.Later(func(m *machine.Machine) {
		c, err := m.Snapshot()
		index, epoch := m.Applied()
		r.env.Post(func() {
			if i := slices.Index(r.captures, w); i >= 0 {
				r.captures = slices.Delete(r.captures, i, i+1)
				then(c, index, epoch, err)
			} else if c != nil {
				c.Release() // the copy was dropped
			}
		}, func() {
			if c != nil {
				c.Release()
			}
		})
	})
}

// offer captures the copy for a joining host, which fetches it.
func (r *Replica) offer(to resolver.Host) {
	r.Capture(func(c *machine.Capture, index, epoch uint64, err error) {
		ev := core.Captured{To: to}
		if err == ErrDropped {
			// This host is not active any more.
		} else if err != nil {
			r.env.CaptureFailed(to.ID, err)
		} else if ev.ID = r.env.Offer(to, c); ev.ID != 0 {
			ev.Index, ev.Epoch = index, epoch
		}
		r.Step(ev)
	})
}

// Restored answers Env.Fetch with a copy, or nil if there is none, which is taken into use if it is still wanted.
func (r *Replica) Restored(f core.Fetch, m *machine.Machine) (used bool) {
	ev := core.Restored{ID: f.ID, From: f.From, OK: m != nil}
	if m != nil {
		ev.Time = m.LogTime()
	}
	had := r.core.HasState()
	r.Step(ev)
	if !had && r.core.HasState() {
		r.use(m)
		return true
	}
	return false
}

// Recover takes up what a store held, with the copy in it; m is nil if there is none.
func (r *Replica) Recover(st core.State, m *machine.Machine) {
	ev := core.Recovered{State: st}
	if m != nil {
		r.use(m)
		ev.Time = m.LogTime()
	}
	r.Step(ev)
}
