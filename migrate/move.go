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
	prepared  time.Duration // when clients were notified
	asked     time.Duration // when the target was asked to take over
	taken     bool
	abandoned string // why the caller no longer waits for the end
	last      uint64 // the last index of the log at the start
	preparing bool
	waiting   int // connected clients that have not connected to the target yet
	timer     *time.Timer
	done      chan moveResult
}

type moveResult struct {
	report Report
	err    error
}

// Handoff moves the service from this host, which must be active, to another host, and returns when that host serves. host is
// an ID, regardless of the policy, or "" for a host that the policy selects. A host without a copy fetches one first,
// while this host continues to serve.
//
// The error is [ErrNoTarget] if host is not present or is this one, and [ErrTransferFailed] if the handoff failed; in general, this
// host then continues to serve, and the error says if the target has taken over but does not serve yet. If ctx ends, the handoff is
// given up, unless the target has already been asked to take over.
func (s *Service) Handoff(ctx context.Context, host string) (Report, error) {
	return s.handoff(ctx, host, CauseDemand)
}

func (s *Service) handoff(ctx context.Context, host string, cause Cause) (Report, error) {
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
	case s.board.ended() && st.Role != Halted:
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
	s.call(func() { s.beginMove(rep, done) })
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
		changed, ended := s.board.watch()
		if ended { // no result may arrive any more
			select {
			case res := <-done:
				return res
			default:
				return moveResult{err: s.moveFailed("", "the service is closed on this host, or has halted")}
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

// target selects the host to move to. At shutdown, it prefers one that is already in sync.
func (s *Service) target(ctx context.Context, host string, cause Cause) (resolver.Host, error) {
	if host == s.node.self.ID {
		return resolver.Host{}, transport.Errorf(CodeNoTarget, "migrate: service %s is on host %s already", s.name, host)
	}
	find := s.registrar.candidates
	if host != "" {
		find = s.registrar.present
	}
	hosts, err := find(ctx)
	if err != nil {
		// Without the resolver no move can succeed.
		return resolver.Host{}, transport.Errorf(CodeTransferFailed, "migrate: service %s cannot move from host %s: %v",
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
	if cause == CauseShutdown {
		heirs := s.heirs(ctx)
		for _, h := range s.aheadFirst(ctx, hosts) {
			if slices.ContainsFunc(heirs, h.Same) {
				return h, nil
			}
		}
		// A host that is not present may still hold the state: the resolver may have restarted, or not hear from it.
		hosts = append(hosts[:len(hosts):len(hosts)], heirs...)
	}
	hosts = s.aheadFirst(ctx, hosts)
	if len(hosts) == 0 {
		return resolver.Host{}, transport.Errorf(CodeNoTarget,
			"migrate: no other host is present for service %s, or Policy.Rank excludes all", s.name)
	}
	return hosts[0], nil
}

// aheadFirst moves the hosts whose copies are far behind in applying to the end: on these, the service would be unavailable until
// they have caught up.
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

// heirs returns the hosts that hold the state and are not leaving the service.
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

// beginMove starts a handoff. It runs on the loop, like all functions below.
func (s *Service) beginMove(rep Report, done chan moveResult) {
	now := s.node.now()
	if s.move != nil {
		done <- moveResult{rep, s.moveFailed(rep.To.ID, "another handoff is under way")}
		return
	}
	s.move = &moveState{report: rep, began: now, last: s.core.Last(), done: done}
	s.guests.introduce(rep.To)
	s.replica.Step(core.Handoff{Target: rep.To})
}

func (s *Service) endMove(err error) {
	m := s.move
	s.move = nil
	if m.timer != nil {
		m.timer.Stop()
	}
	if err == nil {
		s.counts.handoffsOut++
	} else {
		s.counts.handoffsFailed++
	}
	m.done <- moveResult{m.report, err}
}

// moveEvent tracks a handoff by the events of the core.
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
		// The target reports when it serves. If it dies first, this host or another one takes over.
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

// abandonMove gives up a handoff whose caller no longer waits. If the target has taken over, it continues there nevertheless.
func (s *Service) abandonMove(reason string) {
	s.replica.Step(core.Abandon{Reason: reason})
	if m := s.move; m != nil && m.taken {
		s.endMove(s.moveFailed(m.report.To.ID, "it has taken over, but has not yet applied all entries committed before; "+reason))
	} else if m != nil {
		m.abandoned = reason
	}
}

// awaitServing ends a handoff whose target has won the record and has been silent since. A target that is heard is still
// applying committed entries, which may take any time.
func (s *Service) awaitServing(m *moveState) {
	m.timer = time.AfterFunc(2*s.node.cfg.FailureTimeout, func() {
		s.call(func() {
			switch {
			case s.move != m:
			case s.core.Hears(m.report.To):
				s.awaitServing(m)
			default:
				s.endMove(s.moveFailed(m.report.To.ID, "it has taken over, but has not reported since that it serves"))
			}
		})
	})
}

// prepare asks the clients to connect to the target ahead, at random times within a spread that grows with their number. The move
// continues when all have connected, or when the spread has passed and no more clients connect.
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
	m.timer = time.AfterFunc(spread+s.node.cfg.FailureTimeout, func() { s.call(func() { s.prepared(m, 0) }) })
}

// maxPrepare limits the time that a move waits for clients that are still connecting ahead.
const maxPrepare = 20 * time.Second

// prepared continues the move if no further client has connected for FailureTimeout.
func (s *Service) prepared(m *moveState, ready int) {
	if s.move != m || !m.preparing {
		return
	}
	if now := m.report.Ready; now > ready && s.node.now()-m.prepared < maxPrepare {
		m.timer = time.AfterFunc(s.node.cfg.FailureTimeout, func() { s.call(func() { s.prepared(m, now) }) })
		return
	}
	s.transfer()
}

// clientReady counts a client that has connected to the target, or has disconnected instead.
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

// transfer asks the target to take over.
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

// startEvery starts the timer of Policy.Every.
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

// turn is called when the timer of Policy.Every fires.
func (s *Service) turn() {
	if s.board.ended() {
		return
	}
	s.node.spawn(func() {
		ctx, cancel := context.WithTimeout(s.node.ctx, max(s.policy.Every, time.Minute))
		defer cancel()
		_, err := s.handoff(ctx, "", CauseTimer)
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
