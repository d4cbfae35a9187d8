package peer

import (
	"errors"
	"syscall"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
)

const (
	// Redials is how often a refused or broken connection is dialled again at once. If all are refused, the process has died.
	Redials    = 2
	redialWait = 20 * time.Millisecond
	// maxTimeoutFactor bounds the time of an attempt to a host that is not far, in multiples of Config.FailureTimeout.
	maxTimeoutFactor = 4
)

// ErrOtherStart means that another process, such as a later start of the host, answers at a host's address.
var ErrOtherStart = errors.New("another start of the host answers")

// errEndedAtOnce means that a connection ended before the link used it.
var errEndedAtOnce = errors.New("the connection ended at once")

// retry counts the failures of the attempts to connect, and decides whether another attempt follows.
type retry struct {
	timeout, maxTimeout time.Duration // of an attempt

	refused int // attempts refused, or answered by another process
	broken  int // attempts that failed in another way, except for timeouts
}

// newRetry allows for attempts of at least timeout each, which doubles up to maxTimeout. There are two at least.
func newRetry(timeout, maxTimeout time.Duration) retry {
	return retry{timeout: timeout, maxTimeout: max(maxTimeout, 2*timeout)}
}

// failed counts a failed attempt. It reports whether another one follows, and after what time.
func (r *retry) failed(err error) (wait time.Duration, again bool) {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, ErrOtherStart):
		r.refused++
	case !wire.IsTimeout(err):
		// While a process is being killed, it may still accept connections, and break them.
		r.broken++
	case r.timeout < r.maxTimeout:
		// The host may be far away. A new attempt also helps where a packet was lost.
		r.timeout *= 2
		return 0, true
	}
	return redialWait, r.refused+r.broken > 0 && r.refused < Redials && r.broken <= Redials
}

// died reports whether the failures show that the host's process has died.
func (r *retry) died() bool { return r.refused >= Redials }
