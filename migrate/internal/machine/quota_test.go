package machine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// A key opens no more sessions than the limit, those in flight included. Other keys, clients without a key, and open sessions
// are not affected.
func TestSessionsOfOneKey(t *testing.T) {
	l, _ := newTestMachine(Limits{SessionsPerKey: 3})
	m, log := l.m, &appended{l: l}
	key, other, none := transport.Key{1}, transport.Key{2}, transport.Key{}
	open := func(session uint64, key transport.Key) error {
		a := m.AdmitOpen(session, key, false)
		if a.Verdict == Append {
			log.add(core.Entry{Kind: core.OpenSession, Session: session, Body: key[:]})
		}
		return a.Err
	}
	for id := range uint64(2) {
		require.NoError(t, open(1+id, key))
	}
	log.apply()
	require.NoError(t, open(3, key))
	err := open(4, key)
	require.ErrorIs(t, err, wire.ErrQuota, "one is open, two are in flight")
	require.ErrorContains(t, err, "journal.example")
	require.ErrorContains(t, err, "has 3 sessions")
	require.NoError(t, open(3, key), "the same session again")
	for id := range uint64(10) {
		require.NoError(t, open(10+id, none))
	}
	require.NoError(t, open(20, other))
	for len(log.tail) > 0 {
		log.apply()
	}
	require.ErrorIs(t, open(4, key), wire.ErrQuota)
	require.Equal(t, Replied, m.AdmitOpen(3, key, true).Verdict)
	require.Equal(t, Append, m.Admit(3, 1, 1, key).Verdict)

	// The limit holds on the next active host, which has the sessions from a snapshot and from the entries in flight.
	next := &logFor{m: viaSnapshot(t, m, Limits{SessionsPerKey: 3}), time: l.time}
	requireRefused(t, wire.ErrQuota, next.m.AdmitOpen(4, key, false))
	log = &appended{l: next}
	m = next.m
	require.NoError(t, open(21, other))
	m.ResetOrdered(log.tail)
	require.NoError(t, open(22, other))
	require.ErrorIs(t, open(23, other), wire.ErrQuota)

	// A session that ends makes room for another one.
	log.add(core.Entry{Kind: core.CloseSession, Session: 2})
	require.ErrorIs(t, open(4, key), wire.ErrQuota)
	for len(log.tail) > 0 {
		log.apply()
	}
	require.NoError(t, open(4, key))
	m.ResetOrdered(nil)
	require.Empty(t, m.openKeys)
	require.Zero(t, m.opening)
}

// The default leaves room for a program with thousands of clients, and a small table for a few.
func TestSessionsPerKeyDefault(t *testing.T) {
	require.Equal(t, 1<<14, Limits{}.withDefaults().SessionsPerKey)
	require.Equal(t, 64, Limits{Sessions: 100}.withDefaults().SessionsPerKey)
}

// At the limit of all sessions, a client that opens more ends its own. A newcomer ends one of the key with the most.
func TestVictims(t *testing.T) {
	hog, other, ann, bob := transport.Key{9}, transport.Key{8}, transport.Key{1}, transport.Key{2}
	l, j := newTestMachine(Limits{Sessions: 8})
	l.open(1, ann)
	l.open(2, transport.Key{}) // whose clients need not be the same
	l.open(3, transport.Key{})
	l.open(4, transport.Key{})
	for id := range uint64(3) {
		l.open(100+id, hog)
	}
	require.True(t, l.m.Room())
	l.m.Ordered(core.Entry{Index: l.m.index + 1, Kind: core.OpenSession, Session: 200, Body: other[:]})
	require.False(t, l.m.Room(), "a session in flight takes a place")
	l.open(200, other)
	require.False(t, l.m.Room())

	all := func(uint64) bool { return true }
	require.EqualValues(t, 200, l.m.Victim(other, all), "its own")
	require.EqualValues(t, 1, l.m.Victim(ann, all), "its own")
	require.EqualValues(t, 100, l.m.Victim(bob, all), "of the key with the most")
	require.EqualValues(t, 100, l.m.Victim(transport.Key{}, all))
	away := func(id uint64) bool { return id < 100 }
	require.EqualValues(t, 1, l.m.Victim(hog, away), "the least recently used, if it has none that may end")
	require.Zero(t, l.m.Victim(bob, func(uint64) bool { return false }))

	for id := range uint64(20) {
		require.Nil(t, l.open(300+id, hog).Err)
	}
	for _, id := range j.closed {
		require.GreaterOrEqual(t, id, uint64(100), "the sessions of others stay")
	}
	require.Len(t, j.closed, 20)
	require.EqualValues(t, 317, l.open(5, bob).Ended)
	require.Equal(t, map[transport.Key]int{ann: 1, bob: 1, hog: 2, other: 1}, l.m.sessions.keys)
}
