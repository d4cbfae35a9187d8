package sim

import (
	"slices"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
)

// disk is a host's store: it outlives the process, and keeps of what is not written yet a part at most.
type disk struct {
	held  bool       // something was ever written
	state core.State // what is written
	copy  snap       // of the state at state.Base; without restore it is the empty one
	queue []write
	done  func() // ends the batch that is being written, if any
}

// write is something to be written: a change, or a newer copy, which makes the log begin later.
type write struct {
	save *core.Save
	upTo uint64
	copy snap
}

// write gives the disk something. Everything that waits is written at once, one such batch at a time.
func (p *proc) write(v write) {
	d := p.host.disk
	d.queue = append(d.queue, v)
	p.sync()
}

func (p *proc) sync() {
	w, d := p.w, p.host.disk
	if d.done != nil || len(d.queue) == 0 {
		return
	}
	n := len(d.queue)
	delay := w.exp(w.prof.sync)
	if w.chance(w.prof.syncSlow) {
		delay += w.exp(time.Second)
		if w.chance(0.2) {
			delay += w.exp(4 * time.Second) // long enough for others to take over
		}
	}
	done := false
	d.done = func() {
		if done || p.dead {
			return
		}
		done = true
		if w.chance(w.prof.syncFails) {
			w.tracef("%s: the disk fails", p.name())
			w.stats.DiskErrors++
			p.host.crash() // that is what it looks like to others, until an operator starts it again
			return
		}
		seq := d.apply(p, n)
		d.done = nil
		if seq > 0 {
			p.event(core.Persisted{Seq: seq})
		}
		if !p.dead {
			p.sync()
		}
	}
	w.after(delay, d.done)
}

// apply makes the first n of the queue last, and returns the number of the last change among them.
func (d *disk) apply(p *proc, n int) (seq uint64) {
	for _, v := range d.queue[:n] {
		d.held = true
		if v.save == nil {
			d.state.Trim(v.upTo)
			d.copy = v.copy
			continue
		}
		if err := d.state.Apply(*v.save); err != nil {
			p.w.failf("%s: save %d: %v", p.name(), v.save.Seq, err)
		}
		if v.save.Rebase {
			d.copy = v.copy
		}
		seq = v.save.Seq
		p.w.chk.saved(p, v.save)
	}
	d.queue = slices.Clone(d.queue[n:])
	return seq
}

// crash is the end of the process, or of the power: of what was not written some of the first may be there.
func (d *disk) crash(p *proc) {
	d.apply(p, p.w.rng.IntN(len(d.queue)+1))
	d.queue, d.done = nil, nil
}

// save carries out what the core asks of the store.
func (p *proc) save(v *core.Save) {
	s := *v
	s.Entries = slices.Clone(s.Entries)
	e := write{save: &s}
	if s.Rebase && s.Base.Index > 0 {
		e.copy = p.fetched
	}
	p.write(e)
}

// compact writes a newer copy from time to time.
func (p *proc) compact() {
	w := p.w
	if p.m == nil || !p.core.HasState() || !w.chance(w.prof.compact) {
		return
	}
	restore := p.m.Capture()
	st, ok := p.core.Checkpoint(p.m.Index())
	if !ok {
		w.failf("%s: no checkpoint after entry %d, which was applied", p, p.m.Index())
	}
	p.write(write{upTo: st.Base.Index, copy: snap{p.m.Time(), restore}})
}

// recover takes up what the disk holds.
func (p *proc) recover() {
	w, d := p.w, p.host.disk
	if !d.held {
		return
	}
	st := d.state
	st.Entries = slices.Clone(st.Entries)
	w.stats.Recoveries++
	w.tracef("%s recovers %+v, log %d..%d", p.name(), st.Meta, st.Base.Index, st.Last())
	if st.Copy {
		p.m = w.o.New()
		if d.copy.restore != nil {
			m, err := d.copy.restore()
			if err != nil {
				w.failf("%s: the copy on its disk: %v", p.name(), err)
			}
			p.m = m
		}
		if p.m.Index() != st.Base.Index {
			w.failf("%s: the copy on its disk is of entry %d, the log begins after %d", p.name(), p.m.Index(), st.Base.Index)
		}
	}
	p.step(core.Recovered{State: st, Time: d.copy.time})
	w.chk.recovered(p)
}
