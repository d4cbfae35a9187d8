package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/migrate/internal/apply"
	"github.com/roam-go/roam/migrate/internal/loop"
	"github.com/roam-go/roam/migrate/internal/replica"
	"github.com/roam-go/roam/migrate/internal/serve"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/transfer"
	"github.com/roam-go/roam/migrate/internal/wal"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// Service is a service on one node. It is safe for concurrent use.
type Service struct {
	node   *Node
	name   string
	policy Policy
	fresh  func() Migratable
	log    *slog.Logger

	over   atomic.Bool // stopped, without the lock
	halted atomic.Bool // Status says so, without the lock

	refusal  atomic.Pointer[error]         // of the last change of the record that the resolver refused
	starting atomic.Pointer[apply.Applier] // waits for the goroutine that works for the loop to run it

	loop loop.Loop[item]

	mu        sync.Mutex // guards what follows
	stopped   bool
	moving    bool   // a handoff is under way
	unsure    bool   // nobody has waited for what became of a change of the record that a caller wanted
	givenUp   bool   // see giveUp
	why       *error // it has halted; nil: it has not
	status    Status
	changed   chan struct{}  // closed when status changes; nil: nobody waits for that
	timer     *time.Timer    // of the core's next deadline
	alarm     time.Duration  // when it goes off; 0: never
	published stats          // what Stats returns
	applier   *apply.Applier // of the copy that is here; nil: there is none

	// What follows belongs to the loop.
	replica     *replica.Replica
	core        *core.Core // of replica, to look at
	store       *wal.Store // nil: none; set under mu
	resumed     core.Term  // that the store held when it was opened, with a copy or without
	clients     serve.Clients
	stats       stats
	move        *moveState
	fetch       *transfer.Download // set under mu
	every       *time.Timer
	empty       Migratable      // made ahead for an empty copy; nil: none
	known       []resolver.Host // those that may speak for the service
	stranger    *core.Msg       // an invitation from a host that is not known
	resumedCopy bool            // resumed is that of a copy; set under mu
	past        bool            // the record has a higher Loss than resumed
	divergences int8            // how often the state was found to differ from the active host's
	leaving     bool            // Leave was called
	compacting  bool            // a copy for the store is being captured
	lent        bool            // the goroutine at work was lent, and can go on with the applier
}

// item is something for the loop to do.
type item struct {
	kind itemKind
	ev   core.Event
	from *inbound
	req  *serve.Request
	// params are those of req.
	params  any
	size    int // of the message in ev, which came from a host on from
	fn      func()
	drop    func()
	applier *apply.Applier
	err     error
}

type itemKind uint8

const (
	itemStart   itemKind = iota + 1 // begin to take part
	itemEvent                       // step ev
	itemClient                      // req came from a client
	itemGone                        // from is closed
	itemFunc                        // call fn; if there is no loop any more, drop
	itemApplied                     // applier has results
	itemHalt                        // the service must stop here, because of err
	itemTick                        // time has passed
)

func newService(n *Node, name string, fresh func() Migratable, policy Policy) *Service {
	s := &Service{
		node: n, name: name, policy: policy, fresh: fresh,
		log:    n.log.With("service", name),
		status: Status{Service: name, Role: Latent},
	}
	s.core = core.New(core.Config{
		Name: name, Self: n.self, Standbys: policy.Copies - 1, MinInSync: policy.MinInSync,
		Heartbeat: n.cfg.Heartbeat, FailureTimeout: n.cfg.FailureTimeout,
		Durable: n.dir != nil, Nonce: wire.RandomID(),
	})
	s.replica = replica.New((*env)(s), s.core)
	s.loop.Init((*mailbox)(s), &n.wg, inboxes, n.dir != nil) // nothing happens before the directory is read
	s.clients.Init((*clientHost)(s))
	return s
}

// Name is the service's name.
func (s *Service) Name() string { return s.name }

// Status describes the service as this node sees it now.
func (s *Service) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Record.ISR = slices.Clone(st.Record.ISR)
	if s.applier != nil {
		_, st.Busy = s.applier.Busy()
		st.Applied, _ = s.applier.Machine().Applied()
	}
	return st
}

// ask has f called on the loop, and returns when it was, and Status is of that moment or later; or when ctx ends.
func (s *Service) ask(ctx context.Context, f func()) error {
	var done atomic.Bool
	s.post(item{kind: itemFunc, fn: func() {
		f()
		s.publish()
		done.Store(true)
		s.mu.Lock()
		s.signal()
		s.mu.Unlock()
	}})
	return s.wait(ctx, func(Status) bool { return done.Load() })
}

// wait returns when ok is true of the status, or when ctx ends. ok must not lock anything.
func (s *Service) wait(ctx context.Context, ok func(Status) bool) error {
	for {
		s.mu.Lock()
		if ok(s.status) {
			s.mu.Unlock()
			return nil
		}
		changed, stopped := s.change(), s.stopped
		s.mu.Unlock()
		if stopped {
			return s.errClosed()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// errClosed is the error of a service that has ended on this host, by Leave or Close or by itself.
func (s *Service) errClosed() error {
	s.mu.Lock()
	why := s.why
	s.mu.Unlock()
	if why != nil {
		return *why
	}
	return transport.Errorf(transport.CodeClosed, "migrate: service %s is closed on host %s", s.name, s.node.self.ID)
}

// post gives the loop something to do. If the loop is not at work, the caller's goroutine does the work. Nothing may be locked by
// the caller.
func (s *Service) post(it item) {
	s.loop.Put(it)
	s.work(nil)
}

// call has f called on the loop.
func (s *Service) call(f func()) { s.post(item{kind: itemFunc, fn: f}) }

// work lets the loop work on the caller's goroutine if there is something to do and nobody does it, and then, if the goroutine reads
// c, applies what was committed. Where c is nil that is done on a goroutine of its own.
func (s *Service) work(c apply.Lender) {
	s.loop.Work(c != nil)
	if c != nil {
		if a := s.starting.Swap(nil); a != nil {
			s.node.appliers.Lend(a, c)
		}
	}
}

var inboxes = loop.NewPool[item]()

// mailbox is the service as the owner of its loop.
type mailbox Service

// Refuse disposes of what the loop will not look at any more.
func (m *mailbox) Refuse(items []item) {
	s := (*Service)(m)
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

// Handle does what a batch asks for, and then all that the core has made due.
func (m *mailbox) Handle(batch []item, lent bool) (err error) {
	s := (*Service)(m)
	s.lent = lent
	done := 0
	defer func() {
		if v := recover(); v != nil {
			err = s.broken(v)
		}
		if err != nil {
			m.Refuse(batch[done:])
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
		runtime.Gosched() // more are likely to come at once
	}
	return nil
}

// broken is the error of a panic: an invariant does not hold.
func (s *Service) broken(v any) error {
	err, ok := v.(error)
	if !ok {
		err = fmt.Errorf("%v", v)
	}
	s.log.Error("panic", "err", err, "stack", string(debug.Stack()))
	return err
}

// Halted stops the service on this host, and leaves it as it is elsewhere: nobody is served here any more.
func (m *mailbox) Halted(err error) { (*Service)(m).halt(err) }

func (s *Service) halt(err error) {
	err = fmt.Errorf("%w: %w", transport.Errorf(CodeHalted, "migrate: service %s halted on host %s", s.name, s.node.self.ID), err)
	s.mu.Lock()
	s.stopped, s.why = true, &err
	s.over.Store(true)
	s.timerStop()
	s.stopFetch()
	s.status.Role = Halted
	s.halted.Store(true)
	s.signal()
	s.mu.Unlock()
	s.log.Error("service halted", "err", err)
	s.replica.Stop()
	s.closeStore(false)
	s.report(err)
	s.clients.Disconnect(s.notActive(resolver.Record{}))
	s.node.announceSoon()
}

// report tells the Failed hook.
func (s *Service) report(err error) {
	if f := s.node.cfg.Hooks.Failed; f != nil {
		s.node.hooks.Call(func() { f(s.name, err) })
	}
}

func (s *Service) handle(it *item) error {
	switch it.kind {
	case itemStart:
		s.replica.Step(core.CheckRecord{})
	case itemTick:
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

// flush does all that the core has made due.
func (s *Service) flush() error {
	s.replica.Touch()
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

// maxKnown bounds the hosts that a service remembers.
const maxKnown = 256

// introduce remembers hosts that the resolver, or a host that is known, has named: those in the record, and those that
// were invited. The others are strangers whoever they claim to be.
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

// knows reports whether a host is one that may speak for the service, and has proved it.
func (s *Service) knows(h resolver.Host) bool {
	i := slices.IndexFunc(s.known, h.Same)
	return i >= 0 && s.known[i].Key == h.Key
}

// event gives the core an event. What a stranger says is not heeded; it is a reason to read the record, for it might be
// the active host of an epoch that is not known here yet. Then its invitation waits for the answer.
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

// machine is the copy that is here; nil if there is none.
func (s *Service) machine() *machine.Machine { return s.replica.Machine() }

func (s *Service) newMachine() (*machine.Machine, error) {
	sm, err := s.instance()
	if err != nil {
		return nil, err
	}
	m := machine.New(s.name, adapter{sm}, s.limits())
	m.OnPanic = s.panicked
	return m, nil
}

// restore makes a machine of a snapshot.
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

// instance is an empty instance of the service.
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

func (s *Service) panicked(method string, value any, stack []byte) {
	s.log.Error("the service's code panicked", "method", method, "panic", value, "stack", string(stack))
	err := transport.Errorf(CodePanic, "migrate: service %s panicked in %s on host %s: %v", s.name, method, s.node.self.ID, value)
	err.Data = stack
	s.report(err)
}

// diverged is called on a standby whose state is not what the active host's was.
func (s *Service) diverged(entry uint64) {
	err := fmt.Errorf("migrate: service %s on host %s differs from the active host's at entry %d: "+
		"Apply, Restore or Hash is at fault", s.name, s.node.self.ID, entry)
	s.log.Error("states differ", "entry", entry)
	s.report(err)
	if s.core.Role().Active() {
		return
	}
	s.replica.Step(core.Leave{})
	// The next copy may be better, or not: each one costs the active host some work.
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

// divergedWait is how long a host whose state was found to differ takes no new copy; it doubles each time.
const (
	divergedWait    = 2 * time.Second
	maxDivergedWait = 5 * time.Minute
)

// publish makes the present state visible to other goroutines.
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
	s.halted.Store(st.Role == Halted)
	s.mu.Lock()
	old := s.status
	s.status = st
	s.signal()
	s.mu.Unlock()
	s.countMembers(&old.Record, &st.Record)
	if old.Role != st.Role || old.Record.Version != st.Record.Version {
		s.log.Info("changed", "role", string(st.Role), "epoch", st.Record.Epoch, "active", st.Record.Active.ID, "isr", len(st.Record.ISR))
		if f := s.node.cfg.Hooks.Changed; f != nil {
			st := s.Status()
			s.node.hooks.Call(func() { f(st) })
		}
		if st.Role == Halted {
			s.log.Error("does not take over: others did in vain", "commit", st.Commit, "last", st.Last)
			s.report(transport.Errorf(CodeHalted, "migrate: service %s halted on host %s: hosts that took over died one after the other "+
				"before they had applied entry %d; Node.Reset goes on without it", s.name, s.node.self.ID, st.Commit+1))
		}
		s.connect(st)
	}
}

// superseded tells of a copy in this node's directory that the record does not count any more.
func (s *Service) superseded(rec *resolver.Record) {
	if !s.resumedCopy || s.past || rec.Loss <= s.resumed.Loss {
		return
	}
	s.past = true
	if slices.ContainsFunc(rec.ISR, s.node.self.Same) {
		return // it was this host that went on with it
	}
	s.report(transport.Errorf(CodeStateLost, "migrate: service %s was reset on host %s: what the directory of host %s holds of it, up to "+
		"epoch %d, counts no more", s.name, rec.Active.ID, s.node.self.ID, s.resumed.Epoch))
}

// connect has the connections to the other members ready before they are needed: whoever takes over must hear from all.
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

// change returns what is closed when the status changes; s.mu is held.
func (s *Service) change() <-chan struct{} {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// signal wakes those who wait for the status; s.mu is held.
func (s *Service) signal() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// schedule sets the timer for what is due next.
func (s *Service) schedule() {
	at := s.core.Deadline()
	if expiry := s.clients.Deadline(); expiry > 0 && (at == 0 || expiry < at) {
		at = expiry
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status
	st.Commit, st.Last, st.Suspended, st.Clients = s.core.Commit(), s.core.Last(), s.core.Suspended(), s.clients.Len()
	s.applier = s.replica.Applier()
	s.publishStats()
	// A timer that goes off early does no harm and is cheaper than resetting it for every command.
	if at == 0 || s.stopped || s.alarm > 0 && s.alarm <= at {
		return
	}
	s.alarm = at
	wait := max(at-s.node.now(), 0)
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.tick)
	} else {
		s.timer.Reset(wait)
	}
}

func (s *Service) timerStop() {
	if s.timer != nil {
		s.timer.Stop()
	}
}

func (s *Service) tick() {
	s.mu.Lock()
	s.alarm = 0
	s.mu.Unlock()
	s.post(item{kind: itemTick})
}

// stop ends the loop.
func (s *Service) stop() {
	s.mu.Lock()
	s.stopped = true
	s.over.Store(true)
	if s.status.Role != Halted {
		s.status.Role = Latent
	}
	s.timerStop()
	s.stopFetch()
	applier := s.applier
	s.signal()
	s.mu.Unlock()
	s.loop.Stop()
	if applier != nil {
		applier.Drop()
	}
}

// remove makes the node forget the service; left says that no copy of it is wanted here.
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

// notActive is the answer of a host that does not serve the name; rec is the newest record it knows.
func (s *Service) notActive(rec resolver.Record) error {
	e := transport.Errorf(CodeNotActive, "migrate: host %s is not active for service %s", s.node.self.ID, s.name)
	if s.halted.Load() {
		e = transport.Errorf(CodeHalted, "migrate: service %s has halted on host %s", s.name, s.node.self.ID)
	}
	if rec.Version > 0 {
		if data, err := transport.Marshal(rec); err == nil {
			e.Data = data
		}
	}
	return e
}

// errStopped is returned to callers whose wait ended with the node.
var errStopped = errors.New("the node was closed")
