//go:build unix

package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// stepHerd moves the service with all its clients, once planned and once by killing its host.
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
	r.sayLater("handoff: %d clients, %d connected ahead, prepare %s, transfer %s, pause %s", m.Clients, m.Ready, ms(m.Prepare), ms(m.Transfer), ms(m.Pause))
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
	r.sayLater("kill: clients by the number of their dials: %v; %.2f%% dialled more than 3 times", n, 100*float64(most)/float64(max(total, 1)))
	return nil
}

// tries is how many clients have dialled how often since it was last called.
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

// herdBack waits until all clients are at the active host.
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
	r.sayLater("%s: of %d clients half are back after %s, 99%% after %s, all after %s; in sync: %q", what, total, ms(half), ms(most), ms(all), r.inSync())
	return nil
}

// slow compares how long commands take while nothing is wrong with how long they take beside a process of clients that does
// not read, and beside a standby behind a link of 1 Mbit/s. What is compared is taken in turns, so that what else the machine
// does falls on both.
func (r *run) slow() error {
	const span = 2 * time.Second
	lazy := r.clients[len(r.clients)-1]
	compare := func(kind, target string, but *process, begin, end func()) error {
		type window struct{ from, to int64 }
		var with, without []window
		for range 5 {
			if err := r.ready(r.ctx); err != nil {
				return err
			}
			for _, on := range []bool{false, true} {
				if on {
					r.fault(kind, target, span)
					begin()
				}
				w := window{from: time.Now().UnixNano()}
				r.sleep(span)
				w.to = time.Now().UnixNano()
				if on {
					with = append(with, w)
				} else {
					without = append(without, w)
				}
			}
			end()
			r.sleep(span / 2)
		}
		if err := r.ready(r.ctx); err != nil { // so that all that was sent is acknowledged
			return err
		}
		all := func(ws []window) spread {
			var d []time.Duration
			for _, w := range ws {
				d = append(d, r.latencies(w.from, w.to, but)...)
			}
			return spreadOf(d)
		}
		a, b := all(without), all(with)
		r.sayLater("%s: latency of others %s; otherwise %s: p99 %s", kind, b, a, change(a.P99, b.P99))
		return nil
	}
	err := compare("clients don't read", lazy.ID, lazy, func() { lazy.signal(sigStop) }, func() { lazy.signal(sigCont) })
	if err != nil {
		return err
	}
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	s := r.standby()
	if s == nil {
		return errStuck
	}
	slow := way{rate: 125_000}
	return compare("slow standby", s.id, nil, func() {
		if s = r.standby(); s == nil {
			return
		}
		for ends, l := range r.net.links {
			if slices.Contains(ends[:], s.id) {
				l.set(slow, slow)
			}
		}
		r.sleep(2 * time.Second) // until it is seen to be slow
	}, r.net.heal)
}

func change(a, b time.Duration) string {
	return fmt.Sprintf("%+.0f%%", 100*(float64(b)/float64(a)-1))
}

// latency is that of the commands sent in a time, but for those of one process, if any.
func (r *run) latency(from, to int64, but *process) spread {
	return spreadOf(r.latencies(from, to, but))
}

func (r *run) latencies(from, to int64, but *process) []time.Duration {
	r.check.mu.Lock()
	defer r.check.mu.Unlock()
	acks := r.check.acks
	var d []time.Duration
	for i := len(acks) - 1; i >= 0 && acks[i].Done > from-int64(time.Minute); i-- {
		a := &acks[i]
		mine := but != nil && a.Client >= but.First && cmp.Less(a.Client, but.First+uint32(but.Writers))
		if a.Seq != 0 && !mine && a.Invoked >= from && a.Invoked < to {
			d = append(d, time.Duration(a.Done-a.Invoked))
		}
	}
	return d
}
