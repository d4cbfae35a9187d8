package migrate

import (
	"fmt"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/resolver"
)

// env is the environment of a service's replica.
type env Service

func (e *env) Now() time.Duration { return e.node.now() }
func (e *env) Wall() int64        { return e.node.wall().UnixMilli() }

func (e *env) Send(m core.Outgoing)      { e.node.links.Send(m.To, e.name, m.Msg) }
func (e *env) Save(v core.Save)          { e.disk.store.Load().Save(v) }
func (e *env) CompareAndSwap(c core.CAS) { e.registrar.compareAndSwap(c) }
func (e *env) Get()                      { e.registrar.get() }
func (e *env) Seek()                     { e.registrar.seek() }
func (e *env) Ask(hosts []resolver.Host) { e.registrar.ask(hosts) }
func (e *env) Fetch(f core.Fetch)        { (*Service)(e).startFetch(f) }
func (e *env) Moved(ev core.MoveEvent)   { e.mover.event(ev) }

func (e *env) Machine() (*machine.Machine, error) { return e.maker.machine() }

func (e *env) Post(f, drop func()) { e.post(item{kind: itemFunc, fn: f, drop: drop}) }

func (e *env) Offer(to resolver.Host, c *machine.Capture) uint64 {
	return e.node.offers.Add(to, c, func(bytes int64, err error) { (*Service)(e).sent(to, bytes, err) })
}

func (e *env) Activated(handedOver bool) {
	s := (*Service)(e)
	s.counts.term(s.core, handedOver)
	s.clients.Activated()
	s.startEvery()
}

func (e *env) Deposed() {
	e.mover.stopEvery()
	e.clients.Deposed()
}

func (e *env) Applied(r *machine.Result) {
	e.counts.applied++
	e.counts.events += r.Next - r.First
	e.clients.Applied(r)
}

func (e *env) Read(id uint64)        { e.clients.Read(id) }
func (e *env) ReadsFailed()          { e.clients.ReadsFailed() }
func (e *env) Resent(entries uint64) { e.counts.resent += entries }
func (e *env) Diverged(entry uint64) { (*Service)(e).diverged(entry) }

func (e *env) CaptureFailed(to string, err error) {
	s := (*Service)(e)
	s.log.Error("no snapshot", "err", err)
	s.report(fmt.Errorf("migrate: service %s: no snapshot for host %s: %w", s.name, to, err))
}

func (e *env) Report(err error) {
	s := (*Service)(e)
	if lost, ok := err.(*core.Superseded); ok {
		s.superseded(lost)
		return
	}
	if m, ok := err.(*core.Misconduct); ok {
		s.node.misconduct.report(s, m)
		return
	}
	s.log.Warn("needs attention", "err", err)
	s.report(fmt.Errorf("migrate: service %s: %w", s.name, err))
}
