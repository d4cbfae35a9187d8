package core

import (
	"time"

	"github.com/roam-go/roam/resolver"
)

// A service takes its time to apply what is committed, and the protocol does not wait for it: a host counts for what its log
// holds. What depends on applied entries is here: what a host may order or take while its service lags, when a new active
// host serves, and which host had better not take over.

// Applied notes that the service has applied everything up to index, all of which Ready has handed out.
func (c *Core) Applied(now time.Duration, index uint64) {
	if c.err != nil {
		return
	}
	defer c.stop()
	c.setNow(now)
	if index <= c.applied {
		return
	}
	c.assert(index <= c.emitted, "entry %d is applied, entries up to %d were handed out", index, c.emitted)
	c.applied = index
	if c.role == Serving {
		c.announceServing()
	}
}

// Switching reports whether Ready will make or end this host's time as the active one, or drop the copy: what is true of the core
// now is not yet true of the copy.
func (c *Core) Switching() bool { return c.out.Activated || c.out.Deposed || c.out.Drop }

// AppliedIndex is the index of the last entry that the service has applied.
func (c *Core) AppliedIndex() uint64 { return c.applied }

// Unapplied is the number of entries in the log that the service has not applied.
func (c *Core) Unapplied() uint64 { return c.log.last() - c.applied }

// CaughtUp reports whether this host, which is active, has applied everything that earlier epochs committed: it serves.
func (c *Core) CaughtUp() bool { return c.role == Serving && c.applied >= c.active.epochStart }

// announceServing tells the host that handed over that this one serves.
func (c *Core) announceServing() {
	a := &c.active
	if a.predecessor.ID == "" || a.announced || !c.CaughtUp() {
		return
	}
	a.announced = true
	c.send(a.predecessor, Msg{
		Type: MsgMoved, Won: a.wonAt - a.requestedAt, Served: c.now - a.wonAt, Index: uint64(c.now - a.servingAt),
	})
}

// backlogged reports whether this standby takes no further entries until its service has applied some. The active host then
// misses its acknowledgements and removes it: a service that is slow on one host alone holds up no other. Entries that are not
// committed don't count: they may need the next one to become so.
func (c *Core) backlogged() bool {
	return c.commit-c.applied >= 4*c.cfg.MaxUnapplied || c.log.bytes >= c.cfg.LogBytes && c.commit > c.applied
}

// lags reports whether a service that has applied everything up to theirs is far behind one that has up to ours.
func (c *Core) lags(theirs, ours uint64) bool { return theirs+c.cfg.MaxJoinLag < ours }

// Behind reports whether the service of a member of the in-sync set is far behind this one's in applying: as the next active
// host it would serve only when it has caught up.
func (c *Core) Behind(h resolver.Host) bool {
	p := c.peer(h)
	return p != nil && p.member && c.lags(p.applied, c.applied)
}

// Hears reports whether h is the active host that this one follows, and is heard.
func (c *Core) Hears(h resolver.Host) bool {
	s := &c.standby
	return !c.role.Active() && s.leader.Same(h) && c.now-s.heard < c.cfg.FailureTimeout
}
