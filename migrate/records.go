package migrate

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// resolverTimeout limits a call to the resolver. After it, the outcome counts as unknown.
const resolverTimeout = time.Second

// compareAndSwap proposes a change of the record.
func (s *Service) compareAndSwap(cas core.CAS) {
	s.node.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.node.ctx, resolverTimeout)
		defer cancel()
		rec, err := s.node.cfg.Resolver.CompareAndSwap(ctx, cas.Expect, cas.Next)
		done := core.CASDone{Nonce: cas.Next.Nonce, Record: rec}
		switch {
		case err == nil:
			done.Outcome = core.CASOK
		case errors.Is(err, resolver.ErrConflict), errors.Is(err, resolver.ErrAmnesia):
			done.Outcome = core.CASConflict
		case errors.Is(err, resolver.ErrRefused), errors.Is(err, resolver.ErrInvalid):
			done.Outcome = core.CASRefused
			s.refusal.Store(&err)
			s.log.Warn("change of the record refused", "err", err)
		default:
			done.Outcome = core.CASUnknown
			if s.node.ctx.Err() == nil {
				s.log.Warn("no answer to a change of the record", "err", err)
			}
		}
		s.post(item{kind: itemEvent, ev: done})
	})
}

// get reads the record.
func (s *Service) get() {
	s.node.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.node.ctx, resolverTimeout)
		defer cancel()
		rec, err := s.node.cfg.Resolver.Get(ctx, s.name)
		s.post(item{kind: itemEvent, ev: core.Got{Record: rec, Err: err != nil && !errors.Is(err, resolver.ErrNotFound)}})
	})
}

// seek searches for hosts that could become standbys.
func (s *Service) seek() {
	s.node.wg.Go(func() {
		hosts, err := s.candidates(s.node.ctx)
		if err != nil && s.node.ctx.Err() == nil {
			s.log.Debug("no hosts from the resolver", "err", err)
		}
		s.post(item{kind: itemEvent, ev: core.Candidates{Hosts: hosts}})
	})
}

// candidates returns the other hosts that are present for the service, in the order of the policy.
func (s *Service) candidates(ctx context.Context) ([]resolver.Host, error) {
	hosts, err := s.present(ctx)
	if err != nil {
		return nil, err
	}
	shuffle(hosts)
	return s.rank(hosts)
}

// present returns the other hosts that are present for the service.
func (s *Service) present(ctx context.Context) ([]resolver.Host, error) {
	ctx, cancel := context.WithTimeout(ctx, resolverTimeout*4/5)
	defer cancel()
	all, err := s.node.cfg.Resolver.Hosts(ctx, s.name)
	if err != nil {
		return nil, err
	}
	hosts := make([]resolver.Host, 0, len(all))
	for _, h := range all {
		if h.ID != s.node.self.ID {
			hosts = append(hosts, h)
		}
	}
	return hosts, nil
}

// rank sorts hosts by the policy.
func (s *Service) rank(hosts []resolver.Host) (ranked []resolver.Host, err error) {
	if s.policy.Rank == nil {
		return hosts, nil
	}
	defer func() {
		if v := recover(); v != nil {
			s.panicked("Policy.Rank", v, debug.Stack())
			ranked, err = nil, fmt.Errorf("Policy.Rank panicked: %v", v)
		}
	}()
	return s.policy.Rank(hosts), nil
}

// create creates the record if there is none. It returns when this host serves or another host does.
func (s *Service) create(ctx context.Context) error {
	rec, err := s.node.cfg.Resolver.Get(ctx, s.name)
	switch {
	case err == nil && rec.Active.ID != "":
		if !s.holds(rec) {
			if err := s.anyAlive(ctx, rec); err != nil {
				return err
			}
		}
		s.post(item{kind: itemEvent, ev: core.Got{Record: rec}})
		return nil
	case err != nil && !errors.Is(err, resolver.ErrNotFound):
		return err
	case err != nil && s.forgotten() != nil:
		return s.forgotten()
	}
	return s.become(ctx, rec, core.Create{})
}

// become lets the core propose itself as active host, after rec. It returns when this host is active or another one has become it.
func (s *Service) become(ctx context.Context, rec resolver.Record, ev core.Event) error {
	before := s.Status().Record
	s.refusal.Store(nil)
	empty, err := s.instance() // here, since the service's own code may take long
	if err != nil {
		return err
	}
	defer s.call(func() { s.empty = nil })
	s.post(item{kind: itemFunc, fn: func() {
		s.empty = empty
		s.replica.Step(core.Got{Record: rec})
		s.replica.Step(ev)
	}})
	var refused *error
	err = s.wait(ctx, func(st Status) bool {
		r := &st.Record
		other := r.Active.ID != "" && !r.Active.Same(s.node.self) && r.Version > rec.Version &&
			(r.Version != before.Version || r.Generation != before.Generation)
		refused = s.refusal.Load()
		return st.Role == Active || other || refused != nil
	})
	s.mu.Lock()
	s.unsure = err != nil
	s.mu.Unlock()
	if err != nil {
		s.post(item{kind: itemEvent, ev: core.CancelReset{}})
	} else if refused != nil && s.Status().Role != Active {
		err = *refused
	}
	return err
}

// giveUp ends a service whose create has failed. If the resolver has not answered a change of the record, this host may be active
// nevertheless, and then no other host could be. So giveUp keeps the name until the outcome is known, and then leaves it.
func (s *Service) giveUp() {
	n := s.node
	s.mu.Lock()
	s.givenUp = true
	unsure := s.unsure
	s.mu.Unlock()
	if !unsure || !n.spawn(func() {
		for pending := true; s.ask(n.ctx, func() { pending = s.core.Pending() }) == nil && pending; {
			select {
			case <-n.ctx.Done():
				return
			case <-time.After(n.cfg.Heartbeat):
			}
		}
		if r := s.Status().Role; r != Active && r != Recovering {
			s.remove(false)
		} else if err := s.leave(n.ctx, false); err != nil {
			s.log.Info("given up", "err", err)
		}
	}) {
		s.remove(false)
	}
}

func (s *Service) isGivenUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.givenUp
}

// reset takes over a name whose hosts are gone.
func (s *Service) reset(ctx context.Context) error {
	rec, err := s.node.cfg.Resolver.Get(ctx, s.name)
	switch {
	case errors.Is(err, resolver.ErrNotFound) && s.forgotten() != nil:
	case errors.Is(err, resolver.ErrNotFound), err == nil && rec.Active.ID == "":
		return s.create(ctx)
	case err != nil:
		return err
	case s.holds(rec):
		return transport.Errorf(CodeExists, "migrate: host %s itself holds the state of service %s, which therefore cannot be reset",
			s.node.self.ID, s.name)
	case s.anyAlive(ctx, rec) == nil:
		return transport.Errorf(CodeExists, "migrate: service %s is alive on host %s and therefore cannot be reset",
			s.name, rec.Active.ID)
	}
	return s.become(ctx, rec, resetOf(rec))
}

// resetOf builds a reset of rec, stamped with the current time.
func resetOf(rec resolver.Record) core.Reset {
	return core.Reset{Record: rec, At: time.Now().UnixMilli()}
}

// resetHere makes this host active with its copy, without the uncommitted entries.
func (s *Service) resetHere(ctx context.Context) error {
	rec, err := s.node.cfg.Resolver.Get(ctx, s.name)
	if err != nil && !errors.Is(err, resolver.ErrNotFound) {
		return err
	}
	return s.become(ctx, rec, resetOf(rec))
}

// anyAlive returns nil if one of the hosts that hold the state answers. Because a host may be slow, each has twice
// FailureTimeout to answer. Because the record may be about to change, anyAlive reads it again before it gives up.
func (s *Service) anyAlive(ctx context.Context, rec resolver.Record) error {
	n := s.node
	for try := 0; ; try++ {
		answers := make(chan error, len(rec.ISR))
		asked := 0
		dctx, cancel := context.WithTimeout(ctx, 2*n.cfg.FailureTimeout)
		for _, h := range rec.ISR {
			if h.Same(n.self) {
				continue // the caller has checked this host's own copy
			}
			asked++
			if !n.spawn(func() {
				conn, err := n.links.Connect(dctx, h, nil)
				if err == nil {
					conn.Close()
				}
				answers <- err
			}) {
				answers <- n.errClosed()
			}
		}
		alive := false
		var last error
		for range asked {
			if err := <-answers; err == nil {
				alive = true
				break
			} else {
				last = err
			}
		}
		cancel()
		if alive {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		now, err := n.cfg.Resolver.Get(ctx, s.name)
		if err != nil {
			return err
		}
		switch {
		case now.Version != rec.Version && try <= 8:
		case asked == 0:
			return transport.Errorf(CodeNoHost, "migrate: service %s was last held by host %s itself, which no longer has its state: Reset "+
				"starts it without that state", s.name, n.self.ID)
		default:
			return transport.Errorf(CodeNoHost,
				"migrate: service %s was last held by host %s at %s, which does not answer (%v): it continues when that host restarts "+
					"with its directory; Reset starts the service without that state", s.name, rec.Active.ID, rec.Active.Addr, last)
		}
		rec = now
	}
}

// Leave removes the service from this node: an active host hands over, a standby leaves the in-sync set, and the node releases its
// copy. If there is no other host, the service ends with its state, and the error is [ErrNoTarget]. Leave waits for a host of the
// in-sync set that is not leaving itself, even if that host is silent. If ctx ends first, the node keeps its role and Leave
// returns an error.
func (s *Service) Leave(ctx context.Context) error { return s.leave(ctx, false) }

// leave implements Leave. With keep, a service that no other host can take stays unchanged in the node's directory.
func (s *Service) leave(ctx context.Context, keep bool) error {
	var ended error
	for {
		if s.node.ctx.Err() != nil {
			return fmt.Errorf("migrate: host %s has not left service %s: %w", s.node.self.ID, s.name, s.node.errClosed())
		}
		switch st := s.Status(); st.Role {
		case Active, Recovering:
			if err := s.wait(ctx, func(st Status) bool { return st.Role != Recovering }); err != nil {
				return s.notLeft(err)
			}
			_, err := s.handoff(ctx, "", CauseShutdown)
			switch {
			case err == nil:
			case errors.Is(err, ErrNoTarget):
				if keep {
					s.remove(false)
					return transport.Errorf(CodeNoTarget, "migrate: service %s stays in the directory of host %s: %v", s.name, s.node.self.ID, err)
				}
				ended = err
				s.post(item{kind: itemEvent, ev: core.Retire{}})
				rctx, cancel := context.WithTimeout(ctx, 2*resolverTimeout)
				err := s.wait(rctx, func(st Status) bool { return st.Role != Active || st.Record.Active.ID == "" })
				cancel()
				if ctx.Err() != nil {
					return s.notLeft(errors.Join(ended, err))
				}
			case ctx.Err() != nil:
				return s.notLeft(err)
			default:
				s.log.Warn("handoff failed, trying again", "err", err)
				select {
				case <-ctx.Done():
				case <-time.After(s.node.cfg.Heartbeat):
				}
			}
			continue
		case Latent, Halted:
			s.remove(st.Role == Latent)
			return ended
		default:
			s.post(item{kind: itemFunc, fn: func() {
				s.leaving = true
				s.replica.Step(core.Leave{})
			}})
			if err := s.wait(ctx, func(st Status) bool { return st.Role == Latent || st.Role == Active || st.Role == Halted }); err != nil {
				s.post(item{kind: itemFunc, fn: func() {
					s.leaving = false
					s.replica.Step(core.CancelLeave{})
				}})
				return s.notLeft(err)
			}
			if s.Status().Role == Active {
				continue
			}
		}
		s.remove(s.Status().Role != Halted)
		return ended
	}
}

func (s *Service) notLeft(err error) error {
	if a := s.board.applierNow(); a != nil {
		if _, d := a.Busy(); d >= busyLong {
			err = fmt.Errorf("%w, while the service has not returned from %s", err, busyWith(a))
		}
	}
	return transport.Errorf(CodeTransferFailed, "migrate: host %s has not left service %s: %v", s.node.self.ID, s.name, err)
}
