package machine

import (
	"encoding/binary"
	"errors"
	"runtime/debug"
	"strings"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// Machine applies the committed entries of one service on one host. It wraps the service's [App] and holds the state that
// is replicated beside it: the sessions with their cached replies, the events, log time, and a running hash.
//
// It is deterministic: machines that applied the same entries, directly or through a snapshot, are equal. It has no clock
// and no goroutine; its owner calls it from one goroutine. Only a [Capture] is independent of it.
type Machine struct {
	service string
	app     App
	lim     Limits

	index, epoch uint64
	time         int64 // log time, Unix milliseconds
	sum          uint64
	sums         *[hashPoints]hashPoint // see point
	sessions     sessionTable
	events       eventLog

	// OnPanic, if set, is called with a panic of the service's code and its stack. For "Release" it is called on the
	// goroutine that releases the snapshot, for everything else on the caller's.
	OnPanic func(method string, value any, stack []byte)

	// While the host is active: the sessions with entries that are appended but not applied yet; nil before the first.
	inflight map[uint64]inflightSession

	applying bool
	emitted  [][]byte
	tooLarge int // the size of an event of the current entry that exceeds the limit
	emit     func([]byte)
}

// Limits bounds the memory of a [Machine]; zero fields take their defaults. All except EventBytes affect the replicated
// state and must be the same on all hosts of a service.
type Limits struct {
	// Sessions is the maximum number of sessions; opening another ends the least recently used. It defaults to 65,536.
	Sessions int
	// RepliesPerSession and ReplyBytesPerSession bound the cached replies of a session, ReplyBytes those of all sessions.
	// They default to 1,024, 8 MiB and 64 MiB.
	//
	// Admit refuses, with CodeRetry, a command that is RepliesPerSession or more ahead of the lowest command whose reply
	// the client still wants: a client with that many commands in flight has to wait. Beyond the other two limits the
	// oldest replies of the session, then all replies of the least recently used sessions, are dropped early: a retry
	// then gets CodeReplyGone and is never executed twice.
	RepliesPerSession, ReplyBytesPerSession, ReplyBytes int
	// EventBytes bounds the events kept for clients that resume; each counts as its body and 32 bytes. It defaults to
	// 16 MiB.
	EventBytes int
	// MaxReply bounds a reply, the message and data of an error, and an event. It defaults to 1 MiB - 4 KiB.
	MaxReply int
}

func (l Limits) withDefaults() Limits {
	set := func(v *int, n int) {
		if *v <= 0 {
			*v = n
		}
	}
	set(&l.Sessions, 1<<16)
	set(&l.RepliesPerSession, 1024)
	set(&l.ReplyBytesPerSession, 8<<20)
	set(&l.ReplyBytes, 64<<20)
	set(&l.EventBytes, defaultEventKeep)
	set(&l.MaxReply, 1<<20-4<<10)
	return l
}

// Result is the outcome of an entry.
type Result struct {
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
	// Mismatch is set if the hash in a HashCheck differs from this machine's: the states of two hosts have diverged.
	Mismatch bool
	// Halt is set if this version does not know the entry's kind; the entry was not applied.
	Halt error
}

// New returns the machine of a new service; app must be empty.
func New(service string, app App, lim Limits) *Machine {
	lim = lim.withDefaults()
	m := &Machine{
		service: service,
		app:     app,
		lim:     lim,
		events:  newEventLog(lim.EventBytes),
	}
	m.sessions.lim = &m.lim
	m.emit = m.onEmit
	return m
}

// App returns the service.
func (m *Machine) App() App { return m.app }

// Applied returns the log position of the last applied entry; zeros before the first.
func (m *Machine) Applied() (index, epoch uint64) { return m.index, m.epoch }

// LogTime returns the highest time of an applied entry, in Unix milliseconds.
func (m *Machine) LogTime() int64 { return m.time }

// NextEvent returns the number that the next event will get.
func (m *Machine) NextEvent() uint64 { return m.events.next }

// Events returns kept events from number seq on: at most maxEvents, and at most maxBytes of bodies, but at least one if
// there is one. They are first, first+1, ..., next-1. first is higher than seq if the events between are no longer kept,
// and lower if seq is beyond the end of the log; seq 0 means the end of the log.
func (m *Machine) Events(seq uint64, maxEvents, maxBytes int) (first uint64, times []int64, bodies [][]byte, next uint64) {
	return m.events.from(seq, maxEvents, maxBytes)
}

// Usage is the size of a machine's tables.
type Usage struct {
	Sessions   int // open sessions
	ReplyBytes int // of the cached replies, with 64 bytes for each
	EventBytes int // of the kept events, with 32 bytes for each
}

// Usage returns the size of the tables.
func (m *Machine) Usage() Usage {
	return Usage{Sessions: m.sessions.len(), ReplyBytes: m.sessions.bytes, EventBytes: m.events.bytes}
}

// Room returns how many sessions can be opened before one has to be evicted.
func (m *Machine) Room() int { return m.lim.Sessions - m.sessions.len() }

// Apply executes the next committed entry; it panics on any other. The machine and the service keep e.Body.
func (m *Machine) Apply(e core.Entry) Result {
	if e.Index != m.index+1 {
		panic(m.errorf(transport.CodeUnknown, "entry %d applied after %d", e.Index, m.index).Message)
	}
	a := Result{
		Index: e.Index, Epoch: e.Epoch, Kind: e.Kind, Session: e.Session, Seq: e.Seq,
		First: m.events.next, Next: m.events.next,
	}
	if e.Kind < core.EpochStart || e.Kind > core.Refusal {
		a.Halt = m.errorf(wire.CodeHalted, "entry %d is of the unknown kind %d", e.Index, e.Kind)
		return a
	}
	m.index, m.epoch, m.time = e.Index, e.Epoch, max(m.time, e.Time)
	m.mixEntry(e)
	if len(m.inflight) > 0 {
		m.settle(e)
	}
	switch e.Kind {
	case core.OpenSession:
		m.applyOpen(e, &a)
	case core.CloseSession:
		if s := m.sessions.get(e.Session); s == nil {
			a.Err = m.Expired(e.Session)
		} else {
			m.end(s, e, &a)
		}
	case core.Command, core.Refusal:
		m.applyCommand(e, &a)
	case core.HashCheck:
		m.applyHashCheck(e, &a)
	}
	a.Next = m.events.next
	m.mixOutcome(&a)
	return a
}

func (m *Machine) applyOpen(e core.Entry, a *Result) {
	var key transport.Key
	if e.Session == 0 || len(e.Body) != len(key) {
		a.Err = m.errorf(transport.CodeBadMessage, "session %d opened with %d bytes of key", e.Session, len(e.Body))
		return
	}
	copy(key[:], e.Body)
	switch s := m.sessions.get(e.Session); {
	case s == nil:
		if m.sessions.full() {
			m.end(m.sessions.oldest(), e, a)
		}
		m.sessions.open(e.Session, key, m.time)
	case s.key != key:
		a.Err = m.forbidden(e.Session)
	default:
		m.sessions.touch(s, m.time)
	}
}

// end ends a session because of entry e, and calls SessionClosed.
func (m *Machine) end(s *sessionSlot, e core.Entry, a *Result) {
	cmd := m.command(e)
	cmd.Session, cmd.Seq, cmd.Key, cmd.Body, cmd.Emit = s.id, 0, s.key, nil, m.emit
	a.Ended = s.id
	m.sessions.remove(s.id)
	m.run(func() error { m.app.SessionClosed(cmd); return nil }, "SessionClosed")
	m.publish()
}

// applyCommand executes a command or a refusal exactly once, whatever was admitted: only the log counts.
func (m *Machine) applyCommand(e core.Entry, a *Result) {
	s := m.sessions.get(e.Session)
	switch {
	case s == nil:
		a.Err = m.Expired(e.Session)
		return
	case e.Seq != 0 && e.Seq <= s.last():
		r := m.cached(s, e.Seq)
		a.Index, a.Epoch, a.Reply, a.Err, a.Duplicate = r.Index, r.Epoch, r.Reply, r.Err, true
		return
	case e.Seq != s.last()+1:
		a.Err = m.errorf(wire.CodeOutOfOrder, "session %d: command %d came after %d", e.Session, e.Seq, s.last())
		return
	}
	m.sessions.touch(s, m.time)
	m.sessions.forget(s, e.Low)
	if e.Kind == core.Refusal {
		if err, ok := readRefusal(e.Body); ok && len(err.Message)+len(err.Data) <= m.lim.MaxReply {
			a.Err = err
		} else {
			a.Err = m.errorf(wire.CodeApplication, "session %d: command %d was refused", e.Session, e.Seq)
		}
	} else {
		a.Reply, a.Err = m.execute(e, s)
	}
	m.sessions.add(s, cachedReply{index: e.Index, epoch: e.Epoch, body: a.Reply, err: a.Err})
	m.mix(uint64(m.sessions.bytes))
}

// execute calls the service's Apply.
func (m *Machine) execute(e core.Entry, s *sessionSlot) (reply []byte, failed *transport.Error) {
	cmd := m.command(e)
	cmd.Key, cmd.Emit = s.key, m.emit
	reply, failed = m.callApply(cmd)
	m.publish()
	if failed == nil && len(reply) > m.lim.MaxReply {
		failed = m.errorf(wire.CodeReplyGone, "session %d: command %d was executed, its reply of %d bytes is more than %d", e.Session, e.Seq,
			len(reply), m.lim.MaxReply)
	}
	if m.tooLarge > 0 {
		failed = m.errorf(wire.CodeReplyGone, "session %d: command %d was executed, its event of %d bytes is more than %d", e.Session, e.Seq,
			m.tooLarge, m.lim.MaxReply)
	}
	if failed != nil || len(reply) == 0 {
		reply = nil
	}
	return reply, failed
}

func (m *Machine) callApply(cmd Command) (reply []byte, failed *transport.Error) {
	m.begin()
	defer m.finish("Apply", &failed)
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
		*failed = m.errorf(wire.CodePanic, "%s panicked", method)
		if m.OnPanic != nil {
			m.OnPanic(method, v, debug.Stack())
		}
	}
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

// publish moves the emitted events to the event log.
func (m *Machine) publish() {
	for i, body := range m.emitted {
		m.mixBytes(body)
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

// command converts e, with an Emit that does nothing.
func (m *Machine) command(e core.Entry) Command {
	cmd := Command{
		Index: e.Index, Epoch: e.Epoch, Time: time.UnixMilli(max(m.time, e.Time)).UTC(),
		Session: e.Session, Seq: e.Seq, Body: e.Body, Emit: discard,
	}
	if s := m.sessions.get(e.Session); s != nil {
		cmd.Key = s.key
	} else {
		cmd.Key = m.inflight[e.Session].key
	}
	return cmd
}

// Validate calls the service's Validate with a command that is not ordered yet.
func (m *Machine) Validate(e core.Entry) error {
	cmd := m.command(e)
	if err := m.protect("Validate", func() error { return m.app.Validate(cmd) }); err != nil {
		return err
	}
	return nil
}

// Query calls the service's Query.
func (m *Machine) Query(q []byte) ([]byte, error) {
	var reply []byte
	var none bool
	err := m.protect("Query", func() (err error) {
		reply, err = m.app.Query(q)
		none = err == ErrNoQuery
		return err
	})
	switch {
	case none:
		return nil, m.errorf(wire.CodeNoQuery, "the service answers no queries")
	case err != nil:
		return nil, err
	case len(reply) > m.lim.MaxReply:
		return nil, m.errorf(wire.CodeTooLarge, "answer to a query of %d bytes, more than %d", len(reply), m.lim.MaxReply)
	}
	return reply, nil
}

// protect calls the service where it must not emit.
func (m *Machine) protect(method string, f func() error) (failed *transport.Error) {
	defer m.finish(method, &failed)
	return m.serviceError(f())
}

// serviceError converts an error of the service for the log and for clients; nil stays nil. The library's own codes would
// mislead a client, so most of them become CodeApplication.
func (m *Machine) serviceError(err error) *transport.Error {
	if err == nil {
		return nil
	}
	e := &transport.Error{Code: wire.CodeApplication, Message: strings.ToValidUTF8(err.Error(), "\uFFFD")}
	if t, ok := errors.AsType[*transport.Error](err); ok {
		if len(t.Data) > 0 {
			e.Data = t.Data
		}
		if t.Code >= 300 || t.Code == wire.CodeForbidden || t.Code == wire.CodeTooLarge || t.Code == wire.CodeNoQuery {
			e.Code = t.Code
		}
	}
	if len(e.Message)+len(e.Data) > m.lim.MaxReply {
		return m.errorf(wire.CodeApplication, "error of %d bytes, more than %d", len(e.Message)+len(e.Data), m.lim.MaxReply)
	}
	return e
}

func (m *Machine) errorf(code transport.Code, format string, args ...any) *transport.Error {
	return transport.Errorf(code, "migrate: service "+strings.ReplaceAll(m.service, "%", "%%")+": "+format, args...)
}

// Expired returns the error for a session that is unknown or has ended.
func (m *Machine) Expired(session uint64) *transport.Error {
	return m.errorf(wire.CodeSessionExpired, "session %d is unknown or has ended", session)
}

func (m *Machine) forbidden(session uint64) *transport.Error {
	return m.errorf(wire.CodeForbidden, "session %d belongs to another key", session)
}

// RefusalBody encodes an error of [Machine.Validate] as the body of a Refusal: uvarints of the code and of the message's
// length, the message, the data.
func RefusalBody(err error) []byte {
	e, ok := errors.AsType[*transport.Error](err)
	if !ok {
		e = transport.Errorf(wire.CodeApplication, "%s", err.Error())
	}
	b := make([]byte, 0, 16+len(e.Message)+len(e.Data))
	b = binary.AppendUvarint(b, uint64(e.Code))
	b = binary.AppendUvarint(b, uint64(len(e.Message)))
	b = append(b, e.Message...)
	return append(b, e.Data...)
}

func readRefusal(b []byte) (*transport.Error, bool) {
	code, n := binary.Uvarint(b)
	if n <= 0 || code == 0 || code > 1<<32-1 {
		return nil, false
	}
	b = b[n:]
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, false
	}
	b = b[n:]
	e := &transport.Error{Code: transport.Code(code), Message: string(b[:size])}
	if b = b[size:]; len(b) > 0 {
		e.Data = b
	}
	return e, true
}
