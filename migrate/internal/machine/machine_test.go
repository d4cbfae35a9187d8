package machine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// journal is a service for tests: it appends every command to a text, and the command selects the outcome.
type journal struct {
	text    []byte
	last    Command
	closed  []uint64
	asked   Query
	skew    string // makes it differ from other hosts
	restore func(io.Reader) error
}

func (j *journal) Apply(cmd Command) ([]byte, error) {
	j.last = cmd
	verb, arg, _ := strings.Cut(string(cmd.Body), " ")
	n, _ := strconv.Atoi(arg)
	if verb == "emit-panic" {
		cmd.Emit([]byte("lost"))
		panic(fmt.Sprintf("at %p", j))
	}
	j.text = fmt.Appendf(j.text, "%d %d %d %s %s\n", cmd.Index, cmd.Session, cmd.Seq, cmd.Time.Format(time.RFC3339Nano),
		cmd.Body)
	switch verb {
	case "emit":
		for i := range n {
			cmd.Emit(fmt.Appendf(nil, "event %d of %d%s", i, cmd.Index, j.skew))
		}
	case "emit-big":
		cmd.Emit(make([]byte, n))
		cmd.Emit([]byte("small"))
	case "big":
		return bytes.Repeat([]byte("x"), n), nil
	case "err":
		return []byte("ignored"), errors.New(arg)
	case "err-nil":
		var e *transport.Error
		return nil, e
	case "err-code":
		return nil, fmt.Errorf("wrapped: %w", &transport.Error{Code: transport.Code(n), Message: "inner", Data: []byte{1},
			Remote: true})
	case "quiet":
		return nil, nil
	}
	return fmt.Appendf(nil, "%d%s", len(j.text), j.skew), nil
}

func (j *journal) SessionClosed(cmd Command) {
	j.closed = append(j.closed, cmd.Session)
	j.text = fmt.Appendf(j.text, "%d closed %d %s\n", cmd.Index, cmd.Session, cmd.Key)
	cmd.Emit(fmt.Appendf(nil, "closed %d", cmd.Session))
	if len(cmd.Body) != 0 || cmd.Seq != 0 {
		panic("SessionClosed got a command")
	}
}

func (j *journal) Validate(cmd Command) error {
	cmd.Emit([]byte("never seen"))
	switch string(cmd.Body) {
	case "refuse":
		return transport.Errorf(1001, "not today")
	case "panic":
		panic("validate")
	}
	return nil
}

func (j *journal) Query(q Query) ([]byte, error) {
	j.asked = q
	switch string(q.Body) {
	case "panic":
		panic("query")
	case "emit":
		j.last.Emit([]byte("outside Apply"))
	case "big":
		return make([]byte, 2<<20), nil
	case "err":
		return nil, wire.ErrRetry
	}
	return bytes.Clone(j.text), nil
}

func (j *journal) Hash() (uint64, bool) { return uint64(len(j.text)), true }

func (j *journal) Snapshot() (Snapshot, error) { return journalSnapshot(bytes.Clone(j.text)), nil }

func (j *journal) Restore(r io.Reader) (err error) {
	if j.restore != nil {
		return j.restore(r)
	}
	j.text, err = io.ReadAll(r)
	return err
}

type journalSnapshot []byte

func (s journalSnapshot) Release() {}
func (s journalSnapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s)
	return int64(n), err
}

// plainApp is a service without the optional methods.
type plainApp struct{ journal }

func (*plainApp) Query(Query) ([]byte, error) { return nil, ErrNoQuery }
func (*plainApp) Validate(Command) error      { return nil }
func (*plainApp) Hash() (uint64, bool)        { return 0, false }

// logFor appends entries for a machine in a test.
type logFor struct {
	m    *Machine
	time int64
}

func (l *logFor) entry(e core.Entry) core.Entry {
	e.Index, e.Epoch = l.m.index+1, max(l.m.epoch, 1)
	if e.Time == 0 {
		l.time++
		e.Time = l.time
	}
	return e
}

func (l *logFor) apply(e core.Entry) Result { return l.m.Apply(l.entry(e)) }

func (l *logFor) open(session uint64, key transport.Key) Result {
	return l.apply(core.Entry{Kind: core.OpenSession, Session: session, Body: key[:]})
}

func (l *logFor) command(session, seq, low uint64, body string) Result {
	return l.apply(core.Entry{Kind: core.Command, Session: session, Seq: seq, Low: low, Body: []byte(body)})
}

func (l *logFor) close(session uint64) Result {
	return l.apply(core.Entry{Kind: core.CloseSession, Session: session})
}

func newTestMachine(lim Limits) (*logFor, *journal) {
	j := &journal{}
	m := New("journal.example", j, lim)
	return &logFor{m: m, time: 1_000}, j
}

func viaSnapshot(t testing.TB, m *Machine, lim Limits) *Machine {
	t.Helper()
	s, err := m.Snapshot()
	require.NoError(t, err)
	defer s.Release()
	var b bytes.Buffer
	n, err := s.WriteTo(&b)
	require.NoError(t, err)
	require.EqualValues(t, b.Len(), n)
	got, err := Restore(m.service, &journal{}, lim, &b)
	require.NoError(t, err)
	return got
}

func allEvents(m *Machine) (first uint64, times []int64, bodies [][]byte) {
	first, times, bodies, _ = m.events.from(1, 1<<30, 1<<30)
	return first, times, bodies
}

func TestMachineCommand(t *testing.T) {
	l, j := newTestMachine(Limits{})
	key := transport.Key{7}
	a := l.apply(core.Entry{Kind: core.EpochStart, Time: 5_000})
	require.Equal(t, Result{At: 1, Index: 1, Epoch: 1, Kind: core.EpochStart, First: 1, Next: 1}, a)
	require.Nil(t, l.open(9, key).Err)

	a = l.command(9, 1, 1, "emit 2")
	require.Nil(t, a.Err)
	require.NotEmpty(t, a.Reply)
	require.Equal(t, [2]uint64{1, 3}, [2]uint64{a.First, a.Next})
	require.EqualValues(t, 3, a.Index)

	cmd := j.last
	require.EqualValues(t, 3, cmd.Index)
	require.Equal(t, key, cmd.Key)
	require.Equal(t, time.UnixMilli(5_000).UTC(), cmd.Time, "log time never runs backwards")
	require.Equal(t, time.UTC, cmd.Time.Location())
	require.EqualValues(t, 5_000, l.m.LogTime())
	index, epoch := l.m.Applied()
	require.Equal(t, [2]uint64{3, 1}, [2]uint64{index, epoch})

	first, times, bodies := allEvents(l.m)
	require.EqualValues(t, 1, first)
	require.Equal(t, []int64{5_000, 5_000}, times)
	require.Equal(t, "event 1 of 3", string(bodies[1]))
}

func TestMachineErrors(t *testing.T) {
	const text = "migrate: service journal.example: "
	for _, tt := range []struct {
		body    string
		code    transport.Code
		message string
		events  int
	}{
		{"err broken", wire.CodeApplication, "broken", 0},
		{"err bad \xff", wire.CodeApplication, "bad \uFFFD", 0},
		{"err-nil", wire.CodePanic, text + "Apply panicked", 0},
		{"err-code 1001", 1001, "wrapped: inner", 0},
		{"err-code 0", wire.CodeApplication, "wrapped: inner", 0},
		{"err-code 202", wire.CodeApplication, "wrapped: inner", 0},
		{"err-code 211", wire.CodeForbidden, "wrapped: inner", 0},
		{"emit-panic", wire.CodePanic, text + "Apply panicked", 0},
		{"big 100", 0, "", 0},
		{"big 101", wire.CodeReplyGone, text + "session 9: command 1 was executed, its reply of 101 bytes is more than 100", 0},
		{"err " + strings.Repeat("y", 101), wire.CodeApplication, text + "error of 101 bytes, more than 100", 0},
		{"emit-big 100", 0, "", 2},
		{"emit-big 101", wire.CodeReplyGone, text + "session 9: command 1 was executed, its event of 101 bytes is more than 100",
			1},
	} {
		t.Run(tt.body[:min(len(tt.body), 16)], func(t *testing.T) {
			l, _ := newTestMachine(Limits{MaxReply: 100})
			var told string
			l.m.OnPanic = func(method string, value any, stack []byte) {
				told = method
				require.NotEmpty(t, stack)
			}
			l.open(9, transport.Key{})
			a := l.command(9, 1, 1, tt.body)
			require.EqualValues(t, tt.events, a.Next-a.First)
			require.Equal(t, tt.code == wire.CodePanic, told == "Apply")
			if tt.code == 0 {
				require.Nil(t, a.Err)
				return
			}
			require.Nil(t, a.Reply)
			require.Equal(t, tt.code, a.Err.Code)
			require.Equal(t, tt.message, a.Err.Message)
			require.False(t, a.Err.Remote)
			// The error is the command's answer for good.
			d := l.command(9, 1, 1, tt.body)
			require.True(t, d.Duplicate)
			require.Equal(t, a.Err, d.Err)
			require.Equal(t, a.Index, d.Index)
			// Later commands are executed.
			require.Nil(t, l.command(9, 2, 2, "x").Err)
		})
	}
}

func TestMachineExactlyOnce(t *testing.T) {
	l, j := newTestMachine(Limits{})
	require.ErrorIs(t, l.command(9, 1, 1, "a").Err, wire.ErrSessionExpired)
	l.open(9, transport.Key{1})
	require.ErrorIs(t, l.open(9, transport.Key{2}).Err, wire.ErrForbidden)
	require.Nil(t, l.open(9, transport.Key{1}).Err, "opening twice is harmless")
	require.ErrorIs(t, l.command(9, 0, 0, "a").Err, wire.ErrOutOfOrder)
	require.ErrorIs(t, l.command(9, 2, 1, "a").Err, wire.ErrOutOfOrder)
	require.Empty(t, j.text)

	first := l.command(9, 1, 1, "emit 1")
	require.Nil(t, first.Err)
	text := string(j.text)
	again := l.command(9, 1, 1, "emit 1")
	require.True(t, again.Duplicate)
	require.Equal(t, first.Reply, again.Reply)
	require.Equal(t, first.Index, again.Index)
	require.Equal(t, again.First, again.Next)
	require.Equal(t, text, string(j.text))

	// Once the client no longer wants a reply it is forgotten, and the command is still not executed again.
	require.Nil(t, l.command(9, 2, 2, "b").Err)
	text = string(j.text)
	require.ErrorIs(t, l.command(9, 1, 1, "emit 1").Err, wire.ErrReplyGone)
	require.Equal(t, text, string(j.text))
	// A Low beyond the command itself does not lose its reply.
	c := l.command(9, 3, 1<<60, "c")
	require.Equal(t, c.Reply, l.command(9, 3, 3, "c").Reply)

	a := l.close(9)
	require.Nil(t, a.Err)
	require.EqualValues(t, 9, a.Ended)
	require.EqualValues(t, 1, a.Next-a.First)
	require.Equal(t, []uint64{9}, j.closed)
	require.ErrorIs(t, l.command(9, 4, 4, "d").Err, wire.ErrSessionExpired)
	require.ErrorIs(t, l.close(9).Err, wire.ErrSessionExpired)
}

func TestMachineRefusal(t *testing.T) {
	l, j := newTestMachine(Limits{})
	l.open(9, transport.Key{})
	err := l.m.Validate(core.Entry{Body: []byte("refuse")})
	require.EqualError(t, err, "not today")
	refusal := core.Entry{Kind: core.Refusal, Session: 9, Seq: 1, Low: 1, Body: RefusalBody(err)}
	a := l.apply(refusal)
	require.Equal(t, transport.Errorf(1001, "not today"), a.Err)
	require.Equal(t, a.Err, l.apply(refusal).Err)
	require.Empty(t, j.text)
	require.Nil(t, l.command(9, 2, 1, "next").Err)

	for seq, body := range []string{"", "\x00", "\x01\x7f", "\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x00", "\x01\xff"} {
		refusal.Seq, refusal.Body = uint64(seq)+3, []byte(body)
		require.Equal(t, wire.CodeApplication, l.apply(refusal).Err.Code)
	}
	require.NoError(t, l.m.Validate(core.Entry{Body: []byte("fine")}))
	require.ErrorIs(t, l.m.Validate(core.Entry{Body: []byte("panic")}), wire.ErrPanic)
	got, ok := readRefusal(RefusalBody(errors.New("plain")))
	require.True(t, ok)
	require.Equal(t, transport.Errorf(wire.CodeApplication, "plain"), got)
	full := &transport.Error{Code: 1 << 31, Message: "m", Data: []byte("d")}
	got, ok = readRefusal(RefusalBody(fmt.Errorf("w: %w", full)))
	require.True(t, ok)
	require.Equal(t, full, got)
}

func TestMachineQuery(t *testing.T) {
	l, j := newTestMachine(Limits{})
	l.open(9, transport.Key{})
	l.command(9, 1, 1, "hello")
	b, err := l.m.Query(Query{Session: 9, Key: transport.Key{3}})
	require.NoError(t, err)
	require.Contains(t, string(b), "hello")
	require.Equal(t, Query{Session: 9, Key: transport.Key{3}, Time: time.UnixMilli(l.m.LogTime()).UTC()}, j.asked)
	_, err = l.m.Query(Query{Body: []byte("panic")})
	require.ErrorIs(t, err, wire.ErrPanic)
	_, err = l.m.Query(Query{Body: []byte("emit")})
	require.ErrorIs(t, err, wire.ErrPanic)
	_, err = l.m.Query(Query{Body: []byte("big")})
	require.ErrorIs(t, err, wire.ErrTooLarge)
	_, err = l.m.Query(Query{Body: []byte("err")})
	require.Equal(t, wire.CodeApplication, transport.CodeOf(err), "a client would ask again for ever")

	plain := New("plain", &plainApp{}, Limits{})
	_, err = plain.Query(Query{})
	require.ErrorIs(t, err, wire.ErrNoQuery)
	require.NoError(t, plain.Validate(core.Entry{}))
}

func TestMachineMalformedEntries(t *testing.T) {
	l, _ := newTestMachine(Limits{})
	require.Equal(t, transport.CodeBadMessage, l.apply(core.Entry{Kind: core.OpenSession, Session: 9}).Err.Code)
	require.Equal(t, transport.CodeBadMessage, l.open(0, transport.Key{}).Err.Code)
	require.Zero(t, l.m.sessions.len())

	for _, kind := range []core.Kind{0, core.Away + 1, 255} {
		before := l.m.Hash()
		a := l.apply(core.Entry{Kind: kind})
		require.ErrorIs(t, a.Halt, wire.ErrHalted)
		require.Equal(t, before, l.m.Hash())
		require.EqualValues(t, 2, l.m.index, "an unknown entry is not applied")
	}
	for _, index := range []uint64{0, 2, 4} {
		require.Panics(t, func() { l.m.Apply(core.Entry{Index: index, Kind: core.EpochStart}) })
	}
}

func TestMachineHashCheck(t *testing.T) {
	run := func(skew string, at int) *logFor {
		l, j := newTestMachine(Limits{})
		l.open(9, transport.Key{})
		for i := range hashStride + 8 {
			if i == at {
				j.skew = skew
			}
			l.command(9, uint64(i)+1, 1, "emit 1")
			if i == at {
				j.skew = ""
			}
		}
		return l
	}
	same, good, late, bad := run("", 0), run("", 0), run("!", hashStride+7), run("!", 20)
	require.Equal(t, same.m.Hash(), good.m.Hash())
	require.NotEqual(t, same.m.Hash(), late.m.Hash())
	low, body, ok := good.m.HashCheck()
	require.True(t, ok)
	require.EqualValues(t, hashStride, low)
	check := core.Entry{Kind: core.HashCheck, Low: low, Body: body, Time: 1 << 40}
	require.False(t, same.apply(check).Mismatch)
	require.False(t, late.apply(check).Mismatch, "the difference came after the place compared")
	require.True(t, bad.apply(check).Mismatch)
	check.Body = nil
	require.True(t, same.apply(check).Mismatch)
	check.Low = hashStride + 1
	require.False(t, same.apply(check).Mismatch, "a place without a hash is not compared")

	// A reply alone.
	var one, two Machine
	one.mixOutcome(&Result{Reply: []byte("x")})
	two.mixOutcome(&Result{Reply: []byte("y")})
	require.NotEqual(t, one.Hash(), two.Hash())
	two = Machine{}
	two.mixOutcome(&Result{Err: transport.Errorf(1001, "x")})
	require.NotEqual(t, one.Hash(), two.Hash())

	// A state that differs without a trace in replies or events is found by the service's own hash at the next check.
	mute, sly := run("", 0), run("", 0)
	sly.m.app.(*journal).text = append(sly.m.app.(*journal).text, '!')
	require.Equal(t, mute.m.Hash(), sly.m.Hash())
	check.Low, check.Body = low, body
	require.False(t, mute.apply(check).Mismatch)
	require.False(t, sly.apply(check).Mismatch)
	require.NotEqual(t, mute.m.Hash(), sly.m.Hash())

	// A machine from a snapshot compares from there on.
	for mute.m.index%hashStride != 0 {
		mute.apply(core.Entry{Kind: core.EpochStart})
	}
	low, body, ok = viaSnapshot(t, mute.m, Limits{}).HashCheck()
	require.True(t, ok)
	require.Equal(t, mute.m.index, low)
	require.Equal(t, mute.m.Hash(), binary.LittleEndian.Uint64(body))

	_, _, ok = New("new", &journal{}, Limits{}).HashCheck()
	require.False(t, ok)
}

func TestMachineHashSeesEveryByte(t *testing.T) {
	seen := map[uint64]string{}
	for n := range 40 {
		for i := range n + 1 {
			b := make([]byte, n)
			if i < n {
				b[i] = 1
			}
			m := Machine{sum: 1}
			m.mixBytes(b)
			require.NotContains(t, seen, m.sum, "%v", b)
			seen[m.sum] = string(b)
		}
	}
	// Words that make a factor 0 must not erase the hash of earlier words.
	b := binary.LittleEndian.AppendUint64(nil, 0xe7037ed1a0b428db)
	one, two := Machine{sum: 1}, Machine{sum: 2}
	one.mixBytes(b)
	two.mixBytes(b)
	require.NotEqual(t, one.sum, two.sum)
}

// randomEntry makes an entry as an active host could order it, and now and then one that it should not.
func randomEntry(r *rand.Rand, m *Machine) core.Entry {
	e := core.Entry{Index: m.index + 1, Epoch: m.epoch, Time: m.time + r.Int64N(3) - 1, Session: 1 + r.Uint64N(12)}
	key := transport.Key{byte(e.Session)}
	var last uint64
	if s := m.sessions.get(e.Session); s != nil {
		last = s.last()
	}
	switch n := r.IntN(100); {
	case n < 2:
		e.Kind, e.Session = core.EpochStart, 0
		e.Epoch++
	case n < 10:
		e.Kind, e.Body = core.OpenSession, key[:]
		if r.IntN(10) == 0 {
			e.Body = make([]byte, 32)
		}
	case n < 13:
		e.Kind, e.Seq = core.CloseSession, r.Uint64N(2)
	case n < 15:
		e.Kind, e.Session = core.HashCheck, 0
		e.Low, e.Body, _ = m.HashCheck()
	default:
		e.Kind, e.Seq = core.Command, last+1
		e.Low = last + 1 - min(last, r.Uint64N(6))
		switch r.IntN(12) {
		case 0:
			e.Seq = last - min(last, r.Uint64N(8))
		case 1:
			e.Seq += r.Uint64N(3)
		case 2:
			e.Kind = core.Refusal
		}
		bodies := []string{"emit 3", "emit 1", "big 90", "big 300", "err no", "err-code 1001", "emit-panic", "emit-big 120",
			"quiet", "x"}
		e.Body = []byte(bodies[r.IntN(len(bodies))])
		if e.Kind == core.Refusal {
			e.Body = RefusalBody(transport.Errorf(1001, "no"))
		}
	}
	return e
}

var tightLimits = Limits{
	Sessions: 8, RepliesPerSession: 5, ReplyBytesPerSession: 400, ReplyBytes: 1200, EventBytes: 900, MaxReply: 110,
}

// TestMachineDeterminism applies the same random log to a machine, and to one that goes through a snapshot at random
// places: every outcome, the hash, the events and the service's state must be equal.
func TestMachineDeterminism(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		a := New("journal.example", &journal{}, tightLimits)
		b := New("journal.example", &journal{}, tightLimits)
		evicted, dropped, duplicates := 0, 0, 0
		for range 2_000 {
			if r.IntN(60) == 0 {
				b = viaSnapshot(t, b, tightLimits)
			}
			e := randomEntry(r, a)
			x, y := a.Apply(e), b.Apply(e)
			require.Equal(t, x, y, "seed %d: %+v", seed, e)
			require.False(t, x.Mismatch)
			require.Equal(t, a.Hash(), b.Hash(), "seed %d: %+v", seed, e)
			checkTable(t, a)
			if x.Ended != 0 && e.Kind == core.OpenSession {
				evicted++
			}
			if x.Duplicate && x.Index == 0 {
				dropped++
			} else if x.Duplicate {
				duplicates++
			}
		}
		require.NotZero(t, min(evicted, dropped, duplicates), "the log must reach these: %d %d %d", evicted, dropped, duplicates)
		require.Equal(t, a.app.(*journal).text, b.app.(*journal).text)
		firstA, timesA, bodiesA := allEvents(a)
		firstB, timesB, bodiesB := allEvents(b)
		require.Equal(t, firstA, firstB)
		require.Equal(t, timesA, timesB)
		require.Equal(t, bodiesA, bodiesB)
	}
}

// checkTable checks the table's bounds and books.
func checkTable(t *testing.T, m *Machine) {
	t.Helper()
	tab := &m.sessions
	total, count := 0, 0
	for s := range tab.byUse() {
		bytes := 0
		for seq := s.first; seq <= s.last(); seq++ {
			bytes += s.reply(seq).size()
		}
		require.Equal(t, bytes, s.bytes)
		require.LessOrEqual(t, int(s.n), tab.lim.RepliesPerSession)
		require.LessOrEqual(t, bytes, tab.lim.ReplyBytesPerSession)
		total += bytes
		count++
	}
	require.Equal(t, total, tab.bytes)
	require.LessOrEqual(t, total, tab.lim.ReplyBytes)
	require.Equal(t, count, tab.len())
	require.LessOrEqual(t, count, tab.lim.Sessions)
}

func BenchmarkMachineApply(b *testing.B) {
	app := &echo{}
	m := New("echo.example", app, Limits{})
	m.Apply(core.Entry{Index: 1, Epoch: 1, Kind: core.EpochStart})
	key := transport.Key{1}
	m.Apply(core.Entry{Index: 2, Epoch: 1, Kind: core.OpenSession, Session: 9, Body: key[:]})
	body := make([]byte, 128)
	b.ReportAllocs()
	for i := uint64(1); b.Loop(); i++ {
		e := core.Entry{Index: m.index + 1, Epoch: 1, Kind: core.Command, Session: 9, Seq: i, Low: i - min(i-1, 8), Body: body}
		m.Ordered(e)
		if a := m.Apply(e); a.Err != nil {
			b.Fatal(a.Err)
		}
	}
}

// BenchmarkMachineCommand admits, orders and applies one command at a time.
func BenchmarkMachineCommand(b *testing.B) {
	m := New("echo.example", &echo{}, Limits{})
	m.Apply(core.Entry{Index: 1, Epoch: 1, Kind: core.EpochStart})
	key := transport.Key{1}
	m.Apply(core.Entry{Index: 2, Epoch: 1, Kind: core.OpenSession, Session: 9, Body: key[:]})
	body := make([]byte, 128)
	b.ReportAllocs()
	for i := uint64(1); b.Loop(); i++ {
		e := core.Entry{Index: m.index + 1, Epoch: 1, Kind: core.Command, Session: 9, Seq: i, Low: i - min(i-1, 8), Body: body}
		if a := m.Admit(9, i, e.Low, key); a.Verdict != Append {
			b.Fatal(a.Err)
		}
		m.Ordered(e)
		if a := m.Apply(e); a.Err != nil {
			b.Fatal(a.Err)
		}
	}
}

// echo emits every command and sends it back, without allocating.
type echo struct{ journal }

func (*echo) Apply(cmd Command) ([]byte, error) {
	cmd.Emit(cmd.Body)
	return cmd.Body, nil
}
