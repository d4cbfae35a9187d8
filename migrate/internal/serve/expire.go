package serve

import (
	"math"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/transport"
)

// expiry is when sessions expire.
type expiry struct {
	at          time.Duration // when to look for expired sessions; 0: never
	activeSince time.Duration
}

// expireSoon sets the time to look for sessions whose clients have been disconnected for too long.
func (c *Clients) expireSoon() {
	if c.expiry.at == 0 && c.host.Core().Role().Active() {
		c.expiry.at = c.host.Now() + max(c.host.Config().SessionTimeout/4, 10*time.Millisecond)
	}
}

// expire ends the sessions of clients that have been disconnected for too long, by this host's own clock and since it became
// active: another host's clock does not matter.
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
	left := false
	var expired []uint64
	for id := range c.host.Machine().Idle(math.MaxInt64) {
		if c.registry.session(id) != nil {
			continue
		}
		if now-max(c.expiry.activeSince, c.registry.lastAttached(id)) >= timeout {
			expired = append(expired, id)
		} else {
			left = true
		}
	}
	for _, id := range expired {
		c.host.Propose(core.Entry{Kind: core.CloseSession, Session: id, Seq: 1})
		c.registry.forgetDetached(id)
	}
	if left {
		c.expireSoon()
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
