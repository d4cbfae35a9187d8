package migrate

import (
	"math"
	"time"
)

// alarm is the timer of the service's next deadline. It belongs to the loop, except that any goroutine may call stop.
type alarm struct {
	timer *time.Timer
	at    time.Duration // when timer fires; 0: never
}

// newAlarm returns an alarm that calls ring, which must have the loop call rang.
func newAlarm(ring func()) alarm {
	t := time.AfterFunc(math.MaxInt64, ring)
	t.Stop()
	return alarm{timer: t}
}

// covers reports whether the timer fires at the time at or earlier. A timer that fires early is harmless, and cheaper than
// resetting it for every command.
func (a *alarm) covers(at time.Duration) bool { return a.at > 0 && a.at <= at }

// set makes the timer fire at the time at, in wait from now.
func (a *alarm) set(at, wait time.Duration) {
	a.at = at
	a.timer.Reset(wait)
}

// rang is called on the loop when the timer has fired.
func (a *alarm) rang() { a.at = 0 }

func (a *alarm) stop() { a.timer.Stop() }
