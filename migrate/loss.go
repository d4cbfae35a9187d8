package migrate

import (
	"slices"
	"strings"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// lossWatch reports losses of the resolver and of this host's copy. It belongs to the loop.
type lossWatch struct {
	lost, alone bool // as the core reported them last

	counted bool   // this host was a member with a copy, until now or until the copy was dropped
	loss    uint64 // of that copy
	last    uint64 // its last entry; only after it was dropped
}

// watchLoss reports a lost record, once, and that it is back.
func (s *Service) watchLoss() {
	w, c := &s.losses, s.core
	lost, alone := c.Lost(), c.Alone()
	if lost == w.lost && alone == w.alone {
		return
	}
	was := *w
	w.lost, w.alone = lost, alone
	rec := c.Record()
	self := s.node.self.ID
	switch {
	case lost && !was.lost:
		how := "host " + self + " restores it when all hosts of its in-sync set answer"
		if c.Role().Active() {
			how = "host " + self + ", which is active, restores it"
		}
		s.lossFound("record lost", transport.Errorf(resolver.CodeAmnesia, "migrate: the resolver has lost the record of service %s, "+
			"or went back to an old one: %s", s.name, how))
	case !lost && was.lost:
		s.log.Info("the record is restored", "active", rec.Active.ID, "epoch", rec.Epoch)
	}
	switch better := c.Better(); {
	case !alone || was.alone:
	case better.ID != "":
		s.lossFound("record lost", transport.Errorf(CodeNoHost, "migrate: the resolver has lost the record of service %s, or went "+
			"back to an old one, and host %s knows of later entries, or of a later beginning, than host %s: no host restores it; "+
			"Node.Reset on host %s continues with the entries up to %d that it holds", s.name, better.ID, self, self, c.Last()))
	default:
		s.lossFound("record lost", transport.Errorf(CodeNoHost, "migrate: the resolver has lost the record of service %s, and not all "+
			"hosts that may hold later entries answer (%s): it continues when they are back; Node.Reset on host %s continues with the "+
			"entries up to %d that it holds", s.name, others(rec, s.node.self), self, c.Last()))
	}
}

// superseded reports a copy, here or on another host, that is given up although it may hold more than the active host's.
func (s *Service) superseded(lost *core.Superseded) {
	kept := ""
	if lost.Holder.Same(s.node.self) {
		kept = s.disk.keptAside()
	}
	s.lossFound("copy superseded", transport.Errorf(CodeStateLost, "migrate: service %s: %v%s", s.name, lost, kept))
}

// lossFound logs and reports a loss.
func (s *Service) lossFound(what string, err error) {
	s.log.Error(what, "err", err)
	s.report(err)
}

// others lists the members of the record other than h.
func others(rec resolver.Record, h resolver.Host) string {
	var ids []string
	for _, m := range rec.ISR {
		if !m.Same(h) {
			ids = append(ids, m.ID)
		}
	}
	return strings.Join(ids, ", ")
}

// watchCopy reports that this host has dropped a copy that counted, because the service began anew on another host. before
// is the last entry as of the previous batch; reported is true if a report was made elsewhere.
func (s *Service) watchCopy(rec *resolver.Record, before uint64, reported bool) {
	w, c := &s.losses, s.core
	if c.HasState() {
		w.counted = c.Term().Loss == rec.Loss && slices.ContainsFunc(rec.ISR, s.node.self.Same)
		w.loss, w.last = c.Term().Loss, 0
		return
	}
	if !w.counted {
		return
	}
	w.last = max(w.last, before)
	switch {
	case reported || c.Term().Loss == w.loss:
		w.counted = false // dropped for another reason
	case rec.Loss > w.loss && rec.Active.ID != "":
		w.counted = false
		s.lossFound("copy dropped", transport.Errorf(CodeStateLost, "migrate: service %s began anew on host %s: host %s has "+
			"dropped its copy, which ended at entry %d", s.name, rec.Active.ID, s.node.self.ID, w.last))
	}
}
