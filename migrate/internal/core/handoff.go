package core

import (
	"time"

	"github.com/roam-go/roam/resolver"
)

type moveStage uint8

const (
	_                moveStage = iota // the target joins
	moveInSync                        // it is in the in-sync set
	moveTransferring                  // it was told to take over
)

// move is a handoff that this host began. It keeps serving until the target has won the record, so that there is nothing
// to undo when it fails.
type move struct {
	target      resolver.Host
	stage       moveStage
	deadline    time.Duration
	begun       bool // false while it waits for the target to be out of the in-sync set, as it is about to be
	transferDue bool // Transfer waits for the outcome of a proposal, or for the target to catch up in applying
}

func (c *Core) handoff(target resolver.Host) {
	a := &c.active
	fail := func(reason string) { c.out.Moves = append(c.out.Moves, MoveEvent{Stage: MoveFailed, Reason: reason}) }
	switch {
	case c.role != Serving:
		fail("this host does not serve")
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
		return // and is called again when that has an outcome
	}
	a.move.begun = true
	p := c.peer(target)
	switch {
	case p == nil:
		for _, q := range a.peers {
			if q.host.ID == target.ID && !c.replaceable(q, target) {
				c.failMove("an earlier start of host " + target.ID + " is still in the in-sync set")
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

// transfer tells the target to take over. From here on until it has, or has failed to, this host changes nothing in the
// record.
func (c *Core) transfer() {
	m := c.active.move
	if m == nil || m.stage != moveInSync || c.role != Serving {
		return
	}
	if !m.transferDue {
		m.deadline = c.now + c.cfg.TransferTimeout
	}
	if m.transferDue = c.prop != nil || c.Behind(m.target); m.transferDue {
		return
	}
	m.stage = moveTransferring
	c.sendRecord(m.target, MsgTransfer)
}

// recvTransfer is the request to take over.
func (c *Core) recvTransfer(m Msg) {
	fail := func(reason string) { c.send(m.From, Msg{Type: MsgFailed, Reason: reason}) }
	switch {
	case m.Record == nil || c.rec.Version != m.Record.Version:
		fail("the record has changed")
	case !c.hasState || !member(c.rec.ISR, c.self):
		fail("host " + c.self.ID + " is not in the in-sync set")
	case c.standby.leaving:
		fail("host " + c.self.ID + " is about to leave")
	case c.prop != nil:
		// Asked twice, or already trying because the active host was silent for a while.
	default:
		c.proposePromote(m.From, true)
	}
}

func (c *Core) recvFailed(m Msg) {
	c.failMoveTo(m.From, m.Reason)
}

// failMoveTo ends a handoff to h, for whatever happened to it.
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

// moveTaken is called when this host is deposed while it hands over.
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

// recvMoved comes from the new active host when it serves.
func (c *Core) recvMoved(m Msg) {
	if mv := c.active.takenMove; mv != nil && mv.target.Same(m.From) {
		c.active.takenMove = nil
		c.out.Moves = append(c.out.Moves, MoveEvent{Stage: MoveServed, Won: m.Won, Served: m.Served, Applying: time.Duration(m.Index)})
	}
}
