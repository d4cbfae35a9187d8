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
	gen    uint64 // what hosts see as its generation
	down   bool
	broken bool // while down: connections are refused at once, instead of no answer
	forgot bool // it has lost its memory, or gone back, at least once
	starts int
	made   []core.CAS      // all changes that led to the present record
	at     []time.Duration // when each was made
}

func newNameService(w *world) *nameService {
	return &nameService{w: w, mem: resolver.NewMemory(), gen: 1}
}

// truth is the record as it is.
func (n *nameService) truth() resolver.Record {
	r, _ := n.mem.Get(context.Background(), service)
	return n.shown(r)
}

// shown is a record as hosts see it.
func (n *nameService) shown(r resolver.Record) resolver.Record {
	if r.Version > 0 {
		r.Generation = n.gen
	}
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
	if c.Next.Generation != 0 && c.Next.Generation != n.gen {
		return resolver.Record{}, core.CASConflict
	}
	next := c.Next
	next.Generation = 0
	r, err := n.mem.CompareAndSwap(context.Background(), c.Expect, next)
	r = n.shown(r)
	switch {
	case err == nil:
		if r.Version != before.Version {
			n.made, n.at = append(n.made, c), append(n.at, n.w.now)
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

// forget makes the resolver start without its records, or with an old part of them, from a backup. Then it may show the same
// generation or, if the backup was taken by other means, another one.
func (n *nameService) forget() {
	n.starts++
	n.forgot = true
	n.mem = resolver.NewMemory()
	made := n.made
	keep := n.w.rng.IntN(len(made) + 1)
	if last := len(made) - 1; last >= 0 && n.w.now-n.at[last] < 3*time.Second {
		keep = len(made) // what hosts know first-hand is not undone while they act on it: see core.outOfTouch
	}
	if n.w.chance(0.4) {
		keep = 0
	}
	if keep == 0 || n.w.chance(0.5) {
		n.gen++
	}
	n.made, n.at = made[:keep:keep], n.at[:keep:keep]
	for _, c := range n.made {
		c.Next.Generation = 0
		n.mem.CompareAndSwap(context.Background(), c.Expect, c.Next)
	}
	r := n.truth()
	n.w.chk.forgotten(r)
	n.w.tracef("the resolver loses its memory, but for %s", describeRecord(&r))
}
