package serve

import (
	"math"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/transport"
)

// A session expires when its client has been disconnected for SessionTimeout, by the clocks of the hosts that were active
// meanwhile: the time on which no host was active does not count, and neither does log time, which a host with a wrong clock
// advances. Each active host records in the log for how long clients have been away, before it hands over and in steps of
// expiryStep, and the next one continues from there.

const (
	// expirySteps is the least number of checks in a SessionTimeout. After a crash, the time away since the last one is lost.
	expirySteps = 4
	// minAway is the time away that is recorded before a move.
	minAway = 100 * time.Millisecond
	// awayBody is the size from which on another entry is used.
	awayBody = 64 << 10
)

// expiry is when sessions expire.
type expiry struct {
	at          time.Duration // when to look for expired sessions; 0: never
	activeSince time.Duration
}

// expiryStep returns the time between two checks.
func (c *Clients) expiryStep() time.Duration {
	return max(c.host.Config().SessionTimeout/expirySteps, 10*time.Millisecond)
}

// expireSoon sets the time to look for sessions whose clients have been disconnected for too long.
func (c *Clients) expireSoon() {
	if c.expiry.at == 0 && c.host.Core().Role().Active() {
		c.expiry.at = c.host.Now() + c.expiryStep()
	}
}

// expire ends the sessions of clients that have been disconnected for too long, and records the time away of others.
func (c *Clients) expire() {
	now := c.host.Now()
	if c.expiry.at == 0 || now < c.expiry.at {
		return
	}
	c.expiry.at = 0
	if c.host.Core().Role() != core.Serving {
		return
	}
	timeout := c.host.Config().SessionTimeout
	next := time.Duration(math.MaxInt64) // when the next session expires
	var expired []uint64
	for id, recorded := range c.host.Machine().Idle() {
		if c.registry.session(id) != nil {
			continue
		}
		if at := c.awaySince(id, recorded) + timeout; now >= at {
			expired = append(expired, id)
		} else {
			next = min(next, at)
		}
	}
	for _, id := range expired {
		c.host.Propose(core.Entry{Kind: core.CloseSession, Session: id, Seq: 1})
		c.registry.forgetDetached(id)
	}
	if next < math.MaxInt64 {
		c.recordAway(c.expiryStep())
		c.expireSoon()
		c.expiry.at = min(c.expiry.at, max(next, now+10*time.Millisecond))
	}
}

// awaySince returns since when the client of a session that is not attached has been away, on the clock of [Host].Now. The
// time before this host was active is the one recorded.
func (c *Clients) awaySince(session uint64, recorded time.Duration) time.Duration {
	since, ok := c.registry.detachedAt[session]
	if !ok {
		since = c.expiry.activeSince - recorded
		put(&c.registry.detachedAt, session, since)
	}
	return since
}

// recordAway records for how long clients have been away, where that differs from the recorded time by at least step.
func (c *Clients) recordAway(step time.Duration) {
	now := c.host.Now()
	var body []byte
	var bodies [][]byte
	for id, recorded := range c.host.Machine().Idle() {
		var away time.Duration
		if c.registry.session(id) == nil {
			away = now - c.awaySince(id, recorded)
		}
		if (away - recorded).Abs() < step {
			continue
		}
		if body = machine.AppendAway(body, id, away); len(body) >= awayBody {
			bodies, body = append(bodies, body), nil
		}
	}
	if len(body) > 0 {
		bodies = append(bodies, body)
	}
	for _, b := range bodies {
		c.host.Propose(core.Entry{Kind: core.Away, Body: b})
	}
}

// back records that the client of a session is connected, if it was recorded as away: else another active host would count
// that time as well.
func (c *Clients) back(session uint64) {
	if m := c.host.Machine(); m.Away(session) > 0 {
		c.host.Propose(core.Entry{Kind: core.Away, Body: machine.AppendAway(nil, session, 0)})
	}
}

// makeRoom makes room for another session of a key. At the limit it ends a session whose client is disconnected, so that new
// clients never evict connected ones; see [machine.Machine.Victim].
func (c *Clients) makeRoom(key transport.Key) bool {
	m := c.host.Machine()
	if m.Room() {
		return true
	}
	evicted := m.Victim(key, func(id uint64) bool { return c.registry.session(id) == nil })
	return evicted != 0 && c.host.Propose(core.Entry{Kind: core.CloseSession, Session: evicted, Seq: 1})
}
