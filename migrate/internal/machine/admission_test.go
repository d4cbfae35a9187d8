package machine

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// appended notes entries as an active host does when it appends them to its log.
type appended struct {
	l    *logFor
	tail []core.Entry
}

func (a *appended) add(e core.Entry) {
	e.Index = a.l.m.index + 1 + uint64(len(a.tail))
	e.Epoch = 1
	a.tail = append(a.tail, e)
	a.l.m.Ordered(e)
}

func (a *appended) command(session, seq uint64) {
	a.add(core.Entry{Kind: core.Command, Session: session, Seq: seq, Low: 1, Body: []byte("x")})
}

func (a *appended) apply() Result {
	e := a.tail[0]
	a.tail = a.tail[1:]
	return a.l.m.Apply(e)
}

func requireRefused(t *testing.T, want error, got Admission) {
	t.Helper()
	require.Equal(t, Refused, got.Verdict)
	require.ErrorIs(t, got.Err, want)
	require.ErrorContains(t, got.Err, "journal.example")
}

func TestAdmission(t *testing.T) {
	l, _ := newTestMachine(Limits{})
	m, log := l.m, &appended{l: l}
	key, other := transport.Key{1}, transport.Key{2}

	// A command never opens a session.
	requireRefused(t, wire.ErrSessionExpired, m.Admit(9, 1, 1, key))
	requireRefused(t, wire.ErrSessionExpired, m.AdmitOpen(9, key, true))
	requireRefused(t, wire.ErrSessionExpired, m.AdmitClose(9, key))
	requireRefused(t, transport.ErrBadMessage, m.AdmitOpen(0, key, false))
	require.Equal(t, Append, m.AdmitOpen(9, key, false).Verdict)

	// While its opening is in flight, commands may follow.
	log.add(core.Entry{Kind: core.OpenSession, Session: 9, Body: key[:]})
	require.Equal(t, Pending, m.AdmitOpen(9, key, false).Verdict)
	require.Equal(t, Pending, m.AdmitOpen(9, key, true).Verdict)
	requireRefused(t, wire.ErrForbidden, m.AdmitOpen(9, other, false))
	requireRefused(t, wire.ErrForbidden, m.Admit(9, 1, 1, other))
	require.Equal(t, key, m.key(9))
	require.Equal(t, Append, m.Admit(9, 1, 1, key).Verdict)
	requireRefused(t, wire.ErrOutOfOrder, m.Admit(9, 2, 1, key))
	log.command(9, 1)
	require.Equal(t, Pending, m.Admit(9, 1, 1, key).Verdict)
	require.Equal(t, Append, m.Admit(9, 2, 1, key).Verdict)
	log.command(9, 2)

	log.apply()
	require.Equal(t, Replied, m.AdmitOpen(9, key, true).Verdict)
	requireRefused(t, wire.ErrForbidden, m.AdmitOpen(9, other, false))
	require.Equal(t, Pending, m.Admit(9, 1, 1, key).Verdict)
	one := log.apply()
	got := m.Admit(9, 1, 1, key)
	require.Equal(t, Replied, got.Verdict)
	require.Equal(t, one.Reply, got.Reply.Reply)
	require.Equal(t, one.Index, got.Reply.Index)
	require.Equal(t, Pending, m.Admit(9, 2, 1, key).Verdict)
	requireRefused(t, wire.ErrForbidden, m.Admit(9, 3, 1, other))
	requireRefused(t, wire.ErrOutOfOrder, m.Admit(9, 0, 1, key))
	requireRefused(t, wire.ErrOutOfOrder, m.Admit(9, 4, 1, key))
	log.apply()
	require.Equal(t, Append, m.Admit(9, 3, 3, key).Verdict)
	require.Empty(t, m.inflight, "what is applied is not in flight")

	// A dropped reply: the command was executed, and the session stays open.
	log.add(core.Entry{Kind: core.Command, Session: 9, Seq: 3, Low: 3})
	log.apply()
	got = m.Admit(9, 2, 1, key)
	require.Equal(t, Replied, got.Verdict)
	require.ErrorIs(t, got.Reply.Err, wire.ErrReplyGone)

	// About to end: neither admitted nor expired until the closing entry is applied.
	require.Equal(t, Append, m.AdmitClose(9, key).Verdict)
	requireRefused(t, wire.ErrForbidden, m.AdmitClose(9, other))
	log.add(core.Entry{Kind: core.CloseSession, Session: 9})
	requireRefused(t, wire.ErrRetry, m.Admit(9, 4, 4, key))
	requireRefused(t, wire.ErrRetry, m.AdmitOpen(9, key, true))
	requireRefused(t, wire.ErrRetry, m.AdmitOpen(9, key, false))
	require.Equal(t, Pending, m.AdmitClose(9, key).Verdict)
	log.apply()
	requireRefused(t, wire.ErrSessionExpired, m.Admit(9, 4, 4, key))
	require.Equal(t, Append, m.AdmitOpen(9, key, false).Verdict)
}

// A session that a late request has begun again after its end is not taken for that of the client, which has replies to
// commands that the new one never had.
func TestAdmissionOfReplacedSession(t *testing.T) {
	l, _ := newTestMachine(Limits{})
	m, log := l.m, &appended{l: l}
	key := transport.Key{1}
	log.add(core.Entry{Kind: core.OpenSession, Session: 9, Body: key[:]})
	require.Equal(t, Append, m.Admit(9, 1, 1, key).Verdict)
	requireRefused(t, wire.ErrSessionExpired, m.Admit(9, 3, 3, key))
	log.command(9, 1)
	requireRefused(t, wire.ErrSessionExpired, m.Admit(9, 4, 3, key))
	requireRefused(t, wire.ErrOutOfOrder, m.Admit(9, 4, 2, key))
	log.apply()
	log.apply()
	requireRefused(t, wire.ErrSessionExpired, m.Admit(9, 3, 3, key))
	requireRefused(t, wire.ErrOutOfOrder, m.Admit(9, 3, 2, key))
	require.Equal(t, Append, m.Admit(9, 2, 2, key).Verdict)
}

// A session in the tail of a new active host may end, begin again and end again: only the last of these decides.
func TestAdmissionOfSessionBegunAgain(t *testing.T) {
	l, _ := newTestMachine(Limits{})
	m, log := l.m, &appended{l: l}
	key := transport.Key{1}
	l.open(9, key)
	log.add(core.Entry{Kind: core.CloseSession, Session: 9})
	log.add(core.Entry{Kind: core.OpenSession, Session: 9, Body: key[:]})
	log.command(9, 1)
	log.add(core.Entry{Kind: core.CloseSession, Session: 9})
	for len(log.tail) > 0 {
		requireRefused(t, wire.ErrRetry, m.Admit(9, 2, 1, key))
		requireRefused(t, wire.ErrRetry, m.AdmitOpen(9, key, true))
		log.apply()
	}
	requireRefused(t, wire.ErrSessionExpired, m.Admit(9, 2, 1, key))
	require.Empty(t, m.inflight)
}

func TestAdmissionAfterTakeover(t *testing.T) {
	l, _ := newTestMachine(Limits{})
	m, log := l.m, &appended{l: l}
	key := transport.Key{1}
	log.add(core.Entry{Kind: core.OpenSession, Session: 9, Body: key[:]})
	log.command(9, 1)
	log.apply()
	log.apply()
	log.add(core.Entry{Kind: core.EpochStart})
	log.command(9, 2)
	log.command(9, 3)
	tail := slices.Clone(log.tail)

	// The host is deposed; the entries in flight may never be committed.
	m.ResetOrdered(nil)
	require.Equal(t, Append, m.Admit(9, 2, 1, key).Verdict)
	requireRefused(t, wire.ErrOutOfOrder, m.Admit(9, 4, 1, key))
	// It becomes active with that tail; the first entry is applied already.
	log.apply()
	m.ResetOrdered(tail)
	require.Equal(t, Pending, m.Admit(9, 3, 1, key).Verdict)
	require.Equal(t, Append, m.Admit(9, 4, 1, key).Verdict)
	log.apply()
	log.apply()
	require.Empty(t, m.inflight)
	require.Equal(t, Append, m.Admit(9, 4, 1, key).Verdict)

	// A tail with an end and a new beginning of the same session.
	log.add(core.Entry{Kind: core.CloseSession, Session: 9})
	log.add(core.Entry{Kind: core.OpenSession, Session: 9, Body: key[:]})
	requireRefused(t, wire.ErrRetry, m.Admit(9, 4, 1, key))
	log.apply()
	log.apply()
	require.Equal(t, Append, m.Admit(9, 1, 1, key).Verdict)
}

func TestAdmissionWindow(t *testing.T) {
	l, _ := newTestMachine(Limits{RepliesPerSession: 4})
	m, log := l.m, &appended{l: l}
	key := transport.Key{1}
	l.open(9, key)
	for seq := range uint64(4) {
		require.Equal(t, Append, m.Admit(9, seq+1, 1, key).Verdict)
		log.command(9, seq+1)
	}
	requireRefused(t, wire.ErrRetry, m.Admit(9, 5, 1, key))
	for range 4 {
		log.apply()
	}
	requireRefused(t, wire.ErrRetry, m.Admit(9, 5, 1, key))
	require.Equal(t, Append, m.Admit(9, 5, 2, key).Verdict)
	require.Equal(t, Append, m.Admit(9, 5, 1<<63, key).Verdict)
	for seq := range uint64(4) {
		require.Equal(t, Replied, m.Admit(9, seq+1, 1, key).Verdict)
		require.Nil(t, m.Admit(9, seq+1, 1, key).Reply.Err)
	}
	// Low counts from the moment the entry that carries it is in the log.
	log.add(core.Entry{Kind: core.Command, Session: 9, Seq: 5, Low: 4})
	require.Equal(t, Append, m.Admit(9, 6, 1, key).Verdict)
}

// TestAdmissionAgreesWithApply: every admitted command is executed exactly once, whatever a client requests.
func TestAdmissionAgreesWithApply(t *testing.T) {
	l, _ := newTestMachine(Limits{RepliesPerSession: 6})
	m, log, r := l.m, &appended{l: l}, newRand(3)
	key := transport.Key{1}
	l.open(9, key)
	executed := uint64(0)
	for range 10_000 {
		if len(log.tail) > 0 && r.IntN(3) == 0 {
			if a := log.apply(); a.Seq != 0 {
				require.Nil(t, a.Err)
				require.False(t, a.Duplicate)
				require.Equal(t, executed+1, a.Seq)
				executed = a.Seq
			}
			continue
		}
		if r.IntN(100) == 0 { // the host was deposed and lost a part of the tail
			log.tail = log.tail[:r.IntN(len(log.tail)+1)]
			m.ResetOrdered(log.tail)
		}
		seq, low := executed+r.Uint64N(10), executed-min(executed, r.Uint64N(3))
		switch v := m.Admit(9, seq, low, key); v.Verdict {
		case Append:
			log.add(core.Entry{Kind: core.Command, Session: 9, Seq: seq, Low: low, Body: []byte("x")})
		case Replied:
			require.LessOrEqual(t, seq, executed)
		case Pending:
			require.True(t, slices.ContainsFunc(log.tail, func(e core.Entry) bool { return e.Seq == seq }))
		}
	}
	require.Greater(t, executed, uint64(500))
}
