package outside_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/resolver/resolvertest"
	"github.com/roam-go/roam/transport"
)

func TestResolver(t *testing.T) {
	resolvertest.Run(t, func(t *testing.T) resolvertest.Subject {
		r := newResolver()
		return resolvertest.Subject{A: r, B: r}
	})
}

// mapResolver is a resolver that keeps everything in two maps.
type mapResolver struct {
	mu      sync.Mutex // guards the fields below
	records map[string]resolver.Record
	hosts   map[string]presence // by host ID
	changed chan struct{}       // closed at the next change of a record
}

type presence struct {
	host     resolver.Host
	services []string
	until    time.Time
	replaced []uint64 // earlier incarnations
}

func newResolver() *mapResolver {
	return &mapResolver{records: make(map[string]resolver.Record), hosts: make(map[string]presence),
		changed: make(chan struct{})}
}

const generation = 1

func clone(r resolver.Record) resolver.Record {
	r.ISR = append([]resolver.Host(nil), r.ISR...)
	return r
}

func (m *mapResolver) Get(ctx context.Context, name string) (resolver.Record, error) {
	if err := errors.Join(ctx.Err(), resolver.CheckName(name)); err != nil {
		return resolver.Record{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.records[name]
	if !ok {
		return r, transport.Errorf(resolver.CodeNotFound, "no service %q", name)
	}
	return clone(r), nil
}

func (m *mapResolver) CompareAndSwap(ctx context.Context, expect uint64, next resolver.Record) (resolver.Record, error) {
	if err := ctx.Err(); err != nil {
		return resolver.Record{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	cur, ok := m.records[next.Name]
	before := &cur
	if !ok {
		before = nil
	}
	err := resolver.Check(before, next)
	switch {
	case errors.Is(err, resolver.ErrInvalid):
		return resolver.Record{}, err
	case next.Generation != 0 && next.Generation != generation, expect > cur.Version:
		return resolver.Record{}, transport.Errorf(resolver.CodeAmnesia, "service %q: records were lost", next.Name)
	case ok && cur.Version == expect+1 && cur.Nonce == next.Nonce && cur.Proposer == next.Proposer:
		return clone(cur), nil // the call was repeated
	case expect != cur.Version:
		return clone(cur), transport.Errorf(resolver.CodeConflict, "service %q has version %d", next.Name, cur.Version)
	case err != nil:
		return resolver.Record{}, err
	}
	next.Generation, next.Version = generation, expect+1
	m.records[next.Name] = clone(next)
	close(m.changed)
	m.changed = make(chan struct{})
	return clone(next), nil
}

func (m *mapResolver) Watch(ctx context.Context, name string, after uint64) (resolver.Record, error) {
	for {
		m.mu.Lock()
		changed := m.changed
		m.mu.Unlock()
		r, err := m.Get(ctx, name)
		if err == nil && r.Version != after || err != nil && !errors.Is(err, resolver.ErrNotFound) {
			return r, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return resolver.Record{}, ctx.Err()
		}
	}
}

func (m *mapResolver) Announce(ctx context.Context, h resolver.Host, services []string, ttl time.Duration) error {
	if err := errors.Join(ctx.Err(), resolver.CheckAnnouncement(h, services, ttl)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.hosts[h.ID]
	switch {
	case ok && !time.Now().Before(p.until):
		p, ok = presence{}, false
	case ok && ttl > 0 && slices.Contains(p.replaced, h.Incarnation):
		return transport.Errorf(resolver.CodeRefused, "host %q has started again at %s", h.ID, p.host.Addr)
	}
	switch {
	case ttl > 0:
		if ok && !p.host.Same(h) {
			p.replaced = append(p.replaced, p.host.Incarnation)
		}
		m.hosts[h.ID] = presence{h, slices.Clone(services), time.Now().Add(ttl), p.replaced}
	case ok && p.host.Same(h):
		delete(m.hosts, h.ID)
	}
	return nil
}

func (m *mapResolver) Hosts(ctx context.Context, name string) ([]resolver.Host, error) {
	if err := errors.Join(ctx.Err(), resolver.CheckName(name)); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var hosts []resolver.Host
	for _, p := range m.hosts {
		if time.Now().Before(p.until) && slices.Contains(p.services, name) {
			hosts = append(hosts, p.host)
		}
	}
	slices.SortFunc(hosts, func(a, b resolver.Host) int { return strings.Compare(a.ID, b.ID) })
	return hosts, nil
}
