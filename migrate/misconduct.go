package migrate

import (
	"fmt"
	"sync"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
)

// misconduct reports hosts that break the protocol. They can do so at any rate, so it reports at most one message a second,
// with the number of those in between.
type misconduct struct {
	mu      sync.Mutex // guards what follows
	last    time.Time
	skipped int
}

// report logs and reports m, which service s has ignored, unless there was another one less than a second ago.
func (r *misconduct) report(s *Service, m *core.Misconduct) {
	r.mu.Lock()
	now := time.Now()
	if !r.last.IsZero() && now.Sub(r.last) < time.Second {
		r.skipped++
		r.mu.Unlock()
		return
	}
	skipped := r.skipped
	r.last, r.skipped = now, 0
	r.mu.Unlock()
	s.log.Warn("message ignored", "err", m, "more", skipped)
	s.report(fmt.Errorf("migrate: service %s: %w", s.name, m))
}
