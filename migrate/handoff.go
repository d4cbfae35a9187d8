package migrate

import (
	"context"
	"slices"
	"time"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// Handoff moves the service from this host, which must be active, to another host, and returns when that host serves. host is
// an ID, regardless of the policy, or "" for a host that the policy selects. A host without a copy fetches one first,
// while this host continues to serve. The clients connect to the target ahead. If one that is connected cannot, the handoff is
// given up, and later ones avoid the target for 30 s, then for twice as long each time, up to 10 min.
//
// The error is [ErrNoTarget] if host is not present or is this one, or if host is "" and no other host can be reached, and
// [ErrTransferFailed] if the handoff failed. In general, this host then continues to serve, and the error says if the target has
// taken over but does not serve yet. If ctx ends, the handoff is given up, unless the target has already been asked to take
// over.
func (s *Service) Handoff(ctx context.Context, host string) (Report, error) {
	return s.handoff(ctx, host, CauseDemand)
}

func (s *Service) handoff(ctx context.Context, host string, cause Cause) (Report, error) {
	rep := Report{Service: s.name, From: s.node.self, Cause: cause, Began: time.Now()}
	if !s.mover.busy.CompareAndSwap(false, true) {
		return rep, s.mover.failure("", "another handoff is under way")
	}
	defer s.mover.busy.Store(false)
	switch st := s.Status(); {
	case s.board.ended() && st.Role != Halted:
		return rep, s.errClosed()
	case st.Role != Active:
		return rep, s.notActive(st.Record)
	}
	target, insist, err := s.target(ctx, host, cause)
	if err != nil {
		return rep, err
	}
	rep.To = target
	done := make(chan moveResult, 1)
	s.call(func() {
		s.guests.introduce(target)
		s.mover.begin(rep, insist, done)
	})
	res := s.awaitMove(ctx, done)
	if res.report.Service == "" {
		res.report = rep
	}
	if res.err == nil {
		s.node.reach.reached(s.name, target.ID)
	} else if res.report.Unreachable > 0 || s.node.links.Unreachable(target) {
		s.node.reach.avoid(s.name, target.ID)
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
				return moveResult{err: s.mover.failure("", "the service is closed on this host, or has halted")}
			}
		}
		select {
		case res := <-done:
			return res
		case <-s.node.ctx.Done():
			return moveResult{err: s.mover.failure("", errStopped.Error())}
		case <-given:
			given = nil
			s.call(func() { s.mover.abandon("given up: " + context.Cause(ctx).Error()) })
		case <-changed:
		}
	}
}

// target selects the host to move to. At shutdown, it prefers one that is already in sync, and insists on one that others may
// not reach if there is no other.
func (s *Service) target(ctx context.Context, host string, cause Cause) (to resolver.Host, insist bool, err error) {
	if host == s.node.self.ID {
		return to, false, transport.Errorf(CodeNoTarget, "migrate: service %s is on host %s already", s.name, host)
	}
	find := s.registrar.candidates
	if host != "" {
		find = s.registrar.present
	}
	hosts, err := find(ctx)
	if err != nil {
		// Without the resolver no move can succeed.
		return to, false, transport.Errorf(CodeTransferFailed, "migrate: service %s cannot move from host %s: %v",
			s.name, s.node.self.ID, err)
	}
	if host != "" {
		for _, h := range hosts {
			if h.ID == host {
				return h, false, nil
			}
		}
		return to, false, transport.Errorf(CodeNoTarget, "migrate: no host %s is present for service %s", host, s.name)
	}
	present := hosts
	var heirs []resolver.Host
	if cause == CauseShutdown {
		heirs = s.heirs(ctx)
		// A host that is not present may still hold the state: the resolver may have restarted, or not hear from it.
		hosts = append(hosts[:len(hosts):len(hosts)], heirs...)
	}
	if len(hosts) == 0 {
		return to, false, transport.Errorf(CodeNoTarget,
			"migrate: no other host is present for service %s, or Policy.Rank excludes all", s.name)
	}
	good, err := s.reachable(hosts)
	if err != nil {
		if cause != CauseShutdown {
			return to, false, err
		}
		good, insist = hosts, true
	}
	good = s.aheadFirst(ctx, good)
	for _, h := range good {
		if slices.ContainsFunc(heirs, h.Same) && slices.ContainsFunc(present, h.Same) {
			return h, insist, nil
		}
	}
	return good[0], insist, nil
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

// startEvery starts the timer of Policy.Every.
func (s *Service) startEvery() {
	if s.policy.Every > 0 {
		s.mover.startEvery(s.turn)
	}
}

// turnTries is the number of hosts that are tried when the timer fires, if clients cannot reach the first.
const turnTries = 3

// turn is called when the timer of Policy.Every fires.
func (s *Service) turn() {
	if s.board.ended() {
		return
	}
	s.node.spawn(func() {
		ctx, cancel := context.WithTimeout(s.node.ctx, max(s.policy.Every, time.Minute))
		defer cancel()
		var err error
		for range turnTries {
			var rep Report
			if rep, err = s.handoff(ctx, "", CauseTimer); err == nil {
				return
			}
			if !s.node.reach.avoids(s.name, rep.To.ID) {
				break
			}
		}
		s.log.Debug("no move this time", "err", err)
		s.call(func() {
			if s.core.Role().Active() {
				s.startEvery()
			}
		})
	})
}
