package sim

import (
	"maps"
	"slices"

	"github.com/roam-go/roam/migrate/internal/core"
)

// Machine applies the committed entries of a log on one host. It stands for the state machine, the session table and the
// replies kept in it.
type Machine interface {
	// Apply executes the next entry.
	Apply(e core.Entry) Applied
	// AdmitOpen and Admit decide about a client's request on the active host.
	AdmitOpen(session uint64, resume bool) Admission
	Admit(session, seq, low uint64) Admission
	// Ordered notes an entry that was appended on the active host; ResetOrdered replaces all that were noted.
	Ordered(e core.Entry)
	ResetOrdered(tail []core.Entry)
	// Capture returns a function that makes a copy of the machine as it is now.
	Capture() func() (Machine, error)
	// Idle lists the sessions that have no entry on its way.
	Idle() []uint64
	// Index is that of the last entry applied, and Time the log's time.
	Index() uint64
	Time() int64
	// Hash and Count tell states apart: a hash of everything, and how many commands were executed. Sum is a hash of these, in
	// their order, as [Chain] makes it.
	Hash() uint64
	Count() uint64
	Sum() uint64
	// Events returns the events that are kept, from a number on; the first is higher than that if older ones are gone. Each
	// command of which [Emits] says so emits its body.
	Events(from uint64) (first uint64, bodies [][]byte)
}

// Chain adds a command to the hash of those executed before it.
func Chain(sum, session uint64, body []byte) uint64 {
	sum = (sum ^ session) * 0x9e3779b97f4a7c15
	for _, b := range body {
		sum = sum*31 + uint64(b)
	}
	return sum ^ sum>>32
}

// Emits reports whether a command emits an event.
func Emits(seq uint64) bool { return seq%3 == 0 }

// Code is what became of a command.
type Code uint8

// The codes.
const (
	OK Code = iota
	Expired
	OutOfOrder
	Retry
	NotActive
	Other
)

func (c Code) String() string {
	return [...]string{"ok", "session expired", "out of order", "retry", "not active", "other"}[c]
}

// Applied is the outcome of an entry. Count is the reply: how many commands were executed, this one included.
type Applied struct {
	Index     uint64
	Count     uint64
	Code      Code
	Duplicate bool
}

// Verdict says what to do with a request.
type Verdict uint8

// The verdicts.
const (
	Append Verdict = iota + 1
	Replied
	Pending
	Refused
)

// Admission is a decision about a request.
type Admission struct {
	Verdict Verdict
	Reply   Applied // if Replied
	Code    Code    // if Refused
}

// Model is the simplest correct machine.
type Model struct {
	index, count, hash, sum uint64
	time                    int64
	events                  [][]byte
	sessions                map[uint64]*modelSession
	last                    map[uint64]uint64 // of each session, the last command in flight
	opening, closing        map[uint64]bool
}

type modelSession struct {
	last    uint64
	replies map[uint64]Applied
}

// NewModel makes the model of a service that begins.
func NewModel() Machine {
	m := &Model{sessions: make(map[uint64]*modelSession)}
	m.ResetOrdered(nil)
	return m
}

// Apply implements [Machine].
func (m *Model) Apply(e core.Entry) Applied {
	if e.Index != m.index+1 {
		panic(failure("an entry was applied out of order"))
	}
	m.index, m.time = e.Index, max(m.time, e.Time)
	a := Applied{Index: e.Index}
	s := m.sessions[e.Session]
	switch e.Kind {
	case core.OpenSession:
		if s == nil {
			m.sessions[e.Session] = &modelSession{replies: make(map[uint64]Applied)}
		}
		delete(m.opening, e.Session)
	case core.CloseSession:
		delete(m.sessions, e.Session)
		delete(m.closing, e.Session)
		if s == nil {
			a.Code = Expired
		}
	case core.Command:
		switch {
		case s == nil:
			a.Code = Expired
		case e.Seq <= s.last:
			a = s.replies[e.Seq]
			a.Duplicate = true
		case e.Seq != s.last+1:
			a.Code = OutOfOrder
		default:
			m.count++
			m.sum = Chain(m.sum, e.Session, e.Body)
			if Emits(e.Seq) {
				m.events = append(m.events, e.Body)
			}
			a.Count = m.count
			s.last = e.Seq
			s.replies[e.Seq] = a
			for q := range s.replies {
				if q < e.Low {
					delete(s.replies, q)
				}
			}
		}
	}
	m.mix(e.Index)
	m.mix(e.Epoch)
	m.mix(e.Session)
	m.mix(e.Seq)
	m.mix(a.Count)
	return a
}

func (m *Model) mix(v uint64) { m.hash = (m.hash ^ v) * 0x9e3779b97f4a7c15 }

// AdmitOpen implements [Machine].
func (m *Model) AdmitOpen(session uint64, resume bool) Admission {
	switch {
	case m.closing[session]:
		return Admission{Verdict: Refused, Code: Retry}
	case m.sessions[session] != nil:
		return Admission{Verdict: Replied}
	case m.opening[session]:
		return Admission{Verdict: Pending}
	case resume:
		return Admission{Verdict: Refused, Code: Expired}
	}
	return Admission{Verdict: Append}
}

// Admit implements [Machine].
func (m *Model) Admit(session, seq, low uint64) Admission {
	s := m.sessions[session]
	if s == nil && !m.opening[session] {
		return Admission{Verdict: Refused, Code: Expired}
	}
	if m.closing[session] {
		return Admission{Verdict: Refused, Code: Retry}
	}
	var applied uint64
	if s != nil {
		applied = s.last
	}
	switch ordered := max(applied, m.last[session]); {
	case seq <= applied:
		a := s.replies[seq]
		a.Duplicate = true
		return Admission{Verdict: Replied, Reply: a}
	case seq <= ordered:
		return Admission{Verdict: Pending}
	case seq != ordered+1:
		return Admission{Verdict: Refused, Code: OutOfOrder}
	}
	return Admission{Verdict: Append}
}

// Ordered implements [Machine].
func (m *Model) Ordered(e core.Entry) {
	switch e.Kind {
	case core.OpenSession:
		m.opening[e.Session] = true
	case core.CloseSession:
		m.closing[e.Session] = true
	case core.Command:
		m.last[e.Session] = max(m.last[e.Session], e.Seq)
	}
}

// ResetOrdered implements [Machine].
func (m *Model) ResetOrdered(tail []core.Entry) {
	m.last, m.opening, m.closing = make(map[uint64]uint64), make(map[uint64]bool), make(map[uint64]bool)
	for _, e := range tail {
		m.Ordered(e)
	}
}

// Capture implements [Machine].
func (m *Model) Capture() func() (Machine, error) {
	c := m.clone()
	return func() (Machine, error) { return c.clone(), nil }
}

func (m *Model) clone() *Model {
	c := *m
	c.events = slices.Clip(m.events)
	c.sessions = make(map[uint64]*modelSession, len(m.sessions))
	for id, s := range m.sessions {
		c.sessions[id] = &modelSession{s.last, maps.Clone(s.replies)}
	}
	c.ResetOrdered(nil)
	return &c
}

// Idle implements [Machine].
func (m *Model) Idle() []uint64 { return slices.Sorted(maps.Keys(m.sessions)) }

// Index implements [Machine].
func (m *Model) Index() uint64 { return m.index }

// Time implements [Machine].
func (m *Model) Time() int64 { return m.time }

// Hash implements [Machine].
func (m *Model) Hash() uint64 { return m.hash }

// Count implements [Machine].
func (m *Model) Count() uint64 { return m.count }

// Sum implements [Machine].
func (m *Model) Sum() uint64 { return m.sum }

// Events implements [Machine].
func (m *Model) Events(from uint64) (uint64, [][]byte) {
	from = min(from, uint64(len(m.events))+1)
	return from, m.events[from-1:]
}
