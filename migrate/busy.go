package migrate

import (
	"fmt"
	"time"

	"github.com/roam-go/roam/migrate/internal/apply"
	"github.com/roam-go/roam/transport"
)

// busyLong is how long a call of the service's own code must have run for an error to mention it.
const busyLong = 100 * time.Millisecond

// busyWith describes the current call of a service's own code.
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

// stuck reports a call of a service's own code that has not returned for a long time.
func (n *Node) stuck(a *apply.Applier, entry uint64, d time.Duration) {
	s := n.service(a.Machine().Service())
	if s == nil || s.board.applierNow() != a {
		return // of a copy that was dropped
	}
	s.log.Warn("the service does not return", "from", busyWith(a), "entry", entry, "for", d)
	s.report(transport.Errorf(CodeBusy, "migrate: service %s on host %s has not returned from %s: its clients wait", s.name,
		n.self.ID, busyWith(a)))
}
