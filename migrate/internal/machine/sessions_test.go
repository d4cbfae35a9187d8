package machine

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

func TestSessionEviction(t *testing.T) {
	l, j := newTestMachine(Limits{Sessions: 3})
	for id := range uint64(3) {
		require.Zero(t, l.open(id+1, transport.Key{}).Ended)
	}
	l.command(1, 1, 1, "used")
	l.open(2, transport.Key{}) // opening again is use, too
	a := l.open(4, transport.Key{})
	require.Nil(t, a.Err)
	require.EqualValues(t, 3, a.Ended)
	require.EqualValues(t, 1, a.Next-a.First)
	require.Equal(t, []uint64{3}, j.closed)
	require.ErrorIs(t, l.command(3, 1, 1, "x").Err, wire.ErrSessionExpired)
	require.EqualValues(t, 1, l.open(5, transport.Key{}).Ended)
	require.Equal(t, 3, l.m.sessions.len())
	require.Len(t, l.m.sessions.slots, 4, "places are used again")
}

func TestSessionsIdle(t *testing.T) {
	l, _ := newTestMachine(Limits{})
	for id := range uint64(5) {
		l.apply(core.Entry{Kind: core.OpenSession, Session: id + 1, Body: make([]byte, 32), Time: int64(id+1) * 100})
	}
	l.apply(core.Entry{Kind: core.Command, Session: 2, Seq: 1, Low: 1, Time: 600})
	l.m.Ordered(core.Entry{Index: 99, Kind: core.Command, Session: 3, Seq: 1, Low: 1})
	require.Equal(t, []uint64{1, 4, 5, 2}, idle(l.m))
	for id := range l.m.Idle() {
		require.EqualValues(t, 1, id)
		break
	}
}

func TestSessionReplyBytes(t *testing.T) {
	size := 100 + replyOverhead
	l, _ := newTestMachine(Limits{ReplyBytesPerSession: 3 * size, ReplyBytes: 5 * size})
	for id := range uint64(3) {
		l.open(id+1, transport.Key{})
	}
	reply := func(id, seq uint64) Result { return l.m.Admit(id, seq, 1, transport.Key{}).Reply }
	for seq := range uint64(4) {
		require.Nil(t, l.command(1, seq+1, 1, "big 100").Err)
	}
	require.ErrorIs(t, reply(1, 1).Err, wire.ErrReplyGone, "the session's oldest goes first")
	require.Len(t, reply(1, 2).Reply, 100)
	l.command(2, 1, 1, "big 100")
	l.command(2, 2, 1, "big 100")
	require.Equal(t, 5*size, l.m.sessions.bytes)
	l.command(3, 1, 1, "big 100")
	require.ErrorIs(t, reply(1, 4).Err, wire.ErrReplyGone, "then those of the session least recently used")
	require.Len(t, reply(2, 1).Reply, 100)
	require.Equal(t, 3*size, l.m.sessions.bytes)
	require.Nil(t, l.command(1, 5, 1, "big 100").Err, "the session itself lives on")
	require.ErrorIs(t, reply(1, 4).Err, wire.ErrReplyGone)
	require.Len(t, reply(1, 5).Reply, 100)
}

// TestSessionRingShrinks: the memory of a burst goes when the client has taken the replies.
func TestSessionRingShrinks(t *testing.T) {
	l, _ := newTestMachine(Limits{})
	l.open(9, transport.Key{})
	for seq := range uint64(1024) {
		l.command(9, seq+1, 1, "quiet")
	}
	s := l.m.sessions.get(9)
	require.Len(t, s.ring, 1024)
	l.command(9, 1025, 1025, "quiet")
	require.LessOrEqual(t, len(s.ring), 16)
	require.Equal(t, replyOverhead, s.bytes)
	for i, r := range s.ring {
		require.True(t, i == int(s.head) || r.index == 0, "what is popped is not held")
	}
}

// TestSessionTableModel compares the table with a plain one under random use.
func TestSessionTableModel(t *testing.T) {
	r := newRand(1)
	lim := Limits{Sessions: 20}.withDefaults()
	tab := sessionTable{lim: &lim}
	var order []uint64
	for range 5_000 {
		id := 1 + r.Uint64N(30)
		at := slices.Index(order, id)
		switch {
		case at < 0 && !tab.full():
			tab.open(id, transport.Key{byte(id)}, 0)
			order = append(order, id)
		case at < 0:
			require.Equal(t, order[0], tab.victim(transport.Key{byte(id)}, func(*sessionSlot) bool { return true }).id)
		case r.IntN(3) == 0:
			tab.remove(id)
			order = slices.Delete(order, at, at+1)
		default:
			s := tab.get(id)
			require.Equal(t, transport.Key{byte(id)}, s.key)
			tab.touch(s, 0)
			tab.add(s, cachedReply{})
			if r.IntN(2) == 0 {
				tab.forget(s, s.last()+1-r.Uint64N(2))
			}
			order = append(slices.Delete(order, at, at+1), id)
		}
		var got []uint64
		for s := range tab.byUse() {
			got = append(got, s.id)
		}
		require.Equal(t, order, got)
		var held, holds []uint64
		for i := tab.slots[0].links[listReply].next; i != 0; i = tab.slots[i].links[listReply].next {
			held = append(held, tab.slots[i].id)
		}
		for _, id := range order {
			if tab.get(id).n > 0 {
				holds = append(holds, id)
			}
		}
		require.Equal(t, holds, held)
	}
}

// fullMachine has 65,536 sessions that hold a reply each.
func fullMachine(tb testing.TB) *Machine {
	m := New("echo.example", &echo{}, Limits{})
	key := make([]byte, 32)
	body := []byte(strings.Repeat("x", 64))
	for id := range uint64(m.lim.Sessions) {
		m.Apply(core.Entry{Index: m.index + 1, Kind: core.OpenSession, Session: id + 1, Body: key})
		m.Apply(core.Entry{Index: m.index + 1, Kind: core.Command, Session: id + 1, Seq: 1, Low: 1, Body: body})
	}
	if m.sessions.len() != 1<<16 {
		tb.Fatal(m.sessions.len())
	}
	return m
}

func BenchmarkMachineCapture(b *testing.B) {
	m := fullMachine(b)
	runtime.GC()
	b.ReportAllocs()
	for b.Loop() {
		s, err := m.Snapshot()
		if err != nil {
			b.Fatal(err)
		}
		s.Release()
	}
}
