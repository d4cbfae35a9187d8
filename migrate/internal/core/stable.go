package core

import (
	"fmt"
	"slices"

	"github.com/roam-go/roam/resolver"
)

// Meta is what a host that has a store must not forget besides its log, for all that it says to others rests on it: no
// message and no proposal leaves before the store holds the Meta of that moment.
//
// So a host that starts again with its store has never spoken in a higher term than it remembers. It may begin such a term
// if the record gives it to this host; the term that it remembers it never takes up again, since others may hold entries of
// it that are lost here.
type Meta struct {
	Term       Term
	Copy       bool   // it holds a copy: the log means something
	Invitation uint64 // number of the invitation under which it holds the copy; 0: it was a member when the term began
	Counted    bool   // the active host may count on the log
	Fresh      Term   // the term that this host may begin with an empty copy
	Gen        uint64 // of the resolver, as far as is known
}

// Place is that of an entry in the log.
type Place struct{ Index, Epoch uint64 }

// State is all that a store keeps.
type State struct {
	Meta
	Commit  uint64 // at least so much was committed
	Matched uint64 // the log equals that of the active host of Term at least up to here
	Base    Place  // the log begins after this entry; what is up to it is in the copy
	Entries []Entry
}

// Save is a change of what the store keeps; it is made as a whole or not at all, and after those with lower numbers.
type Save struct {
	Seq uint64
	// Rebase makes the log begin anew after Base: that of the copy that was restored last, or of an empty one. Otherwise
	// the entries after Base are replaced.
	Rebase bool
	State
}

// Last is the index of the last entry.
func (s *State) Last() uint64 { return s.Base.Index + uint64(len(s.Entries)) }

// At returns the epoch of the entry at i; false if i is not from Base to the last.
func (s *State) At(i uint64) (uint64, bool) {
	switch {
	case i == s.Base.Index:
		return s.Base.Epoch, true
	case i < s.Base.Index || i > s.Last():
		return 0, false
	}
	return s.Entries[i-s.Base.Index-1].Epoch, true
}

// Apply makes the change v. An error means that v does not belong to s.
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
			return fmt.Errorf("a change after entry %d of epoch %d, of a log with the entries %d to %d",
				v.Base.Index, v.Base.Epoch, s.Base.Index+1, s.Last())
		}
		entries = append(entries[:v.Base.Index-base.Index], v.Entries...)
	}
	if last := base.Index + uint64(len(entries)); v.Commit > last || v.Matched > last {
		return fmt.Errorf("entry %d is committed and %d matched, but %d is the last", v.Commit, v.Matched, last)
	}
	s.Meta, s.Commit, s.Matched, s.Base, s.Entries = v.Meta, v.Commit, v.Matched, base, entries
	return nil
}

// Trim moves Base up to i, whose state the copy holds from now on.
func (s *State) Trim(i uint64) {
	if i > s.Base.Index {
		epoch, _ := s.At(i)
		s.Entries = slices.Clone(s.Entries[i-s.Base.Index:])
		s.Base = Place{i, epoch}
	}
}

// saving is what the store has been given, and what of that it holds.
type saving struct {
	seq        uint64 // of the last Save
	meta       Meta   // in it
	metaSeq    uint64 // of the Save in which Meta changed last
	givenIndex uint64 // the log up to here was in a Save
	truncated  bool   // given went down since
	rebased    bool   // the log was begun anew since

	durableSeq uint64        // the store holds all up to this Save,
	durable    uint64        // and with it the log up to here
	queue      []pendingSave // of the Saves after done
	held       []heldMsg
}

// pendingSave is how far the log goes with a Save, or how much is left of that.
type pendingSave struct{ seq, index uint64 }

// heldMsg is a message that waits until the store holds a Save.
type heldMsg struct {
	seq uint64
	out Outgoing
}

// maxHeld bounds the messages that wait for the store; all are sent again when they are lost.
const maxHeld = 4096

func (c *Core) meta() Meta {
	m := Meta{Term: c.term, Copy: c.hasState, Fresh: c.freshTerm, Gen: c.rec.Generation}
	if c.hasState {
		m.Invitation, m.Counted = c.standby.invitation, c.standby.matched > 0
	}
	return m
}

// durableIndex is the index up to which the store holds the log: what this host may count for.
func (c *Core) durableIndex() uint64 {
	if !c.cfg.Durable {
		return ^uint64(0)
	}
	return c.saving.durable
}

// metaDurable reports whether the store holds what this host must not forget.
func (c *Core) metaDurable() bool {
	v := &c.saving
	return !c.cfg.Durable || v.meta == c.meta() && v.metaSeq <= v.durableSeq
}

// truncate drops the entries after i.
func (c *Core) truncate(i uint64) {
	c.log.truncate(i)
	v := &c.saving
	if i < v.givenIndex {
		v.givenIndex, v.truncated = i, true
	}
	v.durable = min(v.durable, i)
	for k := range v.queue {
		v.queue[k].index = min(v.queue[k].index, i)
	}
}

// rebase makes the log empty, to go on after entry i of epoch e.
func (c *Core) rebase(i, e uint64) {
	c.log.reset(i, e)
	v := &c.saving
	v.givenIndex, v.rebased, v.durable = i, true, 0
	for k := range v.queue {
		v.queue[k].index = 0
	}
}

// save gives the store what is new, and holds back what rests on it.
func (c *Core) save() {
	if !c.cfg.Durable {
		return
	}
	v, m, last := &c.saving, c.meta(), c.log.last()
	if v.rebased || v.truncated || v.givenIndex < last || m != v.meta {
		v.seq++
		if m != v.meta {
			v.meta, v.metaSeq = m, v.seq
		}
		epoch, _ := c.log.epochAt(v.givenIndex)
		c.out.Save = &Save{Seq: v.seq, Rebase: v.rebased, State: State{
			Meta: m, Commit: c.commit, Matched: c.standby.matched,
			Base: Place{v.givenIndex, epoch}, Entries: c.log.slice(v.givenIndex+1, last),
		}}
		v.givenIndex, v.truncated, v.rebased = last, false, false
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

// persisted notes that the store holds everything up to a Save.
func (c *Core) persisted(seq uint64) {
	v := &c.saving
	c.assert(seq <= v.seq, "the store holds save %d, the last was %d", seq, v.seq)
	if seq <= v.durableSeq {
		return
	}
	v.durableSeq, c.active.stalledSince = seq, 0
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

// Checkpoint is the state as the store has been given it, with a copy that was captured at index; false if the log does not
// go back to there any more, or the copy was released.
func (c *Core) Checkpoint(index uint64) (State, bool) {
	epoch, ok := c.log.epochAt(index)
	if !ok || !c.hasState || index > c.applied {
		return State{}, false
	}
	return State{
		Meta: c.saving.meta, Commit: c.emitted, Matched: c.standby.matched,
		Base: Place{index, epoch}, Entries: c.log.slice(index+1, c.log.last()),
	}, true
}

// recovered takes up what the store held.
func (c *Core) recovered(ev Recovered) {
	c.assert(c.cfg.Durable && c.saving.seq == 0 && c.term == Term{}, "recovers too late")
	st := ev.State
	c.term, c.freshTerm = st.Term, st.Fresh
	c.rec = resolver.Record{Generation: st.Gen}
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
		s.invitation, s.matched = st.Invitation, min(st.Matched, c.log.last())
		c.setRole(Joining)
	}
	v := &c.saving
	v.meta, v.givenIndex, v.durable = c.meta(), c.log.last(), c.log.last()
	c.recoveredLast = c.log.last()
	c.out.Changed = true
	c.get()
}
