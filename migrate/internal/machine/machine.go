package machine

import (
	"strings"
	"sync"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// Machine applies the committed entries of one service on one host. It wraps the service's [App] and holds the state that
// is replicated beside it: the sessions with their cached replies, the events, log time, and a running hash. It is
// deterministic: machines that applied the same entries, directly or through a snapshot, are equal. It has no clock and no
// goroutine.
//
// A machine has two owners that work at the same time:
//
//   - The applier calls Apply, Query, Validate, Snapshot and Hash, one at a time. These run the service's code, except for
//     Hash, and may take arbitrarily long.
//   - The loop calls Admit, AdmitOpen, AdmitQuery, AdmitClose, Ordered, ResetOrdered, Idle, Away, Room, Victim and HashCheck,
//     one at a time. These return at once.
//
// Any goroutine may call Applied, LogTime, NextEvent, Events and Usage. Only the applier's methods exclude one another; all
// others may overlap them, and see an entry either in flight or applied with all its effects. A [Capture] is independent of
// the machine.
//
// The service's code, and OnPanic, always run without the lock: they may call the loop's methods.
type Machine struct {
	service string
	app     App
	lim     Limits

	// OnPanic, if set, is called with a panic of the service's code and its stack. For "Release" it is called on the
	// goroutine that releases the snapshot, for everything else by the applier. It must be set before the first call.
	OnPanic func(method string, value any, stack []byte)

	// mu guards the fields below it. Except for inflight only the applier changes them, so that the applier may read them
	// without mu.
	mu           sync.Mutex
	index, epoch uint64
	time         int64                  // log time, Unix milliseconds
	sums         *[hashPoints]hashPoint // see keepSum
	sessions     sessionTable
	events       eventLog
	ending       uint64 // the session whose SessionClosed is running; 0 for none
	// inflight describes, on the active host, the sessions with entries that are appended but not applied yet; it is nil
	// before the first.
	inflight map[uint64]inflightSession
	opening  int                   // the sessions in flight that are not in the table yet
	openKeys map[transport.Key]int // and of each key

	// The applier's own.
	sum      uint64 // the running hash; during Apply, of a part of the entry
	*emitter        // nil before the first command
}

// emitter collects the events of the current entry.
type emitter struct {
	emit     func([]byte) // onEmit
	applying bool
	emitted  [][]byte
	tooLarge int // the size of an event that exceeds the limit
}

// Limits bounds the memory of a [Machine]; zero fields take their defaults. All except EventBytes and SessionsPerKey affect
// the replicated state and must be the same on all hosts of a service.
type Limits struct {
	// Sessions is the maximum number of sessions; opening another ends one of them. It defaults to 65,536.
	Sessions int
	// SessionsPerKey is the maximum number of sessions that AdmitOpen allows a key. Sessions without a key are not limited.
	// It defaults to a quarter of Sessions, but at least 64.
	SessionsPerKey int
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
	set(&l.SessionsPerKey, max(l.Sessions/4, 64))
	set(&l.RepliesPerSession, 1024)
	set(&l.ReplyBytesPerSession, 8<<20)
	set(&l.ReplyBytes, 64<<20)
	set(&l.EventBytes, defaultEventKeep)
	set(&l.MaxReply, 1<<20-4<<10)
	return l
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
	return m
}

// Service returns the name of the service.
func (m *Machine) Service() string { return m.service }

// App returns the service.
func (m *Machine) App() App { return m.app }

// Applied returns the log position of the last applied entry; zeros before the first.
func (m *Machine) Applied() (index, epoch uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.index, m.epoch
}

// LogTime returns the highest time of an applied entry, in Unix milliseconds.
func (m *Machine) LogTime() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.time
}

// NextEvent returns the number that the next event will get.
func (m *Machine) NextEvent() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.events.next
}

// Events returns kept events from number seq on: at most maxEvents, and at most maxBytes of bodies, but at least one if
// there is one. They are first, first+1, ..., next-1. first is higher than seq if the events between are no longer kept,
// and lower if seq is beyond the end of the log; seq 0 means the end of the log.
func (m *Machine) Events(seq uint64, maxEvents, maxBytes int) (first uint64, times []int64, bodies [][]byte, next uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
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
	m.mu.Lock()
	defer m.mu.Unlock()
	return Usage{Sessions: m.sessions.len(), ReplyBytes: m.sessions.bytes, EventBytes: m.events.bytes}
}

// Room reports whether another session can be opened before one has to be evicted. Sessions count from when their entry is
// in the log.
func (m *Machine) Room() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sessions.len()+m.opening < m.lim.Sessions
}

// Victim returns the session to end so that key can open another one, among those without entries in flight that mayEnd
// accepts; 0 if there is none. mayEnd must not call the machine, which is locked.
func (m *Machine) Victim(key transport.Key, mayEnd func(session uint64) bool) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions.victim(key, func(s *sessionSlot) bool {
		_, busy := m.inflight[s.id]
		return !busy && s.id != m.ending && mayEnd(s.id)
	})
	if s == nil {
		return 0
	}
	return s.id
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
