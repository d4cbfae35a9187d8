package sim

import (
	"fmt"

	"github.com/roam-go/roam/migrate/internal/core"
)

// staffed reports whether a host serves with all the standbys that are wanted.
func (w *world) staffed() bool {
	w.why = ""
	rec := w.res.truth()
	if rec.Version == 0 || rec.Active.ID == "" {
		w.why = "there is no active host: " + describeRecord(&rec)
		return false
	}
	hosts := 0
	for _, h := range w.hosts {
		if h.proc == nil || h.proc.leaving {
			w.why = "host " + h.id + " is not up"
			return false
		}
		hosts++
		if h.proc.moving {
			w.why = "a handoff has no outcome: " + h.proc.String()
			return false
		}
	}
	a := w.hosts[hostIndex(rec.Active)].proc
	if !a.self.Same(rec.Active) || a.core.Role() != core.Serving || a.core.Term() != core.TermOf(rec) {
		w.why = "the active host does not serve: " + a.String() + ", " + describeRecord(&rec)
		return false
	}
	if want := min(w.prof.cfg.Standbys, hosts-1); len(rec.ISR)-1 != want {
		w.why = fmt.Sprintf("%d standbys are wanted: %s", want, describeRecord(&rec))
		return false
	}
	return true
}

// converged reports whether a service that is staffed is as it should be when nothing is wrong and nothing happens any more.
func (w *world) converged() bool {
	rec := w.res.truth()
	a := w.hosts[hostIndex(rec.Active)].proc
	if a.core.Suspended() || a.core.Pending() {
		w.why = "the active host is busy: " + a.String()
		return false
	}
	for _, h := range rec.ISR {
		p := w.hosts[hostIndex(h)].proc
		if p.self != h {
			w.why = "the address of a replica is out of date: " + p.String()
			return false
		}
		if !p.same(a) {
			w.why = "a replica is not equal: " + p.String() + " and " + a.String()
			return false
		}
	}
	for _, h := range w.hosts {
		if p := h.proc; p != a && p.core.Role().Active() {
			w.why = "a second host is active: " + p.String()
			return false
		} else if !contains(rec.ISR, p.self) && p.core.HasState() {
			w.why = "a host keeps a copy that nobody wants: " + p.String()
			return false
		}
	}
	for _, c := range w.clients {
		if len(c.unacked) > 0 || c.more > 0 || !c.opened {
			w.why = fmt.Sprintf("client %d waits, session %d opened=%v unacked=%d", c.id, c.session, c.opened, len(c.unacked))
			return false
		}
	}
	return true
}

// same reports whether two hosts have applied everything, and their copies are equal.
func (p *proc) same(o *proc) bool {
	m, n := p.replica.Machine(), o.replica.Machine()
	if m == nil || n == nil || p.core.Commit() != o.core.Commit() {
		return false
	}
	i, hash, _ := state(m)
	j, want, _ := state(n)
	return i == p.core.Commit() && i == j && hash == want
}
