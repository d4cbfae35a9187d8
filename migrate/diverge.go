package migrate

import (
	"fmt"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
)

// divergence counts how often the state on this host has differed from the active host's. It belongs to the loop.
type divergence struct{ times int8 }

// wait counts a divergence and returns how long this host fetches no new copy. The next copy may diverge, too, and each one
// costs the active host some work.
func (d *divergence) wait() time.Duration {
	wait := min(divergedWait<<d.times, maxDivergedWait)
	d.times = min(d.times+1, 16)
	return wait
}

// divergedWait is how long a diverged host fetches no new copy. It doubles each time, up to maxDivergedWait.
const (
	divergedWait    = 2 * time.Second
	maxDivergedWait = 5 * time.Minute
)

// diverged is called on a host whose state differs from that of the active host at entry.
func (s *Service) diverged(entry uint64) {
	err := fmt.Errorf("migrate: service %s on host %s differs from the active host's at entry %d: "+
		"Apply, Restore or Hash is at fault", s.name, s.node.self.ID, entry)
	s.log.Error("states differ", "entry", entry)
	s.report(err)
	if s.core.Role().Active() {
		return
	}
	s.replica.Step(core.Leave{})
	time.AfterFunc(s.divergence.wait(), func() {
		s.call(func() {
			if !s.leaving {
				s.replica.Step(core.CancelLeave{})
			}
		})
	})
}
