package sim

import (
	"time"

	"github.com/roam-go/roam/migrate/internal/apply"
	"github.com/roam-go/roam/migrate/internal/core"
)

// step gives the core an event, after what an earlier one has made due if that changes this host's role.
func (p *proc) step(ev core.Event) {
	p.align()
	p.replica.Step(ev)
	p.w.chk.stepped(p)
}

func (p *proc) align() { p.check(p.replica.Align()) }

// check fails the run if the replica would halt.
func (p *proc) check(err error) {
	if err != nil && p.core.Err() == nil {
		p.w.failf("%s halts: %v", p, err)
	}
	p.w.chk.stepped(p)
}

// event steps the core.
func (p *proc) event(ev core.Event) {
	p.do(func() {
		p.step(ev)
		p.kick()
	})
}

// kick calls Settle, or has it called soon.
func (p *proc) kick() {
	w := p.w
	if p.settling {
		return
	}
	if w.chance(w.prof.batch) {
		p.settling = true
		w.after(w.exp(2*time.Millisecond), func() {
			p.do(func() {
				if p.settling {
					p.flush()
				}
			})
		})
		return
	}
	p.flush()
}

// flush does all that is due.
func (p *proc) flush() {
	p.settling = false
	for n := 0; ; n++ {
		p.check(p.replica.Settle())
		for len(p.starting) > 0 {
			a := p.starting[0]
			p.starting = p.starting[1:]
			if p.run(a); p.dead {
				return
			}
		}
		if len(p.mail) == 0 || p.mailLater() {
			break
		}
		p.deliver()
		if n > 100 {
			p.w.failf("%s: the replica does not settle", p.name())
		}
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

// run lets an applier work: at once as long as the service takes no time, and then until the end of a job that takes some.
// What a job does it does at its end.
func (p *proc) run(a *apply.Applier) {
	for {
		e, ok := a.Next()
		if ok {
			d, stuck := p.serviceTime(e)
			if stuck {
				p.w.tracef("%s: the service is stuck at entry %d", p.name(), e.Index)
				p.stuck = true
				return
			}
			if d > 0 {
				p.w.after(d, func() { p.do(func() { p.finish(a) }) })
				return
			}
		}
		if !p.work(a, e, ok) {
			return
		}
	}
}

// finish ends a job that has taken its time.
func (p *proc) finish(a *apply.Applier) {
	e, ok := a.Next()
	if p.work(a, e, ok) {
		p.run(a)
	}
	if !p.dead && len(p.mail) > 0 && !p.mailLater() {
		p.deliver()
		p.kick()
	}
}

// work does the next job of an applier, which is e or a call, and reports whether there may be more. ok is false if there is none.
func (p *proc) work(a *apply.Applier, e core.Entry, ok bool) (more bool) {
	w := p.w
	if ok && e.Kind == core.Command && w.poisoned == (cmdKey{e.Session, e.Seq}) {
		w.chk.poisoned(p, e)
		p.host.crash()
		return false
	}
	more = a.Step()
	if ok && e.Index > 0 {
		w.chk.applied(p, a.Machine(), e)
	}
	return more
}

// post has f called on the loop, after what was posted before.
func (p *proc) post(f func()) {
	if !p.dead {
		p.mail = append(p.mail, f)
	}
}

// mailLater decides whether what was posted waits for a moment, and reports whether it does.
func (p *proc) mailLater() bool {
	w := p.w
	if p.mailDue || !w.chance(w.prof.batch) {
		return p.mailDue
	}
	p.mailDue = true
	w.after(w.exp(2*time.Millisecond), func() {
		p.do(func() {
			p.mailDue = false
			p.deliver()
			p.kick()
		})
	})
	return true
}

// deliver does what was posted.
func (p *proc) deliver() {
	mail := p.mail
	p.mail = nil
	for _, f := range mail {
		p.align()
		f()
		p.w.chk.stepped(p)
	}
}
