package migrate

import (
	"fmt"
	"time"

	"github.com/roam-go/roam/migrate/internal/apply"
	"github.com/roam-go/roam/transport"
)

// applierNow is what applies entries to the copy that is here; nil if there is none.
func (s *Service) applierNow() *apply.Applier {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applier
}

// busyLong is for how long a service's own code may run before an error mentions it.
const busyLong = 100 * time.Millisecond

// busyWith describes what a service's own code does at the moment.
func busyWith(a *apply.Applier) string {
	if a == nil {
		return "Query"
	}
	entry, d := a.Busy()
	if entry == 0 {
		return fmt.Sprintf("Query, Snapshot or Validate for %v", d.Round(time.Millisecond))
	}
	return fmt.Sprintf("Apply of entry %d for %v", entry, d.Round(time.Millisecond))
}

// stuck reports a call of a service's own code that has not returned for long.
func (n *Node) stuck(a *apply.Applier, entry uint64, d time.Duration) {
	for _, s := range n.Services() {
		if s.applierNow() != a {
			continue
		}
		s.log.Warn("the service does not return", "from", busyWith(a), "entry", entry, "for", d)
		s.report(transport.Errorf(CodeBusy, "migrate: service %s on host %s has not returned from %s: its clients wait", s.name, n.self.ID,
			busyWith(a)))
	}
}
