package sim

import (
	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
)

// applied: a host applies what is committed (I9), and all hosts the same entries with the same outcome (I3, I16), each
// command once and in order (I10, I11).
func (k *checker) applied(p *proc, m *machine.Machine, e core.Entry) {
	h := k.logs[p.loss]
	if h == nil || e.Index > uint64(len(h.entries)) {
		k.failf("%s applies %s, which is not committed (I9)", p, entry(e))
	}
	if c := p.core; c.HasState() && c.Term().Loss == p.loss && e.Index > c.Commit() {
		k.failf("%s applies %s, which it has not committed (I9)", p, entry(e))
	}
	if !sameEntry(e, h.entries[e.Index-1]) {
		k.failf("%s applies %s, but %s is committed there (I3)", p, entry(e), entry(h.entries[e.Index-1]))
	}
	index, hash, s := state(m)
	o := &h.outcomes[e.Index-1]
	if index != e.Index || o.want.count > 0 && s.count != o.want.count {
		k.failf("%s applies %s: is at entry %d with %d commands executed, want %+v (I10, I11)", p, entry(e), index, s.count, o.want)
	}
	if !o.applied {
		o.applied, o.hash = true, hash
		h.applied = max(h.applied, e.Index)
		if p.core.Role().Active() && e.Index > h.kept {
			// Its clients hear of what nobody has applied before, in the term in which that was committed: by this host or earlier.
			k.speaks(p, core.Term{Loss: p.loss, Epoch: min(h.epochs[e.Index-1], p.core.Term().Epoch)})
		}
	} else if o.hash != hash {
		k.failf("%s applies %s with another state than others (I16): %x, want %x", p, entry(e), hash, o.hash)
	}
}

// result: the outcome of an entry is collected after it is applied, and is the same on all hosts (I16).
func (k *checker) result(p *proc, at uint64, r result) {
	h := k.logs[p.loss]
	done := func(h *history) bool { return at <= uint64(len(h.entries)) && h.outcomes[at-1].applied }
	if h == nil || !done(h) && !(at <= h.kept && done(h.from)) {
		k.failf("%s has a result of entry %d, which nobody has applied (I9)", p, at)
	}
	if want := h.outcomes[at-1].want; r != want {
		k.failf("%s applies %s: %+v, want %+v (I10, I11)", p, entry(h.entries[at-1]), r, want)
	}
	if index, _ := p.replica.Machine().Applied(); at > index {
		k.failf("%s has a result of entry %d, its copy has applied %d (I9)", p, at, index)
	}
}

// answersRead: a new active host answers reads when it has applied all that was committed before it (I12).
func (k *checker) answersRead(p *proc) {
	if !p.core.CaughtUp() {
		k.failf("%s answers a read, but has not applied what was committed before its epoch (I12)", p)
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
		if p.watch.activeIn == (core.Term{}) { // else it may have been active when it committed the entry
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
	h := k.logs[p.loss]
	i, hash, _ := state(p.replica.Machine())
	if h == nil || uint64(len(h.entries)) < i {
		k.failf("%s restores a snapshot of entry %d, which is not committed", p, i)
	}
	if i == 0 {
		return
	}
	if o := &h.outcomes[i-1]; !o.applied || o.hash != hash {
		k.failf("%s restores a snapshot of entry %d with state %x, want %+v (I16)", p, i, hash, *o)
	}
}
