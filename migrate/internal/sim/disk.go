package sim

import (
	"slices"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
)

// disk is a host's store: it outlives the process, and keeps of what is not written yet a part at most.
type disk struct {
	held  bool       // something was ever written
	state core.State // what is written
	copy  snapshot   // of the state at state.Base
	queue []write
	done  func() // ends the batch that is being written, if any
}

// write is something to be written: a change, or a newer copy, which makes the log begin later.
type write struct {
	save *core.Save
	upTo uint64
	copy snapshot
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

// Save gives the disk a change.
func (p *proc) Save(v core.Save) {
	v.Entries = slices.Clone(v.Entries)
	e := write{save: &v}
	if v.Rebase && v.Base.Index > 0 {
		e.copy = p.fetched
	}
	p.write(e)
}

// compact writes a newer copy from time to time.
func (p *proc) compact() {
	w := p.w
	if p.compacting || !p.core.HasState() || !w.chance(w.prof.compact) {
		return
	}
	p.compacting = p.replica.Capture(func(c *machine.Capture, index, _ uint64, err error) {
		p.compacting = false
		if err != nil {
			w.tracef("%s: no snapshot for the disk: %v", p.name(), err)
			return
		}
		s, err := newSnapshot(c)
		if err != nil {
			w.failf("%s: no snapshot for the disk: %v", p, err)
		}
		if st, ok := p.core.Checkpoint(index); ok { // else the log was trimmed meanwhile, or the copy was dropped
			p.write(write{upTo: st.Base.Index, copy: s})
		}
	})
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
	meta := st.Meta
	meta.Gen, meta.Record, meta.Proposed = 0, "", "" // the resolver draws the generation, not the seed
	w.tracef("%s recovers %+v, log %d..%d", p.name(), meta, st.Base.Index, st.Last())
	var m *machine.Machine
	if st.Copy {
		var err error
		if m, err = d.copy.restore(); err != nil {
			w.failf("%s: the copy on its disk: %v", p.name(), err)
		}
		if index, _ := m.Applied(); index != st.Base.Index {
			w.failf("%s: the copy on its disk is of entry %d, the log begins after %d", p.name(), index, st.Base.Index)
		}
	}
	p.loss = st.Term.Loss
	p.replica.Recover(st, m)
	w.chk.recovered(p)
	w.chk.stepped(p)
}
