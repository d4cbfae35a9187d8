package sim

import (
	"errors"
	"time"

	"github.com/roam-go/roam/migrate/internal/apply"
	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/resolver"
)

// Now implements [replica.Env], as do the methods below: it reads the local clock.
func (p *proc) Now() time.Duration {
	p.stepped = p.local()
	return p.stepped
}

// Wall reads the host's wall clock.
func (p *proc) Wall() int64 { return 1_700_000_000_000 + p.host.wall + int64(p.w.now/time.Millisecond) }

// Send sends a message to another host.
func (p *proc) Send(m core.Outgoing) {
	p.w.chk.sent(p, m.Msg)
	p.w.send(p, m.To, m.Msg)
}

// CompareAndSwap proposes a change to the resolver.
func (p *proc) CompareAndSwap(c core.CAS) {
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

// Get reads the record.
func (p *proc) Get() {
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

// Seek finds the hosts that are there, and sometimes one that was.
func (p *proc) Seek() {
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

// Ask asks other hosts what they know. Those that do not answer in time are left out.
func (p *proc) Ask(hosts []resolver.Host) {
	w := p.w
	var answers []core.Answer
	waiting, over := 0, false
	done := func() {
		if !over {
			over = true
			for _, a := range answers {
				w.tracef("%s hears from %s: %s copy=%v active=%v pending=%v last=%d commit=%+v of %s", p.name(), label(a.From), a.Term,
					a.Copy, a.Active, a.Pending, a.Last, a.Commit, describeRecord(&a.Record))
			}
			p.event(core.Answers{Answers: answers})
		}
	}
	hear := func(a core.Answer) {
		answers = append(answers, a)
		if waiting--; waiting == 0 {
			done()
		}
	}
	for _, h := range w.hosts { // all that are present
		if q := h.proc; q != nil && q != p && !contains(hosts, q.self) {
			hosts = append(hosts, q.self)
		}
	}
	waiting = len(hosts)
	w.tracef("%s asks %d hosts", p.name(), waiting)
	p.askedAt, p.near = w.now, make(map[int]bool)
	for _, h := range w.hosts {
		p.near[h.index] = w.near(p.host.index, h)
	}
	for _, h := range hosts {
		w.ask(p.self, h, hear)
	}
	if waiting == 0 {
		w.after(0, done)
	}
	w.after(w.between(300*time.Millisecond, time.Second), done)
}

// ask asks a host what it knows, if the question and the answer get through.
func (w *world) ask(asker resolver.Host, h resolver.Host, heard func(core.Answer)) {
	from, to := hostIndex(asker), w.hosts[hostIndex(h)]
	reaches := func(i, j int) bool { return !w.links[i][j].cut && !w.chance(w.prof.drop) }
	w.after(w.latency(), func() {
		p := to.proc
		if p == nil || p.dead || p.paused || !reaches(from, to.index) {
			return
		}
		a := p.core.Answer(asker)
		w.after(w.latency(), func() {
			if reaches(to.index, from) {
				heard(a)
			}
		})
	})
}

// Offer lets another host fetch what was captured.
func (p *proc) Offer(to resolver.Host, c *machine.Capture) uint64 {
	w := p.w
	if w.chance(w.prof.fetchFails / 2) {
		c.Release()
		return 0
	}
	s, err := newSnapshot(c)
	if err != nil {
		w.failf("%s: no snapshot for %s: %v", p, label(to), err)
	}
	p.snapID++
	id := p.snapID
	p.snaps[id] = s
	w.after(30*time.Second, func() { delete(p.snaps, id) })
	return id
}

// Report fails on different policies, since all hosts of a world have the same, and on broken rules.
func (p *proc) Report(err error) {
	var d *core.Difference
	var m *core.Misconduct
	if errors.As(err, &d) || errors.As(err, &m) && !m.From.Same(liar) {
		p.w.failf("%s: %v", p, err)
	}
	p.w.tracef("%s reports: %v", p.name(), err)
}

// CaptureFailed is called only for a copy that was dropped: the service never fails to capture its state.
func (p *proc) CaptureFailed(to string, err error) {
	p.w.tracef("%s: no snapshot for %s: %v", p.name(), to, err)
}

// Fetch fetches a snapshot; an earlier fetch that has not finished is abandoned.
func (p *proc) Fetch(f core.Fetch) {
	w := p.w
	p.fetch = &f
	mine := p.fetch
	d := w.latency() + w.exp(w.prof.fetch) + w.exp(w.prof.restore)
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
			p.align()
			s, m, err := p.fetchFrom(src, f)
			w.tracef("%s has fetched snapshot %d: %v", p.name(), f.ID, err)
			if err == nil {
				p.fetched = s
			}
			if used := p.replica.Restored(f, m); used {
				w.stats.Snapshots++
				p.loss = p.core.Term().Loss
				w.chk.restored(p)
			}
			w.chk.stepped(p)
			p.kick()
		})
	}
	p.fetchDone = finish
	w.after(d, finish)
}

// fetchFrom makes a machine of a snapshot that another host offers.
func (p *proc) fetchFrom(src *host, f core.Fetch) (s snapshot, m *machine.Machine, err error) {
	w := p.w
	err = errors.New("the source is gone")
	if q := src.proc; q != nil && q.self.Same(f.From) && !w.links[q.host.index][p.host.index].cut {
		var ok bool
		if s, ok = q.snaps[f.ID]; ok {
			m, err = s.restore()
		}
	}
	if w.chance(w.prof.fetchFails) {
		err = errors.New("a chunk was damaged")
	}
	if err != nil {
		return s, nil, err
	}
	if index, epoch := m.Applied(); index != f.Index || epoch != f.Epoch {
		w.failf("%s: snapshot of entry %d of epoch %d restores entry %d of epoch %d (I17)", p.name(), f.Index, f.Epoch, index, epoch)
	}
	return s, m, nil
}

// Moved is called with the progress of a handoff.
func (p *proc) Moved(e core.MoveEvent) {
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

// Machine makes the machine of an empty copy.
func (p *proc) Machine() (*machine.Machine, error) { return newMachine(), nil }

// Start runs an applier once the present event is handled.
func (p *proc) Start(a *apply.Applier) { p.starting = append(p.starting, a) }

// Wake has results collected.
func (p *proc) Wake(a *apply.Applier) {
	p.post(func() { p.check(p.replica.Collect(a)) })
}

// Post has f called on the loop.
func (p *proc) Post(f, drop func()) {
	if p.dead {
		drop()
		return
	}
	p.post(f)
}

// Activated is called when this host has become active.
func (p *proc) Activated(bool) {
	p.w.tracef("%s is active in %s, log %d..%d", p.name(), p.core.Term(), p.core.Commit(), p.core.Last())
	p.loss = p.core.Term().Loss
	p.since = p.local()
}

// Deposed is called when this host is no longer active: it refuses all that wait.
func (p *proc) Deposed() {
	p.w.tracef("%s is deposed, in %s", p.name(), p.core.Term())
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
	p.ReadsFailed()
}

// Applied answers requests that wait for an entry.
func (p *proc) Applied(r *machine.Result) {
	v := resultOf(r)
	p.w.chk.result(p, r.At, v)
	switch r.Kind {
	case core.Command:
		k := [2]uint64{r.Session, r.Seq}
		for _, q := range p.waiting[k] {
			q.answer(reply{Code: v.code, Index: v.index, Count: v.count})
		}
		delete(p.waiting, k)
	case core.OpenSession:
		for _, q := range p.opening[r.Session] {
			q.answer(reply{Code: v.code})
		}
		delete(p.opening, r.Session)
	}
}

// Read answers a read when everything committed so far is applied.
func (p *proc) Read(id uint64) {
	p.replica.Later(func(m *machine.Machine) {
		index, hash, s := state(m)
		p.post(func() {
			if q := p.reads[id]; q != nil {
				delete(p.reads, id)
				p.w.chk.answersRead(p)
				q.answer(reply{Index: index, Hash: hash, Count: s.count, Sum: s.sum})
			}
		})
	})
}

// ReadsFailed refuses all reads.
func (p *proc) ReadsFailed() {
	for id := range sorted(p.reads) {
		p.reads[id].answer(p.notActive())
	}
	clear(p.reads)
}

// Resent counts nothing here.
func (p *proc) Resent(uint64) {}

// Diverged never happens: the service is deterministic.
func (p *proc) Diverged(entry uint64) {
	p.w.failf("%s differs from the active host at entry %d (I16)", p, entry)
}
