package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// begin loads the node's directory, then processes the items queued meanwhile.
func (s *Service) begin() error {
	err := s.disk.open(&s.maker, s.replica)
	if s.node.ctx.Err() != nil {
		err = errStopped
	}
	if err != nil {
		s.loop.Discard()
		s.remove(false)
		return err
	}
	s.loop.Put(item{kind: itemFunc, fn: func() {}})
	s.loop.Begin()
	return nil
}

// create creates the record if there is none. It returns when this host serves or another host does. If the resolver has no
// record, it may have lost it, so that create first asks the hosts that are present: it stands by if one of them is active,
// and fails if one holds the state or does not answer. It asks them as well if none of the record's hosts answers, since the
// record may be an old one.
func (s *Service) create(ctx context.Context) error { return s.retried(ctx, s.tryCreate) }

func (s *Service) tryCreate(ctx context.Context) error {
	for began := time.Now(); ; {
		rec, err := s.node.cfg.Resolver.Get(ctx, s.name)
		switch {
		case err == nil && rec.Active.ID != "":
			return s.follow(ctx, rec)
		case err != nil && !errors.Is(err, resolver.ErrNotFound):
			return err
		}
		w, silent, err := s.registrar.witness(ctx, rec)
		switch {
		case err != nil:
			return err
		case w != nil && w.Active:
			s.log.Warn("the resolver has no record, but another host is active", "active", w.From.ID)
			s.post(item{kind: itemStart}) // the active host restores the record, and may invite this one
			return nil
		case s.mayRestore(ctx):
			s.log.Warn("the resolver has no record, but this host's directory holds the state")
			s.post(item{kind: itemStart}) // the members of the in-sync set restore the record together
			return nil
		case w != nil:
			again, err := s.node.cfg.Resolver.Get(ctx, s.name)
			if err == nil && again.Version != rec.Version {
				continue // another host has created or restored it meanwhile
			}
			return s.held(w)
		case len(silent) > 0:
			if time.Since(began) >= 2*s.node.cfg.PresenceTTL {
				return s.unanswered(silent[0])
			}
			select {
			case <-time.After(s.node.cfg.FailureTimeout): // it answers soon, or is no longer present, if it is down
			case <-ctx.Done():
				return s.unanswered(silent[0])
			}
			continue
		case s.disk.forgotten() != nil:
			return s.disk.forgotten()
		}
		return s.become(ctx, rec, core.Create{At: time.Now().UnixMilli()})
	}
}

// follow stands by for a service with a record. If none of the record's hosts answers, another one may know better.
func (s *Service) follow(ctx context.Context, rec resolver.Record) error {
	if !s.disk.holds(rec) {
		if err := s.registrar.anyAlive(ctx, rec); err != nil {
			w, _, _ := s.registrar.witness(ctx, rec)
			switch outdated := w != nil && (w.Term.Compare(core.TermOf(rec)) > 0 || w.Record.Version > rec.Version); {
			case outdated && w.Active:
				s.post(item{kind: itemStart})
				return nil
			case outdated && w.Copy:
				return s.held(w)
			}
			return err
		}
	}
	s.post(item{kind: itemEvent, ev: core.Told{Record: rec}})
	return nil
}

// mayRestore reports whether this node's directory holds a copy that counted by the last record that this host knew. Then
// this host must answer the inquiries of the other members, and its own may find all of them.
func (s *Service) mayRestore(ctx context.Context) (may bool) {
	return s.disk.copied && s.ask(ctx, func() {
		rec := s.core.Record()
		may = s.core.HasState() && rec.Active.ID != "" && slices.ContainsFunc(rec.ISR, s.node.self.Same)
	}) == nil && may
}

// errOutrun is the error of become if the record has changed since it was read.
var errOutrun = errors.New("the record has changed meanwhile")

// pause waits before another attempt.
func (s *Service) pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.node.cfg.Heartbeat):
		return nil
	}
}

// become lets the core propose itself as active host, after rec. It returns when this host is active or another one has
// become it, and errOutrun if the core gives the proposal up, or makes none, because it knows a later record.
func (s *Service) become(ctx context.Context, rec resolver.Record, ev core.Event) error {
	st := s.Status()
	before := st.Record
	_, resets := ev.(core.Reset)
	resets = resets && (st.Role == Active || st.Role == Recovering)
	s.registrar.refusal.Store(nil)
	empty, err := s.maker.instance() // here, since the service's own code may take long
	if err != nil {
		return err
	}
	defer s.call(func() { s.maker.ahead = nil })
	err = s.ask(ctx, func() {
		s.maker.ahead = empty
		s.replica.Step(core.Told{Record: rec})
		s.replica.Step(ev)
	})
	var refused *error
	outrun := false
	if err == nil {
		err = s.wait(ctx, func(st Status) bool {
			r := &st.Record
			other := r.Active.ID != "" && !r.Active.Same(s.node.self) && r.Version > rec.Version &&
				(r.Version != before.Version || r.Generation != before.Generation)
			begun := !resets || r.Loss != before.Loss
			refused = s.registrar.refusal.Load()
			done := st.Role == Active && begun || other || refused != nil
			outrun = !done && s.registrar.idle.Load() && !(st.Role == Recovering && begun)
			return done || outrun
		})
	}
	s.registrar.unsure.Store(err != nil)
	switch {
	case err != nil:
		s.post(item{kind: itemEvent, ev: core.CancelReset{}})
	case refused != nil && (resets || s.Status().Role != Active):
		err = *refused
	case outrun:
		err = errOutrun
	}
	return err
}

// giveUp ends a service whose create has failed. If the resolver has not answered a change of the record, this host may be
// active nevertheless, and then no other host could be. So giveUp keeps the name until the outcome is known, and then leaves
// it.
func (s *Service) giveUp() {
	n := s.node
	s.registrar.givenUp.Store(true)
	if !s.registrar.unsure.Load() || !n.spawn(func() {
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

// retried calls f until it has not been outrun.
func (s *Service) retried(ctx context.Context, f func(context.Context) error) error {
	for {
		err := f(ctx)
		if err == errOutrun {
			if err = s.pause(ctx); err == nil {
				continue
			}
		}
		return err
	}
}

// reset takes over a name whose hosts are gone.
func (s *Service) reset(ctx context.Context) error { return s.retried(ctx, s.tryReset) }

func (s *Service) tryReset(ctx context.Context) error {
	rec, err := s.node.cfg.Resolver.Get(ctx, s.name)
	lost := errors.Is(err, resolver.ErrNotFound)
	own := lost && s.disk.forgotten() != nil
	switch {
	case err != nil && !lost:
		return err
	case rec.Active.ID == "":
	case s.disk.holds(rec):
		return transport.Errorf(CodeExists, "migrate: host %s itself holds the state of service %s, which therefore cannot be reset",
			s.node.self.ID, s.name)
	case s.registrar.anyAlive(ctx, rec) == nil:
		return transport.Errorf(CodeExists, "migrate: service %s is alive on host %s and therefore cannot be reset",
			s.name, rec.Active.ID)
	}
	w, _, err := s.registrar.witness(ctx, rec)
	switch {
	case err != nil:
		return err
	case w != nil && w.Active:
		return s.alive(w)
	case w != nil && w.Copy && (!own || s.surpassed(ctx, w)):
		return s.held(w)
	case rec.Active.ID == "" && !own:
		return s.become(ctx, rec, core.Create{At: time.Now().UnixMilli()})
	}
	return s.startOver(ctx, rec)
}

// startOver resets rec.
func (s *Service) startOver(ctx context.Context, rec resolver.Record) error {
	return s.become(ctx, rec, core.Reset{Record: rec, At: time.Now().UnixMilli()})
}

// canResetHere reports whether this host holds a copy with which resetHere may continue. An active host may reset itself if
// the resolver has lost the record and a member of the in-sync set is silent: otherwise nothing is committed until that
// member is back.
func (s *Service) canResetHere(ctx context.Context) bool {
	if s.board.ended() || s.board.applierNow() == nil {
		return false
	}
	r := s.Status().Role
	if r != Active && r != Recovering {
		return true
	}
	alone := false
	return s.ask(ctx, func() { alone = s.core.Alone() }) == nil && alone
}

// resetHere makes this host active with its copy, if no other host is active.
func (s *Service) resetHere(ctx context.Context) error { return s.retried(ctx, s.tryResetHere) }

func (s *Service) tryResetHere(ctx context.Context) error {
	if !s.canResetHere(ctx) { // not any more
		if ctx.Err() != nil || s.board.ended() {
			return s.wait(ctx, func(Status) bool { return false })
		}
		st := s.Status()
		if st.Role == Active || st.Role == Recovering {
			return s.alive(&core.Answer{From: s.node.self})
		}
		return transport.Errorf(CodeNoHost, "migrate: service %s: host %s no longer holds a copy", s.name, s.node.self.ID)
	}
	rec, err := s.node.cfg.Resolver.Get(ctx, s.name)
	if err != nil && !errors.Is(err, resolver.ErrNotFound) {
		return err
	}
	w, _, err := s.registrar.witness(ctx, rec, s.Status().Record.ISR...)
	if err != nil {
		return err
	}
	switch {
	case w == nil:
	case w.Active:
		return s.alive(w)
	case w.Copy && s.Status().Role != Halted && s.surpassed(ctx, w):
		return s.held(w)
	}
	return s.startOver(ctx, rec)
}

// surpassed reports whether another host's copy holds later entries than the copy here.
func (s *Service) surpassed(ctx context.Context, w *core.Answer) bool {
	var own core.Answer
	return s.ask(ctx, func() { own = s.core.OwnAnswer() }) == nil && w.CompareCopies(&own) > 0
}

// Leave removes the service from this node: an active host hands over, a standby leaves the in-sync set, and the node
// releases its copy. If there is no other host, the service ends with its state, and the error is [ErrNoTarget]. Leave waits
// for a host of the in-sync set that is not leaving itself, even if that host is silent. If ctx ends first, the node keeps
// its role and Leave returns an error.
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
			s.call(func() {
				s.leaving = true
				s.replica.Step(core.Leave{})
			})
			late := time.AfterFunc(s.node.cfg.FailureTimeout, s.waitsForSuccessor)
			err := s.wait(ctx, func(st Status) bool { return st.Role == Latent || st.Role == Active || st.Role == Halted })
			late.Stop()
			if err != nil {
				s.call(func() {
					s.leaving = false
					s.replica.Step(core.CancelLeave{})
				})
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

// waitsForSuccessor reports that a standby that is to leave cannot: without it, too few hosts would be in sync.
func (s *Service) waitsForSuccessor() {
	if err := s.missingSuccessor(); err != nil {
		s.log.Warn("waits for another host before it leaves", "err", err)
		s.report(err)
	}
}

// missingSuccessor returns an error if no other host may take the place of this standby in the in-sync set.
func (s *Service) missingSuccessor() error {
	st := s.Status()
	if st.Role != Standby || len(st.Record.ISR) > s.policy.MinInSync {
		return nil
	}
	return transport.Errorf(CodeNoTarget, "migrate: host %s waits to leave service %s until another host is in sync: "+
		"Policy.MinInSync is %d, and %d are", s.node.self.ID, s.name, s.policy.MinInSync, len(st.Record.ISR))
}

func (s *Service) notLeft(err error) error {
	if why := s.missingSuccessor(); why != nil {
		err = fmt.Errorf("%w: %w", err, why)
	}
	if a := s.board.applierNow(); a != nil {
		if _, d := a.Busy(); d >= busyLong {
			err = fmt.Errorf("%w, while the service has not returned from %s", err, busyWith(a))
		}
	}
	return transport.Errorf(CodeTransferFailed, "migrate: host %s has not left service %s: %v", s.node.self.ID, s.name, err)
}

// halt ends the service on this host alone, because of an error.
func (s *Service) halt(err error) {
	err = fmt.Errorf("%w: %w", transport.Errorf(CodeHalted, "migrate: service %s halted on host %s", s.name, s.node.self.ID), err)
	s.board.halt(err)
	s.alarm.stop()
	s.fetching.stop()
	s.log.Error("service halted", "err", err)
	s.replica.Stop()
	s.disk.close(false)
	s.report(err)
	s.clients.Disconnect(s.notActive(resolver.Record{}))
	s.node.announceSoon()
}

// stop ends the loop.
func (s *Service) stop() {
	s.board.end()
	s.alarm.stop()
	s.fetching.stop()
	s.loop.Stop()
	if a := s.board.applierNow(); a != nil {
		a.Drop()
	}
}

// remove removes the service from the node. left reports that its copy is no longer needed.
func (s *Service) remove(left bool) {
	s.stop()
	n := s.node
	s.disk.close(left && n.service(s.name) == s)
	n.mu.Lock()
	if n.services[s.name] == s {
		delete(n.services, s.name)
	}
	n.mu.Unlock()
	n.announceSoon()
}
