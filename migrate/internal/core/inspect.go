package core

import (
	"time"

	"github.com/roam-go/roam/resolver"
)

// This file lets checkers and statistics inspect a core.

// Needs reports whether this host's commits need the acknowledgement of h.
func (c *Core) Needs(h resolver.Host) bool {
	p := c.peer(h)
	return p != nil && p.member
}

// EntryAt returns the entry at i; false if this host does not keep it.
func (c *Core) EntryAt(i uint64) (Entry, bool) {
	if i <= c.log.base || i > c.log.last() {
		return Entry{}, false
	}
	return c.log.ents[i-c.log.base-1], true
}

// EpochAt returns the epoch of the entry at i; false if this host does not know it.
func (c *Core) EpochAt(i uint64) (uint64, bool) { return c.log.epochAt(i) }

// Lag is how far a member is behind.
type Lag struct {
	Host      string        // its ID
	Entries   uint64        // unacknowledged entries
	Unapplied uint64        // entries that the active host's service has applied and this one's has not
	Heard     time.Duration // when it was last heard
}

// Lags appends the members' lags, sorted by host ID, on an active host.
func (c *Core) Lags(lags []Lag) []Lag {
	for _, p := range c.active.peers {
		if p.member {
			lags = append(lags, Lag{p.host.ID, c.log.last() - max(p.match, p.base), c.applied - min(p.applied, c.applied), p.lastAck})
		}
	}
	return lags
}

// LogSize is the size of the part of the log that this host keeps.
func (c *Core) LogSize() (entries, bytes int) { return len(c.log.ents), c.log.bytes }
