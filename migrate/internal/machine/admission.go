package machine

import (
	"errors"
	"iter"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// Verdict is the decision about a client's request.
type Verdict uint8

// The verdicts.
const (
	Append  Verdict = iota + 1 // append the entry, and call Ordered
	Replied                    // it was applied before: answer with Admission.Reply
	Pending                    // it is in the log: answer when the entry with this Session and Seq is applied
	Refused                    // answer with Admission.Err
)

// Admission is the decision about a client's request, with the answer if there is one yet.
type Admission struct {
	Verdict Verdict
	Reply   Result
	Err     error
}

func refused(err error) Admission { return Admission{Verdict: Refused, Err: err} }

// inflightSession describes a session once its entries in flight are applied.
type inflightSession struct {
	index   uint64 // of the last entry
	turn    uint64 // of the last entry that opens or closes it; 0: none
	last    uint64 // the highest command
	low     uint64 // the highest Low
	key     transport.Key
	opening bool // the session is not in the table yet
	closing bool // nor is it known yet how it will be then
}

// Idle yields the sessions without entries in flight, least recently used first, and for how long their clients have been
// disconnected, as last recorded. The body of the loop must not call the machine, which is locked.
func (m *Machine) Idle() iter.Seq2[uint64, time.Duration] {
	return func(yield func(uint64, time.Duration) bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for s := range m.sessions.byUse() {
			if _, busy := m.inflight[s.id]; !busy && s.id != m.ending && !yield(s.id, time.Duration(s.away)*time.Millisecond) {
				return
			}
		}
	}
}

// Admit decides about command seq of a session on the active host. low is the lowest command whose reply the client still
// wants, and key the key that its connection proved.
func (m *Machine) Admit(session, seq, low uint64, key transport.Key) Admission {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, f, err := m.find(session, key)
	if err != nil {
		return refused(err)
	}
	var last uint64
	first := uint64(1)
	if s != nil {
		last, first = s.last(), s.first
	}
	ordered := max(last, f.last)
	switch {
	case seq > ordered+1 && low > ordered+1:
		// The client has the replies to commands before low, so its session has expired. A request to open it, from before that,
		// has come late and begun another one.
		return refused(m.Expired(session))
	case seq == 0 || seq > ordered+1:
		return refused(m.errorf(wire.CodeOutOfOrder, "session %d: command %d came after %d", session, seq, ordered))
	case seq <= last:
		r := m.cached(s, seq)
		return Admission{Verdict: Replied, Reply: r}
	case seq <= ordered:
		return Admission{Verdict: Pending}
	case seq-max(first, f.low, min(low, seq)) >= uint64(m.lim.RepliesPerSession):
		return refused(m.errorf(wire.CodeRetry, "session %d: %d replies wait for the client", session, m.lim.RepliesPerSession))
	}
	return Admission{Verdict: Append}
}

// AdmitOpen decides about opening a session; resume is set if the client has opened it before.
func (m *Machine) AdmitOpen(session uint64, key transport.Key, resume bool) Admission {
	if session == 0 {
		return refused(m.errorf(transport.CodeBadMessage, "session is 0"))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch s, _, err := m.find(session, key); {
	case errors.Is(err, wire.ErrSessionExpired) && !resume:
		if m.sessions.keys[key]+m.openKeys[key] >= m.lim.SessionsPerKey {
			return refused(m.errorf(wire.CodeQuota, "the client's key has %d sessions, which is the limit (Policy.SessionsPerKey): "+
				"end one with Client.Shutdown, or use fewer clients", m.lim.SessionsPerKey))
		}
		return Admission{Verdict: Append}
	case err != nil:
		return refused(err)
	case s == nil:
		return Admission{Verdict: Pending}
	default:
		return Admission{Verdict: Replied, Reply: Result{
			Index: m.index, Epoch: m.epoch, Kind: core.OpenSession, Session: session,
			First: m.events.next, Next: m.events.next,
		}}
	}
}

// AdmitQuery returns the session that a query belongs to: 0 if none is open and the service answers queries without one. It
// returns an error if the query must not be answered.
func (m *Machine) AdmitQuery(session uint64, key transport.Key, public bool) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _, err := m.find(session, key)
	switch {
	case err == nil:
		return session, nil
	case public && errors.Is(err, wire.ErrSessionExpired):
		return 0, nil
	}
	return 0, err
}

// AdmitClose decides about a client's request to end its session.
func (m *Machine) AdmitClose(session uint64, key transport.Key) Admission {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, f, err := m.find(session, key); err != nil {
		if f.closing && errors.Is(err, wire.ErrRetry) {
			return Admission{Verdict: Pending}
		}
		return refused(err)
	}
	return Admission{Verdict: Append}
}

// find looks up a session as it will be once its entries in flight are applied; s is nil if it is still to be
// opened. m.mu is held.
func (m *Machine) find(session uint64, key transport.Key) (s *sessionSlot, f inflightSession, err error) {
	s, f = m.sessions.get(session), m.inflight[session]
	f.closing = f.closing || s != nil && session == m.ending
	switch {
	case s == nil && !f.opening:
		return nil, f, m.Expired(session)
	case s != nil && s.key != key, s == nil && f.key != key:
		return nil, f, m.forbidden(session)
	case f.closing:
		// Not expired yet: the closing entry may be lost with this host.
		return nil, f, m.errorf(wire.CodeRetry, "session %d is about to end", session)
	}
	return s, f, nil
}

// Ordered records an entry that was appended to the log of the active host. It ignores one that is applied already.
func (m *Machine) Ordered(e core.Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ordered(e)
}

func (m *Machine) ordered(e core.Entry) {
	if e.Index <= m.index {
		return
	}
	f := m.inflight[e.Session]
	switch e.Kind {
	case core.OpenSession:
		if f.closing || m.sessions.get(e.Session) == nil && !f.opening {
			f = inflightSession{opening: true, closing: f.closing, turn: e.Index}
			copy(f.key[:], e.Body)
		}
	case core.CloseSession:
		f.closing, f.turn = true, e.Index
	case core.Command, core.Refusal:
		f.last = max(f.last, e.Seq)
		f.low = max(f.low, min(e.Low, e.Seq))
	default:
		return
	}
	f.index = e.Index
	m.setInflight(e.Session, f)
}

// setInflight replaces the description of a session with entries in flight, and counts the sessions that are being opened.
func (m *Machine) setInflight(session uint64, f inflightSession) {
	if m.inflight == nil {
		m.inflight = make(map[uint64]inflightSession)
	}
	m.countOpening(m.inflight[session], -1)
	m.countOpening(f, 1)
	m.inflight[session] = f
}

func (m *Machine) countOpening(f inflightSession, n int) {
	if f.opening {
		m.opening += n
		addTo(&m.openKeys, f.key, n)
	}
}

// ResetOrdered replaces the entries in flight by those of tail that are not applied yet. When the host becomes active, tail
// must hold every entry of the log that is not applied, the one that Apply is executing included; when it is deposed, tail
// is nil.
func (m *Machine) ResetOrdered(tail []core.Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.inflight)
	clear(m.openKeys)
	m.opening = 0
	for _, e := range tail {
		m.ordered(e)
	}
}

// settle removes an applied entry from those in flight; m.mu is held.
func (m *Machine) settle(e core.Entry) {
	f, ok := m.inflight[e.Session]
	if !ok {
		return
	}
	switch {
	case e.Index >= f.index:
		m.countOpening(f, -1)
		delete(m.inflight, e.Session)
	case e.Index == f.turn:
		f.opening, f.closing = false, false
		m.setInflight(e.Session, f)
	}
}
