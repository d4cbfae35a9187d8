package core

import (
	"cmp"
	"encoding/binary"
	"flag"
	"fmt"
	"hash/maphash"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

var (
	searchStates   = flag.Int("search.states", 300_000, "TestSearch: stop after so many states")
	searchEntries  = flag.Int("search.entries", 1, "TestSearch: commands")
	searchCrashes  = flag.Int("search.crashes", 1, "TestSearch: processes that start anew")
	searchTimeouts = flag.Int("search.timeouts", 2, "TestSearch: timeouts")
	searchHandoffs = flag.Int("search.handoffs", 1, "TestSearch: handoffs")
	searchReads    = flag.Int("search.reads", 1, "TestSearch: reads")
	searchEpoch    = flag.Uint64("search.epoch", 3, "TestSearch: the last epoch")
	searchMin      = flag.Int("search.min", 0, "TestSearch: hosts in sync that a commit needs at least")
	searchStandbys = flag.Int("search.standbys", 1, "TestSearch: wanted standbys")
	searchNet      = flag.Int("search.net", 3, "TestSearch: messages on their way on one link, without those that are lost")
)

// TestSearch goes through all that three hosts, a resolver and a network can do, breadth first, up to the bounds given by
// the flags. A message arrives at any later time, or never, but not before one sent earlier on the same link; a host's timers
// go off at any time; a change that was proposed is made at any later time, and its answer arrives at any time after that.
// It begins with a serving host and a standby.
//
// A state is held as numbers of what it consists of: the states of single hosts, and messages, are few. So are the steps of
// single hosts, each of which is taken once. States are told apart by 128-bit hashes.
func TestSearch(t *testing.T) {
	newSearch(t).report(*searchStates)
}

// TestSearchStores is the same search with hosts that have stores: a host writes what its core has given it, all at once, at
// any later time, or never, and a process that starts anew goes on from what was written. It is the same incarnation then.
func TestSearchStores(t *testing.T) {
	x := newSearch(t)
	x.stores = true
	x.report(*searchStates)
}

func (x *search) report(states int) {
	t := x.t
	began := time.Now()
	x.run(states)
	t.Logf("%d states, depth %d, %d left to look at, %d states of hosts, %d messages, %d steps of hosts, %v",
		len(x.parents), x.depth, x.left, len(x.nodes), len(x.msgs), len(x.memo), time.Since(began).Round(time.Millisecond))
}

const (
	searchHosts = 3
	searchJump  = time.Hour // more than any timer
)

// search is the machinery.
type search struct {
	t     *testing.T
	seeds [2]maphash.Seed
	buf   []byte

	stores   bool
	nodes    []*Core // the states of hosts
	disks    []State // and what they have written
	nodeIDs  map[[2]uint64]uint32
	msgs     []searchMsg
	msgIDs   map[[2]uint64]uint32
	recs     []resolver.Record
	recIDs   map[string]uint32
	logs     [][]uint64 // committed: epochs of the entries
	logIDs   map[string]uint32
	memo     map[searchStep]*searchResult
	seen     map[[2]uint64]struct{}
	parents  []searchParent
	depth    int
	left     int
	describe bool
	names    []string
}

type searchParent struct {
	state  uint32
	action uint16
}

// searchState is everything at one moment.
type searchState struct {
	id                                               uint32
	node                                             [searchHosts]uint32
	rec, log                                         uint32
	entries, crashes, timeouts, handoffs, reads, inc uint8
	net                                              []uint32 // by link, and on each in the order of sending
}

// searchMsg is on its way: a message to a host, a change to the resolver, or the answer to it.
type searchMsg struct {
	to     int
	inc    uint64
	msg    *Msg
	cas    *CAS     // to the resolver, from host to, or what is answered
	answer *CASDone // without a nonce: equal changes have equal answers
	text   string
	link   int
}

type searchStep struct {
	node uint32
	kind uint8
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
)

// searchResult is what a host does in a step.
type searchResult struct {
	node      uint32
	msgs      []uint32
	committed []Entry
	reads     []uint64
	commit    uint64
	err       string
}

func newSearch(t *testing.T) *search {
	return &search{
		t: t, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		nodeIDs: make(map[[2]uint64]uint32), msgIDs: make(map[[2]uint64]uint32), recIDs: make(map[string]uint32),
		logIDs: make(map[string]uint32), memo: make(map[searchStep]*searchResult), seen: make(map[[2]uint64]struct{}),
	}
}

func searchHost(i int, inc uint64) resolver.Host {
	return resolver.Host{ID: string(rune('a' + i)), Incarnation: inc}
}

func (x *search) fresh(i int, inc uint64) *Core {
	return New(Config{Name: "svc", Self: searchHost(i, inc), Standbys: *searchStandbys, MinInSync: *searchMin, Durable: x.stores})
}

// start is a service on a with b in sync, and nothing on its way.
func (x *search) start() searchState {
	rec := resolver.Record{Name: "svc", Version: 1, Epoch: 1, Active: searchHost(0, 1), ISR: []resolver.Host{searchHost(0, 1), searchHost(1, 1)}}
	s := searchState{}
	for i := range searchHosts {
		c := x.fresh(i, 1)
		c.now = searchJump
		if i < 2 {
			c.hasState, c.rec, c.role, c.term = true, rec, Standby, Term{0, 1}
			c.log.append(Entry{Index: 1, Epoch: 1, Kind: EpochStart})
			c.commit, c.emitted = 1, 1
			c.standby.leader, c.standby.heard, c.standby.matched = rec.Active, c.now, 1
		}
		if i == 0 {
			c.role = Serving
			c.standby = standbyState{}
			c.active = activeState{epochStart: 1, round: 1, nextBeat: c.now + 1, nextSeek: c.now + 1}
			p := c.addPeer(searchHost(1, 1))
			p.member, p.stage, p.match, p.next, p.round = true, streaming, 1, 2, 1
		}
		v := &c.saving
		v.meta, v.givenIndex, v.durable = c.meta(), c.log.last(), c.log.last()
		s.node[i] = x.internNode(c, c.written())
	}
	s.rec = x.internRec(rec)
	s.log = x.internLog([]uint64{1})
	return s
}

func (x *search) hash(b []byte) [2]uint64 {
	return [2]uint64{maphash.Bytes(x.seeds[0], b), maphash.Bytes(x.seeds[1], b)}
}

// written is what a store holds that has got everything so far.
func (c *Core) written() State {
	return State{Meta: c.saving.meta, Commit: c.commit, Matched: c.standby.matched,
		Base: Place{c.log.base, c.log.baseEpoch}, Entries: slices.Clone(c.log.ents)}
}

func (x *search) internNode(c *Core, disk State) uint32 {
	x.buf = appendCore(x.buf[:0], c)
	if x.stores {
		x.buf = appendDisk(x.buf, c, disk)
	}
	k := x.hash(x.buf)
	if id, ok := x.nodeIDs[k]; ok {
		return id
	}
	id := uint32(len(x.nodes))
	x.nodes = append(x.nodes, c)
	x.disks = append(x.disks, disk)
	x.nodeIDs[k] = id
	return id
}

func (x *search) internMsg(m searchMsg) uint32 {
	b := append(x.buf[:0], byte(m.to))
	b = binary.AppendUvarint(b, m.inc)
	switch {
	case m.msg != nil:
		b = appendSearchMsg(append(b, 1), *m.msg)
	default:
		b = binary.AppendUvarint(append(b, 2), m.cas.Expect)
		b = appendRec(b, m.cas.Next)
		if m.answer != nil {
			b = appendRec(append(b, byte(m.answer.Outcome)), m.answer.Record)
		}
	}
	x.buf = b
	k := x.hash(b)
	if id, ok := x.msgIDs[k]; ok {
		return id
	}
	m.link = m.to * 8
	if m.msg != nil {
		m.link += int(m.msg.From.ID[0]-'a') + 2
	} else if m.answer == nil {
		m.link++
	}
	id := uint32(len(x.msgs))
	x.msgs = append(x.msgs, m)
	x.msgIDs[k] = id
	return id
}

func (x *search) internRec(r resolver.Record) uint32 {
	k := string(appendRec(nil, r))
	if id, ok := x.recIDs[k]; ok {
		return id
	}
	x.recs = append(x.recs, r)
	x.recIDs[k] = uint32(len(x.recs) - 1)
	return x.recIDs[k]
}

func (x *search) internLog(l []uint64) uint32 {
	k := fmt.Sprint(l)
	if id, ok := x.logIDs[k]; ok {
		return id
	}
	x.logs = append(x.logs, l)
	x.logIDs[k] = uint32(len(x.logs) - 1)
	return x.logIDs[k]
}

// run searches until there is nothing new, or max states are seen.
func (x *search) run(limit int) {
	first := x.start()
	x.parents = append(x.parents, searchParent{})
	level := []searchState{first}
	for ; len(level) > 0 && len(x.parents) < limit; x.depth++ {
		var next []searchState
		for i := range level {
			s := &level[i]
			n := uint16(0)
			x.each(*s, func(to searchState, problem string) {
				n++
				if problem != "" {
					x.t.Fatalf("%s, after\n%s", problem, x.trace(s.id, n-1))
				}
				k := x.stateKey(&to)
				if _, ok := x.seen[k]; ok {
					return
				}
				x.seen[k] = struct{}{}
				to.id = uint32(len(x.parents))
				x.parents = append(x.parents, searchParent{s.id, n - 1})
				next = append(next, to)
			})
			if len(x.parents) >= limit {
				x.left = len(level) - i + len(next)
				return
			}
		}
		level = next
	}
}

func (x *search) stateKey(s *searchState) [2]uint64 {
	b := x.buf[:0]
	for _, n := range s.node {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	b = binary.LittleEndian.AppendUint32(b, s.rec)
	b = binary.LittleEndian.AppendUint32(b, s.log)
	b = append(b, s.entries, s.crashes, s.timeouts, s.handoffs, s.reads, s.inc)
	for _, m := range s.net {
		b = binary.LittleEndian.AppendUint32(b, m)
	}
	x.buf = b
	return x.hash(b)
}

// trace tells how a state is reached, and the last action.
func (x *search) trace(id uint32, last uint16) string {
	path := []uint16{last}
	for id != 0 {
		path = append(path, x.parents[id].action)
		id = x.parents[id].state
	}
	slices.Reverse(path)
	s := x.start()
	x.describe = true
	var lines []string
	for _, action := range path {
		var n uint16
		var to searchState
		x.names = x.names[:0]
		x.each(s, func(next searchState, problem string) {
			if n == action {
				to = next
			}
			n++
		})
		lines = append(lines, x.names[action])
		s = to
	}
	x.describe = false
	return strings.Join(lines, "\n")
}

// each calls emit for every state that may follow s.
func (x *search) each(s searchState, emit func(to searchState, problem string)) {
	try := func(i int, st searchStep, remove int, change func(*searchState), name func() string) {
		r := x.step(st, s)
		if x.describe {
			x.names = append(x.names, name())
		}
		to := s
		to.net = make([]uint32, 0, len(s.net)+len(r.msgs))
		for k, m := range s.net {
			// What was sent before on the same link is lost.
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
		if x.nodes[to.node[i]].term.Epoch > *searchEpoch {
			to = s // beyond the bound: as if it had not happened
		}
		x.tidy(&to)
		emit(to, problem)
	}
	// What a host asks of itself is done at once: nothing else would see the difference.
	for i := range searchHosts {
		c := x.nodes[s.node[i]]
		id := searchHost(i, 0).ID
		if c.active.seeking {
			incs := uint32(0)
			for j := range searchHosts {
				incs |= uint32(x.nodes[s.node[j]].self.Incarnation) << (8 * j)
			}
			try(i, searchStep{s.node[i], stepCandidates, incs}, -1, nil, func() string { return id + " finds hosts" })
			return
		}
		if c.active.move != nil && c.active.move.stage == moveInSync {
			try(i, searchStep{s.node[i], stepTransfer, 0}, -1, nil, func() string { return id + " tells the target to take over" })
			return
		}
	}
	for k, id := range s.net {
		m := x.msgs[id]
		switch {
		case m.cas != nil && m.answer == nil:
			x.resolve(s, k, m, emit)
		default:
			try(m.to, searchStep{s.node[m.to], stepDeliver, id}, k, nil, func() string { return "deliver " + m.text })
		}
	}
	for i := range searchHosts {
		c := x.nodes[s.node[i]]
		id := searchHost(i, 0).ID
		if c.role.Active() && int(s.entries) < *searchEntries {
			try(i, searchStep{s.node[i], stepPropose, 0}, -1, func(to *searchState) { to.entries++ }, func() string { return id + " orders a command" })
		}
		if c.role == Serving && int(s.reads) < *searchReads {
			// The number of the read is what it must show at least.
			try(i, searchStep{s.node[i], stepRead, uint32(len(x.logs[s.log]))}, -1, func(to *searchState) { to.reads++ }, func() string { return id + " is asked" })
		}
		if c.role == Serving && int(s.handoffs) < *searchHandoffs && c.active.move == nil {
			for j := range searchHosts {
				if j != i {
					inc := x.nodes[s.node[j]].self.Incarnation
					try(i, searchStep{s.node[i], stepHandoff, uint32(j)<<8 | uint32(inc)}, -1, func(to *searchState) { to.handoffs++ },
						func() string { return id + " is to hand over to " + searchHost(j, 0).ID })
				}
			}
		}
		if int(s.timeouts) < *searchTimeouts && c.role != Out {
			try(i, searchStep{s.node[i], stepTimeout, 0}, -1, func(to *searchState) { to.timeouts++ }, func() string { return id + "'s timers go off" })
		}
		if c.getting {
			try(i, searchStep{s.node[i], stepGot, s.rec}, -1, nil, func() string { return id + " reads the record " + Describe(x.recs[s.rec]) })
		}
		if f := c.standby.fetch; f != nil {
			if x.nodes[s.node[f.From.ID[0]-'a']].self.Same(f.From) {
				try(i, searchStep{s.node[i], stepRestored, 0}, -1, nil, func() string { return id + " has restored its snapshot" })
			} else {
				try(i, searchStep{s.node[i], stepFailed, 0}, -1, nil, func() string { return id + " has no snapshot" })
			}
		}
		if x.stores && len(c.saving.queue) > 0 {
			try(i, searchStep{s.node[i], stepSync, 0}, -1, nil, func() string { return id + " has written" })
		}
		if x.stores && int(s.crashes) < *searchCrashes {
			try(i, searchStep{s.node[i], stepRestart, 0}, -1, func(to *searchState) { to.crashes++ }, func() string { return id + " starts again" })
		}
		if !x.stores && int(s.crashes) < *searchCrashes {
			if x.describe {
				x.names = append(x.names, id+" starts anew")
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

// resolve lets the resolver take up a change.
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
	case rec.Version == c.Expect:
		if err := resolver.Check(&rec, c.Next); err != nil {
			problem = err.Error()
		}
		ev.Outcome = CASOK
		ev.Record = c.Next
		ev.Record.Version = c.Expect + 1
		to.rec = x.internRec(ev.Record)
	}
	text := ""
	if x.describe {
		x.names = append(x.names, fmt.Sprintf("the resolver takes up %s", m.text))
	}
	text = fmt.Sprintf("to %c the answer %s", 'a'+m.to, Describe(ev.Record))
	to.net = append(to.net, x.internMsg(searchMsg{to: m.to, inc: m.inc, cas: c, answer: &ev, text: text}))
	if problem == "" {
		problem = x.durable(&to)
	}
	x.tidy(&to)
	emit(to, problem)
}

// tidy drops what can have no effect any more, so that equal situations are equal.
func (x *search) tidy(s *searchState) {
	s.net = slices.DeleteFunc(s.net, func(id uint32) bool {
		m := &x.msgs[id]
		c := x.nodes[s.node[m.to]]
		switch {
		case m.cas != nil && m.answer == nil:
			// A change that comes too late is answered, but the host learns no more than by reading the record.
			return m.cas.Expect != x.recs[s.rec].Version && (c.self.Incarnation != m.inc || c.prop == nil)
		case c.self.Incarnation != m.inc:
			return true
		case m.answer != nil:
			return m.answer.Record.Version <= c.rec.Version && c.prop == nil
		}
		if m.msg.Term.Compare(c.term) >= 0 || x.stores && m.msg.Term.Compare(x.disks[s.node[m.to]].Term) >= 0 {
			return false // or it may have an effect after a restart that forgets the present term
		}
		switch m.msg.Type {
		case MsgAck, MsgFailed, MsgMoved, MsgJoin:
			return true
		case MsgReject:
			return m.msg.Record.Version <= c.rec.Version
		}
		// It is refused with the record, which tells its sender nothing that it knows already.
		return x.nodes[s.node[m.msg.From.ID[0]-'a']].self.Incarnation != m.msg.From.Incarnation
	})
	slices.SortStableFunc(s.net, func(a, b uint32) int { return cmp.Compare(x.msgs[a].link, x.msgs[b].link) })
	kept := make([]uint32, 0, len(s.net))
	for k, id := range s.net {
		// One of two equal messages in a row is enough, and of many only the last are not lost.
		link := x.msgs[id].link
		if k+1 < len(s.net) && s.net[k+1] == id || k+*searchNet < len(s.net) && x.msgs[s.net[k+*searchNet]].link == link {
			continue
		}
		kept = append(kept, id)
	}
	s.net = kept
}

// settle checks what a step did.
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
		if r.commit < need {
			return fmt.Sprintf("a read shows %d entries, of %d that were committed before it was asked", r.commit, need)
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

// durable checks that every member of the in-sync set has all that is committed.
func (x *search) durable(s *searchState) string {
	log := x.logs[s.log]
	n := uint64(len(log))
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

// step takes, or remembers, one step of one host.
func (x *search) step(st searchStep, s searchState) *searchResult {
	if r, ok := x.memo[st]; ok {
		return r
	}
	c, disk := x.nodes[st.node].clone(), x.disks[st.node]
	r := new(searchResult)
	var ev Event = Tick{}
	switch st.kind {
	case stepDeliver:
		if m := x.msgs[st.arg]; m.msg != nil {
			ev = Recv{*m.msg}
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
	case stepRestart:
		c = x.fresh(int(c.self.ID[0]-'a'), c.self.Incarnation)
		c.now = searchJump
		st := disk
		st.Entries = slices.Clone(st.Entries)
		ev = Recovered{State: st}
	}
	c.Step(c.now, ev)
	for again := true; again; {
		again = x.ready(c, r)
	}
	if err := c.Err(); err != nil {
		r.err = err.Error()
	}
	r.commit = c.commit
	r.node = x.internNode(c, disk)
	x.memo[st] = r
	return r
}

func (x *search) ready(c *Core, r *searchResult) (again bool) {
	out := c.Ready()
	id := c.self.ID
	for _, m := range out.Msgs {
		msg := m.Msg
		msg.Entries = slices.Clone(msg.Entries)
		r.msgs = append(r.msgs, x.internMsg(searchMsg{to: int(m.To.ID[0] - 'a'), inc: m.To.Incarnation, msg: &msg, text: id + " -> " + m.To.ID + ": " + msg.String()}))
	}
	r.committed = append(r.committed, out.Committed...)
	r.reads = append(r.reads, out.Reads...)
	if out.CAS != nil {
		next := out.CAS.Next
		next.Version = out.CAS.Expect + 1
		r.msgs = append(r.msgs, x.internMsg(searchMsg{to: int(id[0] - 'a'), inc: c.self.Incarnation, cas: out.CAS, text: id + "'s change " + Describe(next)}))
	}
	for _, h := range out.Snapshots {
		again = true
		e, _ := c.EpochAt(c.commit)
		c.Step(c.now, Captured{To: h, ID: c.commit<<8 | uint64(h.Incarnation), Index: c.commit, Epoch: e})
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

// clone makes a copy that shares nothing that changes.
func (c *Core) clone() *Core {
	d := *c
	d.log.ents = c.log.ents[:len(c.log.ents):len(c.log.ents)]
	d.saving.queue, d.saving.held = slices.Clone(c.saving.queue), slices.Clone(c.saving.held)
	if c.prop != nil {
		p := *c.prop // no reset is searched, so that it has no doubt
		d.prop = &p
	}
	d.active.peers = make([]*peer, len(c.active.peers))
	for i, p := range c.active.peers {
		q := *p
		d.active.peers[i] = &q
	}
	d.active.reads = slices.Clone(c.active.reads)
	d.active.slowHosts = slices.Clone(c.active.slowHosts)
	if c.active.move != nil {
		m := *c.active.move
		d.active.move = &m
	}
	if c.active.takenMove != nil {
		m := *c.active.takenMove
		d.active.takenMove = &m
	}
	if c.standby.fetch != nil {
		f := *c.standby.fetch
		d.standby.fetch = &f
	}
	d.out = Ready{}
	return &d
}

// appendCore appends what decides what c will do. Times count only as passed or to come, and nonces not at all.
func appendCore(b []byte, c *Core) []byte {
	num := func(vs ...uint64) {
		for _, v := range vs {
			b = binary.AppendUvarint(b, v)
		}
	}
	flags := func(fs ...bool) {
		for _, f := range fs {
			if f {
				b = append(b, 1)
			} else {
				b = append(b, 0)
			}
		}
	}
	host := func(h resolver.Host) { b = append(append(b, h.ID...), byte(h.Incarnation)) }
	due := func(ts ...time.Duration) {
		for _, t := range ts {
			flags(t == 0, t <= c.now)
		}
	}
	old := func(ts ...time.Duration) {
		for _, t := range ts {
			flags(t == 0, c.now-t >= searchJump)
		}
	}
	host(c.self)
	num(uint64(c.role), c.term.Loss, c.term.Epoch, c.freshTerm.Loss, c.freshTerm.Epoch, c.loss, c.commit, c.emitted, c.log.base, c.log.baseEpoch)
	b = appendRec(b, c.rec)
	flags(c.hasState, c.getting, c.prop != nil)
	for _, e := range c.log.ents {
		num(e.Epoch, uint64(e.Kind), e.Low)
	}
	num(0)
	due(c.proposeAfter, c.getAt, c.getAfter)
	if p := c.prop; p != nil {
		num(uint64(p.kind), p.expect)
		b = appendRec(b, p.next)
		host(p.host)
		host(p.requester)
		flags(p.drop, p.inFlight)
		due(p.retryAt)
		old(p.began)
	}
	a := &c.active
	num(uint64(len(a.peers)), a.epochStart, a.lastInvitation, a.round)
	due(a.nextBeat, a.nextSeek)
	flags(a.seeking, a.roundDue, a.suspended, a.blocked)
	for _, s := range a.slowHosts {
		b = append(b, s.id...)
		due(s.until)
	}
	for _, r := range a.reads {
		num(r.id, r.round)
	}
	num(0)
	for _, m := range []*move{a.move, a.takenMove} {
		if flags(m != nil); m != nil {
			host(m.target)
			num(uint64(m.stage))
			flags(m.begun, m.transferDue)
			due(m.deadline)
		}
	}
	host(a.predecessor)
	for _, p := range a.peers {
		host(p.host)
		flags(p.member, p.down, p.sendDue, c.now > p.invitedAt, p.commitWaitSince > 0)
		num(uint64(p.stage), p.base, p.match, p.next, p.round, uint64(p.inFlight), p.invitation)
		old(p.lastAck, p.resentAt, p.commitWaitSince, p.leaveAskedAt)
		if flags(p.lagMark > p.match); p.lagMark > p.match {
			num(p.lagMark)
			old(p.lagMarkAt)
		}
		due(p.nextCommitWait)
		if flags(p.stage == fetching); p.stage == fetching {
			b = appendSearchMsg(b, p.snapshot)
		}
	}
	s := &c.standby
	host(s.leader)
	old(s.heard, s.removedAt)
	due(s.nextLeave)
	num(s.invitation, s.matched, s.ackedIndex, s.round)
	flags(s.down, s.ackDue, s.ackNow, s.resend, s.checkingActive, s.leaving, s.halted, s.fetch != nil)
	if f := s.fetch; f != nil {
		host(f.From)
		num(f.ID, f.Index, f.Epoch)
	}
	return b
}

// appendDisk appends what decides what c does with its store, and after a restart.
func appendDisk(b []byte, c *Core, s State) []byte {
	v := &c.saving
	b = binary.AppendUvarint(b, v.durable)
	b = append(b, byte(len(v.held)))
	for _, h := range v.held {
		b = append(b, h.out.To.ID...)
		b = appendSearchMsg(b, h.out.Msg)
	}
	if n := len(v.queue); n > 0 {
		b = binary.AppendUvarint(b, v.queue[n-1].index+1)
	}
	b = append(b, 0)
	for _, m := range []Meta{v.meta, s.Meta} {
		b = fmt.Appendf(b, "%v", m)
	}
	for _, n := range [...]uint64{s.Commit, s.Matched, s.Base.Index, s.Base.Epoch} {
		b = binary.AppendUvarint(b, n)
	}
	for _, e := range s.Entries {
		b = binary.AppendUvarint(b, e.Epoch)
	}
	return append(b, 0)
}

func appendRec(b []byte, r resolver.Record) []byte {
	for _, v := range [...]uint64{r.Generation, r.Version, r.Loss, r.Epoch} {
		b = binary.AppendUvarint(b, v)
	}
	for _, h := range append([]resolver.Host{r.Active}, r.ISR...) {
		b = append(append(b, h.ID...), byte(h.Incarnation))
	}
	return append(b, 0)
}

func equalRec(a, b resolver.Record) bool {
	a.Version, b.Version = 0, 0
	return string(appendRec(nil, a)) == string(appendRec(nil, b))
}

func appendSearchMsg(b []byte, m Msg) []byte {
	b = append(append(b, byte(m.Type)), m.From.ID...)
	for _, v := range [...]uint64{m.From.Incarnation, m.Term.Loss, m.Term.Epoch, m.Index, m.Commit, m.Round, m.Prev, m.PrevEpoch, uint64(len(m.Entries))} {
		b = binary.AppendUvarint(b, v)
	}
	for _, e := range m.Entries {
		b = binary.AppendUvarint(b, e.Epoch)
		b = binary.AppendUvarint(b, e.Low)
	}
	if m.Flag {
		b = append(b, 1)
	}
	if m.Record != nil {
		b = appendRec(append(b, 2), *m.Record)
	}
	if m.Reason != "" {
		b = append(b, 3)
	}
	return b
}

// TestSearchCopies reminds whoever adds a field to the core of clone and appendCore, which must know it.
func TestSearchCopies(t *testing.T) {
	fields := func(v any) int { return reflect.TypeOf(v).NumField() }
	require.Equal(t, []int{25, 18, 21, 16, 11, 5}, []int{
		fields(Core{}), fields(activeState{}), fields(peer{}), fields(standbyState{}), fields(proposal{}), fields(move{}),
	}, "a field came or went: see clone and appendCore, then change this")
}

// TestResetThatComesToNothing is of a standby that is about to ask for the record when it is told to reset the service: another
// host takes over first, and this one goes on looking after it. The simulation found it waiting for ever.
func TestResetThatComesToNothing(t *testing.T) {
	x := newSearch(t)
	s := x.start()
	c := x.nodes[s.node[1]].clone()
	now := c.now + searchJump
	c.getAfter = now + time.Second
	c.Step(now, Tick{})
	require.False(t, c.Ready().Get)
	c.Step(now, Reset{Record: c.Record()})
	cas := c.Ready().CAS
	require.NotNil(t, cas)
	now += time.Second
	c.Step(now, Tick{})
	require.True(t, c.Ready().Get)
	c.Step(now, Got{Record: c.Record()})
	other := c.Record()
	other.Version, other.Epoch, other.Active = 2, 2, searchHost(2, 1)
	other.ISR = append(slices.Clone(other.ISR), other.Active)
	c.Step(now, CASDone{Nonce: cas.Next.Nonce, Record: other, Outcome: CASConflict})
	require.False(t, c.Ready().Get)
	require.Equal(t, Standby, c.Role())
	c.Step(now+searchJump, Tick{})
	require.True(t, c.Ready().Get)
}
