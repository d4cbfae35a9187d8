package migrate

import (
	"encoding/binary"
	"errors"
	"runtime/debug"
	"strings"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/transport"
)

// machine is what a host does with committed entries. It wraps the service's Migratable and holds what is replicated
// beside it: the sessions with the replies that clients may ask for again, the events, log time, and a running hash.
//
// It is deterministic: machines that applied the same entries, whether directly or through a snapshot, are equal. It has
// no clock, no goroutine and no lock; its owner calls it from one goroutine. Only a machineSnapshot lives apart from it.
type machine struct {
	service string
	sm      Migratable
	lim     machineLimits

	index, epoch uint64
	time         int64 // log time, Unix milliseconds
	sum          uint64
	sums         *[hashPoints]hashPoint // see point
	sessions     sessionTable
	events       eventLog

	// onPanic, if set, is told of a panic in the service's code with its stack. For "Release" it is called on the
	// goroutine that releases the snapshot, for all else on the owner's.
	onPanic func(method string, value any, stack []byte)

	// While the host is active: the sessions with entries that are appended and not applied yet; nil if there never were any.
	inflight map[uint64]inflightSession

	applying bool
	emitted  [][]byte
	tooLarge int // the size of an event of the present entry that was over the limit
	emit     func([]byte)
}

// machineLimits bounds the memory of a machine; 0 stands for the default. Except for EventBytes they decide what is
// replicated, so that all hosts of a service must have the same.
type machineLimits struct {
	// Sessions is how many sessions there are; one more ends the least recently used. 65,536.
	Sessions int
	// RepliesPerSession and ReplyBytesPerSession bound the replies kept for a session, ReplyBytes those of all sessions.
	// 1,024, 8 MiB and 64 MiB.
	//
	// A command that is RepliesPerSession or more beyond the lowest whose reply the client still wants is not admitted
	// (CodeRetry): that slows a client down that has more than that on their way. Over the other two limits the oldest
	// replies of the session, then all of the least recently used sessions, are dropped early: a client that asks for one
	// again learns that its command was executed, with CodeReplyGone, and never executes it twice.
	RepliesPerSession, ReplyBytesPerSession, ReplyBytes int
	// EventBytes bounds the events kept for clients that resume, with 32 bytes for each beside its body. 16 MiB.
	EventBytes int
	// MaxReply bounds one reply, the message and data of one error, and one event. 1 MiB - 4 KiB.
	MaxReply int
}

func (l machineLimits) withDefaults() machineLimits {
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

// applied is the outcome of an entry.
type applied struct {
	// Index and Epoch are the place in the log of the entry whose reply this is: an earlier one if Duplicate is set.
	Index, Epoch uint64
	Kind         core.Kind
	Session, Seq uint64

	// Reply, or else Err, is the answer for the client of an OpenSession, CloseSession, Command or Refusal.
	Reply []byte
	Err   *transport.Error
	// Duplicate is set when the command had been applied before: nothing was done.
	Duplicate bool

	// The events First, ..., Next-1 were emitted.
	First, Next uint64
	// Ended is the session that the entry ended: a closed one, or the one that had to make room. 0 for none.
	Ended uint64
	// Mismatch is set when a HashCheck holds another hash than this machine had: one of the two hosts is wrong.
	Mismatch bool
	// Halt is set, and nothing was done, when the entry is of a kind that this version does not know.
	Halt error
}

// newMachine makes the machine of a service that begins. sm is empty.
func newMachine(service string, sm Migratable, lim machineLimits) *machine {
	lim = lim.withDefaults()
	m := &machine{
		service: service,
		sm:      sm,
		lim:     lim,
		events:  newEventLog(lim.EventBytes),
	}
	m.sessions.lim = &m.lim
	m.emit = m.onEmit
	return m
}

// applied returns the latest entry's place in the log; zeros before the first.
func (m *machine) applied() (index, epoch uint64) { return m.index, m.epoch }

// logTime is the highest time of an applied entry, in Unix milliseconds.
func (m *machine) logTime() int64 { return m.time }

// nextEvent is the number of the event to come.
func (m *machine) nextEvent() uint64 { return m.events.next }

// apply executes the next committed entry; it panics on any other. e.Body is kept by the machine and the service.
func (m *machine) apply(e core.Entry) applied {
	if e.Index != m.index+1 {
		panic(m.errorf(transport.CodeUnknown, "entry %d applied after %d", e.Index, m.index).Message)
	}
	a := applied{
		Index: e.Index, Epoch: e.Epoch, Kind: e.Kind, Session: e.Session, Seq: e.Seq,
		First: m.events.next, Next: m.events.next,
	}
	if e.Kind < core.EpochStart || e.Kind > core.Refusal {
		a.Halt = m.errorf(CodeHalted, "entry %d is of the unknown kind %d", e.Index, e.Kind)
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
			a.Err = m.expired(e.Session)
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

func (m *machine) applyOpen(e core.Entry, a *applied) {
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

// end ends a session by the entry e and tells the service.
func (m *machine) end(s *sessionSlot, e core.Entry, a *applied) {
	cmd := m.command(e)
	cmd.Session, cmd.Seq, cmd.Key, cmd.Body, cmd.emit = s.id, 0, s.key, nil, m.emit
	a.Ended = s.id
	m.sessions.remove(s.id)
	if closer, ok := m.sm.(SessionCloser); ok {
		m.run(func() error { closer.SessionClosed(cmd); return nil }, "SessionClosed")
		m.publish()
	}
}

// applyCommand executes a command or a refusal exactly once, whatever was admitted: the log is the truth.
func (m *machine) applyCommand(e core.Entry, a *applied) {
	s := m.sessions.get(e.Session)
	switch {
	case s == nil:
		a.Err = m.expired(e.Session)
		return
	case e.Seq != 0 && e.Seq <= s.last():
		r := m.cached(s, e.Seq)
		a.Index, a.Epoch, a.Reply, a.Err, a.Duplicate = r.Index, r.Epoch, r.Reply, r.Err, true
		return
	case e.Seq != s.last()+1:
		a.Err = m.errorf(CodeOutOfOrder, "session %d: command %d came after %d", e.Session, e.Seq, s.last())
		return
	}
	m.sessions.touch(s, m.time)
	m.sessions.forget(s, e.Low)
	if e.Kind == core.Refusal {
		if err, ok := decodeError(e.Body); ok && len(err.Message)+len(err.Data) <= m.lim.MaxReply {
			a.Err = err
		} else {
			a.Err = m.errorf(CodeApplication, "session %d: command %d was refused", e.Session, e.Seq)
		}
	} else {
		a.Reply, a.Err = m.execute(e, s)
	}
	m.sessions.add(s, cachedReply{index: e.Index, epoch: e.Epoch, body: a.Reply, err: a.Err})
	m.mix(uint64(m.sessions.bytes))
}

// execute runs the service's Apply. s does not move meanwhile.
func (m *machine) execute(e core.Entry, s *sessionSlot) (reply []byte, failed *transport.Error) {
	cmd := m.command(e)
	cmd.Key, cmd.emit = s.key, m.emit
	reply, failed = m.callApply(cmd)
	m.publish()
	if failed == nil && len(reply) > m.lim.MaxReply {
		failed = m.errorf(CodeReplyGone, "session %d: command %d was executed, its reply of %d bytes is more than %d", e.Session, e.Seq,
			len(reply), m.lim.MaxReply)
	}
	if m.tooLarge > 0 {
		failed = m.errorf(CodeReplyGone, "session %d: command %d was executed, its event of %d bytes is more than %d", e.Session, e.Seq,
			m.tooLarge, m.lim.MaxReply)
	}
	if failed != nil || len(reply) == 0 {
		reply = nil
	}
	return reply, failed
}

func (m *machine) callApply(cmd Command) (reply []byte, failed *transport.Error) {
	m.begin()
	defer m.finish("Apply", &failed)
	reply, err := m.sm.Apply(cmd)
	return reply, m.serviceError(err)
}

// run calls into the service and turns its error, or its panic, into a *transport.Error.
func (m *machine) run(f func() error, method string) (failed *transport.Error) {
	m.begin()
	defer m.finish(method, &failed)
	return m.serviceError(f())
}

func (m *machine) begin() {
	m.applying, m.tooLarge = true, 0
	clear(m.emitted)
	m.emitted = m.emitted[:0]
}

// finish ends what begin began. After a panic the events emitted before it are dropped. The error says nothing of the
// panic's value, which may differ from host to host.
func (m *machine) finish(method string, failed **transport.Error) {
	m.applying = false
	if v := recover(); v != nil {
		clear(m.emitted)
		m.emitted, m.tooLarge = m.emitted[:0], 0
		*failed = m.errorf(CodePanic, "%s panicked", method)
		if m.onPanic != nil {
			m.onPanic(method, v, debug.Stack())
		}
	}
}

func (m *machine) onEmit(body []byte) {
	switch {
	case !m.applying:
		panic("migrate: Emit outside Apply and SessionClosed")
	case len(body) > m.lim.MaxReply:
		m.tooLarge = len(body)
	default:
		m.emitted = append(m.emitted, body)
	}
}

// publish moves what was emitted to the log of events.
func (m *machine) publish() {
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

// cached answers a command of s that was applied before.
func (m *machine) cached(s *sessionSlot, seq uint64) applied {
	a := applied{Kind: core.Command, Session: s.id, Seq: seq, Duplicate: true, First: m.events.next, Next: m.events.next}
	if seq < s.first {
		a.Err = m.errorf(CodeReplyGone, "session %d: command %d was executed, its reply is no longer kept", s.id, seq)
		return a
	}
	r := s.reply(seq)
	a.Index, a.Epoch, a.Reply, a.Err = r.index, r.epoch, r.body, r.err
	return a
}

// command is e as the service sees it, without the means to emit.
func (m *machine) command(e core.Entry) Command {
	cmd := Command{
		Index: e.Index, Epoch: e.Epoch, Time: time.UnixMilli(max(m.time, e.Time)).UTC(),
		Session: e.Session, Seq: e.Seq, Body: e.Body,
	}
	if s := m.sessions.get(e.Session); s != nil {
		cmd.Key = s.key
	} else {
		cmd.Key = m.inflight[e.Session].key
	}
	return cmd
}

// validate asks the service's Validator, if it is one, about a command that is not ordered yet.
func (m *machine) validate(cmd Command) error {
	v, ok := m.sm.(Validator)
	if !ok {
		return nil
	}
	cmd.emit = nil
	if err := m.protect("Validate", func() error { return v.Validate(cmd) }); err != nil {
		return err
	}
	return nil
}

// query asks the service's Querier.
func (m *machine) query(q []byte) ([]byte, error) {
	querier, ok := m.sm.(Querier)
	if !ok {
		return nil, m.errorf(CodeNoQuery, "the service answers no queries")
	}
	var reply []byte
	err := m.protect("Query", func() (err error) { reply, err = querier.Query(q); return err })
	switch {
	case err != nil:
		return nil, err
	case len(reply) > m.lim.MaxReply:
		return nil, m.errorf(CodeTooLarge, "answer to a query of %d bytes, more than %d", len(reply), m.lim.MaxReply)
	}
	return reply, nil
}

// protect calls into the service where it must not emit.
func (m *machine) protect(method string, f func() error) (failed *transport.Error) {
	defer m.finish(method, &failed)
	return m.serviceError(f())
}

// serviceError makes an error of the service fit for the log and for clients: nil for nil. Codes that speak of the
// library's own affairs would mislead a client and become CodeApplication.
func (m *machine) serviceError(err error) *transport.Error {
	if err == nil {
		return nil
	}
	e := &transport.Error{Code: CodeApplication, Message: strings.ToValidUTF8(err.Error(), "\uFFFD")}
	if t, ok := errors.AsType[*transport.Error](err); ok {
		if len(t.Data) > 0 {
			e.Data = t.Data
		}
		if t.Code >= 300 || t.Code == CodeForbidden || t.Code == CodeTooLarge || t.Code == CodeNoQuery {
			e.Code = t.Code
		}
	}
	if len(e.Message)+len(e.Data) > m.lim.MaxReply {
		return m.errorf(CodeApplication, "error of %d bytes, more than %d", len(e.Message)+len(e.Data), m.lim.MaxReply)
	}
	return e
}

func (m *machine) errorf(code transport.Code, format string, args ...any) *transport.Error {
	return transport.Errorf(code, "migrate: service "+strings.ReplaceAll(m.service, "%", "%%")+": "+format, args...)
}

func (m *machine) expired(session uint64) *transport.Error {
	return m.errorf(CodeSessionExpired, "session %d is unknown or has ended", session)
}

func (m *machine) forbidden(session uint64) *transport.Error {
	return m.errorf(CodeForbidden, "session %d belongs to another key", session)
}

// encodeError makes the body of a Refusal from what validate returned: uvarints of the code and of the message's length,
// the message, the data.
func encodeError(err error) []byte {
	e, ok := errors.AsType[*transport.Error](err)
	if !ok {
		e = transport.Errorf(CodeApplication, "%s", err.Error())
	}
	b := make([]byte, 0, 16+len(e.Message)+len(e.Data))
	b = binary.AppendUvarint(b, uint64(e.Code))
	b = binary.AppendUvarint(b, uint64(len(e.Message)))
	b = append(b, e.Message...)
	return append(b, e.Data...)
}

func decodeError(b []byte) (*transport.Error, bool) {
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
