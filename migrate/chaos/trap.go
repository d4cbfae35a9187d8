//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/roam-go/roam/resolver"
)

// trap is a host's resolver that can block the host right before or after its next change of the record, and notifies the
// parent, which then kills a process.
type trap struct {
	resolver.Resolver
	caught func() // notifies the parent

	mu    sync.Mutex // guards what follows
	point string     // "before", "after"; "": the trap is not set
	free  chan struct{}
}

// set arms the trap, or disarms it for "", and releases a blocked caller.
func (t *trap) set(point string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.point = point
	if t.free != nil {
		close(t.free)
		t.free = nil
	}
}

func (t *trap) stop(point string) {
	t.mu.Lock()
	if t.point != point {
		t.mu.Unlock()
		return
	}
	t.point = ""
	free := make(chan struct{})
	t.free = free
	t.mu.Unlock()
	t.caught()
	<-free
}

// CompareAndSwap implements resolver.Resolver.
func (t *trap) CompareAndSwap(ctx context.Context, expect uint64, next resolver.Record) (resolver.Record, error) {
	t.stop("before")
	rec, err := t.Resolver.CompareAndSwap(ctx, expect, next)
	t.stop("after")
	return rec, err
}

// stepTrap kills the source or the target of a handoff right before or after the record changes: when the target takes over,
// or, if it holds no copy yet, when it is added to the in-sync set.
func (r *run) stepTrap() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	a, st := r.active()
	if a == nil {
		return nil
	}
	t := r.other(a)
	caught, change := t, "it takes over"
	latent := !slices.ContainsFunc(st.ISR, func(m member) bool { return m.ID == t.id })
	if latent && r.rnd.IntN(2) == 0 {
		caught, change = a, "the target is added"
	}
	point := []string{"before", "after"}[r.rnd.IntN(2)]
	victim, role := t, "target"
	if r.rnd.IntN(2) == 0 {
		victim, role = a, "source"
	}
	if victim == a && caught == t {
		change = "the target takes over"
	}
	for len(r.trapped) > 0 {
		<-r.trapped
	}
	if _, err := caught.p.ask(order{Op: "trap", Target: point}, 5*time.Second); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.handoff(t.id, 10*time.Second)
	}()
	select {
	case <-r.trapped:
	case <-done: // the handoff failed for another reason
		_, err := caught.p.ask(order{Op: "trap"}, 5*time.Second)
		return err
	}
	f := r.fault(fmt.Sprintf("%s killed %s %s", role, point, change), victim.id, 0)
	r.killHost(victim)
	if caught != victim {
		if _, err := caught.p.ask(order{Op: "trap"}, 5*time.Second); err != nil && !errors.Is(err, errEnded) {
			return err
		}
	}
	<-done
	if err := r.goesOn(f, victim); err != nil {
		return err
	}
	return r.startHost(victim, false)
}
