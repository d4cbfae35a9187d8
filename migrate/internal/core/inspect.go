package core

import "github.com/roam-go/roam/resolver"

// What follows lets checkers look inside.

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
