package core

import (
	"time"

	"github.com/roam-go/roam/resolver"
)

// standbyState is what a host has that is not active.
type standbyState struct {
	leader  resolver.Host // whom it follows in this term; zero if not known
	heard   time.Duration // when the leader was last heard
	down    bool          // the leader's process is gone, as far as is known
	matched uint64        // the log equals the leader's up to here
	round   uint64
	ackDue  bool
	resend  bool
	fetch   *Fetch
	wonder  bool          // the record was asked for because the leader is silent
	outAt   time.Duration // when it was taken out of the in-sync set
	leaving bool
	leaveAt time.Duration
}

// recv takes a message. What an active host of a lower term says is refused with the record that deposed it.
func (c *Core) recv(m Msg) {
	if m.From.Same(c.self) {
		return
	}
	d := m.Term.Compare(c.term)
	switch m.Type {
	case MsgAppend, MsgInvite, MsgSnapshot, MsgRecord, MsgTransfer, MsgRelease:
		if d < 0 {
			c.sendRecord(m.From, MsgReject)
			return
		}
		if m.Record != nil {
			c.learn(*m.Record)
		}
		if m.Term.Compare(c.term) > 0 {
			c.follow(m.Term, m.From)
		}
		if m.Term != c.term {
			return
		}
		if TermOf(c.rec).Compare(c.term) < 0 {
			c.get()
		}
		c.recvActive(m)
	case MsgReject:
		if m.Record != nil {
			c.learn(*m.Record)
		}
		if d > 0 && TermOf(c.rec).Compare(m.Term) < 0 {
			c.get()
		}
	case MsgAck, MsgFailed, MsgMoved, MsgJoin, MsgLeave:
		switch {
		case d > 0:
			c.get()
		case m.Type == MsgJoin:
			c.recvJoin(m)
		case m.Type == MsgLeave:
			c.recvLeave(m)
		case d < 0:
		case m.Type == MsgAck:
			c.recvAck(m)
		case m.Type == MsgFailed:
			c.recvFailed(m)
		case m.Type == MsgMoved:
			c.recvMoved(m)
		}
	}
}

// recvActive takes a message from the active host of this term.
func (c *Core) recvActive(m Msg) {
	c.assert(!c.role.Active(), "host %s is active in the same term", m.From.ID)
	s := &c.standby
	if m.Type == MsgRelease {
		if !member(c.rec.ISR, c.self) {
			c.release()
		}
		return
	}
	c.assert(s.leader.ID == "" || s.leader.Same(m.From), "hosts %s and %s are active in one term", s.leader.ID, m.From.ID)
	s.leader, s.heard, s.down = m.From, c.now, false
	switch m.Type {
	case MsgAppend:
		c.recvAppend(m)
	case MsgInvite:
		c.recvInvite()
	case MsgSnapshot:
		if c.role == Joining && s.fetch == nil && !s.leaving {
			c.release()
			s.leader, s.heard = m.From, c.now
			c.setRole(Joining)
			s.fetch = &Fetch{From: m.From, ID: m.Round, Index: m.Index, Epoch: m.PrevEpoch}
			f := *s.fetch
			c.out.Fetch = &f
		}
	case MsgTransfer:
		c.recvTransfer(m)
	}
}

func (c *Core) recvAppend(m Msg) {
	s := &c.standby
	s.round = max(s.round, m.Round)
	s.ackDue = true
	if !c.hasState {
		return
	}
	// What is committed here is the same everywhere: entries up to commit need no look.
	if skip := c.commit; m.Prev < skip {
		n := min(skip-m.Prev, uint64(len(m.Entries)))
		m.Prev += n
		m.Entries = m.Entries[n:]
		if m.Prev < skip {
			s.matched = max(s.matched, m.Prev)
			return
		}
		m.PrevEpoch, _ = c.log.epochAt(m.Prev)
	}
	if e, ok := c.log.epochAt(m.Prev); !ok || e != m.PrevEpoch {
		s.resend = true
		return
	}
	at := m.Prev
	for _, e := range m.Entries {
		c.assert(e.Index == at+1, "entry %d follows entry %d", e.Index, at)
		at = e.Index
		if have, ok := c.log.epochAt(at); ok {
			if have == e.Epoch {
				continue
			}
			c.assert(at > c.commit, "committed entry %d is overwritten", at)
			c.log.truncate(at - 1)
		}
		c.log.append(e)
		c.time = e.Time
	}
	s.matched = max(s.matched, at)
	c.commit = max(c.commit, min(m.Commit, s.matched))
}

func (c *Core) sendAck() {
	s := &c.standby
	if !s.ackDue || s.leader.ID == "" {
		return
	}
	c.send(s.leader, Msg{Type: MsgAck, Index: s.matched, Commit: c.commit, Round: s.round, Flag: s.resend})
	s.ackDue, s.resend = false, false
}

// recvInvite answers the active host that wants a copy here.
func (c *Core) recvInvite() {
	s := &c.standby
	if c.role == Standby {
		return
	}
	if s.leaving {
		c.send(s.leader, Msg{Type: MsgJoin, Reason: "host " + c.self.ID + " is about to leave"})
		return
	}
	c.setRole(Joining)
	s.outAt = 0
	c.send(s.leader, Msg{Type: MsgJoin, Flag: c.hasState, Commit: c.commit, Index: c.loss})
}

func (c *Core) restored(ev Restored) {
	s := &c.standby
	f := s.fetch
	if f == nil || f.ID != ev.ID || c.role != Joining {
		return
	}
	s.fetch = nil
	if !ev.OK {
		c.setRole(Out)
		c.send(s.leader, Msg{Type: MsgLeave})
		return
	}
	c.log.reset(f.Index, f.Epoch)
	c.commit, c.emitted, c.time = f.Index, f.Index, ev.Time
	c.hasState, c.loss = true, c.term.Loss
	s.matched, s.ackDue = f.Index, true
	c.checkMember()
}

// gotStandby goes on after the record was read because the active host is silent.
func (c *Core) gotStandby(before uint64) {
	s := &c.standby
	if c.role.Active() || !s.wonder {
		return
	}
	s.wonder = false
	if c.rec.Ver != before || !c.hasState || !c.leaderSilent() {
		return
	}
	if !member(c.rec.ISR, c.self) {
		if c.role == Joining {
			c.setRole(Out)
			s.outAt = c.now
		}
		return
	}
	if c.prop == nil && TermOf(c.rec) == c.term {
		c.proposePromote(resolver.Host{}, false)
	}
}

func (c *Core) leaderSilent() bool {
	rank := time.Duration(0)
	for _, h := range c.rec.ISR {
		if h.Same(c.self) {
			break
		}
		if !h.Same(c.rec.Active) {
			rank++
		}
	}
	wait := rank * c.cfg.Rank
	if !c.standby.down {
		wait += c.cfg.Silence
	}
	return c.now-c.standby.heard >= wait
}

// tickStandby does what is due.
func (c *Core) tickStandby() {
	s := &c.standby
	switch {
	case s.leaving && c.now >= s.leaveAt:
		c.leave()
	case c.role == Out && c.hasState && s.outAt > 0 && c.now-s.outAt >= c.cfg.Linger:
		c.release()
	case c.role == Joining && !c.hasState && c.now-s.heard >= c.cfg.Join:
		s.fetch = nil
		c.setRole(Out)
	case (c.role == Standby || c.role == Joining) && c.hasState && c.prop == nil && !s.wonder && c.leaderSilent():
		s.wonder = true
		c.get()
	}
}

func (c *Core) deadlineStandby(at func(time.Duration)) {
	s := &c.standby
	if s.leaving && c.role != Out {
		at(s.leaveAt)
	}
	switch {
	case c.role == Out && c.hasState && s.outAt > 0:
		at(s.outAt + c.cfg.Linger)
	case c.role == Joining && !c.hasState:
		at(s.heard + c.cfg.Join)
	case (c.role == Standby || c.role == Joining) && c.prop == nil && !s.wonder:
		// Look again at each step of the ranks: cheap, and exact.
		for d := c.cfg.Silence; ; d += c.cfg.Rank {
			if s.heard+d > c.now {
				at(s.heard + d)
				break
			}
			if d > c.cfg.Silence+32*c.cfg.Rank {
				at(c.now + c.cfg.Heartbeat)
				break
			}
		}
		if s.down {
			at(c.now + c.cfg.Rank)
		}
	}
}

// leave asks the active host to be taken out of the in-sync set, again and again until it is.
func (c *Core) leave() {
	s := &c.standby
	if c.role.Active() {
		return
	}
	s.leaving = true
	if c.role == Out {
		c.release()
		c.standby.leaving = true
		return
	}
	s.leaveAt = c.now + c.cfg.Heartbeat
	if s.leader.ID != "" {
		c.send(s.leader, Msg{Type: MsgLeave})
	}
	if c.role == Joining && !c.hasState {
		c.release()
		c.standby.leaving = true
	}
}
