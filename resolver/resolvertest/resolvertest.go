// Package resolvertest is the conformance suite for implementations of resolver.Resolver.
//
//	func TestMyResolver(t *testing.T) {
//		resolvertest.Run(t, func(t *testing.T) resolvertest.Subject {
//			r := startMyResolver(t) // t.Cleanup ends it
//			return resolvertest.Subject{A: r, B: r}
//		})
//	}
package resolvertest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// Subject is a resolver under test.
type Subject struct {
	// A and B are two clients of one empty resolver. They may be the same.
	A, B resolver.Resolver

	// Key is the key that both clients prove, which the hosts of the suite then use; zero if they prove none.
	Key transport.Key
}

// Run checks each rule in a subtest, whose name is the rule. open returns a new resolver for each and ends it in t.Cleanup.
// Run takes a few seconds.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) { r.check(newSuite(t, open(t))) })
	}
}

// RunSynctest is [Run] with each rule in a testing/synctest bubble. open is called in the bubble, and the goroutines that it
// starts must end in t.Cleanup.
func RunSynctest(t *testing.T, open func(t *testing.T) Subject) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { r.check(newSuite(t, open(t))) })
		})
	}
}

// rule is a rule with its check.
type rule struct {
	name  string
	check func(*suite)
}

// tb is the part of testing.TB that the suite uses.
type tb interface {
	require.TestingT
	Helper()
	Context() context.Context
	Cleanup(func())
}

// suite is the state of one check.
type suite struct {
	Subject
	*require.Assertions
	t   tb
	ctx context.Context // limits the time of the check
}

// patience is how long a check may take.
const patience = 20 * time.Second

func newSuite(t tb, s Subject) *suite {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return &suite{Subject: s, Assertions: require.New(t), t: t, ctx: ctx}
}

const name = "backend.com"

// Limits that every resolver enforces.
const (
	maxName     = 253
	maxAddr     = 256
	maxServices = 1 << 17
	maxTTL      = time.Minute
)

// host returns the first incarnation of a host.
func (s *suite) host(id string) resolver.Host {
	return resolver.Host{ID: id, Incarnation: 1, Addr: id + ".example:7000", Key: s.Key}
}

// fresh returns a first record of a service.
func (s *suite) fresh(name string, h resolver.Host) resolver.Record {
	return resolver.Record{Name: name, Epoch: 1, Active: h, ISR: []resolver.Host{h}, Proposer: h, Nonce: 1}
}

// create creates the record of a service.
func (s *suite) create(name string, h resolver.Host) resolver.Record {
	s.t.Helper()
	r, err := s.A.CompareAndSwap(s.ctx, 0, s.fresh(name, h))
	s.NoError(err)
	return r
}

// cancelled returns a change of kind cancel, for where any change will do.
func cancelled(r resolver.Record) resolver.Record {
	r.Proposer, r.Nonce = r.Active, r.Nonce+1
	return r
}

// swap changes cur to next, which must succeed.
func (s *suite) swap(by resolver.Resolver, cur, next resolver.Record) resolver.Record {
	s.t.Helper()
	r, err := by.CompareAndSwap(s.ctx, cur.Version, next)
	s.NoError(err)
	return r
}

// present asserts that both clients see the record.
func (s *suite) present(want resolver.Record) {
	s.t.Helper()
	for _, by := range []resolver.Resolver{s.A, s.B} {
		r, err := by.Get(s.ctx, want.Name)
		s.NoError(err)
		s.Equal(want, r, "Get must return the newest record")
	}
}

// result is the result of a call on another goroutine.
type result struct {
	rec resolver.Record
	err error
}

// watch calls Watch on another goroutine.
func (s *suite) watch(ctx context.Context, by resolver.Resolver, name string, after uint64) <-chan result {
	ch := make(chan result, 1)
	go func() {
		r, err := by.Watch(ctx, name, after)
		ch <- result{r, err}
	}()
	return ch
}

// await waits for a call on another goroutine.
func (s *suite) await(ch <-chan result, what string) resolver.Record {
	s.t.Helper()
	select {
	case r := <-ch:
		s.NoError(r.err, what)
		return r.rec
	case <-s.ctx.Done():
		s.FailNow("timeout", what)
		return resolver.Record{}
	}
}

// pass waits for at least d.
func (s *suite) pass(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// quiet asserts that a watch does not return for a moment.
func (s *suite) quiet(ch <-chan result, what string) {
	s.t.Helper()
	s.pass(30 * time.Millisecond)
	select {
	case r := <-ch:
		s.FailNow(what, "got %+v, error %v", r.rec, r.err)
	default:
	}
}

// hosts returns the IDs of the hosts that both clients see.
func (s *suite) hosts(name string) []string {
	s.t.Helper()
	var seen [2][]string
	for i, by := range []resolver.Resolver{s.A, s.B} {
		hs, err := by.Hosts(s.ctx, name)
		s.NoError(err)
		seen[i] = []string{}
		for _, h := range hs {
			seen[i] = append(seen[i], h.ID)
		}
	}
	s.Equal(seen[0], seen[1], "both clients must see the same hosts")
	return seen[0]
}

func (s *suite) announce(h resolver.Host, ttl time.Duration, services ...string) {
	s.t.Helper()
	s.NoError(s.A.Announce(s.ctx, h, services, ttl))
}
