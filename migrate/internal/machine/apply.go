package machine

import (
	"runtime/debug"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// Result is the outcome of an entry.
type Result struct {
	// At is the index of the entry itself.
	At uint64
	// Index and Epoch are the log position of the entry that produced the reply: an earlier one if Duplicate is set.
	Index, Epoch uint64
	Kind         core.Kind
	Session, Seq uint64

	// Reply, or else Err, is the answer for the client of an OpenSession, CloseSession, Command or Refusal.
	Reply []byte
	Err   *transport.Error
	// Duplicate is set if the command had been applied before; it was not executed again.
	Duplicate bool

	// The events First, ..., Next-1 were emitted.
	First, Next uint64
	// Ended is the session that the entry ended, by closing or by evicting it; 0 for none.
	Ended uint64
	// Mismatch is set if the hash in a HashCheck, which is that of entry Checked, differs from this machine's: the states of
	// two hosts have diverged.
	Mismatch bool
	Checked  uint64
	// Halt is set if this version does not know the entry's kind; the entry was not applied.
	Halt error
}

// Apply executes the next committed entry; it panics on any other. The machine and the service keep e.Body.
//
// First it runs the service's code, without the lock, while the tables stay as they were before the entry; then it makes
// all changes of the tables in one step.
func (m *Machine) Apply(e core.Entry) Result {
	if e.Index != m.index+1 {
		panic(m.errorf(transport.CodeUnknown, "entry %d applied after %d", e.Index, m.index).Message)
	}
	a := Result{
		At: e.Index, Index: e.Index, Epoch: e.Epoch, Kind: e.Kind, Session: e.Session, Seq: e.Seq,
		First: m.events.next, Next: m.events.next,
	}
	if e.Kind < core.EpochStart || e.Kind > core.Away {
		a.Halt = m.errorf(wire.CodeHalted, "entry %d is of the unknown kind %d", e.Index, e.Kind)
		return a
	}
	m.mixEntry(e)
	var s *sessionSlot
	switch e.Kind {
	case core.OpenSession:
		s = m.runOpen(e, &a)
	case core.CloseSession:
		if s = m.sessions.get(e.Session); s == nil {
			a.Err = m.Expired(e.Session)
		} else {
			m.end(s, e, &a)
		}
	case core.Command, core.Refusal:
		s = m.runCommand(e, &a)
	case core.HashCheck:
		m.runHashCheck(e, &a)
	}
	if m.emitter != nil {
		for _, body := range m.emitted {
			m.mixBytes(body)
		}
	}
	m.commit(e, s, &a)
	return a
}

// commit makes the changes of an entry to the tables. s is the session that runOpen or runCommand returned.
func (m *Machine) commit(e core.Entry, s *sessionSlot, a *Result) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index, m.epoch, m.time = e.Index, e.Epoch, max(m.time, e.Time)
	m.publish()
	if a.Ended != 0 {
		m.sessions.remove(a.Ended)
		m.ending = 0
	}
	switch e.Kind {
	case core.OpenSession:
		switch {
		case a.Err != nil:
		case s == nil:
			m.sessions.open(e.Session, transport.Key(e.Body), m.time)
		default:
			m.sessions.touch(s, m.time)
		}
	case core.Command, core.Refusal:
		if s != nil {
			m.sessions.touch(s, m.time)
			m.sessions.forget(s, e.Low)
			m.sessions.add(s, cachedReply{index: e.Index, epoch: e.Epoch, body: a.Reply, err: a.Err})
			m.mix(uint64(m.sessions.bytes))
		}
	case core.Away:
		for id, away := range awayTimes(e.Body) {
			if s := m.sessions.get(id); s != nil {
				s.away = away
			}
		}
	}
	a.Next = m.events.next
	m.mixOutcome(a)
	if len(m.inflight) > 0 {
		m.settle(e)
	}
}

// runOpen evicts a session if there is no room for a new one. It returns the session if it exists.
func (m *Machine) runOpen(e core.Entry, a *Result) *sessionSlot {
	if e.Session == 0 || len(e.Body) != len(transport.Key{}) {
		a.Err = m.errorf(transport.CodeBadMessage, "session %d opened with %d bytes of key", e.Session, len(e.Body))
		return nil
	}
	s := m.sessions.get(e.Session)
	switch {
	case s == nil:
		if m.sessions.full() {
			m.end(m.sessions.victim(transport.Key(e.Body), func(*sessionSlot) bool { return true }), e, a)
		}
	case s.key != transport.Key(e.Body):
		a.Err = m.forbidden(e.Session)
	}
	return s
}

// end calls SessionClosed for a session that entry e ends.
func (m *Machine) end(s *sessionSlot, e core.Entry, a *Result) {
	cmd := m.command(e)
	cmd.Session, cmd.Seq, cmd.Key, cmd.Body, cmd.Emit = s.id, 0, s.key, nil, m.emits()
	a.Ended = s.id
	m.mu.Lock()
	m.ending = s.id
	m.mu.Unlock()
	m.run(func() error { m.app.SessionClosed(cmd); return nil }, "SessionClosed")
}

// runCommand executes a command or a refusal exactly once, whatever was admitted: only the log counts. It returns the
// session if the entry was executed.
func (m *Machine) runCommand(e core.Entry, a *Result) *sessionSlot {
	s := m.sessions.get(e.Session)
	switch {
	case s == nil:
		a.Err = m.Expired(e.Session)
		return nil
	case e.Seq != 0 && e.Seq <= s.last():
		r := m.cached(s, e.Seq)
		a.Index, a.Epoch, a.Reply, a.Err, a.Duplicate = r.Index, r.Epoch, r.Reply, r.Err, true
		return nil
	case e.Seq != s.last()+1:
		a.Err = m.errorf(wire.CodeOutOfOrder, "session %d: command %d came after %d", e.Session, e.Seq, s.last())
		return nil
	}
	if e.Kind == core.Command {
		a.Reply, a.Err = m.execute(e, s)
	} else if err, ok := readRefusal(e.Body); ok && len(err.Message)+len(err.Data) <= m.lim.MaxReply {
		a.Err = err
	} else {
		a.Err = m.errorf(wire.CodeApplication, "session %d: command %d was refused", e.Session, e.Seq)
	}
	return s
}

// execute calls the service's Apply.
func (m *Machine) execute(e core.Entry, s *sessionSlot) (reply []byte, failed *transport.Error) {
	cmd := m.command(e)
	cmd.Key, cmd.Emit = s.key, m.emits()
	reply, failed = m.callApply(cmd)
	if failed == nil && len(reply) > m.lim.MaxReply {
		failed = m.errorf(wire.CodeReplyGone, "session %d: command %d was executed, its reply of %d bytes is more than %d",
			e.Session, e.Seq, len(reply), m.lim.MaxReply)
	}
	if m.tooLarge > 0 {
		failed = m.errorf(wire.CodeReplyGone, "session %d: command %d was executed, its event of %d bytes is more than %d",
			e.Session, e.Seq, m.tooLarge, m.lim.MaxReply)
	}
	if failed != nil || len(reply) == 0 {
		reply = nil
	}
	return reply, failed
}

func (m *Machine) callApply(cmd Command) (reply []byte, failed *transport.Error) {
	m.begin()
	defer m.finish("Apply", &failed)
	wire.EnterApply()
	defer wire.LeaveApply()
	reply, err := m.app.Apply(cmd)
	return reply, m.serviceError(err)
}

// run calls the service where it may emit, and turns its error or panic into a *transport.Error.
func (m *Machine) run(f func() error, method string) (failed *transport.Error) {
	m.begin()
	defer m.finish(method, &failed)
	return m.serviceError(f())
}

func (m *Machine) begin() {
	m.applying, m.tooLarge = true, 0
	clear(m.emitted)
	m.emitted = m.emitted[:0]
}

// finish ends a call of the service. After a panic it drops the events emitted before it. The error does not contain the
// panic's value, which may differ between hosts.
func (m *Machine) finish(method string, failed **transport.Error) {
	m.applying = false
	if v := recover(); v != nil {
		clear(m.emitted)
		m.emitted, m.tooLarge = m.emitted[:0], 0
		*failed = m.panicked(method, v)
	}
}

func (m *Machine) panicked(method string, v any) *transport.Error {
	if m.OnPanic != nil {
		m.OnPanic(method, v, debug.Stack())
	}
	return m.errorf(wire.CodePanic, "%s panicked", method)
}

// emits returns the Emit of a command.
func (m *Machine) emits() func([]byte) {
	if m.emitter == nil {
		m.emitter = &emitter{emit: m.onEmit}
	}
	return m.emit
}

func (m *Machine) onEmit(body []byte) {
	switch {
	case !m.applying:
		panic("migrate: Emit outside Apply and SessionClosed")
	case len(body) > m.lim.MaxReply:
		m.tooLarge = len(body)
	default:
		m.emitted = append(m.emitted, body)
	}
}

// publish moves the emitted events to the event log; m.mu is held.
func (m *Machine) publish() {
	if m.emitter == nil {
		return
	}
	for i, body := range m.emitted {
		m.events.push(m.time, body)
		m.emitted[i] = nil
	}
	m.emitted = m.emitted[:0]
	if cap(m.emitted) > 1024 {
		m.emitted = nil
	}
}

// cached returns the result of a command of s that was applied before.
func (m *Machine) cached(s *sessionSlot, seq uint64) Result {
	a := Result{Kind: core.Command, Session: s.id, Seq: seq, Duplicate: true, First: m.events.next, Next: m.events.next}
	if seq < s.first {
		a.Err = m.errorf(wire.CodeReplyGone, "session %d: command %d was executed, its reply is no longer kept", s.id, seq)
		return a
	}
	r := s.reply(seq)
	a.Index, a.Epoch, a.Reply, a.Err = r.index, r.epoch, r.body, r.err
	return a
}
