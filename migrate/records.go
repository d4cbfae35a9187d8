package migrate

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// resolverTimeout limits a call to the resolver. After it, the outcome counts as unknown.
const resolverTimeout = time.Second

// registrar asks the resolver about the service's record and hosts. The answers for the core arrive as items for the loop.
type registrar struct {
	*site
	refusal atomic.Pointer[error] // the resolver's error for the last refused change of the record
	unsure  atomic.Bool           // a caller stopped waiting for the outcome of its change of the record
	givenUp atomic.Bool           // see giveUp
	idle    atomic.Bool           // no change of the record is without an outcome; published after Status
}

// compareAndSwap proposes a change of the record.
func (r *registrar) compareAndSwap(cas core.CAS) {
	r.node.wg.Go(func() {
		ctx, cancel := context.WithTimeout(r.node.ctx, resolverTimeout)
		defer cancel()
		rec, err := r.node.cfg.Resolver.CompareAndSwap(ctx, cas.Expect, cas.Next)
		done := core.CASDone{Nonce: cas.Next.Nonce, Record: rec}
		switch {
		case err == nil:
			done.Outcome = core.CASOK
		case errors.Is(err, resolver.ErrConflict), errors.Is(err, resolver.ErrAmnesia):
			done.Outcome = core.CASConflict
		case refusesHost(err):
			done.Outcome, done.Err = core.CASRefused, err
			r.refusal.Store(&err)
			r.log.Warn("change of the record refused", "err", err)
		default:
			done.Outcome = core.CASUnknown
			if r.node.ctx.Err() == nil {
				r.log.Warn("no answer to a change of the record", "err", err)
			}
		}
		r.post(item{kind: itemEvent, ev: done})
	})
}

// get reads the record.
func (r *registrar) get() {
	r.node.wg.Go(func() {
		ctx, cancel := context.WithTimeout(r.node.ctx, resolverTimeout)
		defer cancel()
		rec, err := r.node.cfg.Resolver.Get(ctx, r.name)
		r.post(item{kind: itemEvent, ev: core.Got{Record: rec, Err: err != nil && !errors.Is(err, resolver.ErrNotFound)}})
	})
}

// seek searches for hosts that could become standbys.
func (r *registrar) seek() {
	r.node.wg.Go(func() {
		hosts, err := r.candidates(r.node.ctx)
		if err != nil && r.node.ctx.Err() == nil {
			r.log.Debug("no hosts from the resolver", "err", err)
		}
		r.post(item{kind: itemEvent, ev: core.Candidates{Hosts: hosts}})
	})
}

// candidates returns the other hosts that are present for the service, in the order of the policy.
func (r *registrar) candidates(ctx context.Context) ([]resolver.Host, error) {
	hosts, err := r.present(ctx)
	if err != nil {
		return nil, err
	}
	shuffle(hosts)
	return r.rank(hosts)
}

// present returns the other hosts that are present for the service.
func (r *registrar) present(ctx context.Context) ([]resolver.Host, error) {
	return r.presentWithin(ctx, resolverTimeout*4/5)
}

// presentWithin is present with a time limit. A resolver that has just started may take a second to learn who is present.
func (r *registrar) presentWithin(ctx context.Context, limit time.Duration) ([]resolver.Host, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	all, err := r.node.cfg.Resolver.Hosts(ctx, r.name)
	if err != nil {
		return nil, err
	}
	hosts := make([]resolver.Host, 0, len(all))
	for _, h := range all {
		if h.ID != r.node.self.ID {
			hosts = append(hosts, h)
		}
	}
	return hosts, nil
}

// rank sorts hosts by the policy.
func (r *registrar) rank(hosts []resolver.Host) (ranked []resolver.Host, err error) {
	if r.policy.Rank == nil {
		return hosts, nil
	}
	defer func() {
		if v := recover(); v != nil {
			r.panicked("Policy.Rank", v, debug.Stack())
			ranked, err = nil, fmt.Errorf("Policy.Rank panicked: %v", v)
		}
	}()
	return r.policy.Rank(hosts), nil
}

// anyAlive returns nil if one of the hosts that hold the state by the record answers, and holds a copy. Because the record
// may be about to change, anyAlive reads it again before it gives up.
func (r *registrar) anyAlive(ctx context.Context, rec resolver.Record) error {
	n := r.node
	for try := 0; ; try++ {
		asked, last := r.anyAnswers(ctx, rec.ISR)
		if asked > 0 && last == nil {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		now, err := n.cfg.Resolver.Get(ctx, r.name)
		if err != nil {
			return err
		}
		switch {
		case now.Version != rec.Version && try <= 8:
		case asked == 0:
			return transport.Errorf(CodeNoHost, "migrate: service %s was last held by host %s itself, which no longer has its state: Reset "+
				"starts it without that state", r.name, n.self.ID)
		case last == errNoCopy:
			return transport.Errorf(CodeNoHost, "migrate: service %s was last held by host %s at %s, by a record that may be old, but no "+
				"host of that record holds its state: Reset starts the service without that state", r.name, rec.Active.ID, rec.Active.Addr)
		default:
			return transport.Errorf(CodeNoHost,
				"migrate: service %s was last held by host %s at %s, which does not answer (%v): it continues when that host restarts "+
					"with its directory; Reset starts the service without that state", r.name, rec.Active.ID, rec.Active.Addr, last)
		}
		rec = now
	}
}

// anyAnswers returns nil when one of the hosts answers and holds a copy, or an error, and how many hosts it has asked: all
// except this one, whose own copy the caller has checked. Because a host may be slow, each has twice FailureTimeout to
// answer, or longer if it is far.
func (r *registrar) anyAnswers(ctx context.Context, hosts []resolver.Host) (asked int, err error) {
	n := r.node
	answers := make(chan error, len(hosts))
	for _, h := range hosts {
		if h.Same(n.self) {
			continue
		}
		asked++
		if !n.spawn(func() {
			answers <- r.alive(ctx, h)
		}) {
			answers <- n.errClosed()
		}
	}
	for range asked {
		switch e := <-answers; {
		case e == nil:
			return asked, nil
		case err == nil || err == errNoCopy:
			err = e // rather of one that may hold the state
		}
	}
	return asked, err
}
