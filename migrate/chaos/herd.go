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
	return r.herdBack("kill", began)
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
// not read, and beside a standby behind a link of 1 Mbit/s.
func (r *run) slow() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	span := 10 * time.Second
	lazy := r.clients[len(r.clients)-1] // the last process: its clients hardly write
	base := func() spread {
		t := time.Now().UnixNano()
		r.sleep(span)
		return r.latency(t, time.Now().UnixNano(), lazy)
	}
	before := base()
	r.fault("clients don't read", lazy.ID, span)
	lazy.signal(sigStop)
	during := base()
	lazy.signal(sigCont)
	r.sleep(2 * time.Second)
	r.sayLater("clients that don't read: others' latency before %s; meanwhile %s: p99 %s", before, during, change(before.P99, during.P99))
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	before = base()
	a, _ := r.active()
	s := r.standby()
	if a == nil || s == nil {
		return errStuck
	}
	r.fault("slow standby", s.id, span)
	slow := way{rate: 125_000}
	for ends, l := range r.net.links {
		if slices.Contains(ends[:], s.id) {
			l.set(slow, slow)
		}
	}
	t := time.Now().UnixNano()
	r.sleep(2 * time.Second)
	early := r.latency(t, time.Now().UnixNano(), lazy)
	during = base()
	_, st := r.active()
	r.sayLater("slow standby: latency before %s; in the first 2 s %s; then %s: p99 %s; in sync then: %v", before, early, during,
		change(before.P99, during.P99), st.ISR)
	r.net.heal()
	return nil
}

func change(a, b time.Duration) string {
	return fmt.Sprintf("%+.0f%%", 100*(float64(b)/float64(a)-1))
}

// latency is that of the commands sent in a time, but for those of one process.
func (r *run) latency(from, to int64, but *process) spread {
	r.check.mu.Lock()
	defer r.check.mu.Unlock()
	acks := r.check.acks
	var d []time.Duration
	for i := len(acks) - 1; i >= 0 && acks[i].Done > from-int64(time.Minute); i-- {
		a := &acks[i]
		mine := a.Client >= but.First && cmp.Less(a.Client, but.First+uint32(but.Writers))
		if a.Seq != 0 && !mine && a.Invoked >= from && a.Invoked < to {
			d = append(d, time.Duration(a.Done-a.Invoked))
		}
	}
	return spreadOf(d)
}
