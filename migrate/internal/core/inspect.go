package core

import (
	"time"

	"github.com/roam-go/roam/resolver"
)

// What follows lets checkers and statistics look inside.

// Needs reports whether this host commits only what h has acknowledged.
func (c *Core) Needs(h resolver.Host) bool {
	p := c.peer(h)
	return p != nil && p.member
}

// EntryAt returns the entry at i, if this host still has it.
func (c *Core) EntryAt(i uint64) (Entry, bool) {
	if i <= c.log.base || i > c.log.last() {
		return Entry{}, false
	}
	return c.log.ents[i-c.log.base-1], true
}

// EpochAt returns the epoch of the entry at i, if this host still has it.
func (c *Core) EpochAt(i uint64) (uint64, bool) { return c.log.epochAt(i) }

// Lag says how far a member is behind.
type Lag struct {
	Host      string        // its ID
	Entries   uint64        // that it has not acknowledged
	Unapplied uint64        // of those that the active host's service has applied, its own has not
	Heard     time.Duration // when it was last heard
}

// Lags appends the lag of each member, by ID, on an active host.
func (c *Core) Lags(lags []Lag) []Lag {
	for _, p := range c.active.peers {
		if p.member {
			lags = append(lags, Lag{p.host.ID, c.log.last() - max(p.match, p.base), c.applied - min(p.applied, c.applied), p.lastAck})
		}
	}
	return lags
}

// LogSize is the part of the log that this host still has.
func (c *Core) LogSize() (entries, bytes int) { return len(c.log.ents), c.log.bytes }
