package core

import (
	"fmt"
	"slices"
	"time"

	"github.com/roam-go/roam/resolver"
)

// Meta is the state besides the log that a host with a store must not forget. No message and no proposal leaves before the
// store holds the Meta of that moment.
//
// So a host that restarts with its store has never sent a message in a higher term than the stored one, unless the store is
// an old copy. It resumes neither the stored term nor a higher one that the record gives to it, since other hosts may hold
// entries of these terms that this host has lost.
type Meta struct {
	Term       Term
	Copy       bool   // it holds a copy; the log means nothing without one
	Invitation uint64 // number of the invitation for which it holds the copy; 0: it was a member when the term began
	Counted    bool   // the active host may count on the log
	Fresh      Term   // the term that this host may begin with an empty copy
	Gen        uint64 // last known generation of the resolver
	Record     string // the newest record known, encoded; in a [Save]: empty if it did not change
	Far        Term   // the last far term that this host has proposed
	Proposed   string // hosts that may be in its in-sync set, too, encoded: this host has proposed them
}

// Place identifies an entry of the log.
type Place struct{ Index, Epoch uint64 }

// State is the content of a store.
type State struct {
	Meta
	Commit  uint64 // the entries up to here are committed, possibly more
	Matched uint64 // the log equals that of Term's active host up to here, possibly further
	Base    Place  // the log begins after this entry; the copy includes the entries up to it
	Entries []Entry
}

// Save is a change of the store's content. The store makes changes atomically and in the order of Seq.
type Save struct {
	Seq uint64
	// Rebase replaces the whole log by one that begins after Base: that of the last restored copy, or of an empty one.
	// Otherwise Entries replace the entries after Base.
	Rebase bool
	// Aside, with Rebase: the store keeps its old content, which another copy has superseded, where it does no harm.
	Aside bool
	State
}

// Last is the index of the last entry.
func (s *State) Last() uint64 { return s.Base.Index + uint64(len(s.Entries)) }

// At returns the epoch of the entry at i; false if i is before Base or after the last entry.
func (s *State) At(i uint64) (uint64, bool) {
	switch {
	case i == s.Base.Index:
		return s.Base.Epoch, true
	case i < s.Base.Index || i > s.Last():
		return 0, false
	}
	return s.Entries[i-s.Base.Index-1].Epoch, true
}

// Apply makes the change v. It returns an error if v does not fit s.
func (s *State) Apply(v Save) error {
	for i, e := range v.Entries {
		if e.Index != v.Base.Index+uint64(i)+1 {
			return fmt.Errorf("entry %d follows entry %d", e.Index, v.Base.Index+uint64(i))
		}
	}
	base, entries := s.Base, s.Entries
	if v.Rebase {
		base, entries = v.Base, slices.Clone(v.Entries)
	} else {
		if epoch, ok := s.At(v.Base.Index); !ok || epoch != v.Base.Epoch {
			return fmt.Errorf("change after entry %d of epoch %d does not fit a log with entries %d to %d",
				v.Base.Index, v.Base.Epoch, s.Base.Index+1, s.Last())
		}
		entries = append(entries[:v.Base.Index-base.Index], v.Entries...)
	}
	if last := base.Index + uint64(len(entries)); v.Commit > last || v.Matched > last {
		return fmt.Errorf("entry %d committed and %d matched, but the last is %d", v.Commit, v.Matched, last)
	}
	known := s.Record
	s.Meta, s.Commit, s.Matched, s.Base, s.Entries = v.Meta, v.Commit, v.Matched, base, entries
	if s.Record == "" {
		s.Record = known
	}
	return nil
}

// Trim moves Base up to i. The copy must include the entries up to i.
func (s *State) Trim(i uint64) {
	if i > s.Base.Index {
		epoch, _ := s.At(i)
		s.Entries = slices.Clone(s.Entries[i-s.Base.Index:])
		s.Base = Place{i, epoch}
	}
}

// saving tracks what the core has passed to the store and how much of it the store holds.
type saving struct {
	seq        uint64 // Seq of the last Save
	meta       Meta   // Meta of the last Save
	metaSeq    uint64 // Seq of the last Save that changed Meta
	givenIndex uint64 // the saves include the log up to here
	truncated  bool   // givenIndex went down since the last Save
	rebased    bool   // the log was replaced since the last Save
	aside      bool   // and what it replaced is to be kept aside

	recText       string // the encoding of Core.rec
	proposedText  string // that of Core.proposed
	recoveredLast uint64 // last entry that the store held when this host started
	aloneTo       uint64 // entries up to here were committed before that, although the store may not say so; see wasAlone

	durableSeq   uint64        // the store holds every Save up to this one
	stalledSince time.Duration // when the store last stopped making progress; 0: nothing waits for it
	durable      uint64        // the store holds the log up to here
	queue        []pendingSave // the saves after durableSeq
	held         []heldMsg
}

// pendingSave is the last index of the log with a Save, lower if the log was truncated since.
type pendingSave struct{ seq, index uint64 }

// heldMsg is a message that waits until the store holds a Save.
type heldMsg struct {
	seq uint64
	out Outgoing
}

// maxHeld bounds the messages that wait for the store. The protocol resends those that are lost.
const maxHeld = 4096

// meta is the present Meta of a host with a store.
func (c *Core) meta() Meta {
	m := Meta{
		Term: c.term, Copy: c.hasState, Fresh: c.freshTerm, Gen: c.rec.Generation, Record: c.saving.recText,
		Far: c.recovery.read().restoring, Proposed: c.saving.proposedText,
	}
	if c.hasState {
		m.Invitation, m.Counted = c.standby.invitation, c.standby.matched > 0
	}
	return m
}

// durableIndex is the index up to which the store holds the log, and up to which this host may count as holding it.
func (c *Core) durableIndex() uint64 {
	if c.saving == nil {
		return ^uint64(0)
	}
	return c.saving.durable
}

// metaDurable reports whether the store holds the present Meta.
func (c *Core) metaDurable() bool {
	v := c.saving
	return v == nil || v.meta == c.meta() && v.metaSeq <= v.durableSeq
}

// truncate drops the entries after i.
func (c *Core) truncate(i uint64) {
	c.log.truncate(i)
	v := c.saving
	if v == nil {
		return
	}
	if i < v.givenIndex {
		v.givenIndex, v.truncated = i, true
	}
	v.durable = min(v.durable, i)
	for k := range v.queue {
		v.queue[k].index = min(v.queue[k].index, i)
	}
}

// rebase empties the log, which then continues after entry i of epoch e.
func (c *Core) rebase(i, e uint64) {
	c.log.reset(i, e)
	v := c.saving
	if v == nil {
		return
	}
	v.givenIndex, v.rebased, v.durable, v.aloneTo = i, true, 0, 0
	for k := range v.queue {
		v.queue[k].index = 0
	}
}

// save passes what is new to the store, and holds back messages until the store has the Meta that they depend on.
func (c *Core) save() {
	if c.saving == nil {
		return
	}
	v, m, last := c.saving, c.meta(), c.log.last()
	if v.rebased || v.truncated || v.givenIndex < last || m != v.meta {
		v.seq++
		known := v.meta.Record
		if m != v.meta {
			v.meta, v.metaSeq = m, v.seq
		}
		if m.Record == known {
			m.Record = ""
		}
		epoch, _ := c.log.epochAt(v.givenIndex)
		c.out.Save = &Save{Seq: v.seq, Rebase: v.rebased, Aside: v.aside && v.rebased, State: State{
			Meta: m, Commit: c.commit, Matched: c.standby.matched,
			Base: Place{v.givenIndex, epoch}, Entries: c.log.slice(v.givenIndex+1, last),
		}}
		v.givenIndex, v.truncated, v.rebased, v.aside = last, false, false, false
		v.queue = append(v.queue, pendingSave{v.seq, last})
	}
	for _, o := range c.out.Msgs {
		if len(v.held) < maxHeld {
			v.held = append(v.held, heldMsg{v.metaSeq, o})
		}
	}
	n := 0
	c.out.Msgs = nil
	for n < len(v.held) && v.held[n].seq <= v.durableSeq {
		c.out.Msgs = append(c.out.Msgs, v.held[n].out)
		n++
	}
	if v.held = v.held[n:]; len(v.held) == 0 {
		v.held = nil
	}
}

// persisted records that the store holds every Save up to seq.
func (c *Core) persisted(seq uint64) {
	v := c.saving
	c.assert(v != nil, "there is no store that could report save %d", seq)
	c.assert(seq <= v.seq, "the store reports save %d, the last was %d", seq, v.seq)
	if seq <= v.durableSeq {
		return
	}
	v.durableSeq, v.stalledSince = seq, 0
	n := 0
	for n < len(v.queue) && v.queue[n].seq <= seq {
		v.durable = v.queue[n].index
		n++
	}
	if v.queue = v.queue[n:]; len(v.queue) == 0 {
		v.queue = nil
	}
	switch {
	case c.role.Active():
		c.maybeCommit()
	case c.hasState:
		c.standby.ackDue = true
	}
}

// Checkpoint is the state passed to the store so far, for a copy captured at index; false if the log no longer reaches back
// to there, or the copy was released.
func (c *Core) Checkpoint(index uint64) (State, bool) {
	epoch, ok := c.log.epochAt(index)
	if !ok || !c.hasState || index > c.applied || c.saving == nil {
		return State{}, false
	}
	return State{
		Meta: c.saving.meta, Commit: c.emitted, Matched: c.standby.matched,
		Base: Place{index, epoch}, Entries: c.log.slice(index+1, c.log.last()),
	}, true
}

// wasAlone reports whether this host was active without other members when it wrote the log's last entry to its store: then
// it had committed that with the same write.
func (c *Core) wasAlone() bool {
	epoch, ok := c.log.epochAt(c.log.last())
	return ok && TermOf(c.rec) == c.term && epoch == c.term.Epoch && c.rec.Active.Same(c.self) && len(c.rec.ISR) == 1 &&
		len(c.proposed) == 0
}

// recovered adopts the content of the store.
func (c *Core) recovered(ev Recovered) {
	c.assert(c.saving != nil && c.saving.seq == 0 && c.term == Term{}, "recovered is not the first event")
	st := ev.State
	c.term, c.freshTerm = st.Term, st.Fresh
	if st.Far != (Term{}) {
		c.needRecovery().restoring = st.Far
	}
	c.rec = resolver.Record{Generation: st.Gen}
	if st.Record != "" {
		err := c.readRecord(st.Record, st.Proposed)
		c.assert(err == nil, "the record in the store: %v", err)
	}
	s := &c.standby
	s.heard = c.now
	if st.Copy {
		c.hasState, c.loss = true, st.Term.Loss
		c.log.reset(st.Base.Index, st.Base.Epoch)
		c.lastTime = ev.Time
		for _, e := range st.Entries {
			c.log.append(e)
			c.lastTime = e.Time
		}
		c.commit, c.emitted, c.applied = max(st.Commit, st.Base.Index), st.Base.Index, st.Base.Index
		c.assert(c.commit <= c.log.last(), "recovers %d committed entries of %d", c.commit, c.log.last())
		if c.wasAlone() {
			c.saving.aloneTo = c.log.last()
		}
		s.invitation, s.matched = st.Invitation, min(st.Matched, c.log.last())
		c.setRole(Joining)
		if member(c.rec.ISR, c.self) {
			c.checkMember()
		} else if TermOf(c.rec) == c.term {
			s.leader = c.rec.Active
		}
	}
	v := c.saving
	v.meta, v.givenIndex, v.durable = c.meta(), c.log.last(), c.log.last()
	v.recoveredLast = c.log.last()
	c.out.Changed = true
	c.get()
}
