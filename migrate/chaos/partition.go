//go:build unix

package main

import (
	"strings"
	"time"
)

// cut is a way to separate a, the active host, and s, a standby, from each other or from the rest.
type cut struct {
	kind string
	once bool // instantaneous
	do   func(r *run, a, s *host)
}

var cuts = []cut{
	{"active and standby apart", false, func(r *run, a, s *host) { r.net.hold(a.id, s.id, true) }},
	{"active does not reach standby", false, func(r *run, a, s *host) { r.net.hold(a.id, s.id, false) }},
	{"standby does not reach active", false, func(r *run, a, s *host) { r.net.hold(s.id, a.id, false) }},
	{"active apart from hosts and resolver", false, func(r *run, a, _ *host) {
		for _, h := range r.hosts {
			if h != a {
				r.net.hold(a.id, h.id, true)
			}
		}
		r.net.hold(a.id, resolverID, true)
	}},
	{"active apart from all", false, func(r *run, a, _ *host) { r.net.apart(a.id) }},
	{"standby apart from all", false, func(r *run, _, s *host) { r.net.apart(s.id) }},
	{"connections of active and standby refused", false, func(r *run, a, s *host) {
		r.net.between(a.id, s.id, func(l *link, _ int) { l.sever(true) })
	}},
	{"connections of active and standby reset", true, func(r *run, a, s *host) {
		r.net.between(a.id, s.id, func(l *link, _ int) { l.sever(false) })
	}},
	{"all connections reset", true, func(r *run, _, _ *host) {
		for _, l := range r.net.links {
			l.sever(false)
		}
	}},
	{"everything is slow", false, func(r *run, _, _ *host) {
		for _, l := range r.net.links {
			l.set(way{delay: 10 * time.Millisecond}, way{delay: 10 * time.Millisecond})
		}
	}},
	// These clients cannot reach the service: their commands wait until the link is restored.
	{"clients don't hear active", false, func(r *run, a, _ *host) {
		for _, c := range r.clients {
			r.net.hold(a.id, c.ID, false)
		}
	}},
}

// stepPartition cuts some of the links between processes and restores them after 0.1 to 5 s.
func (r *run) stepPartition() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	a, _ := r.active()
	s := r.standby()
	if a == nil || s == nil {
		return nil
	}
	c := cuts[r.rnd.IntN(len(cuts))]
	for !strings.Contains(c.kind, r.cfg.only) {
		c = cuts[r.rnd.IntN(len(cuts))]
	}
	d := r.duration()
	kind := c.kind
	switch {
	case c.once:
		d = 0
	case d >= 500*time.Millisecond:
		kind += ", 0.5 s and more"
	}
	r.fault(kind, a.id+" "+s.id, d)
	c.do(r, a, s)
	r.sleep(d)
	r.net.heal()
	return nil
}

// apart holds back all traffic of a process.
func (n *network) apart(id string) {
	for ends := range n.links {
		if ends[0] == id || ends[1] == id {
			n.hold(ends[0], ends[1], true)
		}
	}
}
