package core

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/roam-go/roam/resolver"
)

// activeState is the state that only an active host has.
type activeState struct {
	peers          []*peer // sorted by host ID
	epochStart     uint64  // index of the epoch's first entry
	nextBeat       time.Duration
	nextSeek       time.Duration
	nextCheck      time.Duration // when to check that the resolver still has the record
	lastInvitation uint64        // number of the last invitation
	round          uint64        // number of the last heartbeat round
	reads          []read
	seeking        bool
	roundDue       bool       // a read waits for a new round
	suspended      bool       // nothing is committed: a member does not keep up, or there are too few members
	blocked        bool       // suspended, and the in-sync set must not shrink: other hosts have to join
	slowHosts      []slowHost // hosts removed because they did not keep up
	move           *move
	takenMove      *move     // a handoff that the target has taken over but not yet reported as serving
	takeover       *takeover // nil: no host has handed over to this one
}

// takeover is the handoff that made this host active.
type takeover struct {
	from        resolver.Host
	requestedAt time.Duration
	wonAt       time.Duration // when this host won its epoch
	servingAt   time.Duration // when the epoch's first entry was committed
	announced   bool          // this host has reported that it serves
}

// predecessor is the host that handed over to this one; zero if none did.
func (a *activeState) predecessor() resolver.Host {
	if a.takeover == nil {
		return resolver.Host{}
	}
	return a.takeover.from
}

// peer is the active host's view of another host.
type peer struct {
	host              resolver.Host
	member            bool          // in M: commits need its acknowledgement
	commitWaitSince   time.Duration // since when commits wait for it to catch up; 0: they do not
	nextCommitWait    time.Duration // when commits may wait for it again
	failedCommitWaits int           // number of such waits in which it did not catch up
	lagMark           uint64        // an entry that it had not acknowledged at lagMarkAt: then the last one; 0: none
	lagMarkAt         time.Duration
	leaveAskedAt      time.Duration // when it last asked to be removed; 0: never
	stage             stage
	base              uint64        // it holds everything up to here, whatever the epoch
	match             uint64        // it has acknowledged everything up to here in this epoch
	applied           uint64        // its service has applied everything up to here, as far as known
	next              uint64        // next entry to send
	lastAck           time.Duration // when it was last heard
	back              time.Duration // this host may have been cut off until then: earlier silence does not count
	checked           time.Duration // when the resolver last answered without delay
	stamp             time.Duration // of its last acknowledgement
	round             uint64        // last heartbeat round that it has acknowledged
	inFlight          int           // bytes of the entries between match and next
	resentAt          time.Duration // when entries were last resent, until one is acknowledged; 0: never
	snapshot          Msg           // the snapshot for it to fetch
	superseded        bool          // its copy holds committed entries that this host lacks
	invitation        uint64        // number of its invitation; 0: it was a member when the epoch began
	invitedAt         time.Duration
	fetchSince        time.Duration // in stage fetching: since when
	delayed           bool          // its delay in fetching was reported
	probe             probe
	down              bool // its process seems to be gone
	sendDue           bool // send a message now, even without entries
}

type stage uint8

const (
	invited   stage = iota + 1
	capturing       // this host captures a snapshot for it
	fetching        // it fetches a snapshot
	streaming       // it receives entries
)

// trimLimit is the index up to which p lets the log be trimmed.
func (p *peer) trimLimit() uint64 {
	switch p.stage {
	case streaming:
		return max(p.match, p.base)
	case fetching:
		return p.snapshot.Index
	}
	return ^uint64(0)
}

// rewind resumes sending after the entries that p certainly holds, and returns how many entries that resends.
func (p *peer) rewind() uint64 {
	if p.stage != streaming {
		return 0
	}
	was := p.next
	p.next, p.inFlight, p.sendDue, p.resentAt = max(p.match, p.base)+1, 0, true, 0
	return was - p.next
}

// read is a pending read: all of M must acknowledge round, which began after the read was requested.
type read struct{ id, round uint64 }

func (c *Core) peer(h resolver.Host) *peer {
	for _, p := range c.active.peers {
		if p.host.Same(h) {
			return p
		}
	}
	return nil
}

func (c *Core) addPeer(h resolver.Host) *peer {
	a := &c.active
	a.peers = slices.DeleteFunc(a.peers, func(p *peer) bool { return p.host.ID == h.ID && !p.member })
	p := &peer{host: h, invitedAt: c.now, lastAck: c.now}
	a.peers = append(a.peers, p)
	slices.SortStableFunc(a.peers, func(x, y *peer) int { return cmp.Compare(x.host.ID, y.host.ID) })
	return p
}

func (c *Core) dropPeer(p *peer) {
	c.active.peers = slices.DeleteFunc(c.active.peers, func(q *peer) bool { return q == p })
	c.failMoveTo(p.host, "host "+p.host.ID+" was lost")
}

// activate begins the epoch that the record gives to this host. won is the proposal that achieved it, if known.
func (c *Core) activate(won *proposal) {
	t := TermOf(c.rec)
	c.assert(c.hasState || t == c.freshTerm, "active without a copy")
	c.freshTerm = Term{}
	tookOver := c.hasState && c.loss == t.Loss // otherwise created or reset
	if c.hasState && c.loss != t.Loss {
		c.loss = t.Loss // reset with the remaining copy
		if c.standby.halted || c.role == Out {
			// The next entry seems to kill every host that applies it, or another host may have replaced it.
			c.truncate(c.commit)
		}
		// Otherwise the entries after the last that is known to be committed stay: they may have been acknowledged.
	}
	if !c.hasState {
		c.rebase(0, 0)
		c.commit, c.emitted, c.applied = 0, 0, 0
		c.hasState, c.loss = true, t.Loss
	}
	c.term = t
	c.active = activeState{nextSeek: c.now, nextCheck: c.now + c.cfg.CheckInterval}
	if c.saving != nil {
		c.saving.stalledSince = 0
	}
	c.reportPredecessor(c.standby.leader)
	c.standby = standbyState{}
	a := &c.active
	if won != nil && won.requester.ID != "" {
		a.takeover = &takeover{from: won.requester, requestedAt: won.began, wonAt: c.now}
		from := won.requester
		c.out.Gained = &from
	}
	for _, h := range c.rec.ISR {
		if !h.Same(c.self) {
			p := c.addPeer(h)
			p.member, p.stage = true, streaming
			// Every member's log holds all committed entries.
			p.base, p.next = c.commit, c.commit+1
			p.probe.trip = c.leader // they are about as far as the former active host
		}
	}
	c.setRole(Recovering)
	c.out.Activated, c.out.Changed = true, true
	c.broadcastRecord()
	first := Entry{Kind: EpochStart, Time: c.lastTime}
	if tookOver && (won == nil || won.kind == propPromote && won.requester.ID == "") {
		first.Low = c.self.Incarnation
	}
	a.epochStart = c.append(first).Index
	c.maybeCommit()
}

func (c *Core) broadcastRecord() {
	for _, p := range c.active.peers {
		c.sendRecord(p.host, MsgRecord)
	}
}

func (c *Core) sendRecord(to resolver.Host, t Type) { c.sendJoinRecord(to, t, 0) }

// sendJoinRecord sends the record together with the number of an invitation.
func (c *Core) sendJoinRecord(to resolver.Host, t Type, join uint64) {
	r := c.copyRec()
	m := Msg{Type: t, Record: &r, Round: join}
	m.Flag = t == MsgReject && c.hasState && c.loss == r.Loss
	if t == MsgInvite {
		m.Index = to.Incarnation // another incarnation may have acknowledged entries that count
	}
	if t == MsgInvite || t == MsgRecord {
		c.putPolicy(&m)
	}
	c.send(to, m)
}

// adoptISR takes over the in-sync set of a newer record of this host's own epoch.
func (c *Core) adoptISR(done *proposal) {
	a := &c.active
	for _, p := range slices.Clone(a.peers) {
		switch in := member(c.rec.ISR, p.host); {
		case in && !p.member:
			p.member, p.lastAck = true, c.now
		case !in && p.member:
			deliberate := done != nil && done.kind == propRemove && done.drop
			t := MsgReject
			if deliberate {
				t = MsgRelease
			}
			c.sendJoinRecord(p.host, t, p.invitation)
			c.dropPeer(p)
		}
	}
	for _, h := range c.rec.ISR {
		if !h.Same(c.self) && c.peer(h) == nil {
			p := c.addPeer(h)
			p.member, p.stage, p.base, p.next = true, streaming, c.commit, c.commit+1
		}
	}
	c.broadcastRecord()
	if m := a.move; m != nil && m.stage == 0 && member(c.rec.ISR, m.target) {
		c.moveInSync()
	}
	c.maybeCommit()
	c.finishReads()
}

// append assigns e its place at the end of the log.
func (c *Core) append(e Entry) Entry {
	e.Index, e.Epoch = c.log.last()+1, c.term.Epoch
	e.Time = max(e.Time, c.lastTime)
	c.lastTime = e.Time
	c.log.append(e)
	return e
}

// Room reports whether Propose would accept an entry now: neither the log nor the backlog of unapplied entries is full.
func (c *Core) Room() bool {
	return c.role.Active() && c.Unapplied() < c.cfg.MaxUnapplied && (c.log.bytes < c.cfg.LogBytes || c.log.last() == c.applied)
}

// Propose appends an entry to the log. The caller sets Kind, Session, Seq, Low, Time and Body, and must not change Body
// afterwards. ok is false if this host is not active or the log is full.
func (c *Core) Propose(now time.Duration, e Entry) (ordered Entry, ok bool) {
	if c.err != nil {
		return Entry{}, false
	}
	defer c.stop()
	c.setNow(now)
	if !c.Room() {
		return Entry{}, false
	}
	return c.append(e), true
}

func (c *Core) maybeCommit() {
	if !c.metaDurable() {
		return // by the record, fewer hosts may hold the next entries, which this host must not forget
	}
	n := min(c.log.last(), c.durableIndex())
	for _, p := range c.active.peers {
		if p.member || p.commitWaitSince > 0 {
			n = min(n, p.match)
		}
	}
	if c.belowMinInSync() {
		// Only the epoch's first entry, which carries no command: with it the host serves and others can join.
		if c.commit+1 != c.active.epochStart {
			return
		}
		n = min(n, c.active.epochStart)
	}
	// Inherited entries are committed together with the epoch's first entry, not before. A store that holds that entry knows
	// the epoch, so that a restarted host does not continue in an epoch that another host may have ended.
	if n <= c.commit || n < c.active.epochStart {
		return
	}
	c.commit = n
	if a := &c.active; c.role == Recovering && n >= a.epochStart {
		c.setRole(Serving)
		if a.takeover != nil {
			a.takeover.servingAt = c.now
		}
		c.announceServing()
		c.finishReads()
	}
}

// recvAck records which entries a host holds.
func (c *Core) recvAck(m Msg) {
	p := c.peer(m.From)
	if p == nil || !c.role.Active() || m.Prev != p.invitation {
		return // of an earlier invitation: the host may have dropped that copy since
	}
	switch p.stage {
	case invited:
		return
	case capturing, fetching:
		p.lastAck = c.now
		c.probed(p, m.Round)
		if p.stage == capturing {
			return
		}
		if m.Index < p.snapshot.Index || m.PrevEpoch == 0 {
			if m.Flag {
				c.send(p.host, p.snapshot)
			}
			return
		}
		p.stage, p.base, p.next, p.sendDue = streaming, p.snapshot.Index, p.snapshot.Index+1, true
	}
	if m.Index > c.log.last() {
		c.accuse(m.From, "acknowledges entry %d, the log ends at %d", m.Index, c.log.last())
		return
	}
	p.lastAck, p.down, p.stamp = c.now, false, m.Won
	p.round = max(p.round, m.Round)
	c.probed(p, m.Round)
	if m.PrevEpoch > 0 {
		p.applied = max(p.applied, m.PrevEpoch-1)
	}
	if m.Index > p.match {
		p.match, p.resentAt = m.Index, 0
		p.next = max(p.next, p.match+1)
		p.inFlight = c.bytesBetween(p.match+1, p.next)
	}
	// Every message after a lost one asks for a resend. Resending for each would multiply the traffic.
	if m.Flag && (p.resentAt == 0 || c.now-p.resentAt >= c.cfg.Heartbeat) {
		was := p.next
		p.next = max(p.match, p.base, min(m.Commit, c.commit)) + 1
		if was > p.next {
			c.out.Resent += was - p.next
		}
		p.inFlight, p.sendDue, p.resentAt = 0, true, max(c.now, 1)
	}
	if p.member {
		c.maybeCommit()
		c.finishReads()
	}
}

func (c *Core) bytesBetween(from, to uint64) int {
	n := 0
	for i := max(from, c.log.base+1); i < to; i++ {
		n += c.log.ents[i-c.log.base-1].Size()
	}
	return n
}

// recvJoin handles a host's answer to its invitation.
func (c *Core) recvJoin(m Msg) {
	p := c.peer(m.From)
	if p == nil || !c.role.Active() || p.member || p.stage != invited || m.Round != p.invitation {
		return
	}
	if m.Reason != "" {
		c.failMoveTo(m.From, m.Reason)
		c.dropPeer(p)
		return
	}
	p.lastAck = c.now
	// Its committed entries are a prefix of this log, unless a loss came in between, or the record was an old one.
	if m.Flag && m.Index == c.term.Loss && m.Commit >= c.log.base {
		epoch, ok := c.log.epochAt(m.Commit)
		if ok && (epoch == m.PrevEpoch || m.PrevEpoch == 0) {
			p.stage, p.base, p.next, p.match, p.sendDue = streaming, m.Commit, m.Commit+1, 0, true
			return
		}
		p.superseded = true
		c.reportSuperseded(p.host, c.self, m.Commit, false)
	}
	p.stage = capturing
	c.out.Snapshots = append(c.out.Snapshots, p.host)
}

func (c *Core) captured(ev Captured) {
	p := c.peer(ev.To)
	if p == nil || p.stage != capturing {
		return
	}
	if ev.ID == 0 {
		c.failMoveTo(p.host, "host "+c.self.ID+" could not take a snapshot for host "+p.host.ID)
		c.dropPeer(p)
		return
	}
	if ev.Index < c.log.base {
		c.out.Snapshots = append(c.out.Snapshots, p.host) // the log has been trimmed since
		return
	}
	c.assert(ev.Index <= c.commit, "snapshot at %d, after %d", ev.Index, c.commit)
	p.stage, p.lastAck, p.fetchSince = fetching, c.now, c.now
	p.snapshot = Msg{
		Type: MsgSnapshot, Round: ev.ID, Index: ev.Index, PrevEpoch: ev.Epoch, Prev: p.invitation, Flag: p.superseded,
	}
	c.send(p.host, p.snapshot)
}

func (c *Core) peerDown(h resolver.Host) {
	if c.role.Active() {
		if p := c.peer(h); p != nil && c.now > p.lastAck && h.Addr == p.host.Addr {
			p.down = true
		}
		return
	}
	if l := c.standby.leader; l.Same(h) && h.Addr == l.Addr && c.hasState {
		c.standby.down = true
	}
}

// tickActive handles what is due on an active host.
func (c *Core) tickActive() {
	a := &c.active
	if c.now >= a.nextBeat && len(a.peers) > 0 {
		for _, p := range a.peers {
			p.sendDue = true
			if p.member && p.round == 0 && a.nextBeat > 0 && !c.unreachable(p) {
				c.sendRecord(p.host, MsgRecord) // it may not have believed the first one
			}
		}
		a.nextBeat = c.now + c.cfg.Heartbeat
	}
	if c.storeStalled() {
		for _, p := range a.peers {
			p.lastAck, p.lagMark = c.now, 0 // this host sends nothing, so nobody answers
		}
	}
	a.suspended = c.belowMinInSync()
	for _, p := range a.peers {
		c.markLag(p)
		a.suspended = a.suspended || p.member && c.lagging(p)
	}
	a.blocked = a.suspended && !c.mayShrink()
	var buf [resolver.MaxMembers]*peer
	for _, p := range append(buf[:0], a.peers...) { // the loop changes a.peers
		suspect := p.member && c.suspect(p)
		switch {
		case p.member && c.lagging(p):
			if m := a.move; m != nil && m.target.Same(p.host) {
				c.failMove("host " + p.host.ID + " does not keep up")
			}
			if suspect && c.mayPropose() && c.mayShrink() && member(c.rec.ISR, p.host) {
				c.removeLagging(p)
			}
		case p.member:
		case p.down, c.now-p.lastAck >= c.joinTimeout(p), p.stage != invited && c.log.bytes > c.cfg.LogBytes && !a.blocked,
			c.dispensable(p):
			// An invited or joining host that is gone, or keeps a full log from being trimmed, or has been replaced.
			c.sendJoinRecord(p.host, MsgRelease, p.invitation)
			c.dropPeer(p)
		case c.eligible(p) && c.mayPropose():
			c.proposeAdd(p)
		default:
			c.awaitJoiner(p)
		}
	}
	if c.Lost() && c.prop == nil && c.now >= c.proposeAfter {
		c.ask()
	} else if c.mayPropose() && c.addressChanged() {
		c.proposeAddr()
	}
	if len(a.peers) > 0 && c.now >= a.nextCheck {
		a.nextCheck = c.now + c.cfg.CheckInterval
		c.get()
	}
	if m := a.move; m != nil && c.prop == nil {
		if !m.begun {
			c.beginMove()
		} else if m.transferDue {
			c.transfer()
		}
	}
	if m := a.move; m != nil && m.deadline > 0 && c.now >= m.deadline {
		switch {
		case m.transferDue && c.prop == nil:
			c.failMove(fmt.Sprintf("host %s has %d entries yet to apply", m.target.ID, c.applied-c.peer(m.target).applied))
		case m.transferDue:
			c.failMove("the resolver does not answer")
		default:
			c.failMove("host " + m.target.ID + " did not take over in time")
		}
	}
	if m := a.move; m != nil && m.stage == 0 && c.prop != nil && c.now >= c.prop.began+c.transferTimeout() {
		c.failMove("the resolver does not answer")
	}
	if c.role == Serving && c.mayPropose() && a.move == nil {
		c.trimStandbys()
	}
	if c.mayJoin() && !a.seeking && c.now >= a.nextSeek && c.missing() > 0 {
		a.seeking, a.nextSeek = true, c.now+c.cfg.SeekInterval
		c.out.Seek = true
		if a.blocked {
			c.get() // this host may be deposed, and has nothing to propose that would show it
		}
	}
	if c.prop == nil && len(a.peers) == 0 && c.role == Recovering {
		c.maybeCommit()
	}
}

// read keeps a read until it can be answered. On a host that recovers, that is when it serves: its caller learns of that
// with the answer, and would not if it had to ask again.
func (c *Core) read(id uint64) {
	if !c.role.Active() {
		c.out.ReadsFail = true
		return
	}
	c.active.reads = append(c.active.reads, read{id: id, round: c.active.round + 1})
	c.active.roundDue = true
	c.finishReads()
}

func (c *Core) finishReads() {
	a := &c.active
	if len(a.reads) == 0 || c.role != Serving {
		return
	}
	done := ^uint64(0)
	for _, p := range a.peers {
		if p.member {
			done = min(done, p.round)
		}
	}
	n := 0
	for ; n < len(a.reads) && a.reads[n].round <= done; n++ {
		c.out.Reads = append(c.out.Reads, a.reads[n].id)
	}
	a.reads = a.reads[n:]
	if len(a.reads) == 0 {
		a.reads = nil
		a.roundDue = false
	}
}

// sendAppends sends each host the entries that it lacks, heartbeats and reminders of its invitation.
func (c *Core) sendAppends() {
	a := &c.active
	c.maybeCommit()
	if c.storeStalled() {
		return
	}
	c.probe()
	if a.roundDue {
		a.round++
		a.roundDue = false
		for _, p := range a.peers {
			p.sendDue = true
		}
	} else if a.round == 0 {
		a.round = 1
	}
	for _, p := range a.peers {
		switch p.stage {
		case invited:
			if p.sendDue && c.now > p.invitedAt {
				c.sendJoinRecord(p.host, MsgInvite, p.invitation)
			}
			p.sendDue = false
		case capturing, fetching:
			if p.sendDue {
				c.send(p.host, Msg{Type: MsgAppend, Prev: ^uint64(0), Round: a.round, Index: p.invitation})
			}
			p.sendDue = false
		case streaming:
			c.sendEntries(p)
		}
	}
}

// storeStalled reports whether this host's store has made no progress for so long that another host should be active. This
// host then falls silent, and is replaced like a dead one unless its store recovers first.
func (c *Core) storeStalled() bool {
	v := c.saving
	if v == nil {
		return false
	}
	if c.durableIndex() >= c.log.last() {
		v.stalledSince = 0
		return false
	}
	if v.stalledSince == 0 {
		v.stalledSince = max(c.now, 1)
	}
	return c.now-v.stalledSince >= stallFactor*c.cfg.FailureTimeout
}

// stallFactor is how many times FailureTimeout an active host waits for its own store.
const stallFactor = 4

func (c *Core) sendEntries(p *peer) {
	for {
		from, bytes := p.next, 0
		to := from
		for to <= c.log.last() && p.inFlight < c.cfg.InflightBytes && (p.resentAt == 0 || p.sendDue) {
			n := c.log.ents[to-c.log.base-1].Size()
			if bytes += n; bytes > c.cfg.AppendBytes && to > from {
				break // a single entry may be larger
			}
			p.inFlight += n
			to++
		}
		if from == to && !p.sendDue {
			return
		}
		prev, ok := c.log.epochAt(from - 1)
		if !ok {
			c.assert(false, "host %s needs entry %d, the log begins after %d", p.host.ID, from, c.log.base)
		}
		c.send(p.host, Msg{
			Type: MsgAppend, Prev: from - 1, PrevEpoch: prev, Entries: c.log.slice(from, to-1),
			// Standbys apply an entry only after this host has: a command that kills this host kills no other before a
			// takeover.
			Commit: c.applied, Round: c.active.round, Index: p.invitation, Won: p.stamp,
		})
		p.next, p.sendDue = to, false
	}
}

func (c *Core) deadlineActive(at func(time.Duration)) {
	a := &c.active
	if len(a.peers) > 0 {
		at(a.nextBeat)
		at(a.nextCheck)
	}
	if r := c.recovery.read(); r.lost != nil && c.prop == nil && !r.asking {
		at(max(r.nextAsk, c.proposeAfter))
	}
	for _, p := range a.peers {
		if p.member {
			at(c.suspectAt(p))
			at(max(p.lastAck, p.back) + c.failureTimeout(p.probe.trip))
			if p.lagMark > p.match {
				at(max(p.lagMarkAt, p.back) + c.failureTimeout(p.probe.trip))
			}
		} else {
			at(p.lastAck + c.joinTimeout(p))
		}
		if p.commitWaitSince > 0 {
			at(p.commitWaitSince + c.commitWaitLimit(p))
		}
	}
	if m := a.move; m != nil {
		at(m.deadline)
		if m.stage == 0 && c.prop != nil {
			at(c.prop.began + c.transferTimeout())
		}
	}
	if c.mayJoin() && !a.seeking && c.missing() > 0 {
		at(a.nextSeek)
	}
}

// Suspended reports whether the active host commits nothing because a member does not keep up or members are missing.
func (c *Core) Suspended() bool { return c.active.suspended }

// Replicas is the number of hosts that hold a committed entry.
func (c *Core) Replicas() int {
	n := 1
	for _, p := range c.active.peers {
		if p.member {
			n++
		}
	}
	return n
}

// EpochStart is the index of the first entry of this host's epoch.
func (c *Core) EpochStart() uint64 { return c.active.epochStart }
