package core

import (
	"slices"
	"time"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// Outcome is the resolver's answer to a proposal.
type Outcome uint8

// The outcomes.
const (
	CASOK       Outcome = iota + 1 // accepted
	CASConflict                    // the record has another version, or is zero because the resolver has lost its memory
	CASRefused                     // the change is not legal
	CASUnknown                     // no answer: the change may have happened, or may still happen
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
	propRestore
)

// proposal is a change of the record without a known outcome. There is one at a time. Until the host sees a record with a
// version above expect, it behaves safely under both outcomes. It resolves the doubt by sending the identical change again,
// which cannot apply twice.
type proposal struct {
	kind      propKind
	expect    uint64
	next      resolver.Record
	host      resolver.Host // the host to add or remove
	drop      bool          // removed on purpose: it must release its copy
	requester resolver.Host // promote: the host that requested the transfer; zero: none
	replaced  *proposal     // reset: the proposal that it replaced; nil: none
	began     time.Duration
	inFlight  bool
	cleared   bool // create: the other hosts still know nothing of the service
	tries     int
	retryAt   time.Duration
}

// propose completes p and makes it the pending proposal; tickRecord sends it.
func (c *Core) propose(p proposal) {
	c.assert(c.prop == nil, "two proposals at a time")
	c.cfg.Nonce++
	p.next.Name = c.cfg.Name
	p.next.Proposer = c.self
	p.next.Nonce = 1 + (c.self.Incarnation+c.cfg.Nonce)%(1<<53-1)
	p.began, p.retryAt = c.now, c.now
	if p.next.Active.Same(c.self) {
		c.tried = TermOf(p.next)
	}
	c.prop = &p
}

// proposeCreate proposes a new service. at is as in [Create].
func (c *Core) proposeCreate(at int64) {
	if c.prop != nil || c.role != Out {
		return
	}
	if c.rec.Version == 0 && c.term != (Term{}) {
		return // the service exists; the resolver has lost it
	}
	next := resolver.Record{Epoch: 1, Active: c.self, ISR: []resolver.Host{c.self}}
	if at > 0 {
		next.Loss = c.beginning(0, at)
	}
	if f := c.freshTerm; f.Epoch == next.Epoch && f.Loss > 0 {
		next.Loss = f.Loss // an earlier attempt may have succeeded, or may still
	}
	if c.rec.Version > 0 {
		if c.rec.Active.ID != "" {
			return
		}
		next.Epoch, next.Loss = c.rec.Epoch+1, c.rec.Loss+1
		if at > 0 {
			// The resolver may have gone back to before another host began the service anew after that record.
			r := c.needRecovery()
			r.restoring = c.farTerm(TermOf(c.rec), r.restoring)
			next.Epoch, next.Loss = r.restoring.Epoch, c.beginning(next.Loss, at)
		}
	}
	if c.hasState {
		c.release() // the copy of the retired service
	}
	c.freshTerm = TermOf(next)
	c.propose(proposal{kind: propCreate, expect: c.rec.Version, next: next})
}

// proposeReset proposes this host as the active one whatever others hold. rec is the resolver's record, zero if it has
// forgotten the service; at is as in [Reset].
func (c *Core) proposeReset(rec resolver.Record, at int64) {
	next := resolver.Record{
		Epoch: rec.Epoch + 1, Loss: rec.Loss + 1, Generation: rec.Generation,
		Active: c.self, ISR: []resolver.Host{c.self},
	}
	if rec.Version == 0 {
		// The resolver has forgotten the service, so that other hosts may have reset it without this host's knowledge.
		next.Epoch, next.Loss = c.term.Epoch+1, c.beginning(c.term.Loss+1, at)
	}
	if TermOf(next).Compare(c.term) <= 0 || rec.Version > 0 && at > 0 {
		// The resolver may have gone back to before another reset, whose term belonged to another host.
		r := c.needRecovery()
		r.restoring = c.farTerm(TermOf(rec), r.restoring)
		next.Loss, next.Epoch = r.restoring.Loss+1, r.restoring.Epoch
		if at > 0 {
			next.Loss = c.beginning(next.Loss, at)
		}
	}
	c.freshTerm = TermOf(next)
	doubt := c.prop // with a higher loss it does not matter, unless the reset is given up
	if doubt != nil && doubt.kind == propReset {
		doubt = doubt.replaced
	}
	c.prop = nil
	c.propose(proposal{kind: propReset, expect: rec.Version, next: next, replaced: doubt})
}

// beginning draws the Loss of a service that begins at a resolver that knows nothing of it, above least. The resolver may
// have forgotten earlier beginnings, whose terms must differ from this one, which must be the higher one if it is the later:
// by clock or, if clocks are wrong, by name.
func (c *Core) beginning(least uint64, at int64) uint64 {
	return max(least, uint64(max(at, 0))*hostNumbers) + c.hostNumber()
}

// cancelReset gives up a reset. It proposes the replaced proposal again, whose outcome is still unknown.
func (c *Core) cancelReset() {
	if p := c.prop; p != nil && p.kind == propReset {
		c.prop = p.replaced
		if c.prop != nil {
			c.prop.inFlight, c.prop.retryAt = false, c.now
		}
	}
}

func (c *Core) setRecord(r resolver.Record) {
	c.rec = r
	if c.saving != nil {
		c.saving.recText = c.encode(r)
	}
}

// setProposed sets the hosts that may be in the in-sync set besides those of the record.
func (c *Core) setProposed(hosts []resolver.Host) {
	c.proposed = hosts
	if v := c.saving; v != nil {
		v.proposedText = ""
		if len(hosts) > 0 {
			v.proposedText = c.encode(hosts)
		}
	}
}

func (c *Core) encode(v any) string {
	b, err := transport.Marshal(v)
	c.assert(err == nil, "encoding of a record: %v", err)
	return string(b)
}

// ReadRecord decodes the Record of a [Meta].
func ReadRecord(text string) (r resolver.Record, err error) {
	err = msgpack.UnmarshalSmall([]byte(text), &r)
	return r, err
}

// readRecord adopts the record and the proposed hosts that the store held.
func (c *Core) readRecord(record, proposed string) error {
	r, err := ReadRecord(record)
	if err != nil {
		return err
	}
	c.setRecord(r)
	if proposed == "" {
		return nil
	}
	var hosts []resolver.Host
	if err := msgpack.UnmarshalSmall([]byte(proposed), &hosts); err != nil {
		return err
	}
	c.setProposed(hosts)
	return nil
}

func (c *Core) copyRec() resolver.Record {
	r := c.rec
	r.ISR = slices.Clone(r.ISR)
	return r
}

// nextRec returns the record as a base for a proposal, with the hosts' present addresses: a host that restarts with its
// store may have a new one.
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

// addressChanged reports whether a member's address differs from the record's.
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

// proposeAdd proposes a host for the in-sync set. It replaces the host's earlier incarnation there, if any.
func (c *Core) proposeAdd(p *peer) {
	next := c.nextRec()
	if i := slices.IndexFunc(next.ISR, func(h resolver.Host) bool { return h.ID == p.host.ID }); i >= 0 {
		next.ISR[i] = p.host
	} else {
		next.ISR = append(next.ISR, p.host)
	}
	p.member, p.commitWaitSince = true, 0 // before the proposal leaves
	p.lastAck = c.now
	c.setProposed(append(slices.Clone(c.proposed), p.host))
	c.propose(proposal{kind: propAdd, expect: c.rec.Version, next: next, host: p.host})
}

func (c *Core) proposeRemove(h resolver.Host, drop bool) {
	next := c.nextRec()
	next.ISR = slices.DeleteFunc(next.ISR, h.Same)
	c.propose(proposal{kind: propRemove, expect: c.rec.Version, next: next, host: h, drop: drop})
}

// proposeHandoff proposes this host as the active one at the request of the one that is active.
func (c *Core) proposeHandoff(from resolver.Host) {
	next := c.nextRec()
	next.Epoch++
	next.Active = c.self
	c.propose(proposal{kind: propPromote, expect: c.rec.Version, next: next, requester: from})
}

// takeOver proposes this host in place of a silent active host.
func (c *Core) takeOver() {
	c.propose(proposal{kind: propPromote, expect: c.rec.Version, next: c.takeOverRec()})
}

// takeOverRec is the record of a takeover. If the in-sync set must not shrink, the silent host stays in it. Commits then
// wait for it, its next incarnation or another host.
func (c *Core) takeOverRec() resolver.Record {
	next := c.nextRec()
	next.Epoch++
	if c.mayShrink() && !next.Active.Same(c.self) {
		next.ISR = slices.DeleteFunc(next.ISR, next.Active.Same)
	}
	next.Active = c.self
	return next
}

// Heirs returns, on the active host, the other hosts of the in-sync set except those that are about to leave it.
func (c *Core) Heirs() (hosts []resolver.Host) {
	for _, p := range c.active.peers {
		if p.member && !c.leaving(p) {
			hosts = append(hosts, p.host)
		}
	}
	return hosts
}

// proposeRetire proposes the end of the service, unless another host could take over.
func (c *Core) proposeRetire() {
	if c.role != Serving || c.prop != nil || len(c.Heirs()) > 0 {
		return
	}
	next := c.copyRec()
	next.Active, next.ISR = resolver.Host{}, nil
	c.propose(proposal{kind: propRetire, expect: c.rec.Version, next: next})
}

// tickRecord sends the pending proposal and reads the record, when due.
func (c *Core) tickRecord() {
	switch p := c.prop; {
	case p == nil || p.inFlight || c.now < p.retryAt || !c.metaDurable():
	case p.kind == propCreate && p.expect == 0 && p.next.Loss > 0 && p.tries > 0 && !p.cleared:
		c.ask() // the resolver may have lost another host's record since
		p.retryAt = c.recovery.nextAsk
	case p.kind == propPromote && p.tries > 0 && !beyond(p.next.Epoch, c.rec.Epoch) && c.lostTouch():
		// This host may have been removed since, and the resolver may have lost that.
		c.dropProp("host "+c.self.ID+" was out of touch", false)
		c.get()
	case p.kind == propRemove && !p.cleared && c.mayBeReplaced(p.host):
		c.ask()
		p.retryAt = c.recovery.nextAsk
	default:
		p.inFlight, p.cleared = true, false
		p.tries++
		c.out.CAS = &CAS{Expect: p.expect, Next: p.next}
	}
	if c.getAt > 0 && c.now >= c.getAt && c.asked == nil {
		c.getAt, c.asked = 0, &reading{c.known(), c.now}
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
		if ev.Outcome == CASOK && !mine {
			c.get() // an answer that comes late may be of a record that the resolver has lost since
			break
		}
		c.learn(ev.Record)
		if mine && c.prop == p && ev.Outcome == CASConflict {
			// The resolver shows no version above ours, so it has lost the record. Whether this change was made, and what
			// followed it, will never be known. The established state stays until the record is restored.
			c.dropProp("the resolver has lost its memory of the service", false)
			c.get()
		}
	case CASRefused:
		if l := c.recovery.read().lost; mine && p.kind == propRestore && l != nil && !l.refused {
			l.refused = true
			c.out.Reports = append(c.out.Reports, &RestoreRefused{Self: c.self, Err: ev.Err})
		}
		if mine {
			c.dropProp("the resolver refused the change", true)
		}
	case CASUnknown:
	}
}

// dropProp gives up a proposal. A proposed host stays in M unless sure tells that the change was not made: it could have
// become active since.
func (c *Core) dropProp(reason string, sure bool) {
	p := c.prop
	c.prop = nil
	c.proposeAfter = c.now + 16*c.cfg.RetryDelay
	switch p.kind {
	case propAdd:
		if q := c.peer(p.host); sure && q != nil && !member(c.rec.ISR, q.host) {
			q.member = false
			c.dropPeer(q)
			c.setProposed(slices.DeleteFunc(slices.Clone(c.proposed), p.host.Same))
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
	var asked reading
	if c.asked != nil {
		asked, c.asked = *c.asked, nil
		c.readDone(asked.began, !ev.Err)
	}
	c.getAfter = c.now + c.cfg.RetryDelay
	if ev.Err {
		c.getAfter += c.cfg.RetryDelay
		c.get()
		return
	}
	before := c.rec.Version
	if !c.role.Active() && c.prop == nil && c.regenerated(ev.Record) {
		c.setRecord(ev.Record)
		c.recovery.found()
	}
	c.learn(ev.Record)
	c.noticeLoss(ev.Record, asked.known)
	c.dropIfRemoved(ev.Record)
	c.takeOverIfSilent(before)
	if c.mayBeVoid() {
		c.ask()
	}
	c.recvWaiting()
}

// regenerated reports whether r is the record that this host knows, in another generation: the resolver was restored from a
// copy that lacks nothing.
func (c *Core) regenerated(r resolver.Record) bool {
	return r.Version > 0 && r.Version == c.rec.Version && r.Generation != c.rec.Generation && TermOf(r) == TermOf(c.rec) &&
		r.Nonce == c.rec.Nonce && r.Proposer.Same(c.rec.Proposer)
}

// dropIfRemoved releases a copy that is no longer needed if the resolver has the record that removed this host. It could
// have gone back to an older one, which counts on this copy.
func (c *Core) dropIfRemoved(r resolver.Record) {
	s := &c.standby
	if !s.dropping {
		return
	}
	s.dropping = false
	switch {
	case c.role != Out || s.removedAt == 0:
	case !c.Lost() && r.Generation == c.rec.Generation && r.Version == c.rec.Version && !member(r.ISR, c.self):
		c.release()
	default:
		s.removedAt = c.now
	}
}

// get asks for the record as soon as possible.
func (c *Core) get() { c.getAt = max(c.now, c.getAfter, 1) }

// learn handles a record from any source. The higher term is the newer record and, within a term, whose records one host
// makes, the higher version. It decides the outcome of every proposal that expected a lower version.
func (c *Core) learn(r resolver.Record) {
	if r.Version == 0 {
		return
	}
	t := TermOf(r)
	switch d := t.Compare(TermOf(c.rec)); {
	case d < 0:
		return // of a history that another one has replaced
	case d == 0 && c.rec.Version > 0 && r.Version <= c.rec.Version && (r.Active.ID != "" || c.rec.Active.ID == ""):
		return
	}
	// A resolver that has lost its memory, or has gone back to an older record, reuses versions.
	forgot := c.rec.Generation != 0 && r.Generation != c.rec.Generation || r.Version <= c.rec.Version
	if forgot && t.Compare(c.term) < 0 {
		return
	}
	was := c.rec
	rivals := t == TermOf(was) && was.Active.ID != "" && r.Active.ID != "" && !r.Active.Same(was.Active)
	c.assert(!rivals || !c.hasState, "hosts %s and %s are active in one term", was.Active.ID, r.Active.ID)
	c.setRecord(r)
	if v := c.recovery; v != nil {
		v.lost, v.alone, v.better, v.doubted = nil, false, resolver.Host{}, false
	}
	c.out.Changed = true
	done := c.prop
	if done != nil && (forgot || r.Version > done.expect) {
		c.prop = nil
	} else {
		done = nil
	}
	if c.prop == nil || c.prop.kind != propAdd {
		c.setProposed(nil)
	}
	mine := r.Active.Same(c.self)
	switch d := t.Compare(c.term); {
	case d > 0 && mine && c.hasState && was.Version > 0 && r.Loss == was.Loss && !member(was.ISR, c.self):
		// A change that this host proposed before it was removed, to a resolver that has lost that since.
		c.reportSuperseded(c.self, was.Active, c.committedTo(), true)
		c.release()
		c.follow()
	case d > 0 && mine && (t == c.tried && c.hasState || t == c.freshTerm):
		if c.role.Active() {
			c.stepDown() // this host reset itself
		}
		c.activate(done)
	case d > 0:
		c.follow()
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

// hear is [Core.learn] for a record that a host other than its active one tells. If the service began anew by it, the copy
// here ends. The host must hold a copy of that beginning, or the resolver must have the record: it may have been lost before
// anyone began, also if it names this host, which then has not begun.
func (c *Core) hear(r resolver.Record, begun bool) {
	if c.hasState && r.Loss > c.loss && !begun {
		c.get()
		return
	}
	c.learn(r)
}

// follow adopts the term of the record, which is higher, and follows its active host.
func (c *Core) follow() {
	t, leader := TermOf(c.rec), c.rec.Active
	c.assert(t.Compare(c.term) > 0, "term goes back to %s", t)
	if c.role.Active() {
		c.stepDown()
	}
	if c.prop != nil && TermOf(c.prop.next).Compare(t) <= 0 {
		c.prop = nil // whether it won or not, the record has moved on
	}
	c.term = t
	c.out.Changed = true
	if c.hasState && c.loss != t.Loss {
		if c.role != Out && c.log.last() > 0 {
			c.keepAside() // the service began anew
		}
		c.release()
	}
	s := &c.standby
	s.down = false // that was the former leader
	s.leader, s.invitation, s.matched, s.ackedIndex, s.round = leader, 0, 0, 0, 0
	s.heard, s.ackDue, s.ackNow, s.fetch = c.now, false, false, nil
	if leader.Same(c.self) {
		s.leader = resolver.Host{} // this host itself, which has lost its copy
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
	c.leader = a.trip()
	*a = activeState{takenMove: keep}
	if c.prop != nil && c.prop.kind != propPromote {
		c.prop = nil // the record has moved on, or will: a change of a lower epoch can only conflict
	}
	c.out.Deposed, c.out.Activated, c.out.Gained = true, false, nil
	c.standby = standbyState{heard: c.now, contact: c.now}
	c.setRole(Standby)
}

// checkMember adapts the role of a host that is not active to the record.
func (c *Core) checkMember() {
	if c.role.Active() || TermOf(c.rec).Compare(c.term) < 0 {
		return
	}
	s := &c.standby
	again := s.leader.ID == "" && !c.rec.Active.Same(c.self) // this host has restarted
	if again || s.leader.Same(c.rec.Active) {
		s.leader = c.rec.Active // it may have restarted at another address
	}
	switch in := member(c.rec.ISR, c.self); {
	case in && c.hasState:
		s.removedAt = 0
		c.setRole(Standby)
		if again || s.leader.ID != "" && !slices.Contains(c.rec.ISR, c.self) {
			s.ackDue, s.ackNow = true, true // the active host must learn this host's state and address
		}
	case !in && c.hasState && (c.role == Standby || c.role == Joining && s.invitation == 0):
		c.setRole(Out)
		s.removedAt = c.now
	}
}
