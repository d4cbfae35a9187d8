package machine

import (
	"io"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// gate is a journal that waits in Apply of "block" and in SessionClosed, after it has emitted.
type gate struct {
	journal
	entered, leave chan struct{}
}

func (g *gate) wait() {
	g.entered <- struct{}{}
	<-g.leave
}

func (g *gate) Apply(cmd Command) ([]byte, error) {
	if string(cmd.Body) != "block" {
		return g.journal.Apply(cmd)
	}
	cmd.Emit([]byte("blocked"))
	g.wait()
	return []byte("done"), nil
}

func (g *gate) SessionClosed(cmd Command) {
	cmd.Emit([]byte("closed"))
	g.wait()
}

// gated runs entries on another goroutine while the test plays the loop.
type gated struct {
	t   *testing.T
	m   *Machine
	g   *gate
	log *appended
}

func newGated(t *testing.T, lim Limits) *gated {
	g := &gate{entered: make(chan struct{}), leave: make(chan struct{})}
	m := New("journal.example", g, lim)
	return &gated{t: t, m: m, g: g, log: &appended{l: &logFor{m: m}}}
}

// during applies the next entry, and calls loop while the service's code is waiting in it.
func (d *gated) during(loop func()) (a Result) {
	d.t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() { a = d.log.apply() })
	<-d.g.entered
	loop()
	d.g.leave <- struct{}{}
	wg.Wait()
	return a
}

// While the service executes a command, the loop sees the machine as before the command, and the command in flight.
func TestLoopDuringApply(t *testing.T) {
	d := newGated(t, Limits{})
	m, log := d.m, d.log
	key := transport.Key{1}
	log.add(core.Entry{Kind: core.OpenSession, Session: 9, Body: key[:], Time: 100})
	log.add(core.Entry{Kind: core.Command, Session: 9, Seq: 1, Low: 1, Time: 100, Body: []byte("emit 2")})
	log.add(core.Entry{Kind: core.OpenSession, Session: 8, Body: key[:], Time: 100})
	log.apply()
	one := log.apply()
	log.apply()
	log.add(core.Entry{Kind: core.Command, Session: 9, Seq: 2, Low: 2, Time: 200, Body: []byte("block")})
	running := log.tail[0]

	before := func() {
		t.Helper()
		require.Equal(t, Pending, m.Admit(9, 2, 2, key).Verdict, "it is being executed")
		got := m.Admit(9, 1, 1, key)
		require.Equal(t, Replied, got.Verdict)
		require.Equal(t, one.Reply, got.Reply.Reply, "it does not forget replies yet")
		index, _ := m.Applied()
		require.EqualValues(t, 3, index)
		require.EqualValues(t, 100, m.LogTime())
		require.EqualValues(t, 3, m.NextEvent())
		first, _, bodies, next := m.Events(1, 10, 1000)
		require.Equal(t, []any{uint64(1), 2, uint64(3)}, []any{first, len(bodies), next})
		require.Equal(t, Usage{Sessions: 2, ReplyBytes: len(one.Reply) + replyOverhead, EventBytes: m.events.bytes}, m.Usage())
		require.Equal(t, []uint64{8}, idle(m))
		_, _, ok := m.HashCheck()
		require.False(t, ok)
	}
	two := d.during(func() {
		before()
		// Other requests are decided meanwhile: the next command, a new session, the end of another.
		require.Equal(t, Append, m.Admit(9, 3, 2, key).Verdict)
		m.Ordered(core.Entry{Index: 5, Kind: core.Command, Session: 9, Seq: 3, Low: 2})
		require.Equal(t, Pending, m.Admit(9, 3, 2, key).Verdict)
		require.Equal(t, Append, m.AdmitOpen(7, key, false).Verdict)
		m.Ordered(core.Entry{Index: 6, Kind: core.OpenSession, Session: 7, Body: key[:]})
		require.Equal(t, Pending, m.AdmitOpen(7, key, false).Verdict)
		require.Equal(t, Append, m.AdmitClose(8, key).Verdict)
		m.Ordered(core.Entry{Index: 7, Kind: core.CloseSession, Session: 8})
		require.Equal(t, Pending, m.AdmitClose(8, key).Verdict)
		// The host is deposed and becomes active again meanwhile.
		m.ResetOrdered(nil)
		m.ResetOrdered([]core.Entry{running})
		before()
	})
	require.Equal(t, "done", string(two.Reply))
	require.Equal(t, [2]uint64{3, 4}, [2]uint64{two.First, two.Next})
	got := m.Admit(9, 2, 2, key)
	require.Equal(t, Replied, got.Verdict)
	require.Equal(t, "done", string(got.Reply.Reply))
	require.ErrorIs(t, m.Admit(9, 1, 1, key).Reply.Err, wire.ErrReplyGone)
	require.EqualValues(t, 200, m.LogTime())
	require.EqualValues(t, 4, m.NextEvent())
	require.Empty(t, m.inflight)

	// An entry that is applied before the loop has recorded it is not in flight.
	m.Ordered(running)
	require.Empty(t, m.inflight)
}

// During SessionClosed the session is about to end, whether its own entry ends it or another one evicts it.
func TestLoopDuringSessionClosed(t *testing.T) {
	d := newGated(t, Limits{Sessions: 2})
	m, log := d.m, d.log
	key := transport.Key{1}
	for id := range uint64(2) {
		log.add(core.Entry{Kind: core.OpenSession, Session: id + 1, Body: key[:], Time: 100})
		log.apply()
	}
	ending := func(id, event uint64) {
		t.Helper()
		requireRefused(t, wire.ErrRetry, m.Admit(id, 1, 1, key))
		requireRefused(t, wire.ErrRetry, m.AdmitOpen(id, key, true))
		requireRefused(t, wire.ErrRetry, m.AdmitOpen(id, key, false))
		requireRefused(t, wire.ErrForbidden, m.AdmitOpen(id, transport.Key{2}, false))
		require.Equal(t, Pending, m.AdmitClose(id, key).Verdict)
		require.NotContains(t, idle(m), id)
		require.Equal(t, 2, m.Usage().Sessions)
		require.False(t, m.Room())
		require.Equal(t, event, m.NextEvent())
	}
	log.add(core.Entry{Kind: core.OpenSession, Session: 3, Body: key[:], Time: 200})
	a := d.during(func() {
		ending(1, 1)
		require.Equal(t, Pending, m.AdmitOpen(3, key, false).Verdict, "the entry that evicts is not applied")
		require.Equal(t, Append, m.Admit(3, 1, 1, key).Verdict)
	})
	require.EqualValues(t, 1, a.Ended)
	require.EqualValues(t, 2, a.Next)
	requireRefused(t, wire.ErrSessionExpired, m.Admit(1, 1, 1, key))
	require.Equal(t, Replied, m.AdmitOpen(3, key, false).Verdict)

	log.add(core.Entry{Kind: core.CloseSession, Session: 2})
	m.ResetOrdered(nil) // as on a standby
	a = d.during(func() { ending(2, 2) })
	require.EqualValues(t, 2, a.Ended)
	requireRefused(t, wire.ErrSessionExpired, m.Admit(2, 1, 1, key))
	require.True(t, m.Room())
	require.Empty(t, m.inflight)
}

// unlocked is a service whose code calls the loop's methods. It fails the test if the machine is locked.
type unlocked struct {
	gate
	t     *testing.T
	m     *Machine
	calls map[string]int
}

func (u *unlocked) check(method string) {
	u.calls[method]++
	if !u.m.mu.TryLock() {
		u.t.Errorf("%s is called with the lock held", method)
		return
	}
	u.m.mu.Unlock()
	u.m.Admit(9, 1, 1, transport.Key{})
	u.m.AdmitOpen(9, transport.Key{}, true)
	u.m.AdmitClose(9, transport.Key{})
	u.m.Ordered(core.Entry{Index: 1, Kind: core.Command, Session: 9, Seq: 1})
	u.m.ResetOrdered(nil)
	u.m.Applied()
	u.m.LogTime()
	u.m.Events(1, 10, 1000)
	u.m.HashCheck()
	u.m.Usage()
	u.m.Away(1)
	for range u.m.Idle() {
	}
}

func (u *unlocked) Apply(cmd Command) ([]byte, error) {
	u.check("Apply")
	cmd.Emit(cmd.Body)
	u.check("Apply")
	if string(cmd.Body) == "panic" {
		panic("apply")
	}
	return cmd.Body, nil
}

func (u *unlocked) SessionClosed(cmd Command)     { u.check("SessionClosed"); cmd.Emit(nil) }
func (u *unlocked) Query(q Query) ([]byte, error) { u.check("Query"); return q.Body, nil }
func (u *unlocked) Validate(Command) error        { u.check("Validate"); return nil }
func (u *unlocked) Hash() (uint64, bool)          { u.check("Hash"); return 1, true }
func (u *unlocked) Snapshot() (Snapshot, error)   { u.check("Snapshot"); return u, nil }
func (u *unlocked) Release()                      { u.check("Release") }
func (u *unlocked) WriteTo(io.Writer) (int64, error) {
	u.check("WriteTo")
	return 0, nil
}

// The service's code is never called with the lock held. Restore is not in this test: it runs before the caller has the
// machine.
func TestServiceRunsUnlocked(t *testing.T) {
	u := &unlocked{t: t, calls: map[string]int{}}
	m := New("unlocked.example", u, Limits{Sessions: 2})
	u.m = m
	m.OnPanic = func(string, any, []byte) { u.check("OnPanic") }
	l := &logFor{m: m}
	for id := range uint64(3) { // the third one evicts the first
		l.open(id+1, transport.Key{})
	}
	l.command(2, 1, 1, "x")
	l.command(2, 2, 1, "panic")
	l.close(3)
	l.apply(core.Entry{Kind: core.HashCheck})
	_, err := m.Query(Query{})
	require.NoError(t, err)
	require.NoError(t, m.Validate(core.Entry{Session: 2}))
	s, err := m.Snapshot()
	require.NoError(t, err)
	_, err = s.WriteTo(io.Discard)
	require.NoError(t, err)
	s.Release()
	require.Equal(t, map[string]int{
		"Apply": 4, "SessionClosed": 2, "Query": 1, "Validate": 1, "Hash": 1, "Snapshot": 1, "WriteTo": 1, "Release": 1,
		"OnPanic": 1,
	}, u.calls)
}

// Both owners at full speed: each admitted command is executed once, and a retry gets either no answer yet or the command's
// own.
func TestOwnersOverlap(t *testing.T) {
	const sessions, commands = 8, 300
	m := New("journal.example", &journal{}, Limits{Sessions: sessions, EventBytes: 2_000})
	key := transport.Key{1}
	entries := make(chan core.Entry, 16)
	replies := map[[2]uint64][]byte{} // by session and command
	var wg sync.WaitGroup
	wg.Go(func() {
		for e := range entries {
			a := m.Apply(e)
			if a.Err != nil || a.Duplicate {
				t.Errorf("%+v: %+v", e, a)
			}
			replies[[2]uint64{e.Session, e.Seq}] = a.Reply
			if e.Index%50 == 0 {
				s, err := m.Snapshot()
				if err != nil {
					t.Error(err)
					continue
				}
				wg.Go(func() { _, _ = s.WriteTo(io.Discard); s.Release() })
			}
		}
	})
	var index uint64
	order := func(e core.Entry) {
		index++
		e.Index, e.Epoch, e.Time = index, 1, int64(index)
		m.Ordered(e)
		entries <- e
	}
	r := newRand(7)
	var next [sessions + 1]uint64
	got := map[[2]uint64][]byte{}
	for id := range uint64(sessions) {
		require.Equal(t, Append, m.AdmitOpen(id+1, key, false).Verdict)
		order(core.Entry{Kind: core.OpenSession, Session: id + 1, Body: key[:]})
	}
	for applied, time := uint64(0), int64(0); index < sessions*commands; {
		id := 1 + r.Uint64N(sessions)
		if r.IntN(3) == 0 {
			seq := next[id] + 1
			if a := m.Admit(id, seq, 1, key); a.Verdict == Append {
				next[id] = seq
				order(core.Entry{Kind: core.Command, Session: id, Seq: seq, Low: 1, Body: []byte("emit 2")})
			} else {
				requireRefused(t, wire.ErrRetry, a)
			}
		} else if next[id] > 0 {
			seq := next[id] - min(next[id]-1, r.Uint64N(4))
			switch a := m.Admit(id, seq, 1, key); a.Verdict {
			case Replied:
				got[[2]uint64{id, seq}] = a.Reply.Reply
				index, _ := m.Applied()
				require.LessOrEqual(t, a.Reply.Index, index)
			default:
				require.Equal(t, Pending, a.Verdict)
			}
		}
		now, _ := m.Applied()
		require.LessOrEqual(t, applied, now)
		applied = now
		require.LessOrEqual(t, time, m.LogTime())
		time = m.LogTime()
		first, _, bodies, end := m.Events(1, 1_000, 10_000)
		require.EqualValues(t, len(bodies), end-first)
		m.HashCheck()
		m.Usage()
		_ = idle(m)
	}
	close(entries)
	wg.Wait()
	require.NotEmpty(t, got)
	for k, reply := range got {
		require.Equal(t, replies[k], reply, "%v", k)
	}
	require.Empty(t, m.inflight)
}
