package migrate

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
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
	a.l.m.ordered(e)
}

func (a *appended) command(session, seq uint64) {
	a.add(core.Entry{Kind: core.Command, Session: session, Seq: seq, Low: 1, Body: []byte("x")})
}

func (a *appended) apply() applied {
	e := a.tail[0]
	a.tail = a.tail[1:]
	return a.l.m.apply(e)
}

func requireRefused(t *testing.T, want error, got admission) {
	t.Helper()
	require.Equal(t, verdictRefused, got.verdict)
	require.ErrorIs(t, got.err, want)
	require.ErrorContains(t, got.err, "journal.example")
}

func TestAdmission(t *testing.T) {
	l, _ := newTestMachine(machineLimits{})
	m, log := l.m, &appended{l: l}
	key, other := transport.Key{1}, transport.Key{2}

	// A session that nobody opened is never made.
	requireRefused(t, ErrSessionExpired, m.admit(9, 1, 1, key))
	requireRefused(t, ErrSessionExpired, m.admitOpen(9, key, true))
	requireRefused(t, ErrSessionExpired, m.admitClose(9, key))
	requireRefused(t, transport.ErrBadMessage, m.admitOpen(0, key, false))
	require.Equal(t, verdictAppend, m.admitOpen(9, key, false).verdict)

	// While its opening is in flight, commands may follow.
	log.add(core.Entry{Kind: core.OpenSession, Session: 9, Body: key[:]})
	require.Equal(t, verdictPending, m.admitOpen(9, key, false).verdict)
	require.Equal(t, verdictPending, m.admitOpen(9, key, true).verdict)
	requireRefused(t, ErrForbidden, m.admitOpen(9, other, false))
	requireRefused(t, ErrForbidden, m.admit(9, 1, 1, other))
	require.Equal(t, key, m.command(core.Entry{Session: 9}).Key)
	require.Equal(t, verdictAppend, m.admit(9, 1, 1, key).verdict)
	requireRefused(t, ErrOutOfOrder, m.admit(9, 2, 1, key))
	log.command(9, 1)
	require.Equal(t, verdictPending, m.admit(9, 1, 1, key).verdict)
	require.Equal(t, verdictAppend, m.admit(9, 2, 1, key).verdict)
	log.command(9, 2)

	log.apply()
	require.Equal(t, verdictReplied, m.admitOpen(9, key, true).verdict)
	requireRefused(t, ErrForbidden, m.admitOpen(9, other, false))
	require.Equal(t, verdictPending, m.admit(9, 1, 1, key).verdict)
	one := log.apply()
	got := m.admit(9, 1, 1, key)
	require.Equal(t, verdictReplied, got.verdict)
	require.Equal(t, one.Reply, got.reply.Reply)
	require.Equal(t, one.Index, got.reply.Index)
	require.Equal(t, verdictPending, m.admit(9, 2, 1, key).verdict)
	requireRefused(t, ErrForbidden, m.admit(9, 3, 1, other))
	requireRefused(t, ErrOutOfOrder, m.admit(9, 0, 1, key))
	requireRefused(t, ErrOutOfOrder, m.admit(9, 4, 1, key))
	log.apply()
	require.Equal(t, verdictAppend, m.admit(9, 3, 3, key).verdict)
	require.Empty(t, m.inflight, "what is applied is not in flight")

	// Forgotten: executed, but without a reply; and not a reason to end the session.
	log.add(core.Entry{Kind: core.Command, Session: 9, Seq: 3, Low: 3})
	log.apply()
	got = m.admit(9, 2, 1, key)
	require.Equal(t, verdictReplied, got.verdict)
	require.ErrorIs(t, got.reply.Err, ErrReplyGone)

	// About to end: neither taken nor expired until the end is certain.
	require.Equal(t, verdictAppend, m.admitClose(9, key).verdict)
	requireRefused(t, ErrForbidden, m.admitClose(9, other))
	log.add(core.Entry{Kind: core.CloseSession, Session: 9})
	requireRefused(t, ErrRetry, m.admit(9, 4, 4, key))
	requireRefused(t, ErrRetry, m.admitOpen(9, key, true))
	requireRefused(t, ErrRetry, m.admitOpen(9, key, false))
	require.Equal(t, verdictPending, m.admitClose(9, key).verdict)
	log.apply()
	requireRefused(t, ErrSessionExpired, m.admit(9, 4, 4, key))
	require.Equal(t, verdictAppend, m.admitOpen(9, key, false).verdict)
}

func TestAdmissionAfterTakeover(t *testing.T) {
	l, _ := newTestMachine(machineLimits{})
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

	// The host ceases to be active; what was in flight may never happen.
	m.resetOrdered(nil)
	require.Equal(t, verdictAppend, m.admit(9, 2, 1, key).verdict)
	requireRefused(t, ErrOutOfOrder, m.admit(9, 4, 1, key))
	// It becomes active with that tail, of which the first entry is applied by now.
	log.apply()
	m.resetOrdered(tail)
	require.Equal(t, verdictPending, m.admit(9, 3, 1, key).verdict)
	require.Equal(t, verdictAppend, m.admit(9, 4, 1, key).verdict)
	log.apply()
	log.apply()
	require.Empty(t, m.inflight)
	require.Equal(t, verdictAppend, m.admit(9, 4, 1, key).verdict)

	// A tail with an end and a new beginning of the same session.
	log.add(core.Entry{Kind: core.CloseSession, Session: 9})
	log.add(core.Entry{Kind: core.OpenSession, Session: 9, Body: key[:]})
	requireRefused(t, ErrRetry, m.admit(9, 4, 1, key))
	log.apply()
	log.apply()
	require.Equal(t, verdictAppend, m.admit(9, 1, 1, key).verdict)
}

func TestAdmissionWindow(t *testing.T) {
	l, _ := newTestMachine(machineLimits{RepliesPerSession: 4})
	m, log := l.m, &appended{l: l}
	key := transport.Key{1}
	l.open(9, key)
	for seq := range uint64(4) {
		require.Equal(t, verdictAppend, m.admit(9, seq+1, 1, key).verdict)
		log.command(9, seq+1)
	}
	requireRefused(t, ErrRetry, m.admit(9, 5, 1, key))
	for range 4 {
		log.apply()
	}
	requireRefused(t, ErrRetry, m.admit(9, 5, 1, key))
	require.Equal(t, verdictAppend, m.admit(9, 5, 2, key).verdict)
	require.Equal(t, verdictAppend, m.admit(9, 5, 1<<63, key).verdict)
	for seq := range uint64(4) {
		require.Equal(t, verdictReplied, m.admit(9, seq+1, 1, key).verdict)
		require.Nil(t, m.admit(9, seq+1, 1, key).reply.Err)
	}
	// Low counts from the moment the entry that carries it is in the log.
	log.add(core.Entry{Kind: core.Command, Session: 9, Seq: 5, Low: 4})
	require.Equal(t, verdictAppend, m.admit(9, 6, 1, key).verdict)
}

// TestAdmissionAgreesWithApply: whatever a client asks, what was admitted is executed, and nothing twice.
func TestAdmissionAgreesWithApply(t *testing.T) {
	l, _ := newTestMachine(machineLimits{RepliesPerSession: 6})
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
		if r.IntN(100) == 0 { // the host lost its place, and the tail with it
			log.tail = log.tail[:r.IntN(len(log.tail)+1)]
			m.resetOrdered(log.tail)
		}
		seq, low := executed+r.Uint64N(10), executed-min(executed, r.Uint64N(3))
		switch v := m.admit(9, seq, low, key); v.verdict {
		case verdictAppend:
			log.add(core.Entry{Kind: core.Command, Session: 9, Seq: seq, Low: low, Body: []byte("x")})
		case verdictReplied:
			require.LessOrEqual(t, seq, executed)
		case verdictPending:
			require.True(t, slices.ContainsFunc(log.tail, func(e core.Entry) bool { return e.Seq == seq }))
		}
	}
	require.Greater(t, executed, uint64(500))
}
