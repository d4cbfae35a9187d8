package resolver

import (
	"log/slog"
	"sync"
	"time"
)

// rare logs events that others can cause at any rate: at most one a second, with the number of those in between.
type rare struct {
	mu      sync.Mutex // guards what follows
	last    time.Time
	skipped int
}

func (r *rare) warn(log *slog.Logger, msg string, args ...any) {
	r.mu.Lock()
	now := time.Now()
	if !r.last.IsZero() && now.Sub(r.last) < time.Second {
		r.skipped++
		r.mu.Unlock()
		return
	}
	if r.skipped > 0 {
		args = append(args, "more", r.skipped)
	}
	r.last, r.skipped = now, 0
	r.mu.Unlock()
	log.Warn(msg, args...)
}
