package core

import (
	"slices"
	"time"

	"github.com/roam-go/roam/resolver"
)

// standbyState is the state of a host that is not active.
type standbyState struct {
	leader         resolver.Host // the active host of this term; zero: not known
	heard          time.Duration // when the leader was last heard, or could be again
	contact        time.Duration // when this host sent the last acknowledgement that the leader has echoed; 0: never
	removedAt      time.Duration // when this host was removed from the in-sync set; 0: it was not
	nextLeave      time.Duration // when to ask again to be removed
	invitation     uint64        // number of the accepted invitation; 0: none in this term
	matched        uint64        // the log equals the leader's up to here; acknowledged once the store holds it
	ackedIndex     uint64        // last acknowledged index
	round          uint64        // last heartbeat round received
	fetch          *Fetch
	down           bool // the leader's process seems to be gone
	ackDue         bool
	ackNow         bool // acknowledge even if the store holds nothing new
	resend         bool // ask the leader to resend
	checkingActive bool // a read of the record is pending because the leader is silent
	dropping       bool // a read of the record is pending because the copy here is no longer needed
	leaving        bool
	halted         bool // see Halted
}

// recv handles a message. It answers an active host of a lower term with the record that deposed it.
func (c *Core) recv(m Msg) {
	if m.From.Same(c.self) {
		return
	}
	d := m.Term.Compare(c.term)
	if p := c.peer(m.From); p != nil && p.host.Key == m.From.Key && m.From.Addr != "" {
		p.host.Addr = m.From.Addr // it may have restarted at another address
	}
	switch m.Type {
	case MsgAppend, MsgInvite, MsgSnapshot, MsgRecord, MsgTransfer, MsgRelease:
		if d < 0 {
			c.rejectOlder(m)
			return
		}
		if m.Record != nil {
			c.hearRecord(*m.Record, m.From)
		}
		switch obeys := c.obeys(m); {
		case obeys && m.Type == MsgTransfer && m.Record != nil && m.Record.Version > c.rec.Version:
			c.waiting = &m // another connection was slower; hearRecord has asked for the record
		case obeys:
			c.recvActive(m)
		case TermOf(c.rec).Compare(m.Term) < 0:
			c.get()
			if m.Type == MsgInvite {
				c.waiting = &m
			}
		}
	case MsgReject:
		switch {
		case m.Record == nil:
		case !c.credible(m.From, m.Term, *m.Record):
		case c.isMember(m.From) && TermOf(*m.Record).Compare(TermOf(c.rec)) > 0 && !c.isOwn(*m.Record):
			c.hear(*m.Record, m.Flag)
		default:
			c.hearRecord(*m.Record, m.From)
		}
		if d > 0 && TermOf(c.rec).Compare(m.Term) < 0 {
			c.get()
		}
	case MsgAck, MsgFailed, MsgMoved, MsgJoin, MsgLeave, MsgPolicy:
		switch {
		case d > 0:
			c.get()
		case m.Type == MsgLeave:
			c.recvLeave(m)
		case d < 0:
		case m.Type == MsgJoin:
			c.recvJoin(m)
		case m.Type == MsgAck:
			c.recvAck(m)
		case m.Type == MsgFailed:
			c.recvFailed(m)
		case m.Type == MsgMoved:
			c.recvMoved(m)
		case m.Type == MsgPolicy:
			c.recvPolicy(m)
		}
	}
}

// rejectOlder answers a host that was active in an earlier term.
func (c *Core) rejectOlder(m Msg) {
	c.sendRecord(m.From, MsgReject)
	if !c.hasState && m.Term.Loss < c.term.Loss {
		c.get() // the beginning of the service that this host knows may be void
	}
}

// recvActive handles a message from the active host of this term.
func (c *Core) recvActive(m Msg) {
	s := &c.standby
	if m.Type == MsgRelease {
		if !member(c.rec.ISR, c.self) && m.Round == s.invitation {
			c.release()
			s.leader = m.From
		}
		return
	}
	s.leader, s.heard, s.down = m.From, c.now, false
	c.setHalted(false)
	switch m.Type {
	case MsgAppend:
		c.recvAppend(m)
	case MsgInvite:
		c.comparePolicy(m)
		c.recvInvite(m)
	case MsgRecord:
		c.comparePolicy(m)
	case MsgSnapshot:
		c.recvSnapshot(m)
	case MsgTransfer:
		c.recvTransfer(m)
	}
}

func (c *Core) recvAppend(m Msg) {
	s := &c.standby
	if !c.hasState && s.invitation == 0 {
		// The active host counts on a copy that this host has released or whose store is gone.
		c.send(s.leader, Msg{Type: MsgLeave, Round: m.Index, Flag: true})
		return
	}
	if m.Index != s.invitation {
		return // of an earlier invitation
	}
	if sent := m.Won - c.stamp(0); m.Won > 0 && sent >= 0 && sent <= c.now/time.Millisecond {
		c.echoed(sent * time.Millisecond)
		s.contact = max(s.contact, sent*time.Millisecond, 1)
	}
	s.ackDue, s.ackNow = true, s.ackNow || len(m.Entries) == 0 || m.Round > s.round
	s.round = max(s.round, m.Round)
	if !c.hasState || m.Prev == ^uint64(0) {
		return
	}
	if c.contradicts(m) {
		c.supersede()
		return
	}
	// Committed entries are the same everywhere: skip them.
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
		if e.Index != at+1 {
			c.accuse(m.From, "sends entry %d after entry %d", e.Index, at)
			break
		}
		at = e.Index
		if have, ok := c.log.epochAt(at); ok {
			if have == e.Epoch {
				continue
			}
			c.truncate(at - 1)
		}
		if c.backlogged() {
			at, s.resend = at-1, true
			break
		}
		c.log.append(e)
		c.lastTime = e.Time
	}
	s.matched = max(s.matched, at)
	c.commit = max(c.commit, min(m.Commit, s.matched))
}

func (c *Core) sendAck() {
	s := &c.standby
	if !s.ackDue || s.leader.ID == "" {
		return
	}
	// A host without entries that fetches nothing has missed the snapshot message.
	resend := (s.resend || s.fetch == nil && s.matched == 0) && !c.backlogged()
	index := min(s.matched, c.durableIndex())
	if index < s.matched && index <= s.ackedIndex && !s.ackNow && !resend {
		return // until the store holds more
	}
	m := Msg{
		Type: MsgAck, Won: c.stamp(c.now), Index: index, Commit: c.commit, Round: s.round, Flag: resend, Prev: s.invitation,
	}
	if c.hasState {
		m.PrevEpoch = 1 + c.applied
	}
	c.send(s.leader, m)
	s.ackDue, s.ackNow, s.resend, s.ackedIndex = false, false, false, index
}

// recvInvite handles an invitation to hold a copy.
func (c *Core) recvInvite(m Msg) {
	s := &c.standby
	if c.role == Standby || m.Round < s.invitation || m.Index != c.self.Incarnation {
		return
	}
	if s.leaving {
		c.send(s.leader, Msg{Type: MsgJoin, Round: m.Round, Reason: "host " + c.self.ID + " is about to leave"})
		return
	}
	if m.Round > s.invitation {
		// Acknowledgements under an earlier invitation do not count any more.
		s.invitation, s.matched, s.ackedIndex, s.fetch = m.Round, 0, 0, nil
		c.out.Fetch = nil
	}
	c.setRole(Joining)
	s.removedAt = 0
	have := c.place(min(c.commit, c.durableIndex()))
	c.send(s.leader, Msg{
		Type: MsgJoin, Round: s.invitation, Flag: c.hasState, Commit: have.Index, PrevEpoch: have.Epoch, Index: c.loss,
	})
}

// recvSnapshot begins to fetch a snapshot that replaces the copy here, unless the active host counts on that copy.
func (c *Core) recvSnapshot(m Msg) {
	s := &c.standby
	if m.Prev != s.invitation || s.matched > 0 || c.role != Joining || s.leaving ||
		s.fetch != nil && s.fetch.ID == m.Round && s.fetch.From.Same(m.From) {
		return
	}
	c.reportReplaced(m)
	c.release()
	s.leader, s.heard, s.invitation = m.From, c.now, m.Prev
	c.setRole(Joining)
	f := Fetch{From: m.From, ID: m.Round, Index: m.Index, Epoch: m.PrevEpoch}
	s.fetch = &f
	g := f
	c.out.Fetch = &g
}

func (c *Core) restored(ev Restored) {
	s := &c.standby
	f := s.fetch
	if f == nil || f.ID != ev.ID || !f.From.Same(ev.From) || c.role != Joining {
		return
	}
	s.fetch = nil
	if !ev.OK {
		c.setRole(Out)
		c.send(s.leader, Msg{Type: MsgLeave, Round: s.invitation})
		s.invitation = 0
		return
	}
	c.rebase(f.Index, f.Epoch)
	c.commit, c.emitted, c.applied, c.lastTime = f.Index, f.Index, f.Index, ev.Time
	c.hasState, c.loss = true, c.term.Loss
	s.matched, s.ackDue = f.Index, true
	c.checkMember()
}

// takeOverIfSilent continues after the record, at version before until then, was read because the active host is silent.
func (c *Core) takeOverIfSilent(before uint64) {
	s := &c.standby
	if c.role.Active() || !s.checkingActive {
		return
	}
	s.checkingActive = false
	if c.rec.Version != before || !c.hasState || !c.leaderSilent() {
		return
	}
	if TermOf(c.rec).Compare(c.term) < 0 {
		c.proposeAfter = c.now + c.cfg.Heartbeat
		return // this host does not know the record of its term
	}
	if c.Lost() && member(c.rec.ISR, c.self) {
		if c.prop != nil || !c.ask() {
			c.proposeAfter = c.now + c.cfg.Heartbeat
		}
		return
	}
	if !member(c.rec.ISR, c.self) {
		if c.role == Joining {
			// Without an invitation in this term no host counts on the copy here. With one, the active host may have
			// proposed this host before it fell silent: the copy stays until that host or a new term releases it.
			c.setRole(Out)
			if s.invitation == 0 {
				s.removedAt = c.now
			}
			s.nextLeave = c.now + c.cfg.JoinTimeout
		}
		return
	}
	if c.prop == nil && TermOf(c.rec) == c.term {
		if others, _ := c.failedTakeovers(); others >= maxFailedTakeovers {
			c.setHalted(true)
			c.proposeAfter = c.now + c.cfg.JoinTimeout
			return
		}
		if !c.outOfTouch() {
			c.takeOver()
			return
		}
		if c.ask() {
			return
		}
	}
	c.proposeAfter = c.now + c.cfg.Heartbeat
}

func (c *Core) leaderSilent() bool {
	if c.rec.Active.Same(c.self) && TermOf(c.rec) == c.term {
		return true // this host itself, before it restarted
	}
	rank := time.Duration(0)
	for _, h := range c.rec.ISR {
		if h.Same(c.self) {
			break
		}
		if !h.Same(c.rec.Active) {
			rank++
		}
	}
	wait := rank * c.cfg.RankDelay
	if !c.standby.down {
		// A host that could not commit while it was active may be the one that is cut off.
		_, own := c.failedTakeovers()
		wait += c.failureTimeout(c.leader) << min(own, 5)
	}
	if len(c.rec.ISR) > 2 && c.lags(c.applied, c.commit) {
		wait += time.Duration(len(c.rec.ISR)) * c.cfg.RankDelay // another host may be able to serve sooner
	}
	return c.now-c.standby.heard >= wait
}

// maxFailedTakeovers is the number of consecutive hosts that may take over without progress.
const maxFailedTakeovers = 3

// failedTakeovers counts the hosts that took over while the same entry was uncommitted, and never reported it committed,
// which they do after they have applied it. An entry that kills every host that applies it leaves this trace. Handoffs,
// takeovers with no uncommitted entries, and entries that the store held when this host started are not counted; the store
// may not know the last commit. own is how often this host, which is alive, took over.
func (c *Core) failedTakeovers() (others, own int) {
	waits := false
	var dead []uint64
	for _, e := range c.log.slice(c.commit+1, c.log.last()) {
		switch {
		case e.Kind != EpochStart:
			waits = true
		case c.saving != nil && e.Index <= c.saving.recoveredLast:
		case e.Low == c.self.Incarnation:
			own++
		case waits && e.Low != 0 && !slices.Contains(dead, e.Low):
			dead = append(dead, e.Low)
		}
	}
	return len(dead), own
}

// setHalted sets whether this host refrains from taking over.
func (c *Core) setHalted(halted bool) {
	if c.standby.halted != halted {
		c.standby.halted, c.out.Changed = halted, true
	}
}

// Halted reports whether this host refrains from replacing a silent active host, because three other hosts have taken over
// one after the other without progress: the uncommitted entry seems to kill every host that applies it. This host keeps its
// copy. Reset makes it active without the uncommitted entries. If the active host is heard again, this host is a standby as
// before.
func (c *Core) Halted() bool { return c.standby.halted }

// tickStandby handles what is due on a host that is not active.
func (c *Core) tickStandby() {
	s := &c.standby
	switch {
	case s.leaving && c.now >= s.nextLeave && (c.role != Out || c.hasState):
		c.leave()
	case c.role == Out && c.hasState && s.removedAt > 0 && c.now-s.removedAt >= c.cfg.CopyRetention:
		if c.asked == nil {
			s.dropping = true // once the resolver confirms that it has the record without this host
			c.get()
		}
	case c.role == Out && c.hasState && s.removedAt == 0 && c.now >= s.nextLeave:
		s.nextLeave = c.now + c.cfg.JoinTimeout
		if s.leader.ID != "" {
			c.send(s.leader, Msg{Type: MsgLeave, Round: s.invitation})
		}
		c.get()
	case c.role == Joining && !c.hasState && c.now-s.heard >= c.cfg.JoinTimeout:
		s.fetch, s.invitation = nil, 0
		c.setRole(Out)
	case (c.role == Standby || c.role == Joining) && c.hasState && c.prop == nil &&
		!s.checkingActive && !c.recovery.read().asking && c.now >= c.proposeAfter && c.leaderSilent():
		s.checkingActive = true
		c.get()
	}
}

func (c *Core) deadlineStandby(at func(time.Duration)) {
	s := &c.standby
	if s.leaving && (c.role != Out || c.hasState) {
		at(s.nextLeave)
	}
	switch {
	case c.role == Out && c.hasState && s.removedAt > 0:
		if !s.dropping {
			at(s.removedAt + c.cfg.CopyRetention)
		}
	case c.role == Out && c.hasState:
		at(s.nextLeave)
	case c.role == Joining && !c.hasState:
		at(s.heard + c.cfg.JoinTimeout)
	case (c.role == Standby || c.role == Joining) && c.now < c.proposeAfter:
		at(c.proposeAfter)
	case (c.role == Standby || c.role == Joining) && c.prop == nil && !s.checkingActive && !c.recovery.read().asking:
		// Check again at each step of the ranks.
		first := c.failureTimeout(c.leader)
		for d := first; ; d += c.cfg.RankDelay {
			if s.heard+d > c.now {
				at(s.heard + d)
				break
			}
			if d > first+32*c.cfg.RankDelay {
				at(c.now + c.cfg.Heartbeat)
				break
			}
		}
		if s.down {
			at(c.now + c.cfg.RankDelay)
		}
	}
}

// leave asks the active host to remove this host from the in-sync set. It repeats until that has happened.
func (c *Core) leave() {
	s := &c.standby
	if c.role.Active() {
		return
	}
	s.leaving = true
	if c.role == Out && (!c.hasState || s.removedAt > 0) {
		c.release()
		return
	}
	s.nextLeave = c.now + c.cfg.Heartbeat
	if s.leader.ID != "" {
		c.send(s.leader, Msg{Type: MsgLeave, Round: s.invitation})
	}
	if c.role == Joining && !c.hasState {
		c.release()
	}
}
