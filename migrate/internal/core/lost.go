package core

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/roam-go/roam/resolver"
)

// A resolver may lose its records, or get old ones back from a backup. Its record is then missing, or older than the one
// that the hosts know. The hosts that hold the state bring the record back, in a term above all that they have seen, so that
// no acknowledged command is lost. This needs proof that no other host became active by a record that is now lost:
//
//   - the active host does it after every other host in M has answered an inquiry that began after the loss was noticed: it has
//     seen no higher term, and waits for no answer of the resolver that could make it active. Hosts outside M cannot have made
//     a later record, unless they began the service anew, so nothing else that they answer counts;
//   - without an active host, a member of the in-sync set does it after all other members have answered in the same way.
//
// Where neither is possible, only a person can decide: see [Reset].

// recovery is the state that a host needs to bring a lost record back, and to take over after an inquiry. It is created when
// there is reason for either, which for most services is never.
type recovery struct {
	lost      *lost         // the resolver has lost the record; nil: not as far as known
	restoring Term          // the last term that this host proposed for a restored record
	nextAsk   time.Duration // no other inquiry before this time
	asking    bool          // an inquiry among hosts is pending
	gaveWay   bool          // its answers do not count: another host may act on an answer of this one
	alone     bool          // some members did not answer the last one, or a host knows better
	better    resolver.Host // that host
	doubted   bool          // in the last one, another host claimed to know of a later record, or of a higher term
}

// read returns the state for reading; it is zero if there is none.
func (r *recovery) read() recovery {
	if r == nil {
		return recovery{}
	}
	return *r
}

// found notes that the resolver has the record.
func (r *recovery) found() {
	if r != nil && r.lost != nil {
		r.lost, r.alone, r.better = nil, false, resolver.Host{}
	}
}

// needRecovery returns the state for changing.
func (c *Core) needRecovery() *recovery {
	if c.recovery == nil {
		c.recovery = new(recovery)
	}
	return c.recovery
}

// lost is what the resolver has instead of the record that this host knows.
type lost struct {
	rec     resolver.Record // zero: nothing
	refused bool            // the resolver has refused to restore the record, which is reported
}

// RestoreRefused reports that the resolver refuses to restore a lost record. It is an item of [Ready].Reports, once for each
// loss.
type RestoreRefused struct {
	Self resolver.Host
	Err  error
}

func (r *RestoreRefused) Error() string {
	return fmt.Sprintf("host %s cannot restore the record, which the resolver has lost, until the resolver allows that: %v",
		r.Self.ID, r.Err)
}

// Unwrap returns the resolver's error.
func (r *RestoreRefused) Unwrap() error { return r.Err }

// known identifies the record that this host knew at some time.
type known struct {
	generation, version uint64
	term                Term
}

// reading is a read of the record: what this host knew when it asked, and when that was.
type reading struct {
	known
	began time.Duration
}

func (c *Core) known() known { return known{c.rec.Generation, c.rec.Version, TermOf(c.rec)} }

// noticeLoss compares r, the resolver's answer to a read, with the record that this host knew when it asked: the resolver
// has lost records if its answer is older.
func (c *Core) noticeLoss(r resolver.Record, asked known) {
	switch {
	case asked.version == 0 || asked.generation != c.rec.Generation:
		return // this host knew nothing, or has learned of another generation since
	case TermOf(r).Compare(asked.term) > 0: // another host has restored it
		c.recovery.found()
		return
	case r.Version == 0 || r.Generation != asked.generation || r.Version < asked.version:
	case TermOf(r).Compare(asked.term) < 0: // it has gone back, and forward another way
	default:
		c.recovery.found()
		return
	}
	if c.rec.Active.ID == "" {
		return // the service had ended
	}
	if l := c.recovery.read().lost; l != nil && l.rec.Generation == r.Generation && l.rec.Version == r.Version {
		return
	}
	c.needRecovery().lost = &lost{rec: r}
	c.out.Changed = true
}

// Lost reports whether the resolver has lost the record of this service, or has an older one, which is not yet repaired.
func (c *Core) Lost() bool { return c.recovery != nil && c.recovery.lost != nil }

// restorable returns the in-sync set to restore: the members that hold a copy. ok is false unless all have answered.
func (c *Core) restorable(members []resolver.Host, answers []Answer) (isr []resolver.Host, ok bool) {
	isr = []resolver.Host{c.self}
	for _, h := range members {
		if h.Same(c.self) {
			continue
		}
		i := slices.IndexFunc(answers, func(a Answer) bool { return sameKey(a.From, h) && !a.Pending })
		if i < 0 {
			return nil, false
		}
		if answers[i].Copy && answers[i].Term.Loss == c.term.Loss {
			isr = append(isr, answers[i].From) // at its present address
		}
	}
	return isr, true
}

// members are the hosts that may become active as far as this host knows: those of the in-sync set and those that it has
// proposed.
func (c *Core) members() []resolver.Host { return append(c.nextRec().ISR, c.proposed...) }

// proposeRestore proposes the record of an in-sync set that the resolver has lost. The term is above those of all hosts that
// have answered: a host without a copy may know a term that a member has proposed, without learning that it won, and would
// never follow a lower one.
func (c *Core) proposeRestore(isr []resolver.Host, answers []Answer) {
	r := c.recovery
	has := r.lost.rec
	r.restoring = c.farTerm(TermOf(c.rec), TermOf(has), r.restoring)
	for _, a := range answers {
		if a.Term.Loss == c.term.Loss && a.Term.Epoch/hostNumbers <= c.latestEpoch(year) {
			r.restoring = c.farTerm(r.restoring, a.Term)
		}
	}
	next := resolver.Record{
		Generation: has.Generation, Loss: r.restoring.Loss, Epoch: r.restoring.Epoch, Active: c.self, ISR: isr,
	}
	c.propose(proposal{kind: propRestore, expect: has.Version, next: next})
}

// farTerm is a term above this host's own and those of seen, in an epoch that no other host begins: it ends in a number of
// this host. It is far above, so that a change that was proposed before the loss cannot be made after it, and by the clock
// also above those that this host has forgotten because its store has gone back.
func (c *Core) farTerm(seen ...Term) Term {
	t := c.term
	least := t.Epoch/hostNumbers + 2
	for _, o := range seen {
		if o.Compare(t) > 0 {
			t = o
		}
		least = max(least, o.Epoch/hostNumbers+2) // also of an earlier beginning: the resolver compares the numbers
	}
	if c.cfg.Start > 0 {
		least = max(least, uint64(c.cfg.Start+int64(c.now/time.Millisecond)))
	}
	t.Epoch = least*hostNumbers + c.hostNumber()
	return t
}

// hostNumbers bounds hostNumber. It is at least [resolver.RestoreStep].
const hostNumbers = 1 << 10

// hostNumber is a number below hostNumbers that two hosts are unlikely to share.
func (c *Core) hostNumber() uint64 {
	h := fnv.New64a()
	h.Write([]byte(c.self.ID))
	return h.Sum64() % hostNumbers
}

// Answer is what a host tells another about a service: the answer to an inquiry.
type Answer struct {
	From   resolver.Host
	Term   Term            // the highest that it has seen
	Record resolver.Record // the newest that it knows; zero: none
	Copy   bool            // it holds a copy that may count
	Active bool
	// Pending: it waits for an answer of the resolver, or of other hosts, which could make it active.
	Pending bool
	Loss    uint64 // of its copy, even of one that does not count
	Commit  Place  // last entry that it knows to be committed
	Last    Place  // last entry of its log
}

// Answer is this host's answer to an inquiry by another. Of two hosts that ask each other at the same time, one gives way.
func (c *Core) Answer(to resolver.Host) Answer {
	asking := c.recovery.read().asking
	wins := asking && c.self.ID < to.ID
	if asking && !wins {
		c.recovery.gaveWay = true
	}
	a := c.OwnAnswer()
	a.Pending = a.Pending || wins
	return a
}

// OwnAnswer is what this host knows.
func (c *Core) OwnAnswer() Answer {
	return Answer{
		From: c.self, Term: c.term, Record: c.copyRec(), Copy: c.hasState && c.role != Out, Active: c.role.Active(),
		Pending: c.prop != nil || c.asked != nil, Loss: c.loss, Commit: c.place(c.commit), Last: c.place(c.log.last()),
	}
}

// CompareCopies orders answers by what their copies hold: the higher one has the later entries.
func (a *Answer) CompareCopies(o *Answer) int {
	return cmp.Or(cmp.Compare(a.Loss, o.Loss), cmp.Compare(a.Last.Epoch, o.Last.Epoch), cmp.Compare(a.Last.Index, o.Last.Index))
}

func (c *Core) place(i uint64) Place {
	e, _ := c.log.epochAt(i)
	return Place{i, e}
}

// lacks reports whether this host lacks an entry that another one knows to be committed. Then it is not in the in-sync set
// in truth: the record is an old one.
func (c *Core) lacks(a Answer) bool {
	if a.Commit.Index == 0 || a.Loss != c.loss {
		return false
	}
	e, ok := c.log.epochAt(a.Commit.Index)
	return a.Commit.Index > c.log.last() || ok && e != a.Commit.Epoch
}

// stamp is a time for the active host to echo, in ms. Those of different starts of a host differ.
func (c *Core) stamp(at time.Duration) time.Duration { return c.firstStamp + at/time.Millisecond }

func firstStamp(nonce uint64) time.Duration {
	h := fnv.New64a()
	h.Write(binary.LittleEndian.AppendUint64(nil, nonce))
	return time.Duration(1 + h.Sum64()%(1<<36))
}

// ask begins an inquiry, if it is time for one: among the other members and all hosts that are present.
func (c *Core) ask() bool {
	r := c.needRecovery()
	if r.asking || c.now < r.nextAsk {
		return false
	}
	r.asking, r.gaveWay, r.nextAsk = true, false, c.now+c.cfg.FailureTimeout
	c.out.Ask = []resolver.Host{} // not nil: the others that are present are asked in any case
	for _, h := range c.members() {
		if !h.Same(c.self) {
			c.out.Ask = append(c.out.Ask, h)
		}
	}
	return true
}

// outOfTouch reports whether the active host has not answered this one for so long that the record may have changed often
// since: a message of the active host alone may have been on its way for long. If the resolver has gone back to the record
// that this host knows, only other hosts know better.
func (c *Core) outOfTouch() bool {
	s := &c.standby
	return s.contact == 0 || c.now-s.contact >= 4*c.failureTimeout(c.leader)
}

// lostTouch reports whether this host is out of touch and was not before.
func (c *Core) lostTouch() bool { return c.standby.contact > 0 && c.outOfTouch() }

// mayBeReplaced reports whether this active host has not heard h for so long that h may have taken over since, and the
// resolver may have lost that: before it removes h, it asks.
func (c *Core) mayBeReplaced(h resolver.Host) bool {
	p := c.peer(h)
	return p != nil && c.now-p.lastAck >= 4*c.failureTimeout(p.probe.trip)
}

// answered takes over if no host knows better. If the record is lost, it restores it if all members of the in-sync set have
// answered that they hold its state.
func (c *Core) answered(answers []Answer) {
	r := c.recovery
	if r == nil || !r.asking {
		return
	}
	r.asking = false
	if p := c.prop; p != nil && p.kind == propCreate {
		c.clearCreate(answers)
		return
	}
	if r.gaveWay {
		return
	}
	c.findLeader(answers)
	if i := c.knowsBetter(answers); i >= 0 {
		a, doubted := answers[i], r.doubted && c.getAt == 0 && c.asked == nil
		if c.isMember(a.From) && !c.isOwn(a.Record) {
			c.hear(a.Record, (a.Copy || a.Active) && a.Loss == a.Record.Loss)
		}
		c.get() // which shows whether the resolver still has what that host knows
		r.doubted = c.isNews(a.Record) || a.Term.Compare(c.term) > 0
		if r.doubted && doubted {
			c.setAlone(true, a.From) // it does not
		}
		return
	}
	if r.doubted = false; r.lost == nil {
		c.setAlone(false, resolver.Host{})
	}
	if p := c.prop; p != nil && p.kind == propRemove {
		p.cleared, p.retryAt = true, c.now
	}
	if c.void(answers) {
		c.forgetVoid()
		return
	}
	if c.prop != nil || !c.hasState {
		return
	}
	if !c.role.Active() && (c.standby.leaving || !member(c.rec.ISR, c.self) || TermOf(c.rec) != c.term || !c.leaderSilent()) {
		return
	}
	if r.lost == nil && c.role.Active() {
		return
	}
	isr, ok := c.restorable(c.members(), answers)
	var better resolver.Host
	if i := slices.IndexFunc(answers, c.lacks); i >= 0 {
		better = answers[i].From
	}
	ok = (ok || r.lost == nil) && better.ID == ""
	c.setAlone(!ok, better)
	switch {
	case !ok:
	case r.lost == nil:
		c.takeOverFar()
	default:
		c.proposeRestore(isr, answers)
	}
}

// findLeader notes the present address of the active host if that answers but does not reach this host.
func (c *Core) findLeader(answers []Answer) {
	for _, a := range answers {
		if s := &c.standby; a.Active && a.Term == c.term && sameKey(s.leader, a.From) {
			s.leader = a.From
			s.ackDue, s.ackNow = true, true
		}
	}
}

// knowsBetter returns the index of an answer because of which this host must not act, rather of a member than of another
// host; -1: there is none. While the record is lost, only members count and, of others, those that speak of a later beginning
// of the service. Within a beginning each record is made by a member of the one before: of a later one than this host knows, a
// member would know, and this host acts only when all members have answered.
func (c *Core) knowsBetter(answers []Answer) int {
	other := -1
	for i, a := range answers {
		switch {
		case !c.isLater(a), c.beginsLater(a) && c.neverBegun(a.Record, answers), !c.credible(a.From, a.Term, a.Record):
		case c.isMember(a.From):
			return i
		case other < 0 && (!c.Lost() || max(a.Term.Loss, a.Record.Loss) > c.term.Loss):
			other = i
		}
	}
	return other
}

// isLater reports whether a shows a later record or a higher term, or is of the active host of this term.
func (c *Core) isLater(a Answer) bool {
	if act := a.Record.Active; c.isOwn(a.Record) && (act.ID == "" || act.Same(c.self)) && a.Term.Compare(TermOf(a.Record)) <= 0 {
		return false // of a change that this host proposed, by which it has not acted
	}
	return c.isNews(a.Record) || a.Term.Compare(c.term) > 0 || a.Active && a.Term == c.term && sameKey(a.From, c.rec.Active)
}

// beginsLater reports whether a is from a host without a copy that knows of a later beginning than this host's copy.
func (c *Core) beginsLater(a Answer) bool {
	return c.hasState && !a.Copy && !a.Active && a.Term.Loss > c.loss && a.Term == TermOf(a.Record)
}

// mayBeVoid reports whether this host knows, without a copy, of a later beginning of the service than the resolver: it may
// have lost the record of that at once, before anyone began.
func (c *Core) mayBeVoid() bool {
	l := c.recovery.read().lost
	return l != nil && l.rec.Active.ID != "" && l.rec.Loss < c.rec.Loss && !c.hasState && c.prop == nil && len(c.rec.ISR) > 0
}

// void reports whether the beginning that this host knows was never begun.
func (c *Core) void(answers []Answer) bool { return c.mayBeVoid() && c.neverBegun(c.rec, answers) }

// neverBegun reports whether the beginning of the service that rec names was never begun: all its members know only of an
// earlier one, and none of them waits for an answer that could make it active.
func (c *Core) neverBegun(rec resolver.Record, answers []Answer) bool {
	for _, h := range rec.ISR {
		if h.Same(c.self) && c.hasState && c.loss < rec.Loss {
			continue
		}
		i := slices.IndexFunc(answers, func(a Answer) bool { return sameKey(a.From, h) })
		if i < 0 || answers[i].Pending || answers[i].Term.Loss >= rec.Loss {
			return false
		}
	}
	return len(rec.ISR) > 0
}

// forgetVoid replaces a record that is void by the resolver's.
func (c *Core) forgetVoid() {
	has := c.recovery.lost.rec
	c.term, c.rec = Term{}, resolver.Record{}
	c.learn(has)
}

// clearCreate lets a create be proposed again, unless another host knows of the service.
func (c *Core) clearCreate(answers []Answer) {
	p := c.prop
	for _, a := range answers {
		switch ended := a.Record.Active.ID == "" && TermOf(a.Record) == a.Term; {
		case a.Copy || a.Active || !ended:
			c.dropProp("another host knows of the service", false)
			c.get()
			return
		case a.Pending && a.From.ID < c.self.ID:
			return // it may create it
		}
	}
	p.cleared, p.retryAt = true, c.now
}

// takeOverFar takes over after an inquiry. The resolver may have gone back to a record after which another host began the
// next epoch, of which nobody has heard, so this host begins another one.
func (c *Core) takeOverFar() {
	r := c.recovery
	r.restoring = c.farTerm(r.restoring)
	next := c.takeOverRec()
	next.Epoch = r.restoring.Epoch
	c.propose(proposal{kind: propPromote, expect: c.rec.Version, next: next})
}

// setAlone sets the results of Alone and Better.
func (c *Core) setAlone(alone bool, better resolver.Host) {
	if r := c.needRecovery(); r.alone != alone || r.better != better {
		r.alone, r.better, c.out.Changed = alone, better, true
	}
}

// Alone reports whether this host cannot take over from a silent active host, restore a lost record or, if it was paused while
// it was active, remove a silent member: not all members answer, or another host, Better, claims to know of later entries or
// of a later record, which the resolver does not have. Reset continues with all that the host holds on which it is called.
func (c *Core) Alone() bool { return c.recovery.read().alone }

// Better is the host that knows better than this one, if that is why it is Alone.
func (c *Core) Better() resolver.Host { return c.recovery.read().better }
