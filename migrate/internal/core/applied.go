package core

import (
	"time"

	"github.com/roam-go/roam/resolver"
)

// A service may be slow to apply committed entries, and the protocol does not wait for it: a host counts for the entries
// in its log. This file has what depends on applied entries: how much a host may order or accept while its service lags,
// when a new active host serves, and which host should not take over.

// Applied records that the service has applied all entries up to index, which Ready has returned. It reports whether Ready must be
// called before the next event: it rarely must, and each command pays for it.
func (c *Core) Applied(now time.Duration, index uint64) (due bool) {
	if c.err != nil {
		return false
	}
	defer c.stop()
	c.setNow(now)
	if index <= c.applied {
		return false
	}
	if index > c.emitted {
		c.assert(false, "entry %d is applied, but Ready returned entries up to %d", index, c.emitted)
	}
	c.applied = index
	if c.role == Serving {
		c.announceServing()
	}
	return len(c.out.Msgs) > 0
}

// AppliedIndex is the index of the last entry that the service has applied.
func (c *Core) AppliedIndex() uint64 { return c.applied }

// Switching reports whether the next Ready activates or deposes this host, or drops the copy: the copy does not yet have the
// core's state.
func (c *Core) Switching() bool { return c.out.Activated || c.out.Deposed || c.out.Drop }

// Unapplied is the number of entries in the log that the service has not applied.
func (c *Core) Unapplied() uint64 { return c.log.last() - c.applied }

// CaughtUp reports whether this active host serves: it has applied all entries that earlier epochs committed.
func (c *Core) CaughtUp() bool { return c.role == Serving && c.applied >= c.active.epochStart }

// announceServing reports to the host that handed over that this one serves.
func (c *Core) announceServing() {
	t := c.active.takeover
	if t == nil || t.announced || !c.CaughtUp() {
		return
	}
	t.announced = true
	c.send(t.from, Msg{
		Type: MsgMoved, Won: t.wonAt - t.requestedAt, Served: c.now - t.wonAt, Index: uint64(c.now - t.servingAt),
	})
}

// backlogged reports whether this standby accepts no further entries until its service has applied some. The active host
// then misses its acknowledgements and removes it, so that a service that is slow on one host does not delay the others.
// Uncommitted entries do not count: their commit may need the next entry.
func (c *Core) backlogged() bool {
	return c.commit-c.applied >= 4*c.cfg.MaxUnapplied || c.log.bytes >= c.cfg.LogBytes && c.commit > c.applied
}

// lags reports whether a service that has applied the entries up to theirs is far behind one that has applied those up to
// ours.
func (c *Core) lags(theirs, ours uint64) bool { return theirs+c.cfg.MaxJoinLag < ours }

// Behind reports whether the service of a member is far behind this one in applying entries: as the next active host it
// would not serve until it has caught up.
func (c *Core) Behind(h resolver.Host) bool {
	p := c.peer(h)
	return p != nil && p.member && c.lags(p.applied, c.applied)
}

// Hears reports whether h is the active host that this one follows, and has been heard within FailureTimeout.
func (c *Core) Hears(h resolver.Host) bool {
	s := &c.standby
	return !c.role.Active() && s.leader.Same(h) && c.now-s.heard < c.failureTimeout(c.leader)
}
