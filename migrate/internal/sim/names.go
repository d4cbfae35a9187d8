package sim

import (
	"context"
	"errors"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

const service = "svc"

// nameService is the resolver: a real [resolver.Memory] behind an unreliable network.
type nameService struct {
	w      *world
	mem    *resolver.Memory
	down   bool
	broken bool // while down: connections are refused at once, instead of no answer
	forgot bool // it has lost its memory
	starts int
	made   []core.CAS // all changes since its start
}

func newNameService(w *world) *nameService { return &nameService{w: w, mem: resolver.NewMemory()} }

// truth is the record as it is.
func (n *nameService) truth() resolver.Record {
	r, _ := n.mem.Get(context.Background(), service)
	return r
}

// ask carries a request there and back: exec runs at the resolver, and done when its answer arrives, or with ok false when
// there is none in time. done runs once.
func (n *nameService) ask(from int, exec func(), done func(ok bool)) {
	w := n.w
	answered := false
	answer := func(ok bool) {
		if !answered {
			answered = true
			done(ok)
		}
	}
	timeout := w.between(300*time.Millisecond, time.Second)
	w.after(timeout, func() { answer(false) })
	cut := func() bool { return from >= 0 && w.hosts[from].blind }
	starts := n.starts
	carry := func() {
		delay := w.latency() + w.prof.nameTime
		if w.chance(w.prof.nameSlow) {
			delay += min(w.exp(5*time.Second), 12*time.Second)
		}
		w.after(delay, func() {
			if cut() || n.starts != starts {
				return
			}
			if n.down {
				if n.broken {
					w.after(w.latency(), func() { answer(false) })
				}
				return
			}
			exec()
			back := w.latency()
			if w.chance(w.prof.nameSlow) {
				back += min(w.exp(5*time.Second), 12*time.Second)
			}
			if w.chance(w.prof.nameLost) {
				return
			}
			w.after(back, func() {
				if !cut() {
					answer(true)
				}
			})
		})
	}
	if !w.chance(w.prof.nameLost) {
		carry()
	}
	if w.chance(w.prof.nameDup) {
		w.after(w.exp(time.Second), carry)
	}
}

// cas executes a change.
func (n *nameService) cas(c core.CAS) (resolver.Record, core.Outcome) {
	before := n.truth()
	r, err := n.mem.CompareAndSwap(context.Background(), c.Expect, c.Next)
	switch {
	case err == nil:
		if r.Version != before.Version {
			n.made = append(n.made, c)
			n.w.tracef("resolver: %s, by %s", describeRecord(&r), label(r.Proposer))
			n.w.chk.recordChanged(before, r)
		}
		return r, core.CASOK
	case errors.Is(err, resolver.ErrConflict), errors.Is(err, resolver.ErrAmnesia):
		return r, core.CASConflict
	case n.forgot:
		return resolver.Record{}, core.CASRefused
	}
	n.w.failf("an illegal change was proposed: %v (present: %s)", err, describeRecord(&before))
	return r, core.CASRefused
}

// forget makes the resolver lose its memory.
func (n *nameService) forget() {
	for _, h := range n.w.hosts {
		if p := h.proc; p != nil && (p.core.Pending() || p.paused) && p.core.Record().Version == 0 {
			// Its creation of the service, which it may only have been asked for, may have happened, and would happen again.
			n.w.after(time.Second, n.forget)
			return
		}
	}
	n.starts++
	n.w.chk.forgotten()
	n.mem = resolver.NewMemory()
	n.forgot = true
	// Of all it knew, it may know an old part, from a backup.
	made := n.made
	n.made = nil
	keep := n.w.rng.IntN(len(made) + 1)
	for i, c := range made {
		if i > 0 && c.Next.Loss > 0 && i >= keep && made[i-1].Next.Loss < c.Next.Loss {
			keep = 0 // Nothing is better than a record of before a loss, which can't be repaired by another one.
		}
	}
	for _, c := range made[:keep] {
		c.Next.Generation = 0
		n.mem.CompareAndSwap(context.Background(), c.Expect, c.Next)
	}
	r := n.truth()
	n.w.tracef("the resolver loses its memory, but for %s", describeRecord(&r))
}
