package core

import "github.com/roam-go/roam/resolver"

// What follows lets checkers look inside.

// Needs reports whether this host commits only what h has acknowledged.
func (c *Core) Needs(h resolver.Host) bool {
	p := c.peer(h)
	return p != nil && p.member
}

// EpochAt returns the epoch of the entry at i, if this host still has it.
func (c *Core) EpochAt(i uint64) (uint64, bool) { return c.log.epochAt(i) }
