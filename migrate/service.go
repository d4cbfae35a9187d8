package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/replica"
	"github.com/roam-go/roam/migrate/internal/serve"
	"github.com/roam-go/roam/migrate/internal/wal"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// Service is a service on one node. It is safe for concurrent use.
type Service struct {
	site
	fresh func() Migratable

	board    board
	fetching fetching

	refusal atomic.Pointer[error] // the resolver's error for the last refused change of the record

	mu      sync.Mutex // guards the fields below
	moving  bool       // a handoff is in progress
	unsure  bool       // a caller stopped waiting for the outcome of its change of the record
	givenUp bool       // see giveUp

	// The fields below belong to the loop.
	replica     *replica.Replica
	core        *core.Core // of replica, read only
	store       *wal.Store // nil without NodeConfig.Dir; set under mu
	resumed     core.Term  // the term that the store contained when it was opened, with or without a copy
	clients     serve.Clients
	counts      counts
	alarm       alarm
	move        *moveState
	every       *time.Timer
	empty       Migratable      // created ahead for an empty copy; nil: none
	known       []resolver.Host // hosts that may send messages about the service
	stranger    *core.Msg       // an invitation from an unknown host
	resumedCopy bool            // the store contained a copy in term resumed; set under mu
	past        bool            // the record has a higher Loss than resumed
	divergences int8            // how often the state differed from the active host's
	leaving     bool            // Leave was called
	compacting  bool            // a snapshot for the store is being captured
}

func newService(n *Node, name string, fresh func() Migratable, policy Policy) *Service {
	s := &Service{
		site:  site{node: n, name: name, policy: policy, log: n.log.With("service", name)},
		fresh: fresh,
		board: board{status: Status{Service: name, Role: Latent}},
	}
	s.core = core.New(core.Config{
		Name: name, Self: n.self, Standbys: policy.Copies - 1, MinInSync: policy.MinInSync,
		Heartbeat: n.cfg.Heartbeat, FailureTimeout: n.cfg.FailureTimeout,
		Durable: n.dir != nil, Nonce: wire.RandomID(),
	})
	s.replica = replica.New((*env)(s), s.core)
	s.appliers = &n.appliers
	s.alarm = newAlarm(func() { s.post(item{kind: itemTick}) })
	s.loop.Init((*handler)(s), &n.wg, inboxes, n.dir != nil) // the loop starts after the directory has been read
	s.clients.Init((*clientHost)(s))
	return s
}

// Name returns the service's name.
func (s *Service) Name() string { return s.name }

// Status returns the current status of the service on this node.
func (s *Service) Status() Status { return s.board.read() }

// ask calls f on the loop. It returns when f has returned, and Status is at least as recent as that, or when ctx ends.
func (s *Service) ask(ctx context.Context, f func()) error {
	var done atomic.Bool
	s.post(item{kind: itemFunc, fn: func() {
		f()
		s.publish()
		done.Store(true)
		s.board.wake()
	}})
	return s.wait(ctx, func(Status) bool { return done.Load() })
}

// wait returns when ok reports true for the status, or when ctx ends. ok must not lock anything.
func (s *Service) wait(ctx context.Context, ok func(Status) bool) error {
	err := s.board.wait(ctx, ok)
	if err == errEnded {
		return s.errClosed()
	}
	return err
}

// errClosed returns the error of a service that has ended on this host: by Leave, by Close, or because it halted.
func (s *Service) errClosed() error {
	if why := s.board.reason(); why != nil {
		return why
	}
	return transport.Errorf(transport.CodeClosed, "migrate: service %s is closed on host %s", s.name, s.node.self.ID)
}

// handler is the [loop.Loop] side of a service.
type handler Service

// Refuse disposes of items that the loop will not handle.
func (h *handler) Refuse(items []item) {
	s := (*Service)(h)
	for _, it := range items {
		switch {
		case it.req != nil:
			it.req.Reply(nil, s.notActive(resolver.Record{}))
		case it.from != nil && it.kind == itemEvent:
			it.from.conn.Leave(it.size)
		case it.drop != nil:
			it.drop()
		}
	}
}

// Handle handles a batch of items, then executes everything that the core has requested.
func (h *handler) Handle(batch []item, lent bool) (err error) {
	s := (*Service)(h)
	s.lent = lent
	done := 0
	defer func() {
		if v := recover(); v != nil {
			err = s.broken(v)
		}
		if err != nil {
			h.Refuse(batch[done:])
		}
	}()
	for i := range batch {
		if err := s.replica.Align(); err != nil {
			return err
		}
		if err := s.handle(&batch[i]); err != nil {
			return err
		}
		done = i + 1
	}
	if err := s.flush(); err != nil {
		return err
	}
	if s.clients.Waiting() > 1 {
		runtime.Gosched() // more are likely to arrive at once
	}
	return nil
}

// broken returns the error of a panic, which means that an invariant is violated.
func (s *Service) broken(v any) error {
	err, ok := v.(error)
	if !ok {
		err = fmt.Errorf("%v", v)
	}
	s.log.Error("panic", "err", err, "stack", string(debug.Stack()))
	return err
}

// Halted stops the service on this host alone: this host no longer serves it.
func (h *handler) Halted(err error) { (*Service)(h).halt(err) }

func (s *Service) halt(err error) {
	err = fmt.Errorf("%w: %w", transport.Errorf(CodeHalted, "migrate: service %s halted on host %s", s.name, s.node.self.ID), err)
	s.board.halt(err)
	s.alarm.stop()
	s.fetching.stop()
	s.log.Error("service halted", "err", err)
	s.replica.Stop()
	s.closeStore(false)
	s.report(err)
	s.clients.Disconnect(s.notActive(resolver.Record{}))
	s.node.announceSoon()
}

func (s *Service) handle(it *item) error {
	switch it.kind {
	case itemStart:
		s.replica.Step(core.CheckRecord{})
	case itemTick:
		s.alarm.rang()
		s.replica.Step(core.Tick{})
		s.clients.Tick()
	case itemEvent:
		s.event(it.ev, it.from)
		if it.from != nil {
			it.from.conn.Leave(it.size)
		}
	case itemClient:
		s.clients.Handle(it.req, it.params)
	case itemGone:
		s.clients.ConnClosed(&it.from.conn)
	case itemFunc:
		it.fn()
	case itemApplied:
		return s.replica.Collect(it.applier)
	case itemHalt:
		return it.err
	}
	return nil
}

// flush executes everything that the core has requested.
func (s *Service) flush() error {
	if err := s.replica.Settle(); err != nil {
		return err
	}
	s.clients.Flush()
	if s.replica.Changed() {
		s.publish()
		s.introduce(s.core.Record().ISR...)
	}
	s.schedule()
	s.compact()
	return nil
}

// maxKnown limits the hosts that a service remembers.
const maxKnown = 256

// introduce remembers hosts that the resolver or a known host has named: those in the record, and those that were invited. All
// other hosts are strangers, whatever they claim to be.
func (s *Service) introduce(hosts ...resolver.Host) {
	for _, h := range hosts {
		if h.Same(s.node.self) {
			continue
		}
		if len(s.known) >= maxKnown {
			s.known = nil
			s.introduce(s.core.Record().ISR...)
		}
		if i := slices.IndexFunc(s.known, h.Same); i >= 0 {
			s.known[i] = h
		} else {
			s.known = append(s.known, h)
		}
	}
}

// knows reports whether h may send messages about the service and has proved its key.
func (s *Service) knows(h resolver.Host) bool {
	i := slices.IndexFunc(s.known, h.Same)
	return i >= 0 && s.known[i].Key == h.Key
}

// event passes an event to the core. A message from a stranger is ignored, but causes a read of the record, because the stranger
// may be the active host of an epoch that this host does not know yet. Its invitation is kept until the record has arrived.
func (s *Service) event(ev core.Event, from *inbound) {
	switch ev := ev.(type) {
	case core.Candidates:
		s.introduce(ev.Hosts...)
	case core.Got:
		s.replica.Step(ev)
		s.introduce(s.core.Record().ISR...)
		if m := s.stranger; m != nil {
			s.stranger = nil
			if s.knows(m.From) {
				s.replica.Step(core.Recv{Msg: *m})
			}
		}
		return
	case core.Recv:
		if !s.knows(ev.Msg.From) {
			if ev.Msg.Type == core.MsgInvite {
				m := ev.Msg
				s.stranger = &m
			}
			s.replica.Step(core.CheckRecord{})
			return
		}
		if from != nil {
			from.conn.SetKnown()
		}
	}
	s.replica.Step(ev)
}

// machine returns this host's copy, or nil if there is none.
func (s *Service) machine() *machine.Machine { return s.replica.Machine() }

func (s *Service) newMachine() (*machine.Machine, error) {
	sm := s.empty
	if s.empty = nil; sm == nil {
		var err error
		if sm, err = s.instance(); err != nil {
			return nil, err
		}
	}
	m := machine.New(s.name, adapter{sm}, s.limits())
	m.OnPanic = s.panicked
	return m, nil
}

// restore creates a machine from a snapshot.
func (s *Service) restore(r io.Reader) (*machine.Machine, error) {
	sm, err := s.instance()
	if err != nil {
		return nil, err
	}
	m, err := machine.Restore(s.name, adapter{sm}, s.limits(), r)
	if err == nil {
		m.OnPanic = s.panicked
	}
	return m, err
}

// instance creates an empty instance of the service.
func (s *Service) instance() (Migratable, error) {
	if sm := s.fresh(); sm != nil {
		return sm, nil
	}
	return nil, transport.Errorf(CodeConfig, "migrate: service %s: the function that makes an instance has returned nil", s.name)
}

func (s *Service) limits() machine.Limits {
	lim := s.node.limits
	lim.EventBytes = s.policy.EventBytes
	return lim
}

// diverged is called on a host whose state differs from that of the active host at entry.
func (s *Service) diverged(entry uint64) {
	err := fmt.Errorf("migrate: service %s on host %s differs from the active host's at entry %d: "+
		"Apply, Restore or Hash is at fault", s.name, s.node.self.ID, entry)
	s.log.Error("states differ", "entry", entry)
	s.report(err)
	if s.core.Role().Active() {
		return
	}
	s.replica.Step(core.Leave{})
	// The next copy may diverge, too, and each one costs the active host some work.
	wait := min(divergedWait<<s.divergences, maxDivergedWait)
	s.divergences = min(s.divergences+1, 16)
	time.AfterFunc(wait, func() {
		s.call(func() {
			if !s.leaving {
				s.replica.Step(core.CancelLeave{})
			}
		})
	})
}

// divergedWait is how long a diverged host fetches no new copy. It doubles each time, up to maxDivergedWait.
const (
	divergedWait    = 2 * time.Second
	maxDivergedWait = 5 * time.Minute
)

// publish makes the current state visible to other goroutines.
func (s *Service) publish() {
	c := s.core
	st := Status{
		Service: s.name, Role: roleOf(c.Role()), Record: c.Record(),
		Commit: c.Commit(), Last: c.Last(), Suspended: c.Suspended(), Clients: s.clients.Len(),
	}
	if c.Halted() {
		st.Role = Halted
	}
	s.superseded(&st.Record)
	old := s.board.set(st)
	if st.Record.Active.Same(s.node.self) {
		s.counts.members(&old.Record, &st.Record)
	}
	if old.Role != st.Role || old.Record.Version != st.Record.Version {
		s.log.Info("changed", "role", string(st.Role), "epoch", st.Record.Epoch, "active", st.Record.Active.ID, "isr", len(st.Record.ISR))
		if f := s.node.cfg.Hooks.Changed; f != nil {
			st := s.Status()
			s.node.hooks.Call(func() { f(st) })
		}
		if st.Role == Halted {
			s.log.Error("does not take over: earlier takeovers failed", "commit", st.Commit, "last", st.Last)
			s.report(transport.Errorf(CodeHalted, "migrate: service %s halted on host %s: several hosts took over and died "+
				"before they had applied entry %d; Node.Reset continues without it", s.name, s.node.self.ID, st.Commit+1))
		}
		s.connect(st)
	}
}

// superseded reports a copy in this node's directory that the record no longer counts.
func (s *Service) superseded(rec *resolver.Record) {
	if !s.resumedCopy || s.past || rec.Loss <= s.resumed.Loss {
		return
	}
	s.past = true
	if slices.ContainsFunc(rec.ISR, s.node.self.Same) {
		return // this host continued with it
	}
	s.report(transport.Errorf(CodeStateLost, "migrate: service %s was reset on host %s: its copy in the directory of host %s, up to "+
		"epoch %d, is obsolete", s.name, rec.Active.ID, s.node.self.ID, s.resumed.Epoch))
}

// connect opens the connections to the other members before they are needed: a host that takes over must hear from all of them.
func (s *Service) connect(st Status) {
	if st.Role != Standby && st.Role != Recovering && st.Role != Active {
		return
	}
	for _, h := range st.Record.ISR {
		if !h.Same(s.node.self) {
			s.node.links.Open(h)
		}
	}
}

// schedule publishes the state after a batch, and sets the alarm for the next deadline.
func (s *Service) schedule() {
	s.counts.watch(s.core, s.node.now)
	s.board.update(s.replica.Applier(), s.show)
	at := s.core.Deadline()
	if expiry := s.clients.Deadline(); expiry > 0 && (at == 0 || expiry < at) {
		at = expiry
	}
	if at == 0 || s.alarm.covers(at) || s.board.ended() {
		return
	}
	s.alarm.set(at, max(at-s.node.now(), 0))
	if s.board.ended() {
		s.alarm.stop() // stop may have come before set
	}
}

// stop ends the loop.
func (s *Service) stop() {
	s.board.end()
	s.alarm.stop()
	s.fetching.stop()
	s.loop.Stop()
	if a := s.board.applierNow(); a != nil {
		a.Drop()
	}
}

// remove removes the service from the node. left reports that its copy is no longer needed.
func (s *Service) remove(left bool) {
	s.stop()
	n := s.node
	s.closeStore(left && n.service(s.name) == s)
	n.mu.Lock()
	if n.services[s.name] == s {
		delete(n.services, s.name)
	}
	n.mu.Unlock()
	n.announceSoon()
}

// notActive returns the error of a host that does not serve the name. rec is the newest record that it knows.
func (s *Service) notActive(rec resolver.Record) error {
	e := transport.Errorf(CodeNotActive, "migrate: host %s is not active for service %s", s.node.self.ID, s.name)
	if s.board.halted.Load() {
		e = transport.Errorf(CodeHalted, "migrate: service %s has halted on host %s", s.name, s.node.self.ID)
	}
	if rec.Version > 0 {
		if data, err := transport.Marshal(rec); err == nil {
			e.Data = data
		}
	}
	return e
}

// errStopped is the error of calls whose wait ended because the node was closed.
var errStopped = errors.New("the node was closed")
