package resolver

import (
	"context"
	"slices"
	"time"
)

// Memory is a [Resolver] inside the process, for tests and for programs of a single process. It stores nothing, starts no
// goroutine, works in a testing/synctest bubble, and needs no Close. Its limits are the defaults of a [Server].
type Memory struct{ store *store }

// NewMemory returns a Memory without records.
func NewMemory() *Memory { return &Memory{newStore()} }

var _ Resolver = (*Memory)(nil)

// Get implements [Resolver].
func (m *Memory) Get(ctx context.Context, name string) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	return m.store.get(name)
}

// CompareAndSwap implements [Resolver].
func (m *Memory) CompareAndSwap(ctx context.Context, expect uint64, next Record) (rec Record, err error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	done := make(chan struct{}) // another caller's goroutine may make the change
	m.store.cas(expect, next, func(r Record, e error) {
		rec, err = r, e
		close(done)
	})
	<-done
	return rec, err
}

// Watch implements [Resolver].
func (m *Memory) Watch(ctx context.Context, name string, after uint64) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	var rec Record
	var err error
	done := make(chan struct{})
	cancel := m.store.watch(name, after, func(r Record, e error) {
		rec, err = r, e
		close(done)
	})
	select {
	case <-done:
		return rec, err
	case <-ctx.Done():
		cancel()
		return Record{}, ctx.Err()
	}
}

// Announce implements [Resolver].
func (m *Memory) Announce(ctx context.Context, h Host, services []string, ttl time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return m.store.announce(h, slices.Clone(services), "", ttl)
}

// Hosts implements [Resolver].
func (m *Memory) Hosts(ctx context.Context, name string) ([]Host, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return m.store.hostsOf(name)
}
