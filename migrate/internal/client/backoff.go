package client

import (
	"math/rand/v2"
	"time"
)

// maxBackoff bounds every delay between two attempts.
const maxBackoff = 2 * time.Second

// backoff draws delays with full jitter: the first below first, the next ones below step, 2*step, 4*step and so on, up to
// maxBackoff.
type backoff struct {
	first, step time.Duration
	tries       int // delays drawn since the last reset
}

// newBackoff is the backoff between two attempts to reach a host or the resolver.
func newBackoff() backoff { return backoff{first: 5 * time.Millisecond, step: 20 * time.Millisecond} }

func (b *backoff) next() time.Duration {
	window := b.first
	if b.tries > 0 {
		window = min(b.step<<min(b.tries-1, 16), maxBackoff)
	}
	b.tries++
	return rand.N(window)
}

func (b *backoff) reset() { b.tries = 0 }
