package sim

import (
	"errors"
	"fmt"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

// host is a machine on which processes are started one after the other.
type host struct {
	w      *world
	index  int
	id     string
	starts uint64
	wall   int64 // how far its wall clock is off, in ms
	blind  bool  // it can't reach the resolver
	disk   *disk // nil: it has none, and each start is another incarnation
	moves  bool  // each start is at another address
	proc   *proc // nil while none runs
	last   resolver.Host
}

func newHost(w *world, i int) *host {
	h := &host{w: w, index: i, id: string(rune('a' + i))}
	if w.prof.clocks {
		h.wall = w.rng.Int64N(7_200_000) - 3_600_000
	}
	if w.chance(w.prof.disks) {
		h.disk, h.moves = new(disk), w.chance(0.5)
	}
	return h
}

// proc is one process: what drives a core.
type proc struct {
	w      *world
	host   *host
	self   resolver.Host
	core   *core.Core
	m      Machine
	dead   bool
	born   time.Duration
	origin time.Duration
	rate   int64 // of its clock, in 1/1024

	stepped time.Duration // what the core was told last

	paused   bool
	pauseEnd time.Duration
	inbox    []func()
	flushing bool          // Ready is to be called later
	tickAt   time.Duration // when the timer goes off; 0: not set

	waiting map[[2]uint64][]*request
	opening map[uint64][]*request
	reads   map[uint64]*request
	readID  uint64
	seen    map[uint64]time.Duration // when a session was heard of, by the local clock
	since   time.Duration            // when this host became active, by the local clock

	snapID uint64
	snaps  map[uint64]snap
	fetch  *core.Fetch
	// fetched is the copy that was restored last.
	fetched snap

	moving  bool // a handoff has no outcome yet
	leaving bool

	watch watch
}

type snap struct {
	time    int64
	restore func() (Machine, error)
}

// start starts a process on h.
func (h *host) start() {
	w := h.w
	h.starts++
	p := &proc{
		w: w, host: h, self: resolver.Host{ID: h.id, Incarnation: uint64(h.index+1)*1000 + h.starts, Addr: h.id},
		born: w.now, origin: w.between(0, time.Hour), rate: 1024,
		waiting: make(map[[2]uint64][]*request), opening: make(map[uint64][]*request), reads: make(map[uint64]*request),
		seen: make(map[uint64]time.Duration), snaps: make(map[uint64]snap),
	}
	if w.chance(0.2) {
		p.origin = 0
	}
	if h.disk != nil {
		p.self.Incarnation, p.snapID = uint64(h.index+1)*1000+1, h.starts<<32
		if h.moves {
			p.self.Addr = fmt.Sprintf("%s:%d", h.id, h.starts)
		}
		if w.chance(w.prof.wipe) && !w.healed {
			w.tracef("the directory of %s is gone", p.name())
			h.disk = new(disk)
			w.wiped = true
			w.chk.wiped(p)
		}
	}
	if d := w.prof.drift; d > 0 {
		p.rate = int64(1024 * (1 + d*(2*w.rng.Float64()-1)))
	}
	cfg := w.prof.cfg
	cfg.Name, cfg.Self, cfg.Durable, cfg.Nonce = service, p.self, h.disk != nil, uint64(w.rng.Uint32())
	p.core = core.New(cfg)
	h.proc, h.last = p, p.self
	w.tracef("%s starts", p.name())
	if h.disk != nil {
		p.recover()
	}
	p.flush()
}

func (h *host) crash() {
	p := h.proc
	if p == nil {
		return
	}
	w := h.w
	w.stats.Crashes++
	w.tracef("%s crashes", p.name())
	p.exit()
	d := w.exp(time.Second)
	if w.chance(0.3) {
		d = w.exp(50 * time.Millisecond)
	}
	w.after(d, func() {
		if h.proc == nil {
			h.start()
		}
	})
}

// exit ends the process.
func (p *proc) exit() {
	w := p.w
	p.dead, p.host.proc, p.m = true, nil, nil
	if d := p.host.disk; d != nil {
		d.crash(p)
	}
	for _, o := range w.hosts {
		if q := o.proc; q != nil && w.chance(w.prof.hint) {
			w.after(w.exp(30*time.Millisecond), func() { q.event(core.PeerDown{Host: p.self}) })
		}
	}
	for _, c := range w.clients {
		if c.conn != nil && c.conn.proc == p {
			c.conn.reset()
		}
	}
}

func (p *proc) name() string { return label(p.self) }

func (p *proc) local() time.Duration {
	return p.origin + time.Duration(int64(p.w.now-p.born)*p.rate/1024)
}

// global is the first moment at which the local clock shows t.
func (p *proc) global(t time.Duration) time.Duration {
	return p.born + time.Duration((int64(t-p.origin)*1024+p.rate-1)/p.rate)
}

func (p *proc) wall() int64 { return 1_700_000_000_000 + p.host.wall + int64(p.w.now/time.Millisecond) }

// do runs f when the process runs.
func (p *proc) do(f func()) {
	switch {
	case p.dead:
	case p.paused:
		p.inbox = append(p.inbox, f)
	default:
		f()
	}
}

func (p *proc) pause(d time.Duration) {
	w := p.w
	w.stats.Pauses++
	w.tracef("%s is paused for %v", p.name(), d)
	p.paused = true
	p.pauseEnd = max(p.pauseEnd, w.now+d)
	w.after(d, func() {
		if w.now >= p.pauseEnd {
			p.resume()
		}
	})
}

func (p *proc) resume() {
	if !p.paused || p.dead {
		return
	}
	p.w.tracef("%s goes on", p.name())
	p.paused = false
	inbox := p.inbox
	p.inbox = nil
	for _, f := range inbox {
		p.do(f)
	}
}

// clock reads the local clock for the core.
func (p *proc) clock() time.Duration {
	p.stepped = p.local()
	return p.stepped
}

func (p *proc) step(ev core.Event) {
	p.core.Step(p.clock(), ev)
	p.check()
}

// check ends the run if the core found an invariant broken.
func (p *proc) check() {
	if err := p.core.Err(); err != nil {
		panic(err)
	}
}

// event steps the core.
func (p *proc) event(ev core.Event) {
	p.do(func() {
		p.step(ev)
		p.kick()
	})
}

// kick calls Ready, or has it called soon.
func (p *proc) kick() {
	w := p.w
	if p.flushing {
		return
	}
	if w.chance(w.prof.batch) {
		p.flushing = true
		w.after(w.exp(2*time.Millisecond), func() {
			p.do(func() {
				if p.flushing {
					p.flushing = false
					p.flush()
				}
			})
		})
		return
	}
	p.flush()
}

func (p *proc) flush() {
	for n := 0; ; n++ {
		r := p.core.Ready()
		p.check()
		if !p.carryOut(r) {
			break
		}
		if n > 100 {
			p.w.failf("%s: Ready does not come to rest", p.name())
		}
	}
	if p.dead {
		return
	}
	p.w.chk.look(p)
	if p.host.disk != nil {
		p.compact()
	}
	p.schedule()
}

// schedule sets the timer.
func (p *proc) schedule() {
	d := p.core.Deadline()
	if d == 0 {
		return
	}
	if d <= p.stepped {
		p.w.failf("%s: the deadline %v is not after %v", p.name(), d, p.stepped)
	}
	at := max(p.global(d), p.w.now)
	if p.tickAt != 0 && p.tickAt <= at {
		return
	}
	p.tickAt = at
	p.w.queue.push(at, func() {
		if p.tickAt != at {
			return
		}
		p.tickAt = 0
		p.do(func() {
			p.w.chk.ticked(p)
			p.step(core.Tick{})
			p.expire()
			p.kick()
		})
	})
}

// carryOut does what the core asks for, and reports whether the core was stepped meanwhile.
func (p *proc) carryOut(r core.Ready) (stepped bool) {
	w := p.w
	if r.Drop {
		p.m, p.fetch = nil, nil
	}
	if r.Save != nil {
		p.save(r.Save)
	}
	if r.Deposed {
		w.tracef("%s is deposed, in %s", p.name(), p.core.Term())
		p.deposed()
	}
	for _, m := range r.Msgs {
		w.chk.sent(p, m.Msg)
		w.send(p, m.To, m.Msg)
	}
	if r.Activated {
		if p.m == nil {
			p.m = w.o.New()
		}
		w.tracef("%s is active in %s, log %d..%d", p.name(), p.core.Term(), p.core.Commit(), p.core.Last())
		w.chk.activated(p)
		p.m.ResetOrdered(p.core.Tail(p.m.Index()))
		p.since = p.local()
	}
	for _, e := range r.Committed {
		if e.Kind == core.Command && w.poisoned == (cmdKey{e.Session, e.Seq}) {
			w.chk.poisoned(p, e)
			p.host.crash()
			return false
		}
		p.apply(e)
	}
	if n := len(r.Committed); n > 0 {
		p.core.Applied(p.clock(), r.Committed[n-1].Index)
		p.check()
		stepped = true
	}
	if r.CAS != nil {
		p.propose(*r.CAS)
	}
	if r.Get {
		p.get()
	}
	if r.Seek {
		p.seek()
	}
	for _, h := range r.Snapshots {
		p.capture(h)
		stepped = true
	}
	if r.Fetch != nil {
		p.startFetch(*r.Fetch)
	}
	for _, id := range r.Reads {
		if q := p.reads[id]; q != nil {
			delete(p.reads, id)
			q.answer(reply{Index: p.m.Index(), Hash: p.m.Hash(), Count: p.m.Count(), Sum: p.m.Sum()})
		}
	}
	if r.ReadsFail {
		for id := range sorted(p.reads) {
			p.reads[id].answer(p.notActive())
		}
		clear(p.reads)
	}
	for _, e := range r.Moves {
		p.moveEvent(e)
	}
	return stepped
}

func (p *proc) apply(e core.Entry) {
	w := p.w
	if p.m == nil {
		w.failf("%s: entry %d is committed, but there is no machine", p.name(), e.Index)
	}
	a := p.m.Apply(e)
	w.chk.applied(p, e, a)
	switch e.Kind {
	case core.Command:
		k := [2]uint64{e.Session, e.Seq}
		for _, q := range p.waiting[k] {
			q.answer(reply{Code: a.Code, Index: a.Index, Count: a.Count})
		}
		delete(p.waiting, k)
	case core.OpenSession:
		for _, q := range p.opening[e.Session] {
			q.answer(reply{Code: a.Code})
		}
		delete(p.opening, e.Session)
	}
}

// deposed takes back what is not committed.
func (p *proc) deposed() {
	if p.m != nil {
		p.m.ResetOrdered(nil)
	}
	r := p.notActive()
	for k := range sortedPairs(p.waiting) {
		for _, q := range p.waiting[k] {
			q.answer(r)
		}
	}
	for k := range sorted(p.opening) {
		for _, q := range p.opening[k] {
			q.answer(r)
		}
	}
	clear(p.waiting)
	clear(p.opening)
}

func (p *proc) propose(c core.CAS) {
	w := p.w
	w.chk.proposed(p, c)
	w.tracef("%s proposes, after v%d: %s", p.name(), c.Expect, describeRecord(&c.Next))
	var (
		rec     resolver.Record
		outcome core.Outcome
	)
	nonce := c.Next.Nonce
	w.res.ask(p.host.index, func() { rec, outcome = w.res.cas(c) }, func(ok bool) {
		if !ok {
			outcome, rec = core.CASUnknown, resolver.Record{}
		}
		p.event(core.CASDone{Nonce: nonce, Record: rec, Outcome: outcome})
	})
}

func (p *proc) get() {
	w := p.w
	w.chk.asked(p)
	var rec resolver.Record
	w.res.ask(p.host.index, func() { rec = w.res.truth() }, func(ok bool) {
		if !ok {
			rec = resolver.Record{}
		}
		p.event(core.Got{Record: rec, Err: !ok})
	})
}

// seek finds the hosts that are there, and sometimes one that was.
func (p *proc) seek() {
	w := p.w
	var hosts []resolver.Host
	w.res.ask(p.host.index, func() {
		for _, i := range w.rng.Perm(len(w.hosts)) {
			if h := w.hosts[i]; h.proc != nil && !h.proc.leaving || h.proc == nil && w.chance(0.3) {
				hosts = append(hosts, h.last)
			}
		}
	}, func(ok bool) {
		if !ok {
			hosts = nil
		}
		p.event(core.Candidates{Hosts: hosts})
	})
}

func (p *proc) capture(to resolver.Host) {
	w := p.w
	ev := core.Captured{To: to}
	if !w.chance(w.prof.fetchFails / 2) {
		p.snapID++
		id := p.snapID
		p.snaps[id] = snap{p.m.Time(), p.m.Capture()}
		ev.ID, ev.Index = id, p.m.Index()
		ev.Epoch = w.chk.epochOf(p.core.Term().Loss, ev.Index)
		w.after(30*time.Second, func() { delete(p.snaps, id) })
	}
	p.step(ev)
}

// startFetch fetches a snapshot; a fetch under way is given up.
func (p *proc) startFetch(f core.Fetch) {
	w := p.w
	p.fetch = &f
	mine := p.fetch
	d := w.latency() + w.exp(w.prof.fetch)
	if p.host.disk != nil {
		d += w.exp(w.prof.sync) // it is written before it counts
	}
	w.tracef("%s fetches snapshot %d at %d from %s", p.name(), f.ID, f.Index, label(f.From))
	var finish func()
	finish = func() {
		src := w.hosts[hostIndex(f.From)]
		if !w.healed && src.proc != nil && src.proc.paused && w.now < src.proc.pauseEnd {
			w.queue.push(src.proc.pauseEnd, finish)
			return
		}
		p.do(func() {
			if p.fetch != mine {
				return
			}
			p.fetch = nil
			var m Machine
			var at int64
			err := errors.New("the source is gone")
			if q := src.proc; q != nil && q.self.Same(f.From) && !w.links[q.host.index][p.host.index].cut {
				if s, ok := q.snaps[f.ID]; ok {
					m, err = s.restore()
					at = s.time
				}
			}
			if w.chance(w.prof.fetchFails) {
				err = errors.New("a chunk was damaged")
			}
			if err == nil && (m.Index() != f.Index || m.Time() != at) {
				w.failf("%s: snapshot of entry %d restores entry %d", p.name(), f.Index, m.Index())
			}
			w.tracef("%s has fetched snapshot %d: %v", p.name(), f.ID, err)
			had := p.core.HasState()
			if err == nil {
				p.fetched = src.proc.snaps[f.ID]
			}
			p.step(core.Restored{ID: f.ID, From: f.From, OK: err == nil, Time: at})
			if !had && p.core.HasState() {
				w.stats.Snapshots++
				p.m = m
				w.chk.restored(p)
			}
			p.kick()
		})
	}
	w.after(d, finish)
}

// handoff asks for a move.
func (p *proc) handoff(to resolver.Host) {
	p.do(func() {
		if p.moving {
			return
		}
		p.w.stats.Handoffs++
		p.w.tracef("%s is to hand over to %s", p.name(), label(to))
		p.moving = true
		p.step(core.Handoff{Target: to})
		p.kick()
	})
}

func (p *proc) moveEvent(e core.MoveEvent) {
	w := p.w
	w.tracef("%s: move: stage %d %s", p.name(), e.Stage, e.Reason)
	switch e.Stage {
	case core.MoveInSync:
		if !p.moving {
			w.failf("%s: a move that is over goes on", p.name())
		}
		d := w.exp(50 * time.Millisecond)
		if w.chance(0.1) && !w.healed {
			w.after(d, func() { p.event(core.Abandon{Reason: "given up"}) })
		} else {
			w.after(d, func() { p.event(core.Transfer{}) })
		}
	case core.MoveTaken:
		w.stats.Moved++
		p.moving = false
	case core.MoveFailed:
		p.moving = false
	}
}

// leave shuts the process down in order, and starts another one later.
func (p *proc) leave() {
	w := p.w
	if p.leaving {
		return
	}
	p.leaving = true
	w.tracef("%s is to leave", p.name())
	deadline := w.now + 5*time.Second
	var step func()
	step = func() {
		p.do(func() {
			switch {
			case p.core.Role() == core.Out && !p.core.HasState(), w.now >= deadline:
				w.tracef("%s leaves", p.name())
				h := p.host
				p.exit()
				w.after(w.exp(time.Second), func() {
					if h.proc == nil {
						h.start()
					}
				})
				return
			case p.core.Role().Active():
				if t := w.anyHost(); !p.moving && t.proc != nil {
					p.handoff(t.proc.self)
				}
			default:
				p.step(core.Leave{})
				p.kick()
			}
			w.after(200*time.Millisecond, step)
		})
	}
	step()
}

// expire ends sessions whose clients have not been heard for long, by the local clock since this host became active.
func (p *proc) expire() {
	if p.m == nil {
		return // also if it has become active just now
	}
	limit := p.w.prof.expiry
	if limit == 0 || p.core.Role() != core.Serving {
		return
	}
	for _, id := range p.m.Idle() {
		if p.local()-max(p.since, p.seen[id]) >= limit {
			p.order(core.Entry{Kind: core.CloseSession, Session: id, Seq: 1})
			p.seen[id] = p.local()
		}
	}
}

func (p *proc) order(e core.Entry) bool {
	e.Time = p.wall()
	e, ok := p.core.Propose(p.clock(), e)
	p.check()
	if ok {
		p.m.Ordered(e)
		p.w.chk.ordered(p, e)
	}
	return ok
}

func (p *proc) notActive() reply {
	return reply{Code: NotActive, Record: p.core.Record()}
}

func (p *proc) String() string {
	return fmt.Sprintf("%s %s %s commit %d last %d", p.name(), p.core.Role(), p.core.Term(), p.core.Commit(), p.core.Last())
}

// handle takes a client's request.
func (p *proc) handle(q *request) {
	if p.flushing {
		// Whether this host is active, and what is in its log, must be what the machine was told.
		p.flushing = false
		if p.flush(); p.dead {
			return
		}
	}
	if !p.core.Role().Active() {
		q.answer(p.notActive())
		return
	}
	if q.conn.seen.Compare(p.core.Term()) > 0 {
		// The client has seen a higher term: what this host does not know says nothing.
		q.answer(reply{Code: Retry})
		p.step(core.CheckRecord{})
		p.kick()
		return
	}
	p.seen[q.session] = p.local()
	switch q.kind {
	case askOpen:
		switch a := p.m.AdmitOpen(q.session, q.resume); a.Verdict {
		case Append:
			if !p.order(core.Entry{Kind: core.OpenSession, Session: q.session, Body: make([]byte, 32)}) {
				q.answer(reply{Code: Retry})
				return
			}
			fallthrough
		case Pending:
			p.opening[q.session] = append(p.opening[q.session], q)
		case Replied:
			q.answer(reply{})
		case Refused:
			q.answer(reply{Code: a.Code})
		}
	case askDo:
		switch a := p.m.Admit(q.session, q.seq, q.low); a.Verdict {
		case Append:
			if !p.order(core.Entry{Kind: core.Command, Session: q.session, Seq: q.seq, Low: q.low, Body: q.body}) {
				q.answer(reply{Code: Retry})
				return
			}
			fallthrough
		case Pending:
			k := [2]uint64{q.session, q.seq}
			p.waiting[k] = append(p.waiting[k], q)
		case Replied:
			q.answer(reply{Code: a.Reply.Code, Index: a.Reply.Index, Count: a.Reply.Count})
		case Refused:
			q.answer(reply{Code: a.Code})
		}
	case askRead:
		p.readID++
		p.reads[p.readID] = q
		p.step(core.Read{ID: p.readID})
	}
	p.kick()
}
