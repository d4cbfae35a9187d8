package migrate

import (
	"sync/atomic"
	"time"
)

// alarm posts itemTick at the service's next deadline. It belongs to the loop, except that any goroutine may call stop.
type alarm struct {
	timer atomic.Pointer[time.Timer] // nil: never set
	at    time.Duration              // when timer fires; 0: never
}

// covers reports whether the alarm goes off at the time at or earlier. One that goes off early is harmless, and cheaper than
// setting it for every command.
func (a *alarm) covers(at time.Duration) bool { return a.at > 0 && a.at <= at }

// set makes the alarm go off at the time at, in wait from now.
func (a *alarm) set(at, wait time.Duration, m *mailbox) {
	a.at = at
	if t := a.timer.Load(); t != nil {
		t.Reset(wait)
	} else {
		a.timer.Store(time.AfterFunc(wait, func() { m.post(item{kind: itemTick}) }))
	}
}

// rang is called for itemTick.
func (a *alarm) rang() { a.at = 0 }

func (a *alarm) stop() {
	if t := a.timer.Load(); t != nil {
		t.Stop()
	}
}
