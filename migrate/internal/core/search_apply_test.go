package core

import (
	"fmt"

	"github.com/roam-go/roam/resolver"
)

// apply has the service of c apply everything that waits, and take the snapshots that wait for that.
func (x *search) apply(c *Core) {
	c.Applied(c.now, c.emitted)
	for _, p := range c.active.peers {
		if c.role.Active() && p.stage == capturing {
			x.capture(c, p.host)
		}
	}
}

// capture answers Ready.Snapshots with the state that the service has now.
func (x *search) capture(c *Core, to resolver.Host) {
	e, _ := c.EpochAt(c.applied)
	c.Step(c.now, Captured{To: to, ID: c.applied<<8 | uint64(to.Incarnation), Index: c.applied, Epoch: e})
}

// missesEarlier returns the first entry of the log that is older than an epoch and not applied; 0 if there is none.
func (c *Core) missesEarlier(epoch uint64) uint64 {
	for _, e := range c.Tail(c.applied) {
		if e.Epoch < epoch {
			return e.Index
		}
	}
	return 0
}

// early returns why a host must not send m before its service has applied more; "" if it may.
func (c *Core) early(m *Msg) string {
	switch m.Type {
	case MsgMoved:
		if i := c.missesEarlier(m.Term.Epoch); i > 0 {
			return fmt.Sprintf("the epoch inherited entry %d", i)
		}
	case MsgAppend:
		if m.Commit > c.applied {
			return "others learn of a commit that has no effect here yet"
		}
	case MsgSnapshot:
		if m.Index > c.applied {
			return "the snapshot cannot hold that"
		}
	case MsgAck:
		if m.PrevEpoch > c.applied+1 {
			return "it claims to have applied more"
		}
	}
	return ""
}

// checkApplied checks what a host believes and reports about its service after a step.
func (x *search) checkApplied(c *Core, r *searchResult) {
	id := c.self.ID
	switch {
	case r.err != "" || !c.hasState:
	case c.log.base > c.applied || c.applied > c.emitted || c.emitted > c.commit || c.commit > c.log.last():
		r.err = fmt.Sprintf("%s has the log after %d up to %d, %d committed, %d of them returned, %d applied",
			id, c.log.base, c.log.last(), c.commit, c.emitted, c.applied)
	case c.CaughtUp() && c.missesEarlier(c.term.Epoch) > 0:
		r.err = fmt.Sprintf("%s serves, but has not applied entry %d of an earlier epoch", id, c.missesEarlier(c.term.Epoch))
	case c.role == Serving && c.applied >= c.active.epochStart && c.active.takeover != nil && !c.active.takeover.announced:
		r.err = id + " has applied what it inherited, but does not report that it serves"
	}
	if st, ok := c.Checkpoint(c.applied + 1); ok {
		r.err = fmt.Sprintf("%s offers a checkpoint at %d, but has applied %d", id, st.Base.Index, c.applied)
	}
}
