package core

import (
	"time"

	"github.com/roam-go/roam/resolver"
)

type moveStage uint8

const (
	_                moveStage = iota // the target joins
	moveInSync                        // it is in the in-sync set
	moveTransferring                  // this host has asked it to take over
)

// move is a handoff that this host began. This host keeps serving until the target has won the record, so that a failed
// handoff needs no rollback.
type move struct {
	target      resolver.Host
	stage       moveStage
	deadline    time.Duration
	begun       bool // false while a proposal to remove the target has no outcome
	transferDue bool // Transfer waits for the outcome of another proposal, or for the target to catch up in applying
}

func (c *Core) handoff(target resolver.Host) {
	a := &c.active
	fail := func(reason string) { c.out.Moves = append(c.out.Moves, MoveEvent{Stage: MoveFailed, Reason: reason}) }
	switch {
	case c.role != Serving:
		fail("host " + c.self.ID + " does not serve")
		return
	case a.move != nil:
		fail("another handoff is under way")
		return
	case target.Same(c.self):
		fail("the service is here already")
		return
	}
	a.move = &move{target: target}
	c.beginMove()
}

// beginMove invites the target if it holds no copy.
func (c *Core) beginMove() {
	a := &c.active
	target := a.move.target
	if p := c.prop; p != nil && p.kind == propRemove && p.host.Same(target) {
		return // tickActive calls again when that has an outcome
	}
	a.move.begun = true
	p := c.peer(target)
	switch {
	case p == nil:
		for _, q := range a.peers {
			if q.host.ID == target.ID && !c.replaceable(q, target) {
				c.failMove("an earlier incarnation of host " + target.ID + " is still in the in-sync set")
				return
			}
		}
		c.invite(target)
	case p.member && member(c.rec.ISR, target):
		c.moveInSync()
	}
}

func (c *Core) moveInSync() {
	c.active.move.stage = moveInSync
	c.out.Moves = append(c.out.Moves, MoveEvent{Stage: MoveInSync})
}

// transfer asks the target to take over. Until that has succeeded or failed, this host proposes no change.
func (c *Core) transfer() {
	m := c.active.move
	if m == nil || m.stage != moveInSync || c.role != Serving {
		return
	}
	if !m.transferDue {
		m.deadline = c.now + c.transferTimeout()
	}
	if m.transferDue = c.prop != nil || c.Behind(m.target); m.transferDue {
		return
	}
	m.stage = moveTransferring
	c.sendRecord(m.target, MsgTransfer)
}

// recvTransfer handles a request to take over.
func (c *Core) recvTransfer(m Msg) {
	fail := func(reason string) { c.send(m.From, Msg{Type: MsgFailed, Reason: reason}) }
	switch {
	case m.Record == nil || c.rec.Version != m.Record.Version:
		fail("the record has changed")
	case !c.hasState || !member(c.rec.ISR, c.self):
		fail("host " + c.self.ID + " is not in the in-sync set")
	case c.standby.leaving:
		fail("host " + c.self.ID + " is about to leave")
	case c.lostTouch():
		// The request is old. The host that sent it may have removed this one since, and the resolver lost that.
		fail("host " + c.self.ID + " was out of touch")
	case c.prop != nil:
		// Requested twice, or this host is already trying because the active one was silent for a while.
	default:
		c.proposeHandoff(m.From)
	}
}

func (c *Core) recvFailed(m Msg) {
	c.failMoveTo(m.From, m.Reason)
}

// failMoveTo ends a handoff to h, if there is one, for the given reason.
func (c *Core) failMoveTo(h resolver.Host, reason string) {
	if mv := c.active.move; mv != nil && mv.begun && mv.target.Same(h) {
		c.failMove(reason)
	}
}

func (c *Core) failMove(reason string) {
	if c.active.move == nil {
		return
	}
	c.active.move = nil
	c.out.Moves = append(c.out.Moves, MoveEvent{Stage: MoveFailed, Reason: reason})
}

// moveTaken reports the outcome of a handoff when this host is deposed during it.
func (c *Core) moveTaken() {
	m := c.active.move
	switch {
	case m.stage != moveTransferring:
		c.failMove("another host took over")
	case !c.rec.Active.Same(m.target) && TermOf(c.rec).Compare(c.term) > 0:
		c.failMove("host " + c.rec.Active.ID + " took over")
	default:
		c.out.Moves = append(c.out.Moves, MoveEvent{Stage: MoveTaken})
	}
}

// recvMoved handles the new active host's report that it serves.
func (c *Core) recvMoved(m Msg) {
	if mv := c.active.takenMove; mv != nil && mv.target.Same(m.From) {
		c.active.takenMove = nil
		c.out.Moves = append(c.out.Moves, MoveEvent{Stage: MoveServed, Won: m.Won, Served: m.Served, Applying: time.Duration(m.Index)})
	}
}
