package sim

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

// The invariants, and where each is checked:
//
//	I1  one host at most is ever active in a term                   isActive, of all that orders, sends or has the role
//	I2  terms never go back, on a host or at the resolver           look, recordChanged; after a restart: recovered
//	I3  what is committed is the same on all hosts                  applied
//	I4  who becomes active holds all that was committed             activated
//	I5  a commit has the acknowledgement of all who are needed      look, by the resolver's record; held, of MinInSync
//	I6  who becomes active was in sync, or the loss rises           recordChanged
//	I7  a member is needed until the record is without it           look; that each holds what is committed: durable
//	I8  who is proposed holds all, and is needed from then on       proposed
//	I9  clients see nothing that is not committed                   acknowledged, read, heard
//	I10 a command takes effect once                                 applied, acknowledged, again
//	I11 the commands of a session take effect in order              applied, acknowledged
//	I12 what is acknowledged comes before what is asked later       acknowledged, read; and, knowing no index, linear
//	I13 events come each once and in order, or a gap is told of     heard
//	I14 a client takes nothing of a lower term than it has seen     client.answered drops it; internal/client.TestIgnoresStale
//	I15 a session that has ended is said to have ended              expired
//	I16 replicas are equal                                          applied, restored; at the end: converged
//	I17 a copy counts only when it is proven whole                  restored; of damaged ones migrate.TestHandoffWithBadSnapshot,
//	                                                                TestSnapshotOfAnotherMoment, transport.FuzzBulk
//	I18 a loss is loud                                              acknowledged, client.answered; internal/client.TestStateLost
//	I19 a sender is who its key says                                chatcore.TestSenderIsSetByTheRoom, TestNamesBelongToKeys
//	I20 hosts, and who may change a record, are known by their keys resolver.TestServerRights, migrate.TestStrangerIsNotHeeded,
//	                                                                transport.TestTCPKeys
//	I21 all memory is bounded, nothing from the network panics      the fuzz tests, machine.TestAdmissionWindow,
//	                                                                transport.TestUnmarshalMemory; of the log: ticked, maxSteps
//
// What is to happen at all: hosts are back in sync after the healing, and equal (world.staffed, world.converged), also under
// load, and a slow standby does not hold them up (world.slowStandby). How long that takes is not for a simulation:
// migrate.TestHandoffWithoutResolver, migrate.TestFailoverWithoutResolver and the scenarios resolver, handoff, kill and
// badmove of migrate/chaos measure it with real processes, and that these leave nothing open.
//
// Of a log, whatever else there is, it is thus known that (a) one entry is at an index, for all who see it (applied); (b) what
// is acknowledged is there, once (acknowledged, applied); (c) what is not is there once or never (applied); (d) what was
// acknowledged before another was asked for comes before it (acknowledged); (e) a session's commands are in order
// (acknowledged, applied); (f) subscribers miss nothing unknowingly (heard); (g) all in it was asked for (applied); (h) every
// replica is what the log makes of it (applied, restored); (i) a read shows all that was acknowledged before it, and nothing
// that was not committed (read).

// checker knows everything that happened on all hosts, and fails the run when an invariant is broken.
type checker struct {
	w       *world
	logs    map[uint64]*history           // by loss
	active  map[core.Term]*proc           // who was active in a term: one at most
	acks    map[ackKey]uint64             // the highest index that an incarnation acknowledged in a term
	records map[core.Term]resolver.Record // the last record of each term
	top     resolver.Record               // the newest of the resolver's present memory
	bound   resolver.Record               // the newest
	bodies  map[cmdKey][]byte             // what clients asked for
	acked   map[cmdKey]mark               // at what place it was acknowledged
	spoken  map[uint64]core.Term          // the highest term in which an incarnation with a disk has spoken
	begun   map[core.Term]bool            // its active host has spoken in it, or its disk knows it
	lost    map[uint64]bool               // the incarnation has lost its disk
	deaths  map[mark]int                  // hosts that took over and died of the poisoned command, by its place
	ops     []operation                   // what clients did before any loss
	calls   int                           // and answers
	opOf    map[cmdKey]int
}

type ackKey struct {
	inc  uint64
	term core.Term
}

type cmdKey struct{ session, seq uint64 }

// mark is a place in the log of a loss.
type mark struct{ loss, index uint64 }

// history is the log that was committed under one loss: what every host must agree on.
type history struct {
	loss     uint64
	first    core.Term // it began with
	entries  []core.Entry
	epochs   []uint64 // in which each entry was committed
	outcomes []outcome
	sessions map[uint64]uint64 // open ones, with their last command
	ended    map[uint64]bool
	count    uint64
	acked    uint64 // the highest index acknowledged to a client
	events   [][]byte
	emitted  []uint64 // how many events there are after each entry
}

// outcome is what an entry did, the same on every host.
type outcome struct {
	count, hash uint64
	known       bool
}

// watch is what was last seen of a process.
type watch struct {
	term     core.Term
	commit   uint64
	ver, gen uint64
	hasState bool
	role     core.Role
	loss     uint64 // of the machine
	second   time.Duration
	ticks    int
	asks     int
	halted   bool
}

func newChecker(w *world) *checker {
	return &checker{
		deaths: make(map[mark]int),
		w:      w, logs: make(map[uint64]*history), active: make(map[core.Term]*proc), acks: make(map[ackKey]uint64),
		spoken: make(map[uint64]core.Term), begun: make(map[core.Term]bool), lost: make(map[uint64]bool),
		records: make(map[core.Term]resolver.Record), bodies: make(map[cmdKey][]byte), acked: make(map[cmdKey]mark),
		opOf: make(map[cmdKey]int),
	}
}

func (k *checker) failf(format string, args ...any) { k.w.failf(format, args...) }

// fold adds an entry to the history and returns what must come of it.
func (h *history) fold(e core.Entry) Applied {
	h.entries = append(h.entries, e)
	a := Applied{Index: e.Index}
	last, ok := h.sessions[e.Session]
	switch e.Kind {
	case core.OpenSession:
		if !ok {
			h.sessions[e.Session] = 0
		}
	case core.CloseSession:
		if !ok {
			a.Code = Expired
		}
		delete(h.sessions, e.Session)
		h.ended[e.Session] = true
	case core.Command:
		switch {
		case !ok:
			a.Code = Expired
		case e.Seq <= last:
			a.Duplicate = true
		case e.Seq != last+1:
			a.Code = OutOfOrder
		default:
			h.sessions[e.Session] = e.Seq
			h.count++
			a.Count = h.count
			if Emits(e.Seq) {
				h.events = append(h.events, e.Body)
			}
		}
	}
	h.emitted = append(h.emitted, uint64(len(h.events)))
	return a
}

func newHistory(loss uint64) *history {
	return &history{loss: loss, sessions: make(map[uint64]uint64), ended: make(map[uint64]bool)}
}

func sameEntry(a, b core.Entry) bool {
	return a.Index == b.Index && a.Epoch == b.Epoch && a.Kind == b.Kind && a.Session == b.Session && a.Seq == b.Seq &&
		a.Low == b.Low && a.Time == b.Time && bytes.Equal(a.Body, b.Body)
}

// activated: one active a term (I1), and its log holds all that was committed (I4).
func (k *checker) activated(p *proc) {
	t := p.core.Term()
	k.isActive(p, t)
	k.w.stats.Epochs++
	h := k.logs[t.Loss]
	if h == nil || h.first == t && !k.begun[t] { // or it began once, and forgot that before anyone heard of it
		h = newHistory(t.Loss)
		h.first = t
		k.logs[t.Loss] = h
		if t.Loss > 0 {
			k.w.stats.Losses++
		}
		// A reset keeps the copy that the host has; the epoch's first entry is the only one after it.
		if n := p.core.EpochStart() - 1; n > 0 {
			old := k.logs[p.watch.loss]
			if old == nil {
				k.failf("%s resets with %d entries that were never committed", p, n)
			}
			// What it committed at the same moment comes as the first of the new log.
			n = min(n, uint64(len(old.entries)))
			for _, e := range old.entries[:n] {
				h.fold(e)
				h.epochs = append(h.epochs, t.Epoch)
			}
			h.outcomes = slices.Clone(old.outcomes[:n])
		}
		p.watch.loss = t.Loss
		return
	}
	n := uint64(len(h.entries))
	for n > 0 && h.epochs[n-1] >= t.Epoch {
		n-- // it has lost its epoch already, and will commit nothing
	}
	if p.core.Last() < n {
		k.failf("%s is active with a log up to %d, but %d is committed (I4)", p, p.core.Last(), n)
	}
	for i := p.core.Commit() + 1; i <= n; i++ {
		if e, ok := p.core.EpochAt(i); !ok || e != h.entries[i-1].Epoch {
			k.failf("%s is active with entry %d of epoch %d, but that of epoch %d is committed (I4)", p, i, e, h.entries[i-1].Epoch)
		}
	}
}

// isActive notes that p is active in a term, which nobody else ever was.
func (k *checker) isActive(p *proc, t core.Term) {
	if q := k.active[t]; q != nil && q != p && !(q.dead && q.self.Same(p.self) && !k.begun[t]) {
		k.failf("%s and %s are both active in %s (I1)", q.name(), p.name(), t)
	}
	k.active[t] = p
}

func (k *checker) ordered(p *proc, e core.Entry) {
	k.isActive(p, p.core.Term())
	if e.Epoch != p.core.Term().Epoch {
		k.failf("%s orders entry %d in epoch %d", p, e.Index, e.Epoch)
	}
}

// saved notes what a disk holds.
func (k *checker) saved(p *proc, v *core.Save) {
	if q := k.active[v.Term]; q != nil && q.self.Same(p.self) {
		k.begun[v.Term] = true
	}
}

// wiped notes that what a host has promised is forgotten, and known to be.
func (k *checker) wiped(p *proc) {
	k.lost[p.self.Incarnation] = true
	delete(k.spoken, p.self.Incarnation)
}

// recovered: a host that starts again knows every term in which it has spoken (I2).
func (k *checker) recovered(p *proc) {
	t := p.core.Term()
	if t.Compare(k.spoken[p.self.Incarnation]) < 0 {
		k.failf("%s starts again in %s, but has spoken in %s (I2)", p, t, k.spoken[p.self.Incarnation])
	}
	if p.m != nil {
		k.restored(p)
	}
}

// speaks notes that others, or clients, know that p was in a term.
func (k *checker) speaks(p *proc, t core.Term) {
	if p.host.disk != nil && t.Compare(k.spoken[p.self.Incarnation]) > 0 {
		k.spoken[p.self.Incarnation] = t
	}
}

func (k *checker) sent(p *proc, m core.Msg) {
	k.speaks(p, m.Term)
	if k.active[m.Term] == p {
		k.begun[m.Term] = true
	}
	switch m.Type {
	case core.MsgAck:
		key := ackKey{p.self.Incarnation, m.Term}
		k.acks[key] = max(k.acks[key], m.Index)
	case core.MsgAppend:
		k.isActive(p, m.Term)
	}
}

// applied: all hosts apply the same entries with the same outcome (I3, I16), each command once and in order (I10, I11),
// and nothing that no client asked for.
func (k *checker) applied(p *proc, e core.Entry, a Applied) {
	h := k.logs[p.core.Term().Loss]
	if h == nil {
		k.failf("%s applies entry %d before anyone was active", p, e.Index)
	}
	p.watch.loss = h.loss
	if e.Kind == core.Command && p.core.Role().Active() {
		k.held(p, e)
	}
	n := uint64(len(h.entries))
	switch {
	case e.Index > n+1:
		k.failf("%s applies entry %d, but only %d are committed", p, e.Index, n)
	case e.Index <= n:
		if !sameEntry(e, h.entries[e.Index-1]) {
			k.failf("%s applies %s, but %s is committed there (I3)", p, entry(e), entry(h.entries[e.Index-1]))
		}
	default:
		if want := h.fold(e); want != a {
			k.failf("%s applies %s: %+v, want %+v (I10, I11)", p, entry(e), a, want)
		}
		if p.core.Role().Active() {
			k.speaks(p, p.core.Term()) // to its clients, of what nobody has committed before
		}
		k.w.stats.Entries++
		h.epochs = append(h.epochs, p.core.Term().Epoch)
		h.outcomes = append(h.outcomes, outcome{a.Count, p.m.Hash(), true})
		if e.Kind == core.Command {
			if a.Code != OK || a.Duplicate {
				k.failf("%s was ordered in vain: %s", entry(e), a.Code)
			}
			if body, ok := k.bodies[cmdKey{e.Session, e.Seq}]; !ok || !bytes.Equal(body, e.Body) {
				k.failf("%s was never asked for", entry(e))
			}
		}
		if k.w.o.Log != nil {
			k.w.tracef("%s commits %s", p.name(), entry(e))
		}
		k.durable(nil)
		return
	}
	if o := h.outcomes[e.Index-1]; o != (outcome{a.Count, p.m.Hash(), true}) {
		k.failf("%s applies %s with another outcome or state than others (I16): %+v, state %x, want %+v",
			p, entry(e), a, p.m.Hash(), o)
	}
}

// held: where so many hosts are to hold every command, so many of the in-sync set do, by the resolver's own record, before
// the active host applies it and answers.
func (k *checker) held(p *proc, e core.Entry) {
	want := k.w.prof.cfg.MinInSync
	if want < 2 {
		return
	}
	t := p.core.Term()
	rec, n := k.records[t], 0
	for _, h := range rec.ISR {
		has := h.Same(p.self)
		for epoch := e.Epoch; epoch <= t.Epoch; epoch++ {
			in := core.Term{Loss: t.Loss, Epoch: epoch}
			has = has || k.acks[ackKey{h.Incarnation, in}] >= e.Index || k.active[in] != nil && k.active[in].self.Same(h)
		}
		if has {
			n++
		}
	}
	if h := k.logs[t.Loss]; h != nil && h.first.Loss > 0 && (e.Epoch < h.first.Epoch || t == h.first && e.Index < p.core.EpochStart()) {
		return // of the copy that a reset has kept
	}
	if n < want && rec.Active.ID != "" {
		k.failf("%s commits %s, which %d of %d hosts hold: %s", p, entry(e), n, want, describeRecord(&rec))
	}
}

// poisoned: a command that kills whoever applies it is applied by active hosts alone, and not by one host after the other
// for ever.
func (k *checker) poisoned(p *proc, e core.Entry) {
	k.w.stats.Poisoned++
	if k.w.prof.disks > 0 {
		return // A host that starts again with its disk goes on where it died: its operator is told by that.
	}
	if !p.core.Role().Active() {
		if k.w.prof.batch == 0 {
			k.failf("%s applies %s, which no host has survived", p, entry(e))
		}
		return
	}
	if first, ok := p.core.EntryAt(p.core.EpochStart()); ok && first.Low != 0 && e.Epoch < first.Epoch {
		at := mark{p.core.Term().Loss, e.Index}
		if k.deaths[at]++; k.deaths[at] > 4 { // three, and one of whom those after it have not heard
			k.failf("%s is the %dth that takes over and dies of %s", p, k.deaths[at], entry(e))
		}
	}
}

// restored: a snapshot is the state that others had at that place (I16, I17).
func (k *checker) restored(p *proc) {
	h := k.logs[p.core.Term().Loss]
	i := p.m.Index()
	if h == nil || uint64(len(h.entries)) < i {
		k.failf("%s restores a snapshot of entry %d, which is not committed", p, i)
	}
	p.watch.loss = h.loss
	if i > 0 && h.outcomes[i-1].hash != p.m.Hash() {
		k.failf("%s restores a snapshot of entry %d with state %x, want %x (I16)", p, i, p.m.Hash(), h.outcomes[i-1].hash)
	}
}

func (k *checker) epochOf(loss, index uint64) uint64 {
	if h := k.logs[loss]; h != nil && index > 0 && index <= uint64(len(h.entries)) {
		return h.entries[index-1].Epoch
	}
	return 0
}

// proposed: a host is proposed for the in-sync set only when it has acknowledged all that is committed and the epoch's
// first entry, and its acknowledgement is needed from then on (I8).
func (k *checker) proposed(p *proc, c core.CAS) {
	k.asked(p)
	if !p.core.Role().Active() {
		return
	}
	for _, h := range c.Next.ISR {
		if h.Same(p.self) || contains(p.core.Record().ISR, h) {
			continue
		}
		need := max(p.core.Commit(), p.core.EpochStart())
		if got := k.acks[ackKey{h.Incarnation, p.core.Term()}]; got < need {
			k.failf("%s proposes %s, which has acknowledged %d of %d entries (I8)", p, label(h), got, need)
		}
		if !p.core.Needs(h) {
			k.failf("%s proposes %s, but commits without it (I8)", p, label(h))
		}
	}
}

// recordChanged: terms only rise (I2), and who becomes active was in the in-sync set, or the loss rises (I6).
func (k *checker) recordChanged(before, after resolver.Record) {
	b, a := core.TermOf(before), core.TermOf(after)
	if after.Generation == before.Generation || k.top.Version > 0 {
		if a.Compare(core.TermOf(k.top)) < 0 {
			k.failf("the resolver goes from %s back to %s (I2)", core.TermOf(k.top), a)
		}
	}
	k.top, k.bound = after, after
	if !after.Active.Same(before.Active) && after.Loss == before.Loss && before.Version > 0 && after.Active.ID != "" {
		if !contains(before.ISR, after.Active) {
			k.failf("%s becomes active without being in the in-sync set (I6)", label(after.Active))
		}
		if a.Compare(b) <= 0 {
			k.failf("another host is active in %s", a)
		}
	}
	k.records[a] = after
	k.durable(&after)
}

// forgotten: terms may begin anew, but the last record goes on to bind those who know it.
func (k *checker) forgotten() { k.top = resolver.Record{} }

// look checks one process after each thing that it did.
func (k *checker) look(p *proc) {
	c, v := p.core, &p.watch
	t := c.Term()
	if t.Compare(v.term) < 0 {
		k.failf("%s goes from %s back to %s (I2)", p, v.term, t)
	}
	rec := c.Record()
	if c.Role().Active() {
		k.isActive(p, t)
		for _, h := range rec.ISR {
			if !h.Same(p.self) && !c.Needs(h) {
				k.failf("%s commits without %s, which is in its record (I7): %s", p, label(h), describeRecord(&rec))
			}
		}
		if c.Commit() > v.commit || v.role != c.Role() {
			// I5, by the resolver's own record: whoever is in the in-sync set has acknowledged what is committed.
			if last, ok := k.records[t]; ok {
				for _, h := range last.ISR {
					// Under an earlier epoch it was committed by others.
					if got := k.acks[ackKey{h.Incarnation, t}]; !h.Same(p.self) && got < c.Commit() && c.Commit() >= c.EpochStart() {
						k.failf("%s commits %d, but %s has acknowledged only %d (I5): %s", p, c.Commit(), label(h), got, describeRecord(&last))
					}
				}
			}
		}
	}
	if c.Role() != v.role {
		k.w.tracef("%s (was %s)", p, v.role)
	}
	if c.Halted() != v.halted {
		if v.halted = c.Halted(); v.halted {
			k.w.stats.Halts++
			k.w.tracef("%s halts", p)
		}
	}
	changed := c.HasState() != v.hasState || t != v.term || c.Role() != v.role
	v.term, v.commit, v.ver, v.gen, v.hasState, v.role = t, c.Commit(), rec.Version, rec.Generation, c.HasState(), c.Role()
	if changed {
		k.durable(nil)
	}
}

// durable: every living member of the in-sync set holds all that is committed.
func (k *checker) durable(r *resolver.Record) {
	if r == nil {
		r = &k.bound
	}
	h := k.logs[r.Loss]
	if h == nil || len(h.entries) == 0 {
		return
	}
	n := uint64(len(h.entries))
	for _, m := range r.ISR {
		p := k.w.hosts[hostIndex(m)].proc
		if p == nil || !p.self.Same(m) {
			continue
		}
		c := p.core
		if k.lost[m.Incarnation] && !c.HasState() {
			continue // and says so to whoever counts on it
		}
		if c.Term().Loss < r.Loss && m.Same(r.Active) && !k.begun[core.TermOf(*r)] {
			continue // it does not know yet what it is about to begin
		}
		if !c.HasState() || c.Term().Loss != r.Loss || c.Last() < n {
			k.failf("%s is in the in-sync set %s, but lacks committed entries up to %d", p, describeRecord(r), n)
		}
		if e, ok := c.EpochAt(n); ok && e != h.entries[n-1].Epoch {
			k.failf("%s is in the in-sync set, but has entry %d of epoch %d instead of the committed one of epoch %d",
				p, n, e, h.entries[n-1].Epoch)
		}
	}
}

const (
	maxTicks = 150 // a second
	maxAsks  = 60
)

// ticked and asked: a host with nothing to do does not spin, and does not besiege the resolver.
func (k *checker) ticked(p *proc) {
	k.second(p)
	if p.watch.ticks++; p.watch.ticks > maxTicks {
		k.failf("%s: its timer has gone off %d times within a second", p, p.watch.ticks)
	}
}

func (k *checker) asked(p *proc) {
	k.second(p)
	if p.watch.asks++; p.watch.asks > maxAsks {
		k.failf("%s has asked the resolver %d times within a second", p, p.watch.asks)
	}
}

func (k *checker) second(p *proc) {
	if v := &p.watch; k.w.now-v.second >= time.Second {
		v.second, v.ticks, v.asks = k.w.now, 0, 0
	}
}

// mark is the latest place acknowledged to anyone, under the loss that the client knows.
func (k *checker) mark(c *client) mark {
	m := mark{loss: c.seen.Loss}
	if h := k.logs[m.loss]; h != nil {
		m.index = h.acked
	}
	return m
}

func (k *checker) invoked(c *client, cmd *command) {
	key := cmdKey{c.session, cmd.seq}
	k.bodies[key] = cmd.body
	if call := k.called(); c.loss == 0 {
		k.opOf[key] = len(k.ops)
		k.ops = append(k.ops, operation{call: call, answer: unanswered, session: c.session, body: cmd.body})
	}
}

// called counts calls and answers of clients, and so tells which came first.
func (k *checker) called() int {
	k.calls++
	return k.calls
}

// heard: events come each once and in order, but for gaps that are told of (I13), and are those of committed entries (I9). None
// is still to come that is older than an answer.
func (k *checker) heard(c *client, q *request, r reply) {
	h, e := k.logs[r.Term.Loss], r.Events
	if c.listen > 0 && e.first != c.listen && !(e.gap && e.first > c.listen) {
		k.failf("client %d hears event %d when %d is next (I13)", c.id, e.first, c.listen)
	}
	for i, body := range e.bodies {
		if n := e.first + uint64(i); n > uint64(len(h.events)) || !bytes.Equal(h.events[n-1], body) {
			k.failf("client %d hears event %d, which is not that of a committed entry (I9)", c.id, n)
		}
	}
	c.listen = e.first + uint64(len(e.bodies))
	if kept := k.w.o.Kept; e.gap {
		// It had just applied what was emitted last.
		if all := h.events[:c.listen-1]; kept == nil || len(all)-kept(all) != int(e.first)-1 {
			k.failf("client %d is told that there is no event before %d, of %d (I13)", c.id, e.first, len(all))
		}
	}
	k.w.stats.Events += len(e.bodies)
	if e.gap {
		k.w.stats.Gaps++
	}
	if q.kind == askDo && c.listen <= h.emitted[r.Index-1] {
		k.failf("client %d hears of entry %d, but not of event %d (I13)", c.id, r.Index, h.emitted[r.Index-1])
	}
}

const (
	maxOps   = 1000
	maxTries = 20_000
)

// linear: where clients did not do too much, a search of all orders finds one that explains what they saw (I12). It knows
// neither indexes nor what was committed.
func (k *checker) linear() {
	if len(k.ops) > maxOps {
		return
	}
	v, stuck := linearizable(ordered(k.ops), maxTries)
	switch v {
	case linear:
		k.w.stats.Linear++
	case undecided:
		k.w.stats.Undecided++
	case notLinear:
		k.failf("what clients saw is not linearizable (I12): nothing explains %+v", *stuck)
	}
}

// acknowledged: a result is that of a committed entry (I9), which is the command's own (I10) and lies after all that was
// acknowledged before the command was sent (I12).
func (k *checker) acknowledged(c *client, cmd *command, r reply) {
	h := k.logs[r.Term.Loss]
	if h == nil || r.Index == 0 || r.Index > uint64(len(h.entries)) {
		k.failf("client %d: command %d is acknowledged at %d, which is not committed (I9)", c.id, cmd.seq, r.Index)
	}
	e := h.entries[r.Index-1]
	if e.Kind != core.Command || e.Session != c.session || e.Seq != cmd.seq {
		k.failf("client %d: command %d is acknowledged at %d, where %s is (I10)", c.id, cmd.seq, r.Index, entry(e))
	}
	if o := h.outcomes[r.Index-1]; o.count != r.Count {
		k.failf("client %d: command %d has reply %d, want %d (I16)", c.id, cmd.seq, r.Count, o.count)
	}
	if cmd.floor.loss == h.loss && r.Index <= cmd.floor.index {
		k.failf("client %d: command %d is at %d, before what was acknowledged when it was sent, %d (I12)",
			c.id, cmd.seq, r.Index, cmd.floor.index)
	}
	if c.loss != r.Term.Loss {
		k.failf("client %d: command %d is acknowledged under loss %d, of a session of loss %d (I18)", c.id, cmd.seq, r.Term.Loss, c.loss)
	}
	if m, ok := k.acked[cmdKey{c.session, cmd.seq - 1}]; ok && m.index >= r.Index {
		k.failf("client %d: command %d is at %d, and the one before it at %d (I11)", c.id, cmd.seq, r.Index, m.index)
	}
	if m, ok := k.acked[cmdKey{c.session, cmd.seq + 1}]; ok && m.index <= r.Index {
		k.failf("client %d: command %d is at %d, and the one after it at %d (I11)", c.id, cmd.seq, r.Index, m.index)
	}
	h.acked = max(h.acked, r.Index)
	k.acked[cmdKey{c.session, cmd.seq}] = mark{h.loss, r.Index}
	if i, ok := k.opOf[cmdKey{c.session, cmd.seq}]; ok {
		k.ops[i].answer, k.ops[i].count = k.called(), r.Count
	}
}

// again: a second acknowledgement says the same as the first.
func (k *checker) again(c *client, seq uint64, r reply) {
	if m, ok := k.acked[cmdKey{c.session, seq}]; ok && (m != mark{r.Term.Loss, r.Index}) && m.loss == r.Term.Loss {
		k.failf("client %d: command %d is acknowledged at %d and at %d (I10)", c.id, seq, m.index, r.Index)
	}
}

// read: an answer shows all that was acknowledged before the question (I12), and a state that was (I9).
func (k *checker) read(c *client, q *request, r reply) {
	h := k.logs[r.Term.Loss]
	if h == nil || r.Index == 0 || r.Index > uint64(len(h.entries)) || h.outcomes[r.Index-1].hash != r.Hash {
		k.failf("client %d: an answer shows a state at %d that never was (I9)", c.id, r.Index)
	}
	if q.floor.loss == h.loss && r.Index < q.floor.index {
		k.failf("client %d: an answer is from %d, but %d was acknowledged before it was asked for (I12)", c.id, r.Index, q.floor.index)
	}
	if h.loss == 0 {
		k.ops = append(k.ops, operation{call: q.call, answer: k.called(), read: true, count: r.Count, sum: r.Sum})
	}
}

// expired: a session that is said to have ended was ended by the log (I15).
func (k *checker) expired(c *client, t core.Term) {
	h := k.logs[t.Loss]
	if h != nil && h.ended[c.session] {
		return
	}
	k.failf("client %d: session %d is said to have expired, in %s, but has not (I15)", c.id, c.session, t)
}

func contains(hs []resolver.Host, h resolver.Host) bool { return slices.ContainsFunc(hs, h.Same) }

func entry(e core.Entry) string {
	kind := [...]string{"?", "start", "open", "close", "command", "check", "refusal"}[e.Kind]
	if e.Session == 0 {
		return fmt.Sprintf("%d/e%d %s", e.Index, e.Epoch, kind)
	}
	return fmt.Sprintf("%d/e%d %s %d/%d", e.Index, e.Epoch, kind, e.Session, e.Seq)
}

// staffed reports whether a host serves with all the standbys that are wanted.
func (w *world) staffed() bool {
	w.why = ""
	rec := w.res.truth()
	if rec.Version == 0 || rec.Active.ID == "" {
		w.why = "there is no active host: " + describeRecord(&rec)
		return false
	}
	hosts := 0
	for _, h := range w.hosts {
		if h.proc == nil || h.proc.leaving {
			w.why = "host " + h.id + " is not up"
			return false
		}
		hosts++
		if h.proc.moving {
			w.why = "a handoff has no outcome: " + h.proc.String()
			return false
		}
	}
	a := w.hosts[hostIndex(rec.Active)].proc
	if !a.self.Same(rec.Active) || a.core.Role() != core.Serving || a.core.Term() != core.TermOf(rec) {
		w.why = "the active host does not serve: " + a.String() + ", " + describeRecord(&rec)
		return false
	}
	if want := min(w.prof.cfg.Standbys, hosts-1); len(rec.ISR)-1 != want {
		w.why = fmt.Sprintf("%d standbys are wanted: %s", want, describeRecord(&rec))
		return false
	}
	return true
}

// converged reports whether a service that is staffed is as it should be when nothing is wrong and nothing happens any more.
func (w *world) converged() bool {
	rec := w.res.truth()
	a := w.hosts[hostIndex(rec.Active)].proc
	if a.core.Suspended() || a.core.Pending() {
		w.why = "the active host is busy: " + a.String()
		return false
	}
	for _, h := range rec.ISR {
		p := w.hosts[hostIndex(h)].proc
		if p.self != h {
			w.why = "the address of a replica is out of date: " + p.String()
			return false
		}
		if p.m == nil || p.core.Commit() != a.core.Commit() || p.m.Hash() != a.m.Hash() {
			w.why = "a replica is not equal: " + p.String() + " and " + a.String()
			return false
		}
	}
	for _, h := range w.hosts {
		if p := h.proc; p != a && p.core.Role().Active() {
			w.why = "a second host is active: " + p.String()
			return false
		} else if !contains(rec.ISR, p.self) && p.core.HasState() {
			w.why = "a host keeps a copy that nobody wants: " + p.String()
			return false
		}
	}
	for _, c := range w.clients {
		if len(c.unacked) > 0 || c.more > 0 || !c.opened {
			w.why = fmt.Sprintf("client %d waits, session %d opened=%v unacked=%d", c.id, c.session, c.opened, len(c.unacked))
			return false
		}
	}
	return true
}
