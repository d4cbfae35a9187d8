//go:build unix

package main

import (
	"time"
)

// stepPartition cuts some of the ways between processes and restores them after 0.1 to 5 s.
func (r *run) stepPartition() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	a, _ := r.active()
	s := r.standby()
	if a == nil || s == nil {
		return nil
	}
	d := r.duration()
	n := r.net
	var (
		kind string
		do   func()
	)
	hosts := func(h *host, f func(id string)) {
		for _, o := range r.hosts {
			if o != h {
				f(o.id)
			}
		}
	}
	switch r.rnd.IntN(9) {
	case 0:
		kind = "active and standby apart"
		do = func() { n.hold(a.id, s.id, true) }
	case 1:
		kind = "active does not reach standby"
		do = func() { n.hold(a.id, s.id, false) }
	case 2:
		kind = "standby does not reach active"
		do = func() { n.hold(s.id, a.id, false) }
	case 3:
		kind = "active apart from hosts and resolver"
		do = func() {
			hosts(a, func(id string) { n.hold(a.id, id, true) })
			n.hold(a.id, resolverID, true)
		}
	case 4:
		kind = "active apart from all"
		do = func() { n.apart(a.id) }
	case 5:
		kind = "standby apart from all"
		do = func() { n.apart(s.id) }
	case 6:
		kind = "connections of active and standby reset"
		do = func() { n.between(a.id, s.id, func(l *link, _ int) { l.sever(false) }) }
		d = 0
	case 7:
		kind = "connections of active and standby refused"
		do = func() { n.between(a.id, s.id, func(l *link, _ int) { l.sever(true) }) }
	case 8:
		kind = "clients reach active one way"
		do = func() {
			for _, c := range r.clients {
				n.hold(a.id, c.ID, false)
			}
		}
	}
	if d >= 500*time.Millisecond {
		kind += ", 0.5 s and more"
	}
	r.fault(kind, a.id+" "+s.id, d)
	do()
	r.sleep(d)
	n.heal()
	return nil
}

// apart holds back all that goes to and from a process.
func (n *network) apart(id string) {
	for ends := range n.links {
		if ends[0] == id || ends[1] == id {
			n.hold(ends[0], ends[1], true)
		}
	}
}
