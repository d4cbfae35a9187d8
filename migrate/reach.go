package migrate

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// A host that others cannot connect to, for example because of a firewall, still holds copies: it gets messages on its own
// connections (see package peer). But it must not become active while another host can be, because clients would lose the
// service. Hosts detect that when they connect to each other, and clients when a move asks them to connect to the next host.

// unreachedEvery limits how often a host reports that others do not reach it.
const unreachedEvery = time.Minute

// reach remembers what other hosts and clients say about connections. It is safe for concurrent use.
type reach struct {
	mu       sync.Mutex // guards what follows
	reported time.Time  // when another host last could not connect to this one
	avoided  map[serviceHost]avoidance
}

// serviceHost is a host, by its ID, as the target of moves of a service.
type serviceHost struct{ service, host string }

// avoidance is how long a host is avoided to which clients could not connect.
type avoidance struct {
	until time.Time
	pause time.Duration // the latest; it doubles
}

const (
	firstAvoided = 30 * time.Second
	maxAvoided   = 10 * time.Minute
	// manyAvoided limits the hosts that are remembered.
	manyAvoided = 4096
)

// unreached is called when another host cannot connect to this one. It reports that, and moves the services that are active
// here to that host if it holds a copy: it can be reached.
func (n *Node) unreached(from resolver.Host, reason string) {
	n.reach.mu.Lock()
	now := time.Now()
	due := n.reach.reported.IsZero() || now.Sub(n.reach.reported) >= unreachedEvery
	if due {
		n.reach.reported = now
	}
	n.reach.mu.Unlock()
	if due {
		err := fmt.Errorf("migrate: host %s cannot connect to this host, %s, at %s (%q): does a firewall refuse "+
			"inbound connections? Clients may not reach it either", from.ID, n.self.ID, n.self.Addr, reason)
		n.log.Warn("other hosts cannot connect to this one", "from", from.ID, "addr", n.self.Addr, "err", reason)
		if f := n.cfg.Hooks.Failed; f != nil {
			n.hooks.Call(func() { f("", err) })
		}
	}
	for _, s := range n.Services() {
		s.evade(from)
	}
}

// evade moves the service to a member that cannot connect to this host.
func (s *Service) evade(to resolver.Host) {
	st := s.Status()
	reach := &s.node.reach
	if st.Role != Active || !slices.ContainsFunc(st.Record.ISR, to.Same) || s.node.links.Unreachable(to) ||
		reach.avoids(s.name, to.ID) {
		return
	}
	s.node.spawn(func() {
		ctx, cancel := context.WithTimeout(s.node.ctx, time.Minute)
		defer cancel()
		// The handoff itself avoids a host that clients cannot reach.
		if _, err := s.handoff(ctx, to.ID, CauseUnreachable); err != nil && !reach.avoids(s.name, to.ID) {
			reach.avoid(s.name, to.ID)
		}
	})
}

// avoids reports whether moves of a service avoid a host.
func (r *reach) avoids(service, host string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.avoided[serviceHost{service, host}].until)
}

// avoid has moves of a service avoid a host for a while.
func (r *reach) avoid(service, host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.avoided == nil || len(r.avoided) >= manyAvoided {
		r.avoided = make(map[serviceHost]avoidance)
	}
	k := serviceHost{service, host}
	a := r.avoided[k]
	a.pause = min(max(2*a.pause, firstAvoided), maxAvoided)
	a.until = time.Now().Add(a.pause)
	r.avoided[k] = a
}

// reached ends the avoidance of a host.
func (r *reach) reached(service, host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.avoided, serviceHost{service, host})
}

// reachable returns the hosts that others can connect to, as far as this host knows. The error says why there are none.
func (s *Service) reachable(hosts []resolver.Host) ([]resolver.Host, error) {
	var good []resolver.Host
	why := ""
	for _, h := range hosts {
		switch {
		case s.node.links.Unreachable(h):
			why = fmt.Sprintf("this host cannot connect to host %s at %s", h.ID, h.Addr)
		case s.node.reach.avoids(s.name, h.ID):
			why = fmt.Sprintf("clients could not connect to host %s at %s", h.ID, h.Addr)
		default:
			good = append(good, h)
		}
	}
	if len(good) == 0 && why != "" {
		return nil, transport.Errorf(CodeNoTarget, "migrate: service %s stays on host %s: %s", s.name, s.node.self.ID, why)
	}
	return good, nil
}

// offer connects to the active host of a service of which this host has no copy, if there are fewer copies than the policy
// says: perhaps the active host cannot connect to this one. Otherwise its invitation would not arrive.
func (s *Service) offer() {
	ctx, cancel := context.WithTimeout(s.node.ctx, resolverTimeout)
	defer cancel()
	rec, err := s.node.cfg.Resolver.Get(ctx, s.name)
	if err == nil && rec.Active.ID != "" && !rec.Active.Same(s.node.self) && len(rec.ISR) < s.policy.Copies {
		s.node.links.Open(rec.Active)
	}
}
