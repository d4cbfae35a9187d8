package core

import (
	"hash/fnv"
	"slices"
	"time"

	"github.com/roam-go/roam/resolver"
)

// Outcome is what is known about a proposal.
type Outcome uint8

// The outcomes.
const (
	CASOK       Outcome = iota + 1 // it is the record now
	CASConflict                    // the record has another version; or the resolver has lost its memory, and Record is zero
	CASRefused                     // it is not legal, and never will be
	CASUnknown                     // the resolver did not answer: it may have happened, or may yet
)

type propKind uint8

const (
	propCreate propKind = iota + 1
	propAdd
	propRemove
	propPromote
	propRetire
	propReset
	propAddr
)

// proposal is a change of the record whose outcome is not known. There is one at a time. Until a record with a version
// above expect is seen the host behaves safely under both outcomes; it ends the doubt by sending the identical change
// again, which cannot apply twice.
type proposal struct {
	kind      propKind
	expect    uint64
	next      resolver.Record
	host      resolver.Host // added or removed
	drop      bool          // removed on purpose: tell it to release its copy
	requester resolver.Host // promote: who asked for the transfer; zero: nobody did
	replaced  *proposal     // reset: what it took the place of; nil: nothing
	began     time.Duration
	inFlight  bool
	tries     int
	retryAt   time.Duration
}

func (c *Core) propose(p proposal) {
	c.assert(c.prop == nil, "two proposals at a time")
	c.nonce++
	p.next.Name = c.cfg.Name
	p.next.Proposer = c.self
	p.next.Nonce = 1 + (c.self.Incarnation+c.nonce)%(1<<53-1)
	p.began, p.retryAt = c.now, c.now
	c.prop = &p
}

func (c *Core) proposeCreate() {
	if c.prop != nil || c.role != Out {
		return
	}
	if c.rec.Version == 0 && c.term != (Term{}) {
		return // there was such a service: it is the resolver that has lost it
	}
	next := resolver.Record{Epoch: 1, Active: c.self, ISR: []resolver.Host{c.self}}
	if c.rec.Version > 0 {
		if c.rec.Active.ID != "" {
			return
		}
		next.Epoch, next.Loss = c.rec.Epoch+1, c.rec.Loss+1
	}
	if c.hasState {
		c.release() // of the service that was retired
	}
	c.freshTerm = TermOf(next)
	c.propose(proposal{kind: propCreate, expect: c.rec.Version, next: next})
}

// proposeReset makes this host active whatever others hold. rec is the resolver's record, which is the zero one if it has
// forgotten the service; at is as in [Reset].
func (c *Core) proposeReset(rec resolver.Record, at int64) {
	next := resolver.Record{
		Epoch: rec.Epoch + 1, Loss: rec.Loss + 1, Generation: rec.Generation,
		Active: c.self, ISR: []resolver.Host{c.self},
	}
	if rec.Version == 0 {
		// The resolver has forgotten the service, so that nobody says whether others reset it after what this host knows: what
		// they began must not be taken for what this begins, which is the later. Clocks tell them apart, or names, where those are
		// wrong.
		next.Epoch, next.Loss = c.term.Epoch+1, max(c.term.Loss+1, uint64(max(at, 0)))+c.tieBreaker()
	}
	if TermOf(next).Compare(c.term) <= 0 {
		return // the resolver has gone back to before an earlier loss: that term was another's
	}
	c.freshTerm = TermOf(next)
	doubt := c.prop // with a higher loss it does not matter, unless the reset is given up
	if doubt != nil && doubt.kind == propReset {
		doubt = doubt.replaced
	}
	c.prop = nil
	c.propose(proposal{kind: propReset, expect: rec.Version, next: next, replaced: doubt})
}

// tieBreaker is a number below 2^10 that two hosts are unlikely to have in common.
func (c *Core) tieBreaker() uint64 {
	h := fnv.New64a()
	h.Write([]byte(c.self.ID))
	return h.Sum64() & (1<<10 - 1)
}

// cancelReset gives up a reset. What it took the place of is proposed again: its outcome is as unknown as before.
func (c *Core) cancelReset() {
	if p := c.prop; p != nil && p.kind == propReset {
		c.prop = p.replaced
		if c.prop != nil {
			c.prop.inFlight, c.prop.retryAt = false, c.now
		}
	}
}

func (c *Core) copyRec() resolver.Record {
	r := c.rec
	r.ISR = slices.Clone(r.ISR)
	return r
}

// nextRec returns the record as a base for a proposal, with the addresses that hosts have now: a host that starts again
// with its store may have another.
func (c *Core) nextRec() resolver.Record {
	r := c.copyRec()
	for i, h := range r.ISR {
		if h.Same(c.self) {
			r.ISR[i] = c.self
		} else if p := c.peer(h); p != nil && c.role.Active() {
			r.ISR[i].Addr = p.host.Addr
		}
		if h.Same(r.Active) {
			r.Active = r.ISR[i]
		}
	}
	return r
}

// addressChanged reports whether a member has another address than the record says.
func (c *Core) addressChanged() bool {
	for _, h := range c.rec.ISR {
		if h.Same(c.self) && h != c.self {
			return true
		}
		if p := c.peer(h); p != nil && p.host.Addr != h.Addr {
			return true
		}
	}
	return false
}

func (c *Core) proposeAddr() {
	c.propose(proposal{kind: propAddr, expect: c.rec.Version, next: c.nextRec()})
}

// proposeAdd puts a host into the in-sync set: in the place of its earlier incarnation, if that is still there.
func (c *Core) proposeAdd(p *peer) {
	next := c.nextRec()
	if i := slices.IndexFunc(next.ISR, func(h resolver.Host) bool { return h.ID == p.host.ID }); i >= 0 {
		next.ISR[i] = p.host
	} else {
		next.ISR = append(next.ISR, p.host)
	}
	p.member, p.commitWaitSince = true, 0 // before the proposal leaves
	p.lastAck = c.now
	c.propose(proposal{kind: propAdd, expect: c.rec.Version, next: next, host: p.host})
}

func (c *Core) proposeRemove(h resolver.Host, drop bool) {
	next := c.nextRec()
	next.ISR = slices.DeleteFunc(next.ISR, h.Same)
	c.propose(proposal{kind: propRemove, expect: c.rec.Version, next: next, host: h, drop: drop})
}

func (c *Core) proposePromote(from resolver.Host, keepOld bool) {
	next := c.nextRec()
	next.Epoch++
	if !keepOld && !next.Active.Same(c.self) {
		next.ISR = slices.DeleteFunc(next.ISR, next.Active.Same)
	}
	next.Active = c.self
	c.propose(proposal{kind: propPromote, expect: c.rec.Version, next: next, requester: from})
}

// Heirs returns the other hosts of the in-sync set, on the active host, but for those that are about to leave it.
func (c *Core) Heirs() (hosts []resolver.Host) {
	for _, p := range c.active.peers {
		if p.member && !c.leaving(p) {
			hosts = append(hosts, p.host)
		}
	}
	return hosts
}

// proposeRetire ends the service, unless another host holds it.
func (c *Core) proposeRetire() {
	if c.role != Serving || c.prop != nil || len(c.Heirs()) > 0 {
		return
	}
	next := c.copyRec()
	next.Active, next.ISR = resolver.Host{}, nil
	c.propose(proposal{kind: propRetire, expect: c.rec.Version, next: next})
}

func (c *Core) tickRecord() {
	if p := c.prop; p != nil && !p.inFlight && c.now >= p.retryAt && c.metaDurable() {
		p.inFlight = true
		p.tries++
		c.out.CAS = &CAS{Expect: p.expect, Next: p.next}
	}
	if c.getAt > 0 && c.now >= c.getAt && !c.getting {
		c.getAt, c.getting = 0, true
		c.out.Get = true
	}
}

func (c *Core) backoff(tries int) time.Duration {
	return c.cfg.RetryDelay << min(max(tries-1, 0), 4)
}

func (c *Core) casDone(ev CASDone) {
	p := c.prop
	mine := p != nil && p.next.Nonce == ev.Nonce
	if mine {
		p.inFlight = false
		p.retryAt = c.now + c.backoff(p.tries)
	}
	switch ev.Outcome {
	case CASOK, CASConflict:
		c.learn(ev.Record)
		if mine && c.prop == p && ev.Outcome == CASConflict {
			// The resolver shows no version above ours: it has forgotten. Nothing can be proposed, and whether this
			// was made, and what followed from it, will never be known; what is established goes on.
			c.dropProp("the resolver has lost its memory of the service", false)
		}
	case CASRefused:
		if mine {
			c.dropProp("the resolver refused the change", true)
		}
	case CASUnknown:
	}
}

// dropProp gives up a proposal. A host that was proposed stays in M unless it is sure that the change was not made: it
// could have become active since.
func (c *Core) dropProp(reason string, sure bool) {
	p := c.prop
	c.prop = nil
	c.proposeAfter = c.now + 16*c.cfg.RetryDelay
	switch p.kind {
	case propAdd:
		if q := c.peer(p.host); sure && q != nil && !member(c.rec.ISR, q.host) {
			q.member = false
			c.dropPeer(q)
		}
	case propPromote:
		if p.requester.ID != "" {
			c.send(p.requester, Msg{Type: MsgFailed, Reason: reason})
		}
	}
	c.out.Changed = true
}

// Pending reports whether a proposal has no outcome yet.
func (c *Core) Pending() bool { return c.prop != nil }

func (c *Core) got(ev Got) {
	c.getting = false
	c.getAfter = c.now + c.cfg.RetryDelay
	if ev.Err {
		c.getAfter += c.cfg.RetryDelay
		c.get()
		return
	}
	before := c.rec.Version
	c.learn(ev.Record)
	c.takeOverIfSilent(before)
}

// get asks for the record as soon as possible.
func (c *Core) get() { c.getAt = max(c.now, c.getAfter, 1) }

// learn takes notice of a record, from whatever source. The version decides what is newer; it is the truth about every
// proposal that expected a lower one.
func (c *Core) learn(r resolver.Record) {
	if r.Version == 0 {
		return
	}
	t := TermOf(r)
	// A resolver that has lost its memory counts versions anew. From then on a record is the truth again only if it was
	// made by a reset, which raises the loss.
	forgot := c.rec.Generation != 0 && r.Generation != c.rec.Generation
	if !forgot && r.Version <= c.rec.Version || forgot && t.Loss <= c.term.Loss {
		return
	}
	c.assert(t.Compare(TermOf(c.rec)) >= 0, "record %d has a lower term than record %d", r.Version, c.rec.Version)
	c.rec = r
	c.out.Changed = true
	done := c.prop
	if done != nil && (forgot || r.Version > done.expect) {
		c.prop = nil
	} else {
		done = nil
	}
	mine := r.Active.Same(c.self)
	switch d := t.Compare(c.term); {
	case d > 0 && mine && (c.hasState || t == c.freshTerm):
		if c.role.Active() {
			c.stepDown() // reset by itself
		}
		c.activate(done)
	case d > 0:
		c.follow(t, r.Active)
		c.checkMember()
	case d == 0 && c.role.Active() && mine:
		c.adoptISR(done)
	case d == 0 && c.role.Active(): // retired
		c.stepDown()
		c.release()
	case d == 0:
		c.checkMember()
	}
	if r.Active.ID == "" && c.hasState && c.term == t {
		c.release() // the service has ended
	}
	if done != nil && done.kind == propPromote && !mine && done.requester.ID != "" && t.Compare(TermOf(done.next)) < 0 {
		c.send(done.requester, Msg{Type: MsgFailed, Reason: "the record changed meanwhile"})
	}
}

// follow adopts a higher term, in which leader (zero if not known) is active.
func (c *Core) follow(t Term, leader resolver.Host) {
	c.assert(t.Compare(c.term) > 0, "term goes back to %s", t)
	if c.role.Active() {
		c.stepDown()
	}
	if c.prop != nil && TermOf(c.prop.next).Compare(t) <= 0 {
		c.prop = nil // whether it won or not, the record has moved past it
	}
	c.term = t
	c.out.Changed = true
	if c.hasState && c.loss != t.Loss {
		c.release()
	}
	s := &c.standby
	s.down = false // that was another
	s.leader, s.invitation, s.matched, s.ackedIndex, s.round = leader, 0, 0, 0, 0
	s.heard, s.ackDue, s.ackNow, s.fetch = c.now, false, false, nil
	if leader.Same(c.self) {
		s.leader = resolver.Host{} // it was this host, but its copy is gone
	}
	c.setHalted(false)
	if !c.hasState {
		c.setRole(Out)
	} else if c.role == Out {
		c.setRole(Joining)
	}
}

// stepDown ends this host's epoch.
func (c *Core) stepDown() {
	a := &c.active
	if a.move != nil {
		c.moveTaken()
	}
	keep := a.move
	if len(a.reads) > 0 || len(c.out.Reads) > 0 {
		c.out.ReadsFail = true
	}
	c.out.Reads, c.out.Snapshots, c.out.Seek = nil, nil, false
	*a = activeState{takenMove: keep}
	if c.prop != nil && c.prop.kind != propPromote {
		c.prop = nil // the record has moved on, or will: a lower epoch's change can only conflict from now on
	}
	c.out.Deposed, c.out.Activated, c.out.Gained = true, false, nil
	c.standby = standbyState{heard: c.now}
	c.setRole(Standby)
}

// checkMember compares the record with what this host believes to be.
func (c *Core) checkMember() {
	if c.role.Active() || TermOf(c.rec).Compare(c.term) < 0 {
		return
	}
	s := &c.standby
	again := s.leader.ID == "" && !c.rec.Active.Same(c.self) // this host has started again
	if again || s.leader.Same(c.rec.Active) {
		s.leader = c.rec.Active // it may have started again elsewhere
	}
	switch in := member(c.rec.ISR, c.self); {
	case in && c.hasState:
		s.removedAt = 0
		c.setRole(Standby)
		if again || s.leader.ID != "" && !slices.Contains(c.rec.ISR, c.self) {
			s.ackDue, s.ackNow = true, true // the active host must hear of it, and of its address
		}
	case !in && c.hasState && (c.role == Standby || c.role == Joining && s.invitation == 0):
		c.setRole(Out)
		s.removedAt = c.now
	}
}
