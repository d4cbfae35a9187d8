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
//	I3  what is committed is the same on all hosts                  committed, applied
//	I4  who becomes active holds all that was committed             activated
//	I5  a commit has the acknowledgement of all who are needed      look, by the resolver's record; held, of MinInSync
//	I6  who becomes active was in sync, or the loss rises           recordChanged
//	I7  a member is needed until the record is without it           look; that each holds what is committed: durable
//	I8  who is proposed holds all, and is needed from then on       proposed
//	I9  clients see nothing that is not committed and applied       acknowledged, read, heard; applied, result
//	I10 a command takes effect once                                 commit, applied, acknowledged, again
//	I11 the commands of a session take effect in order              commit, applied, acknowledged
//	I12 what is acknowledged comes before what is asked later       acknowledged, read; and, knowing no index, linear; answersRead
//	I13 events come each once and in order, or a gap is reported    heard
//	I14 a client takes nothing of a lower term than it has seen     client.answered drops it; internal/client.TestIgnoresStale
//	I15 a session that has ended is said to have ended              expired
//	I16 replicas are equal                                          applied, result, restored; at the end: converged
//	I17 a copy counts only when it is proven whole                  restored, proc.fetchFrom; of damaged ones migrate.TestHandoffWithBadSnapshot,
//	                                                                TestSnapshotOfAnotherMoment, transport.FuzzBulk
//	I18 a loss is loud                                              acknowledged, client.answered; internal/client.TestStateLost
//	I19 a sender is who its key says                                chatcore.TestSenderIsSetByTheRoom, TestNamesBelongToKeys
//	I20 hosts, and who may change a record, are known by their keys resolver.TestServerRights, migrate.TestStrangerIsNotHeeded,
//	                                                                transport.TestTCPKeys
//	I21 all memory is bounded, nothing from the network panics      the fuzz tests, machine.TestAdmissionWindow,
//	                                                                transport.TestUnmarshalMemory; of the log: ticked, maxSteps
//
// Liveness: after the healing the hosts are in sync again (world.staffed) and equal (world.converged), also under load, and
// a slow standby does not hold them up (world.slowStandby). A host whose service does not return is started again before, as
// an operator would do. A service that is slow changes nothing else: TestSlowService. How long recovery takes is measured
// with real processes: migrate.TestHandoffWithoutResolver, migrate.TestFailoverWithoutResolver and the scenarios resolver,
// handoff, kill and badmove of migrate/chaos.
//
// Of a log, whatever else there is, these show that (a) one entry is at an index, for all who see it (committed, applied);
// (b) what is acknowledged is there, once (acknowledged, commit); (c) what is not is there once or never (commit); (d) what
// was acknowledged before another was asked for comes before it (acknowledged); (e) a session's commands are in order
// (acknowledged, commit); (f) subscribers miss nothing unknowingly (heard); (g) all in it was asked for (commit); (h) every
// replica is what the log makes of it (applied, restored); (i) a read shows all that was acknowledged before it, and nothing
// that was not applied (read).

// checker knows everything that happened on all hosts, and fails the run when an invariant is broken.
type checker struct {
	w         *world
	first     uint64                        // the loss of the first beginning
	logs      map[uint64]*history           // by loss
	active    map[core.Term]*proc           // who was active in a term: one at most
	acks      map[ackKey]uint64             // the highest index that an incarnation acknowledged in a term
	records   map[core.Term]resolver.Record // the last record of each term
	bound     resolver.Record               // the newest
	gone      bool                          // the resolver has lost it, or gone back
	acted     resolver.Record               // the newest whose active host knows it, and would after a crash
	bodies    map[cmdKey][]byte             // what clients asked for
	acked     map[cmdKey]mark               // at what place it was acknowledged
	spoken    map[uint64]core.Term          // the highest term in which an incarnation with a disk has spoken
	begun     map[core.Term]bool            // its active host has spoken in it, or its disk knows it
	lost      map[uint64]bool               // the incarnation has lost its disk
	doubt     map[uint64]bool               // the incarnation is in the in-sync set by an old record only
	deaths    map[mark]int                  // hosts that took over and died of the poisoned command, by its place
	ops       []operation                   // what clients did before any loss
	calls     int                           // and answers
	opOf      map[cmdKey]int
	stale     map[core.Term]bool   // in which the active host had been removed before
	elsewhere map[cmdKey]operation // what clients gave to a later beginning
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
	kept     uint64    // entries up to here are of the copy that was left after the loss
	from     *history  // the log of that copy; nil: none
	entries  []core.Entry
	epochs   []uint64 // in which each entry was committed
	outcomes []outcome
	applied  uint64            // the highest index that a host has applied
	sessions map[uint64]uint64 // open ones, with their last command
	ended    map[uint64]bool
	count    uint64
	acked    uint64 // the highest index acknowledged to a client
	events   [][]byte
	emitted  []uint64 // how many events there are after each entry
}

// outcome is what an entry does, the same on every host.
type outcome struct {
	want    result
	applied bool   // by a host
	hash    uint64 // of the state then
}

// watch is what was last seen of a process.
type watch struct {
	term     core.Term
	commit   uint64
	ver, gen uint64
	hasState bool
	role     core.Role
	activeIn core.Term // it was active in it last
	noted    mark      // all committed entries up to here were noted
	second   time.Duration
	ticks    int
	asks     int
	halted   bool
}

func newChecker(w *world) *checker {
	return &checker{
		deaths: make(map[mark]int), doubt: make(map[uint64]bool),
		w: w, logs: make(map[uint64]*history), active: make(map[core.Term]*proc), acks: make(map[ackKey]uint64),
		spoken: make(map[uint64]core.Term), begun: make(map[core.Term]bool), lost: make(map[uint64]bool),
		records: make(map[core.Term]resolver.Record), bodies: make(map[cmdKey][]byte), acked: make(map[cmdKey]mark),
		opOf: make(map[cmdKey]int), stale: make(map[core.Term]bool), elsewhere: make(map[cmdKey]operation),
	}
}

func (k *checker) failf(format string, args ...any) { k.w.failf(format, args...) }

// fold adds an entry to the history and returns what must come of it.
func (h *history) fold(e core.Entry) result {
	h.entries = append(h.entries, e)
	a := result{index: e.Index}
	last, ok := h.sessions[e.Session]
	switch e.Kind {
	case core.OpenSession:
		if !ok {
			h.sessions[e.Session] = 0
		}
	case core.CloseSession:
		if !ok {
			a.code = codeExpired
		}
		delete(h.sessions, e.Session)
		h.ended[e.Session] = true
	case core.Command:
		switch {
		case !ok:
			a.code = codeExpired
		case e.Seq <= last:
			a.duplicate = true
		case e.Seq != last+1:
			a.code = codeOutOfOrder
		default:
			h.sessions[e.Session] = e.Seq
			h.count++
			a.count = h.count
			if emits(e.Seq) {
				h.events = append(h.events, e.Body)
			}
		}
	}
	h.emitted = append(h.emitted, uint64(len(h.events)))
	h.outcomes = append(h.outcomes, outcome{want: a})
	return a
}

func newHistory(loss uint64) *history {
	return &history{loss: loss, sessions: make(map[uint64]uint64), ended: make(map[uint64]bool)}
}

func sameEntry(a, b core.Entry) bool {
	return a.Index == b.Index && a.Epoch == b.Epoch && a.Kind == b.Kind && a.Session == b.Session && a.Seq == b.Seq &&
		a.Low == b.Low && a.Time == b.Time && bytes.Equal(a.Body, b.Body)
}

// stepped notes what a step of p's core has changed: whether it is active, and what is committed.
func (k *checker) stepped(p *proc) {
	if err := p.core.Err(); err != nil {
		panic(err)
	}
	if t := p.core.Term(); p.core.Role().Active() && p.watch.activeIn != t {
		p.watch.activeIn = t
		k.activated(p)
	}
	k.committed(p)
}

// committed: an active host commits what nobody has committed differently, all others only what an active host has (I3).
func (k *checker) committed(p *proc) {
	c, v := p.core, &p.watch.noted
	n := c.Commit()
	if loss := c.Term().Loss; !c.HasState() || v.loss != loss || n < v.index {
		*v = mark{loss: loss}
	}
	if n == v.index {
		return
	}
	h := k.logs[v.loss]
	if h == nil {
		k.failf("%s commits entry %d before anyone was active", p, n)
	}
	was := uint64(len(h.entries))
	base := logBase(c)
	if base > was {
		k.failf("%s has a copy of entry %d, which is not committed", p, base)
	}
	for i := max(v.index, base) + 1; i <= n; i++ {
		e, _ := c.EntryAt(i)
		if e.Kind == core.Command && c.Role().Active() {
			k.held(p, e)
		}
		switch {
		case i <= was:
			if !sameEntry(e, h.entries[i-1]) {
				k.failf("%s commits %s, but %s is committed there (I3)", p, entry(e), entry(h.entries[i-1]))
			}
		case !c.Role().Active():
			k.failf("%s commits %s, which no active host has (I3)", p, entry(e))
		default:
			k.commit(p, h, e)
		}
	}
	v.index = n
	if uint64(len(h.entries)) > was {
		k.durable(nil)
	}
}

// commit adds an entry to the history that no host has committed before: each command once and in order (I10, I11), and none
// that no client asked for.
func (k *checker) commit(p *proc, h *history, e core.Entry) {
	a := h.fold(e)
	h.epochs = append(h.epochs, p.core.Term().Epoch)
	k.w.stats.Entries++
	if e.Kind == core.Command {
		if a.code != codeOK || a.duplicate {
			k.failf("%s was ordered in vain: %s (I10, I11)", entry(e), a.code)
		}
		if body, ok := k.bodies[cmdKey{e.Session, e.Seq}]; !ok || !bytes.Equal(body, e.Body) {
			k.failf("%s was never asked for", entry(e))
		}
	}
	if h.loss == k.first {
		k.strayed(cmdKey{e.Session, e.Seq})
	}
	if k.w.o.Log != nil {
		k.w.tracef("%s commits %s", p.name(), entry(e))
	}
}

// logBase is the index of the entry before the first that a core still has.
func logBase(c *core.Core) uint64 {
	n, _ := c.LogSize()
	return c.Last() - uint64(n)
}

// activated: one active a term (I1), and its log holds all that was committed (I4).
func (k *checker) activated(p *proc) {
	t := p.core.Term()
	if k.stale[t] {
		k.failf("%s becomes active without being in the in-sync set (I6)", p)
	}
	k.isActive(p, t)
	k.w.stats.Epochs++
	h := k.logs[t.Loss]
	if h == nil || h.first == t && !k.begun[t] { // or it began once, and forgot that before anyone heard of it
		h = newHistory(t.Loss)
		h.first = t
		k.logs[t.Loss] = h
		if len(k.logs) == 1 {
			k.first = t.Loss
		} else if t.Loss != k.first {
			k.w.stats.Losses++
		}
		// A reset keeps the copy that the host has; the epoch's first entry is the only one after it.
		if n := p.core.EpochStart() - 1; n > 0 {
			old := k.logs[p.loss]
			if old == nil {
				k.failf("%s resets with %d entries that were never committed", p, n)
			}
			// What it committed at the same moment comes as the first of the new log.
			n = min(n, uint64(len(old.entries)))
			for i := logBase(p.core) + 1; i <= n; i++ {
				if e, ok := p.core.EntryAt(i); ok && !sameEntry(e, old.entries[i-1]) {
					n = i - 1 // a host with later entries was passed over
				}
			}
			for _, e := range old.entries[:n] {
				h.fold(e)
				h.epochs = append(h.epochs, t.Epoch)
			}
			h.outcomes = slices.Clone(old.outcomes[:n])
			h.applied, h.kept, h.from = min(n, old.applied), n, old
		}
		return
	}
	n := uint64(len(h.entries))
	for n > 0 && h.epochs[n-1] >= t.Epoch {
		n-- // it has lost its epoch already, and will commit nothing
	}
	if p.core.Last() < n {
		k.failf("%s is active with a log up to %d, but %d is committed (I4)", p, p.core.Last(), n)
	}
	for i := max(p.watch.commit, logBase(p.core)) + 1; i <= n; i++ {
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

func (k *checker) ordered(p *proc) {
	k.isActive(p, p.core.Term())
	e, _ := p.core.EntryAt(p.core.Last())
	if e.Epoch != p.core.Term().Epoch {
		k.failf("%s orders entry %d in epoch %d", p, e.Index, e.Epoch)
	}
}

// saved notes what a disk holds.
func (k *checker) saved(p *proc, v *core.Save) {
	if q := k.active[v.Term]; q != nil && q.self.Same(p.self) {
		k.begun[v.Term] = true
	}
	if v.Record != "" {
		r, err := core.ReadRecord(v.Record)
		if err != nil {
			k.failf("%s saves a record: %v", p, err)
		}
		k.knows(p, r)
	}
}

// knows notes that a host would know a record after a crash, or at least until then.
func (k *checker) knows(p *proc, r resolver.Record) {
	d := core.TermOf(r).Compare(core.TermOf(k.acted))
	if r.Active.Same(p.self) && (d > 0 || d == 0 && r.Version > k.acted.Version) {
		k.acted = r
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
	if p.replica.Machine() != nil {
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
		for in, active := range k.active { // each term with acknowledgements is one of them
			if in.Loss == t.Loss && in.Epoch >= e.Epoch && in.Epoch <= t.Epoch {
				has = has || k.acks[ackKey{h.Incarnation, in}] >= e.Index || active.self.Same(h)
			}
		}
		if has {
			n++
		}
	}
	h := k.logs[t.Loss]
	if h != nil && h.loss != k.first && (e.Epoch < h.first.Epoch || t == h.first && e.Index < p.core.EpochStart()) {
		return // of the copy that a reset has kept
	}
	if n < want && rec.Active.ID != "" {
		k.failf("%s commits %s, which %d of %d hosts hold: %s", p, entry(e), n, want, describeRecord(&rec))
	}
}

func contains(hs []resolver.Host, h resolver.Host) bool { return slices.ContainsFunc(hs, h.Same) }

func entry(e core.Entry) string {
	kind := [...]string{"?", "start", "open", "close", "command", "check", "refusal"}[e.Kind]
	if e.Session == 0 {
		return fmt.Sprintf("%d/e%d %s", e.Index, e.Epoch, kind)
	}
	return fmt.Sprintf("%d/e%d %s %d/%d", e.Index, e.Epoch, kind, e.Session, e.Seq)
}
