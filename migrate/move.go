package migrate

import (
	"context"
	"slices"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// moveState is a handoff that this host has begun.
type moveState struct {
	report    Report
	began     time.Duration
	prepared  time.Duration // when clients were told
	asked     time.Duration // when the target was told to take over
	taken     bool
	abandoned string // why nobody waits for the end any more
	last      uint64 // the log's end at the beginning
	preparing bool
	waiting   int // clients that were told to connect to the target, and neither have nor are gone
	timer     *time.Timer
	done      chan moveResult
}

type moveResult struct {
	report Report
	err    error
}

// Handoff moves the service from this host, which must be active, to another, and returns when it serves there: host is
// an ID, whatever the policy thinks of it, or "" for the one that the policy picks. A host without a copy gets one first while the service goes on here.
//
// The error is [ErrNoTarget] if there is no such host, or it is this one, and [ErrTransferFailed] if the handoff did not
// happen: the service then goes on here. When ctx ends the handoff is given up, unless the target was told already.
func (s *Service) Handoff(ctx context.Context, host string) (Report, error) {
	return s.handoff(ctx, host, "demand")
}

func (s *Service) handoff(ctx context.Context, host, cause string) (Report, error) {
	rep := Report{Service: s.name, From: s.node.self, Cause: cause, Began: time.Now()}
	s.mu.Lock()
	if s.moving {
		s.mu.Unlock()
		return rep, s.moveFailed("", "another handoff is under way")
	}
	s.moving = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.moving = false
		s.mu.Unlock()
	}()
	switch st := s.Status(); {
	case s.over.Load() && st.Role != Halted:
		return rep, s.errClosed()
	case st.Role != Active:
		return rep, s.notActive(st.Record)
	}
	target, err := s.target(ctx, host, cause)
	if err != nil {
		return rep, err
	}
	rep.To = target
	done := make(chan moveResult, 1)
	s.post(item{kind: itemFunc, fn: func() { s.beginMove(rep, done) }})
	res := s.awaitMove(ctx, done)
	if res.report.Service == "" {
		res.report = rep
	}
	if s.node.cfg.Hooks.Moved != nil {
		s.node.hooks.Call(func() { s.node.cfg.Hooks.Moved(res.report, res.err) })
	}
	if res.err != nil {
		s.log.Warn("handoff failed", "to", target.ID, "err", res.err)
	} else {
		s.log.Info("handed over", "report", res.report)
	}
	return res.report, res.err
}

func (s *Service) awaitMove(ctx context.Context, done chan moveResult) moveResult {
	given := ctx.Done()
	for {
		s.mu.Lock()
		changed, stopped := s.change(), s.stopped
		s.mu.Unlock()
		if stopped { // then nobody else may ever say how it ended
			select {
			case res := <-done:
				return res
			default:
				return moveResult{err: s.moveFailed("", "the service is closed there, or has halted")}
			}
		}
		select {
		case res := <-done:
			return res
		case <-s.node.ctx.Done():
			return moveResult{err: s.moveFailed("", errStopped.Error())}
		case <-given:
			given = nil
			s.call(func() { s.abandonMove("given up: " + context.Cause(ctx).Error()) })
		case <-changed:
		}
	}
}

// target finds the host to move to. At shutdown one that is in sync already is the best.
func (s *Service) target(ctx context.Context, host, cause string) (resolver.Host, error) {
	if host == s.node.self.ID {
		return resolver.Host{}, transport.Errorf(CodeNoTarget, "migrate: service %s is on host %s already", s.name, host)
	}
	find := s.candidates
	if host != "" {
		find = s.present
	}
	hosts, err := find(ctx)
	if err != nil {
		// Without the resolver no move can succeed.
		return resolver.Host{}, transport.Errorf(CodeTransferFailed, "migrate: service %s can't move from host %s: %v",
			s.name, s.node.self.ID, err)
	}
	if host != "" {
		for _, h := range hosts {
			if h.ID == host {
				return h, nil
			}
		}
		return resolver.Host{}, transport.Errorf(CodeNoTarget, "migrate: no host %s is present for service %s", host, s.name)
	}
	if cause == "shutdown" {
		heirs := s.heirs(ctx)
		for _, h := range s.aheadFirst(ctx, hosts) {
			if slices.ContainsFunc(heirs, h.Same) {
				return h, nil
			}
		}
		// A host that is not present may hold the state all the same: the resolver has started anew, or does not hear it.
		hosts = append(hosts[:len(hosts):len(hosts)], heirs...)
	}
	hosts = s.aheadFirst(ctx, hosts)
	if len(hosts) == 0 {
		return resolver.Host{}, transport.Errorf(CodeNoTarget, "migrate: no other host is present for service %s, or Policy.Rank wants none", s.name)
	}
	return hosts[0], nil
}

// aheadFirst puts the hosts last whose copies are far behind in applying: there the service would stand still until they have
// caught up.
func (s *Service) aheadFirst(ctx context.Context, hosts []resolver.Host) []resolver.Host {
	var ahead, behind []resolver.Host
	if s.ask(ctx, func() {
		for _, h := range hosts {
			if s.core.Behind(h) {
				behind = append(behind, h)
			} else {
				ahead = append(ahead, h)
			}
		}
	}) != nil {
		return hosts
	}
	return append(ahead, behind...)
}

// heirs returns the hosts that hold the state and do not leave the service themselves.
func (s *Service) heirs(ctx context.Context) []resolver.Host {
	var hosts []resolver.Host
	if s.ask(ctx, func() { hosts = s.core.Heirs() }) != nil {
		return nil
	}
	return hosts
}

func (s *Service) moveFailed(to, reason string) error {
	if to != "" {
		to = " to host " + to
	}
	return transport.Errorf(CodeTransferFailed, "migrate: service %s did not move from host %s%s: %s", s.name, s.node.self.ID, to, reason)
}

// beginMove runs on the loop, like all that follows.
func (s *Service) beginMove(rep Report, done chan moveResult) {
	now := s.node.now()
	if s.move != nil {
		done <- moveResult{rep, s.moveFailed(rep.To.ID, "another handoff is under way")}
		return
	}
	s.move = &moveState{report: rep, began: now, last: s.core.Last(), done: done}
	s.introduce(rep.To)
	s.replica.Step(core.Handoff{Target: rep.To})
}

func (s *Service) endMove(err error) {
	m := s.move
	s.move = nil
	if m.timer != nil {
		m.timer.Stop()
	}
	if err == nil {
		s.stats.HandoffsOut++
	} else {
		s.stats.HandoffsFailed++
	}
	m.done <- moveResult{m.report, err}
}

// moveEvent follows the core through a handoff.
func (s *Service) moveEvent(ev core.MoveEvent) {
	m := s.move
	if m == nil {
		return
	}
	now := s.node.now()
	switch ev.Stage {
	case core.MoveInSync:
		m.report.Join = now - m.began
		s.prepare()
	case core.MoveTaken:
		m.taken = true
		t := s.core.Term()
		m.report.Loss, m.report.Epoch = t.Loss, t.Epoch
		m.report.Transfer = now - m.asked
		m.report.Commands = s.core.Last() - m.last
		// The target tells when it serves; should it die first, this host or another goes on.
		s.awaitServing(m)
		if m.abandoned != "" {
			s.abandonMove(m.abandoned)
		}
	case core.MoveServed:
		m.report.Won, m.report.Pause, m.report.Applying = ev.Won, ev.Served, ev.Applying
		s.endMove(nil)
	case core.MoveFailed:
		s.endMove(s.moveFailed(m.report.To.ID, ev.Reason))
	}
}

// abandonMove gives up a handoff for whose end nobody waits any more. If the target has taken over, it goes on there all the same.
func (s *Service) abandonMove(reason string) {
	s.replica.Step(core.Abandon{Reason: reason})
	if m := s.move; m != nil && m.taken {
		s.endMove(s.moveFailed(m.report.To.ID, "it took over, and has yet to apply what was committed before; "+reason))
	} else if m != nil {
		m.abandoned = reason
	}
}

// awaitServing ends a handoff whose target has won the record, and is not heard of again. One that is heard has yet to apply what
// was committed, which takes as long as the service does.
func (s *Service) awaitServing(m *moveState) {
	m.timer = time.AfterFunc(2*s.node.cfg.FailureTimeout, func() {
		s.call(func() {
			switch {
			case s.move != m:
			case s.core.Hears(m.report.To):
				s.awaitServing(m)
			default:
				s.endMove(s.moveFailed(m.report.To.ID, "it took over, and has not said since that it serves"))
			}
		})
	})
}

// prepare tells clients to connect to the target ahead, at random moments of a spread that grows with their number, and
// goes on when all have, or when the spread has passed and no further ones come.
func (s *Service) prepare() {
	m := s.move
	m.prepared = s.node.now()
	m.preparing = true
	n, spread := s.clients.Prepare(m.report.To, s.policy.Spread)
	m.report.Clients, m.waiting = n, n
	if m.report.Clients == 0 {
		s.transfer()
		return
	}
	m.timer = time.AfterFunc(spread+s.node.cfg.FailureTimeout, func() { s.post(item{kind: itemFunc, fn: func() { s.prepared(m, 0) }}) })
}

// maxPrepare bounds the time for which a move waits for clients that are still connecting ahead.
const maxPrepare = 20 * time.Second

// prepared goes on with the move when no further client has connected for a while.
func (s *Service) prepared(m *moveState, ready int) {
	if s.move != m || !m.preparing {
		return
	}
	if now := m.report.Ready; now > ready && s.node.now()-m.prepared < maxPrepare {
		m.timer = time.AfterFunc(s.node.cfg.FailureTimeout, func() { s.post(item{kind: itemFunc, fn: func() { s.prepared(m, now) }}) })
		return
	}
	s.transfer()
}

// clientReady counts the clients that have connected to the target, and those that have left instead.
func (s *Service) clientReady(gone bool) {
	m := s.move
	if m == nil || !m.preparing {
		return
	}
	if !gone {
		m.report.Ready++
	}
	if m.waiting--; m.waiting <= 0 {
		s.transfer()
	}
}

// transfer tells the target to take over.
func (s *Service) transfer() {
	m := s.move
	m.preparing = false
	if m.timer != nil {
		m.timer.Stop()
	}
	m.asked = s.node.now()
	m.report.Prepare = m.asked - m.prepared
	s.replica.Step(core.Transfer{})
}

// startEvery sets the timer of a policy that moves from time to time.
func (s *Service) startEvery() {
	if s.policy.Every == 0 {
		return
	}
	if s.every == nil {
		s.every = time.AfterFunc(s.policy.Every, s.turn)
	} else {
		s.every.Reset(s.policy.Every)
	}
}

// turn is called when it is time to move.
func (s *Service) turn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	s.node.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.node.ctx, max(s.policy.Every, time.Minute))
		defer cancel()
		_, err := s.handoff(ctx, "", "timer")
		if err == nil {
			return
		}
		s.log.Debug("no move this time", "err", err)
		s.post(item{kind: itemFunc, fn: func() {
			if s.core.Role().Active() {
				s.startEvery()
			}
		}})
	})
}
