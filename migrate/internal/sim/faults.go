package sim

import (
	"cmp"
	"math/rand/v2"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

// profile is what a seed makes of the world. Each kind of fault is there in some seeds only, so that others get room.
type profile struct {
	hosts, clients, window int
	duration               time.Duration
	think                  time.Duration
	body                   int
	reads                  float64
	slowClient             time.Duration // a client's patience

	latency, jitter, slowBy time.Duration
	drop, dup, reorder      float64
	slow, late, misdeliver  float64
	hint                    float64 // hosts learn that others died, or that connections broke

	nameTime                    time.Duration
	nameLost, nameSlow, nameDup float64

	batch      float64 // steps that are not followed by Ready at once
	drift      float64
	clocks     bool // wall clocks are off by up to an hour
	fetch      time.Duration
	fetchFails float64
	expiry     time.Duration // of sessions

	crash, pause, cut, reset, outage, handoff, leave, lie, lag, slander time.Duration // mean time between two of the kind; 0: none

	disks                     float64 // hosts that have one
	sync                      time.Duration
	syncSlow, syncFails, wipe float64
	compact                   float64       // steps after which a newer copy is written
	power                     time.Duration // mean time between two cuts of the power of all hosts

	amnesia, retire, force bool
	poison                 bool    // a command kills whoever applies it
	steady                 bool    // the standbys must be back in sync while commands come without a break
	hostile                float64 // clients that send twice or in disorder

	load    load          // the time that the service takes
	restore time.Duration // to restore a copy, on average

	cfg core.Config
}

func newProfile(r *rand.Rand, amnesia bool) profile {
	pick := func(ds ...time.Duration) time.Duration { return ds[r.IntN(len(ds))] }
	num := func(ns ...int) int { return ns[r.IntN(len(ns))] }
	some := func(p float64, ds ...time.Duration) time.Duration {
		d := pick(ds...)
		if r.Float64() < p {
			return d
		}
		return 0
	}
	prob := func(p float64, ps ...float64) float64 {
		v := ps[r.IntN(len(ps))]
		if r.Float64() < p {
			return v
		}
		return 0
	}
	const ms, s = time.Millisecond, time.Second
	p := profile{
		hosts: 2 + r.IntN(4), clients: 1 + r.IntN(3), window: num(1, 2, 4, 16),
		duration: pick(5*s, 10*s, 20*s, 40*s),
		think:    pick(20*ms, 50*ms, 100*ms, 300*ms), body: num(8, 40, 400, 2000),
		reads: prob(0.7, 0.1, 0.3), slowClient: pick(150*ms, 300*ms, s),
		latency: pick(50*time.Microsecond, 500*time.Microsecond, 2*ms, 10*ms), jitter: pick(50*time.Microsecond, ms, 5*ms),
		slowBy: pick(20*ms, 200*ms, 2*s, 8*s),
		drop:   prob(0.3, 0.002, 0.02, 0.1), dup: prob(0.3, 0.005, 0.05), reorder: prob(0.3, 0.01, 0.1, 0.5),
		slow: prob(0.4, 0.001, 0.01), late: prob(0.3, 0.2, 1), misdeliver: prob(0.3, 0.5, 1), hint: prob(0.7, 0.3, 1),
		nameTime: pick(100*time.Microsecond, 2*ms, 20*ms), nameLost: prob(0.4, 0.02, 0.2), nameSlow: prob(0.3, 0.02, 0.2),
		nameDup: prob(0.3, 0.05, 0.3),
		batch:   prob(0.5, 0.1, 0.5), drift: prob(0.5, 0.01, 0.1), clocks: r.IntN(3) == 0,
		fetch: pick(2*ms, 50*ms, 500*ms, 3*s), fetchFails: prob(0.3, 0.1, 0.4), expiry: some(0.3, 500*ms, 3*s),
		crash: some(0.5, 500*ms, 2*s, 6*s), pause: some(0.4, 500*ms, 2*s, 6*s), cut: some(0.4, 500*ms, 2*s, 6*s),
		reset: some(0.4, 50*ms, 300*ms, 3*s), outage: some(0.25, s, 5*s), handoff: some(0.6, 100*ms, 500*ms, 2*s, 5*s),
		leave: some(0.25, s, 5*s), lie: some(0.2, 300*ms, 3*s),
		amnesia: r.IntN(8) == 0, retire: r.IntN(25) == 0, force: r.IntN(25) == 0, poison: r.IntN(20) == 0,
		hostile: prob(0.3, 0.02, 0.2), lag: some(0.2, 500*ms, 3*s),
	}
	p.amnesia = p.amnesia || amnesia
	if p.amnesia {
		p.crash, p.leave, p.poison = 0, 0, false // with both the resolver and the hosts gone nobody knows that there was a service
	}
	c := &p.cfg
	c.Standbys = 1 + r.IntN(min(3, p.hosts-1))
	if r.IntN(12) == 0 {
		c.Standbys = 0
	}
	if p.poison && c.Standbys > 1 {
		p.hosts, c.Standbys = 7, 6 // enough that more can die one after the other than may
	}
	if c.Standbys > 0 && r.IntN(5) == 0 {
		c.MinInSync = 2 + r.IntN(c.Standbys)
	}
	c.CopyRetention = pick(100*ms, s, 0)
	c.SeekInterval = pick(100*ms, 0)
	c.JoinTimeout = pick(300*ms, 0)
	c.MaxJoinLag = uint64(num(0, 2, 20))
	c.KeepBytes = num(0, 1, 1000, 10_000)
	c.AppendBytes = num(0, 1, 1000, 10_000)
	c.InflightBytes = num(0, 3000, 20_000)
	if r.IntN(3) == 0 {
		p.steady = true
		c.MaxJoinLag, c.AppendBytes, c.InflightBytes = 0, 0, 0
		if r.IntN(10) == 0 { // many commands in the time that a message takes
			p.clients, p.window, p.think, p.body, p.duration = 3, 16, 2*ms, 8, 5*s
			p.latency, p.jitter = 10*ms, ms
		}
	}
	if r.IntN(5) == 0 && !p.steady {
		c.LagBytes = num(2000, 20_000)
	}
	if r.IntN(5) == 0 && !p.steady {
		c.LogBytes = num(3000, 30_000)
	}
	if p.disks = prob(0.5, 1, 1, 0.5); p.disks > 0 {
		p.sync = pick(100*time.Microsecond, 2*ms, 20*ms, 80*ms)
		p.syncSlow, p.syncFails = prob(0.3, 0.002, 0.02), prob(0.3, 0.001, 0.01)
		p.compact = prob(0.8, 0.003, 0.05)
		p.wipe = prob(0.2, 0.1, 0.5)
		if p.crash == 0 {
			p.crash = pick(500*ms, 2*s, 6*s)
		}
		if p.disks == 1 {
			p.power = some(0.6, s, 4*s, 10*s)
		}
		if p.amnesia && p.disks < 1 {
			p.crash, p.power, p.syncFails = 0, 0, 0
		}
	}
	if p.amnesia || c.MinInSync > 1 {
		p.wipe = 0 // the same start without its copy can be neither replaced nor removed: that takes a reset
	}
	if p.load = newLoad(r, p.hosts, p.duration); p.load.kind != loadNone {
		c.MaxUnapplied = uint64(num(0, 0, 2, 20))
		p.restore = some(0.3, 100*ms, s, 5*s)
		if p.amnesia && p.load.kind == loadStuck {
			p.load.kind = loadRandom // a start to repair it would be one too many
		}
	}
	p.slander = some(0.3, 20*ms, 200*ms, 2*s)
	return p
}

// faults names the kinds of faults that there are.
func (p *profile) faults() map[string]int {
	m := make(map[string]int)
	for kind, there := range map[string]bool{
		"drop": p.drop > 0, "duplicate": p.dup > 0, "reorder": p.reorder > 0, "delay": p.slow > 0, "late": p.late > 0,
		"misdeliver": p.misdeliver > 0, "lag": p.lag > 0, "reset": p.reset > 0, "cut": p.cut > 0, "lie": p.lie > 0,
		"crash": p.crash > 0, "pause": p.pause > 0, "leave": p.leave > 0, "handoff": p.handoff > 0, "drift": p.drift > 0,
		"clocks": p.clocks, "late steps": p.batch > 0, "fetch fails": p.fetchFails > 0, "expiry": p.expiry > 0,
		"hostile client": p.hostile > 0, "resolver lost": p.nameLost > 0, "resolver slow": p.nameSlow > 0,
		"resolver duplicate": p.nameDup > 0, "resolver outage": p.outage > 0, "resolver amnesia": p.amnesia,
		"retire": p.retire, "force": p.force, "poison": p.poison, "disk slow": p.syncSlow > 0, "disk error": p.syncFails > 0,
		"disk wiped": p.wipe > 0, "power cut": p.power > 0, "compaction": p.compact > 0, "slow standby": p.steady,
		"load " + p.load.kind.String(): true, "slow restore": p.restore > 0,
		"slander": p.slander > 0,
	} {
		if there {
			m[kind] = 1
		}
	}
	return m
}

// startFaults begins all that goes wrong.
func (w *world) startFaults() {
	p := &w.prof
	w.every(p.crash, w.crashOne)
	w.every(p.power, func() {
		w.tracef("the power is cut")
		w.stats.Powers++
		for _, h := range w.hosts {
			h.crash()
		}
	})
	w.every(p.pause, func() {
		h := w.anyHost()
		if h.proc == nil {
			return
		}
		d := w.exp(300 * time.Millisecond)
		if w.chance(0.2) {
			d = w.exp(4 * time.Second)
		}
		h.proc.pause(d)
	})
	w.every(p.cut, w.cutSome)
	w.every(p.reset, func() {
		i, j := w.rng.IntN(p.hosts), w.rng.IntN(p.hosts)
		if i != j {
			w.resetLink(i, j)
		}
		if c := w.clients[w.rng.IntN(len(w.clients))]; w.chance(0.3) && c.conn != nil {
			c.conn.reset()
		}
	})
	w.every(p.outage, func() {
		if w.res.down {
			return
		}
		w.stats.Outages++
		w.res.down, w.res.broken = true, w.chance(0.5)
		d := w.exp(time.Second)
		w.tracef("the resolver is down for %v", d)
		w.after(d, func() { w.res.down = false })
	})
	w.every(p.handoff, func() {
		if a := w.active(); a != nil {
			if t := w.anyHost(); t.proc != nil && w.chance(0.95) {
				a.handoff(t.proc.self)
			} else {
				a.handoff(resolver.Host{ID: t.id, Incarnation: 1}) // of long ago
			}
		}
	})
	w.every(p.leave, func() {
		if h := w.anyHost(); h.proc != nil {
			h.proc.leave()
		}
	})
	w.every(p.lie, func() {
		if a, b := w.anyHost().proc, w.anyHost().proc; a != nil && b != nil && a != b {
			w.tracef("%s is told that %s is gone", a.name(), b.name())
			a.event(core.PeerDown{Host: b.self})
		}
	})
	w.every(p.slander, func() {
		if p := w.anyHost().proc; p != nil {
			w.slander(p)
		}
	})
	w.every(p.lag, func() {
		l := w.links[w.rng.IntN(p.hosts)][w.rng.IntN(p.hosts)]
		l.lag = w.exp(2 * time.Second)
		w.after(w.exp(3*time.Second), func() { l.lag = 0 })
	})
	if p.poison {
		w.after(w.between(0, p.duration), func() { w.poison = true })
	}
	if p.amnesia {
		w.every(p.duration/3, w.res.forget)
		w.every(p.duration/6, w.newcomer)
		w.every(3*time.Second, func() {
			if p := w.anyHost().proc; p != nil {
				p.event(core.CheckRecord{})
			}
		})
	}
	if p.retire {
		w.after(w.between(0, p.duration), w.retire)
	}
	if p.force {
		w.after(w.between(0, p.duration), func() {
			if h := w.anyHost(); h.proc != nil {
				w.forced = true
				w.forceReset(h.proc)
			}
		})
	}
}

// every makes something happen again and again until the healing; mean 0: never.
func (w *world) every(mean time.Duration, f func()) {
	if mean == 0 {
		return
	}
	var next func()
	next = func() {
		if !w.healed {
			f()
			w.after(w.exp(mean), next)
		}
	}
	w.after(w.exp(mean), next)
}

func (w *world) anyHost() *host { return w.hosts[w.rng.IntN(len(w.hosts))] }

// active returns a process that believes to be active.
func (w *world) active() *proc {
	k := w.rng.IntN(len(w.hosts))
	for i := range w.hosts {
		if p := w.hosts[(i+k)%len(w.hosts)].proc; p != nil && p.core.Role().Active() {
			return p
		}
	}
	return nil
}

func (w *world) crashOne() {
	h := w.anyHost()
	if a := w.active(); a != nil && w.chance(0.4) {
		h = a.host
	}
	h.crash()
	if w.chance(0.1) {
		w.anyHost().crash()
	}
}

// cutSome cuts a link, a host, or the hosts into two parts.
func (w *world) cutSome() {
	n := len(w.hosts)
	holding := w.chance(0.5)
	var pairs [][2]int
	var blind []int
	switch w.rng.IntN(4) {
	case 0:
		i, j := w.rng.IntN(n), w.rng.IntN(n)
		pairs = append(pairs, [2]int{i, j})
	case 1:
		i := w.rng.IntN(n)
		for j := range n {
			pairs = append(pairs, [2]int{i, j}, [2]int{j, i})
		}
		if w.chance(0.5) {
			blind = append(blind, i)
		}
	case 2:
		side := make([]bool, n)
		for i := range side {
			side[i] = w.chance(0.5)
		}
		for i := range n {
			for j := range n {
				if side[i] != side[j] {
					pairs = append(pairs, [2]int{i, j})
				}
			}
		}
	case 3:
		blind = append(blind, w.rng.IntN(n))
	}
	d := w.exp(time.Second)
	w.stats.Cuts++
	w.tracef("cut for %v: links %v, from the resolver %v", d, pairs, blind)
	for _, p := range pairs {
		w.cutLink(p[0], p[1], true, holding)
	}
	for _, i := range blind {
		w.hosts[i].blind = true
	}
	w.after(d, func() {
		if w.healed {
			return
		}
		for _, p := range pairs {
			w.cutLink(p[0], p[1], false, false)
		}
		for _, i := range blind {
			w.hosts[i].blind = false
		}
	})
}

// create asks one or two hosts to create the service until it is there.
func (w *world) create() {
	if w.res.truth().Version == 0 && !w.res.forgot {
		creators := 1 + w.rng.IntN(2)
		if w.prof.amnesia {
			creators = 1 // of two, neither knows of the other, and the resolver could forget either
		}
		for range creators {
			if p := w.anyHost().proc; p != nil {
				p.event(core.Create{At: p.Wall()})
			}
		}
		w.after(w.between(time.Second, 2*time.Second), w.create)
	}
}

// newcomer is a host without a copy that creates the service if neither the resolver nor a host knows of it, as Node.Host
// does.
func (w *world) newcomer() {
	p := w.anyHost().proc
	if p == nil || p.core.HasState() || w.prof.retire {
		return
	}
	var rec resolver.Record
	w.res.ask(p.host.index, func() { rec = w.res.truth() }, func(ok bool) {
		if !ok || p.dead || rec.Version > 0 {
			return
		}
		silent, known := len(w.hosts)-1, false // hosts that are down were present a moment ago
		for _, h := range w.hosts {
			if q := h.proc; q != nil && q != p {
				w.ask(p.self, q.self, func(a core.Answer) {
					silent--
					known = known || a.Copy || a.Active || a.Pending || a.Record.Version > 0
				})
			}
		}
		w.after(time.Second, func() {
			if !p.dead && silent == 0 && !known {
				p.event(core.Create{At: p.Wall()})
			}
		})
	})
}

// retire has all hosts leave the service at once; those that are still there a while later stay.
func (w *world) retire() {
	a := w.active()
	if a == nil {
		return
	}
	w.tracef("%s is to retire the service", a.name())
	for _, h := range w.hosts {
		p := h.proc
		if p == nil || p == a {
			continue
		}
		p.event(core.Leave{})
		w.after(2*time.Second, func() {
			if !p.dead && !p.leaving {
				p.event(core.CancelLeave{})
			}
		})
	}
	w.after(w.exp(200*time.Millisecond), func() {
		if !a.dead {
			a.event(core.Retire{})
		}
	})
}

// forceReset is what an operator does when the state seems lost, and what one sometimes thinks better of.
func (w *world) forceReset(p *proc) {
	w.tracef("%s is forced to serve", p.name())
	var rec resolver.Record
	w.res.ask(p.host.index, func() { rec = w.res.truth() }, func(ok bool) {
		if ok {
			p.event(core.Reset{Record: rec, At: p.Wall()})
		}
	})
	if w.chance(0.2) {
		w.after(w.exp(100*time.Millisecond), func() {
			if !p.dead {
				p.event(core.CancelReset{})
			}
		})
	}
}

// heal ends all faults.
func (w *world) heal() {
	w.healed, w.poison, w.poisoned = true, false, cmdKey{}
	w.tracef("healing")
	p := &w.prof
	p.drop, p.dup, p.reorder, p.slow, p.late, p.misdeliver, p.hostile = 0, 0, 0, 0, 0, 0, 0
	p.nameLost, p.nameSlow, p.nameDup, p.fetchFails, p.expiry = 0, 0, 0, 0, 0
	p.nameTime = min(p.nameTime, 2*time.Millisecond)
	p.fetch, p.restore = min(p.fetch, 200*time.Millisecond), 0
	p.load.time, p.load.calls = min(p.load.time, 100*time.Microsecond), min(p.load.calls, time.Millisecond)
	p.sync, p.syncSlow, p.syncFails, p.wipe = min(p.sync, 5*time.Millisecond), 0, 0, 0
	w.res.down = false
	for i := range w.hosts {
		for j := range w.hosts {
			w.cutLink(i, j, false, false)
			l := w.links[i][j]
			l.lag = 0
			if l.last > w.now+time.Second { // it stands still: begin anew
				l.gen++
				l.last = w.now
			}
		}
		w.hosts[i].blind = false
		if pr := w.hosts[i].proc; pr == nil {
			w.hosts[i].start()
		} else if pr.stuck {
			w.tracef("%s is started again, for its service is stuck", pr.name())
			pr.exit()
			w.hosts[i].start()
		} else {
			pr.resume()
			if d := w.hosts[i].disk; d != nil && d.done != nil {
				w.after(w.exp(p.sync), d.done)
			}
			if pr.fetch != nil { // it may have been due to take longer than healBound
				w.after(w.exp(p.fetch), pr.fetchDone)
			}
		}
	}
	w.create()
	w.operate()
}

// restorable reports whether the hosts that are up can bring back the record that the resolver has lost: all members of the
// in-sync set know it, and hold its state.
func (w *world) restorable() bool {
	for _, h := range w.chk.bound.ISR {
		p := w.hosts[hostIndex(h)].proc
		if p == nil || !p.self.Same(h) || !p.core.HasState() || p.core.Halted() ||
			core.TermOf(p.core.Record()) != p.core.Term() || p.core.Term() != core.TermOf(w.chk.bound) {
			return false
		}
	}
	return w.chk.bound.Active.ID != ""
}

// knowsMore reports whether p has seen a higher term than q or, in the same term, holds later entries.
func knowsMore(p, q *proc) bool {
	a, b := p.core.OwnAnswer(), q.core.OwnAnswer()
	return cmp.Or(a.Term.Compare(b.Term), a.CompareCopies(&b)) > 0
}

// operate is an operator who looks after a service that can't recover by itself: no living host has what it needs, or the
// resolver has forgotten it.
func (w *world) operate() {
	w.after(3*time.Second, func() {
		for _, h := range w.hosts {
			if h.proc != nil {
				h.proc.event(core.CheckRecord{}) // as a node does with each announcement
			}
		}
		rec := w.res.truth()
		for _, h := range w.hosts {
			// Who watches the record hears of a reset, even if nobody speaks to it any more.
			if p := h.proc; p != nil && core.TermOf(rec).Compare(p.core.Term()) > 0 {
				p.event(core.Told{Record: rec})
			}
		}
		alive, halted, forgotten := false, false, w.chk.gone && !w.restorable()
		for _, h := range w.hosts {
			alive = alive || h.proc == nil && h.disk != nil // an operator waits for it
			if p := h.proc; p != nil && p.core.HasState() {
				halted = halted || p.core.Halted()
				for _, m := range rec.ISR {
					alive = alive || m.Same(p.self)
				}
			}
		}
		switch {
		case w.chk.gone && !forgotten: // they must do it alone
		case rec.Version == 0 && !w.res.forgot:
			w.create()
		case rec.Version > 0 && rec.Active.ID == "" && !forgotten:
			if p := w.anyHost().proc; p != nil {
				p.event(core.Told{Record: rec})
				p.event(core.Create{At: p.Wall()})
			}
		case !alive, forgotten, halted:
			if !alive && w.prof.disks == 1 && !w.wiped && !w.forced && !forgotten && !w.res.forgot {
				w.failf("no host holds what was acknowledged, though all have disks: %s", describeRecord(&rec))
			}
			// One of those that know the highest term, and rather one with a copy.
			var best *proc
			for _, i := range w.rng.Perm(len(w.hosts)) {
				p := w.hosts[i].proc
				if p == nil {
					continue
				}
				if best == nil || knowsMore(p, best) {
					best = p
				}
			}
			if best != nil {
				w.forceReset(best)
			}
		}
		w.operate()
	})
}
