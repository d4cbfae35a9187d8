//go:build unix

package main

import (
	"fmt"
	"slices"
	"syscall"
	"time"
)

// stepHerd moves the service with all its clients, once by a handoff and once by killing its host.
func (r *run) stepHerd() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	a, _ := r.active()
	began := time.Now()
	r.fault("handoff with herd", a.id, 0)
	rep, err := a.p.ask(order{Op: "handoff", Target: r.standby().id, Timeout: time.Minute}, 2*time.Minute)
	if rep == nil {
		return fmt.Errorf("the handoff failed: %w", err)
	}
	m := rep.Move
	if err != nil {
		r.sayLater("the handoff failed: %v", err)
	}
	r.sayLater("handoff: %d clients, %d connected ahead, prepare %s, transfer %s, pause %s", m.Clients, m.Ready, ms(m.Prepare),
		ms(m.Transfer), ms(m.Pause))
	if err := r.herdBack("handoff", began); err != nil {
		return err
	}
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	a, _ = r.active()
	r.tries()
	f := r.fault("kill active with herd", a.id, 0)
	began = time.Now()
	r.killHost(a)
	if err := r.takenOver(f, a); err != nil {
		return err
	}
	r.sayLater("kill: writers go on after %s", ms(time.Since(began)))
	if err := r.startHost(a, false); err != nil {
		return err
	}
	if err := r.herdBack("kill", began); err != nil {
		return err
	}
	n, most, total := r.tries(), 0, 0
	for tries, clients := range n {
		total += clients
		if tries > 3 {
			most += clients
		}
	}
	r.sayLater("kill: clients by the number of their dials: %v; %.2f%% dialled more than 3 times", n,
		100*float64(most)/float64(max(total, 1)))
	return nil
}

// tries returns how many clients have dialled how often since its last call.
func (r *run) tries() map[int]int {
	n := make(map[int]int)
	for _, p := range r.clients {
		if rep, err := p.ask(order{Op: "tries"}, 10*time.Second); err == nil {
			for tries, clients := range rep.Herd.Tries {
				n[tries] += clients
			}
		}
	}
	return n
}

// herdBack waits until all clients are attached to the active host.
func (r *run) herdBack(what string, began time.Time) error {
	const patience = 2 * time.Minute
	total := 0
	last := 0
	var half, most, all time.Duration
	ok := poll(r.ctx, patience, func() bool {
		a, _ := r.active()
		if a == nil {
			return false
		}
		n, ended := 0, 0
		total = 0
		for _, p := range r.clients {
			rep, err := p.ask(order{Op: "herd", Target: a.id}, 10*time.Second)
			if err != nil {
				return false
			}
			n += rep.Herd.Attached
			ended += rep.Herd.Ended
			total += rep.Herd.Clients
		}
		if ended > 0 {
			r.check.violation("%s: %d of %d clients have ended", what, ended, total)
			return true
		}
		last = n
		took := time.Since(began)
		if half == 0 && n*2 >= total {
			half = took
		}
		if most == 0 && n*100 >= total*99 {
			most = took
		}
		all = took
		return n == total
	})
	if !ok {
		r.check.violation("%s: after %s only %d of %d clients are back (%s)", what, patience, last, total, r.describe())
		return errStuck
	}
	r.sayLater("%s: of %d clients half are back after %s, 99%% after %s, all after %s; in sync: %q", what, total, ms(half),
		ms(most), ms(all), r.inSync())
	return nil
}

// slow compares the latency of commands while a process of listening clients is stopped with that while it listens, and
// beside a standby behind a link of 1 Mbit/s with that without. The listening clients do not write in either case.
func (r *run) slow() error {
	lazy := r.clients[len(r.clients)-1]
	rate := func(p *process, rate float64) error {
		_, err := p.ask(order{Op: "rate", Rate: rate}, 5*time.Second)
		return err
	}
	each := r.cfg.rate / float64(len(r.clients))
	for i, p := range r.clients {
		to := each * float64(len(r.clients)) / float64(len(r.clients)-1)
		if i == len(r.clients)-1 {
			to = 0
		}
		if err := rate(p, to); err != nil {
			return err
		}
	}
	signal := func(sig syscall.Signal) func() error { return func() error { lazy.signal(sig); return nil } }
	err := r.compare("clients that listen", lazy, turn{name: "read"}, turn{"don't read", signal(sigStop), signal(sigCont)})
	if err != nil {
		return err
	}
	for _, p := range r.clients {
		if err := rate(p, each); err != nil {
			return err
		}
	}
	slow := way{rate: 125_000}
	return r.compare("a standby", nil, turn{name: "is fast"}, turn{"is slow", func() error {
		s := r.standby()
		if s == nil {
			return errStuck
		}
		for ends, l := range r.net.links {
			if slices.Contains(ends[:], s.id) {
				l.set(slow, slow)
			}
		}
		r.sleep(2 * time.Second) // until the active host has removed it
		return nil
	}, func() error { r.net.heal(); return nil }})
}
