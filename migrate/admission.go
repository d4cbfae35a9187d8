package migrate

import (
	"errors"
	"iter"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/transport"
)

// verdict says what to do with a request of a client.
type verdict uint8

const (
	verdictAppend  verdict = iota + 1 // append the entry, and call ordered
	verdictReplied                    // it was applied before: answer reply
	verdictPending                    // it is in the log: answer when the entry with this Session and Seq is applied
	verdictRefused                    // answer err
)

type admission struct {
	verdict verdict
	reply   applied
	err     error
}

func refused(err error) admission { return admission{verdict: verdictRefused, err: err} }

// inflightSession is what the entries of a session that are not applied yet will make of it.
type inflightSession struct {
	index   uint64 // of the latest of them
	last    uint64 // the highest command among them
	low     uint64 // the highest Low among them
	key     transport.Key
	opening bool // it is not in the table, but will be
	closing bool
}

// idle yields the sessions without an entry in flight that were last used before the log time given, oldest first. The
// machine must not change meanwhile.
func (m *machine) idle(before int64) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for s := range m.sessions.byUse() {
			if s.used >= before {
				return
			}
			if _, busy := m.inflight[s.id]; !busy && !yield(s.id) {
				return
			}
		}
	}
}

// admit decides about command seq of a session on the active host. low is the lowest command whose reply the client
// still wants, and key what its connection proved.
func (m *machine) admit(session, seq, low uint64, key transport.Key) admission {
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
	case seq == 0 || seq > ordered+1:
		return refused(m.errorf(CodeOutOfOrder, "session %d: command %d came after %d", session, seq, ordered))
	case seq <= last:
		r := m.cached(s, seq)
		return admission{verdict: verdictReplied, reply: r}
	case seq <= ordered:
		return admission{verdict: verdictPending}
	case seq-max(first, f.low, min(low, seq)) >= uint64(m.lim.RepliesPerSession):
		return refused(m.errorf(CodeRetry, "session %d: %d replies wait for the client", session, m.lim.RepliesPerSession))
	}
	return admission{verdict: verdictAppend}
}

// admitOpen decides about opening a session; resume is set when the client knows that it exists.
func (m *machine) admitOpen(session uint64, key transport.Key, resume bool) admission {
	if session == 0 {
		return refused(m.errorf(transport.CodeBadMessage, "session is 0"))
	}
	switch s, _, err := m.find(session, key); {
	case errors.Is(err, ErrSessionExpired) && !resume:
		return admission{verdict: verdictAppend}
	case err != nil:
		return refused(err)
	case s == nil:
		return admission{verdict: verdictPending}
	default:
		return admission{verdict: verdictReplied, reply: applied{
			Index: m.index, Epoch: m.epoch, Kind: core.OpenSession, Session: session,
			First: m.events.next, Next: m.events.next,
		}}
	}
}

// admitClose decides about a client's wish to end its session.
func (m *machine) admitClose(session uint64, key transport.Key) admission {
	if _, f, err := m.find(session, key); err != nil {
		if f.closing && errors.Is(err, ErrRetry) {
			return admission{verdict: verdictPending}
		}
		return refused(err)
	}
	return admission{verdict: verdictAppend}
}

// find looks a session up as it will be when all that is in flight is applied: s is nil if it will only then be opened.
func (m *machine) find(session uint64, key transport.Key) (s *sessionSlot, f inflightSession, err error) {
	s, f = m.sessions.get(session), m.inflight[session]
	switch {
	case s == nil && !f.opening:
		return nil, f, m.expired(session)
	case s != nil && s.key != key, s == nil && f.key != key:
		return nil, f, m.forbidden(session)
	case f.closing:
		// Not expired yet: the entry that ends the session may still be lost with this host.
		return nil, f, m.errorf(CodeRetry, "session %d is about to end", session)
	}
	return s, f, nil
}

// ordered notes that an entry was appended to the log of the active host.
func (m *machine) ordered(e core.Entry) {
	f := m.inflight[e.Session]
	switch e.Kind {
	case core.OpenSession:
		if m.sessions.get(e.Session) == nil && !f.opening {
			f = inflightSession{opening: true}
			copy(f.key[:], e.Body)
		}
	case core.CloseSession:
		f.closing = true
	case core.Command, core.Refusal:
		f.last = max(f.last, e.Seq)
		f.low = max(f.low, min(e.Low, e.Seq))
	default:
		return
	}
	f.index = e.Index
	put(&m.inflight, e.Session, f)
}

// resetOrdered forgets what was appended and takes tail, the entries not applied yet, instead: on becoming the active
// host the log's tail, and nil on ceasing to be it.
func (m *machine) resetOrdered(tail []core.Entry) {
	clear(m.inflight)
	for _, e := range tail {
		if e.Index > m.index {
			m.ordered(e)
		}
	}
}

// settle notes that an entry in flight is applied.
func (m *machine) settle(e core.Entry) {
	f, ok := m.inflight[e.Session]
	if !ok {
		return
	}
	if e.Index >= f.index {
		delete(m.inflight, e.Session)
		return
	}
	switch e.Kind {
	case core.OpenSession:
		f.opening = false
	case core.CloseSession:
		f.closing = false
	default:
		return
	}
	m.inflight[e.Session] = f
}
