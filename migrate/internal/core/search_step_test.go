package core

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/roam-go/roam/resolver"
)

type searchStep struct {
	node uint32
	kind uint8
	slow bool // the service does not apply at once what this step commits
	arg  uint32
}

const (
	stepDeliver uint8 = iota + 1
	stepPropose
	stepTimeout
	stepHandoff
	stepRead
	stepGot
	stepCandidates
	stepRestored
	stepFailed
	stepTransfer
	stepSync
	stepRestart
	stepApply
)

// searchResult is the outcome of a step of one host.
type searchResult struct {
	node      uint32
	msgs      []uint32
	committed []Entry
	applied   bool // this step applied entries that the same step committed
	reads     []uint64
	emitted   uint64
	err       string
}

// each calls emit for each state that may follow s.
func (x *search) each(s searchState, emit func(to searchState, problem string)) {
	var try func(i int, st searchStep, remove int, change func(*searchState), name func() string)
	try = func(i int, st searchStep, remove int, change func(*searchState), name func() string) {
		r := x.step(st, s)
		if r.applied && int(s.slow) < x.slow {
			slow := st
			slow.slow = true
			defer try(i, slow, remove, func(to *searchState) {
				to.slow++
				if change != nil {
					change(to)
				}
			}, func() string { return name() + ", " + searchHost(i, 0).ID + " applies nothing yet" })
		}
		if x.describe {
			x.names = append(x.names, name())
		}
		to := s
		to.net = make([]uint32, 0, len(s.net)+len(r.msgs))
		for k, m := range s.net {
			// Earlier messages on the same link are lost.
			if remove < 0 || k > remove || x.msgs[m].link != x.msgs[s.net[remove]].link {
				to.net = append(to.net, m)
			}
		}
		if r.err != "" {
			emit(to, r.err)
			return
		}
		to.node[i] = r.node
		to.net = append(to.net, r.msgs...)
		if change != nil {
			change(&to)
		}
		problem := x.settle(&to, r)
		if x.nodes[to.node[i]].term.Epoch > *searchEpoch && x.forgets == 0 {
			to = s // beyond the bound: ignore the step
		}
		x.tidy(&to)
		emit(to, problem)
	}
	step := func(i int, kind uint8, arg uint32) searchStep {
		return searchStep{node: s.node[i], kind: kind, arg: arg}
	}
	// Steps that a host asks for itself come at once: another order would make no difference.
	for i := range searchHosts {
		c := x.nodes[s.node[i]]
		id := searchHost(i, 0).ID
		if c.active.seeking {
			incs := uint32(0)
			for j := range searchHosts {
				incs |= uint32(x.nodes[s.node[j]].self.Incarnation) << (8 * j)
			}
			try(i, step(i, stepCandidates, incs), -1, nil, func() string { return id + " finds hosts" })
			return
		}
		if c.active.move != nil && c.active.move.stage == moveInSync {
			try(i, step(i, stepTransfer, 0), -1, nil, func() string { return id + " asks the target to take over" })
			return
		}
	}
	for k, id := range s.net {
		m := x.msgs[id]
		switch {
		case m.cas != nil && m.answer == nil && m.heard == nil:
			x.resolve(s, k, m, emit)
		default:
			try(m.to, step(m.to, stepDeliver, id), k, nil, func() string { return "deliver " + m.text })
		}
	}
	if int(s.forgets) < x.forgets && s.rec != x.gone {
		if x.describe {
			x.names = append(x.names, "the resolver loses the record")
		}
		to := s
		to.forgets++
		to.rec = x.gone
		emit(to, "")
	}
	for i := range searchHosts {
		x.inquire(s, i, emit)
		c := x.nodes[s.node[i]]
		id := searchHost(i, 0).ID
		if c.role.Active() && int(s.entries) < x.entries {
			try(i, step(i, stepPropose, 0), -1, func(to *searchState) { to.entries++ },
				func() string { return id + " orders a command" })
		}
		if c.role == Serving && int(s.reads) < x.reads {
			// The number of the read is the number of entries that it must show at least.
			try(i, step(i, stepRead, uint32(len(x.logs[s.log]))), -1, func(to *searchState) { to.reads++ },
				func() string { return id + " gets a read" })
		}
		if c.role == Serving && int(s.handoffs) < x.handoffs && c.active.move == nil {
			for j := range searchHosts {
				if j != i {
					inc := x.nodes[s.node[j]].self.Incarnation
					try(i, step(i, stepHandoff, uint32(j)<<8|uint32(inc)), -1, func(to *searchState) { to.handoffs++ },
						func() string { return id + " begins a handoff to " + searchHost(j, 0).ID })
				}
			}
		}
		if int(s.timeouts) < *searchTimeouts && c.role != Out {
			try(i, step(i, stepTimeout, 0), -1, func(to *searchState) { to.timeouts++ },
				func() string { return id + "'s timers fire" })
		}
		if c.asked != nil {
			try(i, step(i, stepGot, s.rec), -1, nil,
				func() string { return id + " reads the record " + Describe(x.recs[s.rec]) })
		}
		if f := c.standby.fetch; f != nil {
			if x.nodes[s.node[f.From.ID[0]-'a']].self.Same(f.From) {
				try(i, step(i, stepRestored, 0), -1, nil, func() string { return id + " has restored its snapshot" })
			} else {
				try(i, step(i, stepFailed, 0), -1, nil, func() string { return id + " has no snapshot" })
			}
		}
		if c.applied < c.emitted {
			try(i, step(i, stepApply, 0), -1, nil, func() string { return id + " applies what is committed" })
		}
		if x.stores && len(c.saving.queue) > 0 {
			try(i, step(i, stepSync, 0), -1, nil, func() string { return id + "'s store has written" })
		}
		if x.stores && int(s.crashes) < x.crashes {
			try(i, step(i, stepRestart, 0), -1, func(to *searchState) { to.crashes++ },
				func() string { return id + " restarts with its store" })
		}
		if !x.stores && int(s.crashes) < x.crashes {
			if x.describe {
				x.names = append(x.names, id+" restarts without memory")
			}
			to := s
			to.net = slices.Clone(s.net)
			to.crashes++
			to.inc++
			fresh := x.fresh(i, uint64(to.inc)+1)
			fresh.now = searchJump
			to.node[i] = x.internNode(fresh, State{})
			x.tidy(&to)
			emit(to, "")
		}
	}
}

// resolve lets the resolver handle a change.
func (x *search) resolve(s searchState, k int, m searchMsg, emit func(searchState, string)) {
	rec := x.recs[s.rec]
	c := m.cas
	to := s
	to.net = slices.Delete(slices.Clone(s.net), k, k+1)
	ev := CASDone{Outcome: CASConflict, Record: rec}
	problem := ""
	switch {
	case rec.Version == c.Expect+1 && equalRec(rec, c.Next):
		ev.Outcome = CASOK
	case x.forgets > 0 && c.Next.Generation != 0 && c.Next.Generation != x.generation(s):
		ev.Record = resolver.Record{}
	case rec.Version == c.Expect:
		cur := &rec
		if rec.Version == 0 {
			cur = nil
		}
		if err := resolver.Check(cur, c.Next); err != nil {
			problem = err.Error()
		}
		ev.Outcome = CASOK
		ev.Record = c.Next
		ev.Record.Version, ev.Record.Generation = c.Expect+1, x.generation(s)
		to.rec = x.internRec(ev.Record)
		if x.forgets > 0 && TermOf(ev.Record).Compare(TermOf(x.recs[to.last])) >= 0 {
			to.last = to.rec
		}
	}
	text := ""
	if x.describe {
		x.names = append(x.names, fmt.Sprintf("the resolver handles %s", m.text))
	}
	text = fmt.Sprintf("to %c the answer %s", 'a'+m.to, Describe(ev.Record))
	to.net = append(to.net, x.internMsg(searchMsg{to: m.to, inc: m.inc, cas: c, answer: &ev, text: text}))
	if problem == "" {
		problem = x.durable(&to)
	}
	x.tidy(&to)
	emit(to, problem)
}

// generation is the resolver's generation.
func (x *search) generation(s searchState) uint64 {
	if x.forgets == 0 {
		return 0
	}
	return uint64(s.forgets) + 1
}

// inquire lets host i, which asks the others, get the answers of some of them.
func (x *search) inquire(s searchState, i int, emit func(searchState, string)) {
	c := x.nodes[s.node[i]]
	answered := func(id uint32) bool { m := x.msgs[id]; return m.heard != nil && m.to == i }
	if x.forgets == 0 || !c.recovery.read().asking || slices.ContainsFunc(s.net, answered) {
		return
	}
	for others := range 1 << searchHosts {
		if others>>i&1 == 1 {
			continue
		}
		to := s
		to.net = slices.Clone(s.net)
		var answers []Answer
		text := "to " + c.self.ID + " the answers"
		for j := range searchHosts {
			if others>>j&1 == 0 {
				continue
			}
			d := x.nodes[s.node[j]].clone()
			answers = append(answers, d.Answer(c.self))
			text += " of " + d.self.ID
			to.node[j] = x.internNode(d, x.disks[s.node[j]]) // it may have given way
		}
		if x.describe {
			x.names = append(x.names, text)
		}
		to.net = append(to.net, x.internMsg(searchMsg{to: i, inc: c.self.Incarnation, heard: &Answers{answers}, text: text}))
		x.tidy(&to)
		emit(to, "")
	}
}

// tidy drops messages that can have no effect any more, so that equivalent states are equal.
func (x *search) tidy(s *searchState) {
	s.net = slices.DeleteFunc(s.net, func(id uint32) bool {
		m := &x.msgs[id]
		c := x.nodes[s.node[m.to]]
		switch {
		case m.heard != nil:
			return c.self.Incarnation != m.inc || !c.recovery.read().asking
		case m.cas != nil && m.answer == nil:
			// The answer to a late change has nothing that reading the record does not show.
			return x.forgets == 0 && m.cas.Expect != x.recs[s.rec].Version && (c.self.Incarnation != m.inc || c.prop == nil)
		case c.self.Incarnation != m.inc:
			return true
		case m.answer != nil:
			return m.answer.Record.Version <= c.rec.Version && c.prop == nil && x.forgets == 0
		}
		if m.msg.Term.Compare(c.term) >= 0 || x.stores && m.msg.Term.Compare(x.disks[s.node[m.to]].Term) >= 0 {
			return false // it may have an effect, perhaps after a restart that forgets the present term
		}
		switch m.msg.Type {
		case MsgAck, MsgFailed, MsgMoved, MsgJoin:
			return true
		case MsgReject:
			return m.msg.Record.Version <= c.rec.Version && x.forgets == 0
		}
		// The receiver answers with the record, which is not new to the sender.
		return x.nodes[s.node[m.msg.From.ID[0]-'a']].self.Incarnation != m.msg.From.Incarnation
	})
	slices.SortStableFunc(s.net, func(a, b uint32) int { return cmp.Compare(x.msgs[a].link, x.msgs[b].link) })
	kept := make([]uint32, 0, len(s.net))
	for k, id := range s.net {
		// Keep one of two equal messages in a row, and only the last messages of each link.
		link := x.msgs[id].link
		if k+1 < len(s.net) && s.net[k+1] == id || k+*searchNet < len(s.net) && x.msgs[s.net[k+*searchNet]].link == link {
			continue
		}
		kept = append(kept, id)
	}
	s.net = kept
}

// settle checks the outcome of a step.
func (x *search) settle(s *searchState, r *searchResult) string {
	log := x.logs[s.log]
	for _, e := range r.committed {
		switch {
		case e.Index <= uint64(len(log)):
			if log[e.Index-1] != e.Epoch {
				return fmt.Sprintf("entry %d of epoch %d is committed where that of epoch %d was", e.Index, e.Epoch, log[e.Index-1])
			}
		case e.Index == uint64(len(log))+1:
			log = append(log[:len(log):len(log)], e.Epoch)
		default:
			return fmt.Sprintf("entry %d is committed, after %d", e.Index, len(log))
		}
	}
	s.log = x.internLog(log)
	for _, need := range r.reads {
		if r.emitted < need {
			return fmt.Sprintf("a read shows %d entries, of %d that were committed before its request", r.emitted, need)
		}
	}
	for i := range s.node {
		for j := range i {
			a, b := x.nodes[s.node[i]], x.nodes[s.node[j]]
			if a.role.Active() && b.role.Active() && a.term == b.term {
				return fmt.Sprintf("%s and %s are active in %s", a.self.ID, b.self.ID, a.term)
			}
		}
	}
	return x.durable(s)
}

// durable checks that every member of the in-sync set holds all committed entries.
func (x *search) durable(s *searchState) string {
	log := x.logs[s.log]
	n := uint64(len(log))
	if x.forgets > 0 {
		return x.highest(s)
	}
	for _, m := range x.recs[s.rec].ISR {
		c := x.nodes[s.node[m.ID[0]-'a']]
		if !c.self.Same(m) {
			continue
		}
		if e, ok := c.EpochAt(n); !c.hasState || c.log.last() < n || ok && e != log[n-1] {
			return fmt.Sprintf("%s is in the in-sync set %s, but lacks entry %d", m.ID, Describe(x.recs[s.rec]), n)
		}
	}
	return ""
}

// highest checks that a host that is active in the highest term holds all committed entries. The record that the resolver
// has lost cannot tell who must.
func (x *search) highest(s *searchState) string {
	log := x.logs[s.log]
	n := uint64(len(log))
	for _, id := range s.node {
		c := x.nodes[id]
		if !c.role.Active() || c.term.Compare(TermOf(x.recs[s.last])) < 0 {
			continue
		}
		if e, ok := c.EpochAt(n); c.log.last() < n || ok && e != log[n-1] {
			return fmt.Sprintf("%s is active in %s, but lacks entry %d", c.self.ID, c.term, n)
		}
	}
	return ""
}

// step returns the outcome of one step of one host. It takes each step once.
func (x *search) step(st searchStep, s searchState) *searchResult {
	if r, ok := x.memo[st]; ok {
		return r
	}
	c, disk := x.nodes[st.node].clone(), x.disks[st.node]
	r := new(searchResult)
	lags := st.slow || c.applied < c.emitted // the service applies nothing in this step
	var ev Event = Tick{}
	switch st.kind {
	case stepDeliver:
		if m := x.msgs[st.arg]; m.msg != nil {
			ev = Recv{*m.msg}
		} else if m.heard != nil {
			ev = *m.heard
		} else {
			ans := *m.answer
			if p := c.prop; p != nil && p.expect == m.cas.Expect && equalRec(p.next, m.cas.Next) {
				ans.Nonce = p.next.Nonce
			}
			ev = ans
		}
	case stepPropose:
		c.Propose(c.now, Entry{Kind: Command})
	case stepTimeout:
		c.now += searchJump
		if c.prop != nil && c.prop.inFlight {
			ev = CASDone{Nonce: c.prop.next.Nonce, Outcome: CASUnknown}
			c.now -= searchJump
			c.Step(c.now, ev)
			c.now += searchJump
			ev = Tick{}
		}
	case stepHandoff:
		ev = Handoff{searchHost(int(st.arg>>8), uint64(st.arg&0xff))}
	case stepRead:
		ev = Read{uint64(st.arg)}
	case stepGot:
		ev = Got{Record: x.recs[st.arg]}
	case stepCandidates:
		var hosts []resolver.Host
		for j := range searchHosts {
			hosts = append(hosts, searchHost(j, uint64(st.arg>>(8*j)&0xff)))
		}
		ev = Candidates{hosts}
	case stepRestored:
		ev = Restored{ID: c.standby.fetch.ID, From: c.standby.fetch.From, OK: true}
	case stepFailed:
		ev = Restored{ID: c.standby.fetch.ID, From: c.standby.fetch.From}
	case stepTransfer:
		ev = Transfer{}
	case stepSync:
		disk = c.written()
		ev = Persisted{c.saving.seq}
	case stepApply:
		x.apply(c)
		lags = false
	case stepRestart:
		c = x.fresh(int(c.self.ID[0]-'a'), c.self.Incarnation)
		c.now = searchJump
		st := disk
		st.Entries = slices.Clone(st.Entries)
		ev = Recovered{State: st}
	}
	c.Step(c.now, ev)
	if st.kind == stepRestart {
		lags = st.slow // a new process
	}
	for again := true; again; {
		again = x.ready(c, r, lags)
	}
	if err := c.Err(); err != nil {
		r.err = err.Error()
	}
	x.checkApplied(c, r)
	r.emitted = c.emitted
	r.node = x.internNode(c, disk)
	x.memo[st] = r
	return r
}

// ready handles what c asks for. lags is true if the service applies nothing yet.
func (x *search) ready(c *Core, r *searchResult, lags bool) (again bool) {
	out := c.Ready()
	id := c.self.ID
	for _, err := range out.Reports {
		if m, ok := err.(*Misconduct); ok {
			r.err = m.Error()
		}
	}
	for _, m := range out.Msgs {
		msg := m.Msg
		msg.Entries = slices.Clone(msg.Entries)
		if problem := c.early(&msg); problem != "" && c.hasState {
			r.err = fmt.Sprintf("%s has applied %d entries, but sends %s: %s", id, c.applied, msg.String(), problem)
		}
		r.msgs = append(r.msgs, x.internMsg(searchMsg{
			to: int(m.To.ID[0] - 'a'), inc: m.To.Incarnation, msg: &msg,
			text: id + " -> " + m.To.ID + ": " + msg.String(),
		}))
	}
	r.committed = append(r.committed, out.Committed...)
	if n := len(out.Committed); n > 0 {
		if first := out.Committed[0].Index; first <= c.applied || !lags && first != c.applied+1 {
			r.err = fmt.Sprintf("%s gets entry %d to apply after %d", id, first, c.applied)
		}
		if !lags {
			c.Applied(c.now, out.Committed[n-1].Index)
			r.applied = true
		}
		again = true
	}
	r.reads = append(r.reads, out.Reads...)
	if out.CAS != nil {
		next := out.CAS.Next
		next.Version = out.CAS.Expect + 1
		r.msgs = append(r.msgs, x.internMsg(searchMsg{
			to: int(id[0] - 'a'), inc: c.self.Incarnation, cas: out.CAS, text: id + "'s change " + Describe(next),
		}))
	}
	if out.Ask != nil && x.forgets == 0 {
		again = true
		c.Step(c.now, Answers{}) // nobody answers
	}
	if !lags {
		for _, h := range out.Snapshots {
			again = true
			x.capture(c, h)
		}
	}
	if c.role.Active() {
		for _, h := range c.rec.ISR {
			if !h.Same(c.self) && !c.Needs(h) {
				r.err = id + " commits without " + h.ID
			}
		}
	}
	return again
}
