package sim

import (
	"slices"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

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
	newest, bound, leader := core.TermOf(k.bound), k.bound, k.bound.Active
	if k.gone && core.TermOf(k.acted).Compare(newest) < 0 {
		newest, leader = core.TermOf(k.acted), k.acted.Active // no host knows that it was to be active later
	}
	if k.gone {
		if a.Compare(newest) < 0 || a == newest && !after.Proposer.Same(leader) {
			if len(after.ISR) < len(before.ISR) && !k.knownNear(after.Proposer, newest) {
				panic(beyond("the resolver has gone back to an active host that was away, and does not reach those that know better"))
			}
			return // of what the resolver has left, which no host that knows better may take for true
		}
		if contains(before.ISR, after.Active) && a.Loss == newest.Loss && !k.knownNear(after.Active, newest) {
			panic(beyond("the resolver has gone back to a member that was away, and does not reach those that know better"))
		}
		k.gone, before, b = false, k.bound, newest
		if core.TermOf(before) != newest {
			before = k.acted
		}
		if a.Loss == newest.Loss {
			k.w.stats.Restored++
			for _, h := range after.ISR {
				k.doubt[h.Incarnation] = !contains(k.bound.ISR, h)
			}
		}
	} else if a.Compare(newest) < 0 {
		k.failf("the resolver goes from %s back to %s (I2)", newest, a)
	}
	k.bound = after
	if nobody := k.active[core.TermOf(before)] == nil; nobody && before.Version > 0 {
		// The record was lost before the host that it makes active has heard of it.
	} else if !after.Active.Same(before.Active) && after.Loss == before.Loss && before.Version > 0 && after.Active.ID != "" {
		// No host may know yet that the record was changed to name fewer hosts, or another one as active.
		if !contains(before.ISR, after.Active) && !contains(bound.ISR, after.Active) &&
			(core.TermOf(k.acted) != b || !contains(k.acted.ISR, after.Active)) {
			k.stale[a] = true // it must not serve by this change, which an old proposal of it has made
		}
		if a.Compare(b) <= 0 {
			k.failf("another host is active in %s", a)
		}
	}
	for inc := range k.doubt {
		if !slices.ContainsFunc(after.ISR, func(h resolver.Host) bool { return h.Incarnation == inc }) {
			delete(k.doubt, inc)
		}
	}
	k.records[a] = after
	k.durable(&after)
}

// knownNear reports whether a process that can answer a host's inquiry knows the last record, of term t, or a term as high if
// that has no record.
func (k *checker) knownNear(asks resolver.Host, t core.Term) bool {
	i := hostIndex(asks)
	p := k.w.hosts[i].proc
	asked := p != nil && p.askedAt > 0 && k.w.now-p.askedAt < 3*time.Second
	return slices.ContainsFunc(k.w.hosts, func(h *host) bool {
		if !k.w.near(i, h) || asked && !p.near[h.index] { // or it was out of reach when it was asked
			return false
		}
		rec := h.proc.core.Record()
		switch known := core.TermOf(rec).Compare(t); {
		case known != 0:
			return known > 0 || h.proc.core.Term().Compare(t) >= 0
		case t == core.TermOf(k.bound):
			return rec.Version >= k.bound.Version
		}
		return true
	})
}

// void reports whether nothing was ever committed in a beginning of the service: a host that was active in it may have
// forgotten that in a crash.
func (k *checker) void(loss uint64) bool {
	h := k.logs[loss]
	return h == nil || uint64(len(h.entries)) <= h.kept
}

// forgotten: the last record goes on to bind those who know it.
func (k *checker) forgotten(left resolver.Record) {
	k.gone = k.gone || left.Generation != k.bound.Generation || left.Version != k.bound.Version
}

// look checks one process after each thing that it did.
func (k *checker) look(p *proc) {
	c, v := p.core, &p.watch
	t := c.Term()
	if t.Compare(v.term) < 0 && t.Loss < v.term.Loss && k.void(v.term.Loss) {
		v.term = t // the resolver has lost the record of a beginning at once
		delete(k.spoken, p.self.Incarnation)
		k.speaks(p, t)
	}
	if t.Compare(v.term) < 0 {
		k.failf("%s goes from %s back to %s (I2)", p, v.term, t)
	}
	rec := c.Record()
	if p.host.disk == nil {
		k.knows(p, rec)
	}
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
		if k.doubt[m.Incarnation] {
			continue // an old record named it when another member took over
		}
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
