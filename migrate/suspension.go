package migrate

import "github.com/roam-go/roam/transport"

// longSuspended is how many times FailureTimeout a suspension must last before it is reported. Shorter ones are a part of
// failovers and of removals.
const longSuspended = 4

// watchSuspension reports, once, that Policy.MinInSync has suspended the service for long, and that this is over. It belongs
// to the loop, which an active host that lacks others wakes to look for them.
func (s *Service) watchSuspension() {
	if s.counts.suspendedAt == 0 {
		if s.stalled {
			s.log.Info("acknowledges commands again")
		}
		s.stalled = false
		return
	}
	if s.stalled || s.node.now()-s.counts.suspendedAt < longSuspended*s.node.cfg.FailureTimeout {
		return
	}
	if have, _ := s.core.InSync(); have >= s.policy.MinInSync {
		return // it waits for a standby that does not keep up, or for the resolver
	}
	s.stalled = true
	err := s.suspended()
	s.log.Warn("acknowledges no commands", "err", err)
	s.report(err)
}

// suspended returns an error if this active host has acknowledged nothing for long because of Policy.MinInSync. It belongs to the
// loop.
func (s *Service) suspended() error {
	if !s.stalled {
		return nil
	}
	have, need := s.core.InSync()
	return transport.Errorf(CodeRetry, "migrate: service %s: host %s acknowledges no commands: %d of %d hosts in sync "+
		"(Policy.MinInSync is %d): it waits for another host", s.name, s.node.self.ID, have, need, s.policy.MinInSync)
}
