package machine

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/transport"
)

func stream(t testing.TB, m *Machine) []byte {
	t.Helper()
	s, err := m.Snapshot()
	require.NoError(t, err)
	defer s.Release()
	var b bytes.Buffer
	_, err = s.WriteTo(&b)
	require.NoError(t, err)
	return b.Bytes()
}

// usedMachine holds a little of everything.
func usedMachine() *Machine {
	l, _ := newTestMachine(tightLimits)
	l.open(9, transport.Key{1})
	l.open(8, transport.Key{})
	l.command(9, 1, 1, "emit 2")
	l.command(9, 2, 1, "err-code 1001")
	l.command(9, 3, 1, "quiet")
	for range 20 {
		l.apply(core.Entry{Kind: core.EpochStart})
	}
	return l.m
}

func TestSnapshotKeepsReplies(t *testing.T) {
	m := usedMachine()
	got := viaSnapshot(t, m, tightLimits)
	require.Equal(t, m.Hash(), got.Hash())
	require.Equal(t, m.LogTime(), got.LogTime())
	require.Equal(t, stream(t, m), stream(t, got))
	for seq := range uint64(3) {
		want, have := m.Admit(9, seq+1, 1, transport.Key{1}), got.Admit(9, seq+1, 1, transport.Key{1})
		require.Equal(t, Replied, have.Verdict)
		require.Equal(t, want, have)
	}
	require.Equal(t, Append, got.Admit(9, 4, 1, transport.Key{1}).Verdict)
	// The service does not execute a command again.
	text := string(got.app.(*journal).text)
	a := (&logFor{m: got}).command(9, 1, 1, "emit 2")
	require.True(t, a.Duplicate)
	require.Equal(t, text, string(got.app.(*journal).text))
}

func TestSnapshotGolden(t *testing.T) {
	m := New("a", &journal{text: []byte("state")}, Limits{})
	m.index, m.epoch, m.time, m.sum = 300, 2, 1, 3
	s := m.sessions.open(5, transport.Key{}, 7)
	s.away = 9
	m.sessions.add(s, cachedReply{index: 299, epoch: 2, body: []byte("ok")})
	m.sessions.add(s, cachedReply{index: 300, epoch: 2, err: &transport.Error{Code: 214, Message: "no", Data: []byte{1}}})
	m.events.push(1, []byte("ev"))
	want := "roam\x02\x01a" + "\xac\x02\x02\x01\x03" +
		"\x01" + "\x05" + strings.Repeat("\x00", 32) + "\x07\x09\x01\x02" +
		"\xab\x02\x02\x00\x02ok" + "\xac\x02\x02\xd6\x01\x02no\x01\x01" +
		"\x01\x01" + "\x01\x02ev" + "state"
	require.Equal(t, want, string(stream(t, m)))

	// Format 1 had no time away.
	old := "roam\x01" + strings.Replace(want[5:], "\x07\x09\x01", "\x07\x01", 1)
	got, err := Restore("a", new(journal), Limits{}, strings.NewReader(old))
	require.NoError(t, err)
	require.Zero(t, got.Away(5))
	got.sessions.get(5).away = 9
	require.Equal(t, want, string(stream(t, got)))
}

// TestSnapshotWhileApplying: a snapshot is of one point in time, whatever is applied while it is written.
func TestSnapshotWhileApplying(t *testing.T) {
	r := newRand(4)
	m := New("journal.example", &journal{}, tightLimits)
	var wg sync.WaitGroup
	for range 40 {
		for range 50 {
			m.Apply(randomEntry(r, m))
		}
		want := stream(t, m)
		s, err := m.Snapshot()
		require.NoError(t, err)
		wg.Go(func() {
			defer s.Release()
			var b bytes.Buffer
			if _, err := s.WriteTo(&b); err != nil || !bytes.Equal(want, b.Bytes()) {
				t.Errorf("snapshot changed while it was written: %v", err)
			}
		})
		for range 50 {
			m.Apply(randomEntry(r, m))
		}
	}
	wg.Wait()
}

func TestRestoreMalformed(t *testing.T) {
	whole := stream(t, usedMachine())
	app := bytes.Index(whole, usedMachine().app.(*journal).text)
	restore := func(b []byte) error {
		m, err := Restore("journal.example", &journal{}, tightLimits, bytes.NewReader(b))
		require.Equal(t, err == nil, m != nil)
		return err
	}
	require.NoError(t, restore(whole))
	for n := range app {
		require.ErrorIs(t, restore(whole[:n]), io.ErrUnexpectedEOF, "cut at %d", n)
	}

	uint := func(vs ...uint64) string {
		var b []byte
		for _, v := range vs {
			b = binary.AppendUvarint(b, v)
		}
		return string(b)
	}
	const huge = 1 << 62
	head := "roam\x02\x0fjournal.example" + uint(3, 1, 1, 1)
	key := strings.Repeat("k", 32)
	for _, tt := range []struct{ stream, want string }{
		{"ROAM", "magic: not a snapshot"},
		{"roam\x03", "format: 3 is unknown"},
		{"roam\x00", "format: 0 is unknown"},
		{"roam\x02\x05other", `service: the snapshot is of "other"`},
		{"roam\x01" + uint(huge), "service: 4611686018427387904 is over the limit of 256"},
		{"roam\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "service: "},
		{head + uint(9), "number of sessions: 9 is over the limit of 8"},
		{head + uint(1, 0) + key + uint(0, 0, 1, 0), "session: 0 occurs twice or is 0"},
		{head + uint(2, 7) + key + uint(0, 0, 1, 0, 7) + key + uint(0, 0, 1, 0), "session: 7 occurs twice or is 0"},
		{head + uint(1, 7) + key + uint(0, 0, 0, 0), "first reply of session 7: 0"},
		{head + uint(1, 7) + key + uint(0, 0, 1<<64-1, 2), "first reply of session 7: 18446744073709551615"},
		{head + uint(1, 7) + key + uint(0, 0, 1<<64-1, 0), "first reply of session 7: 18446744073709551615"},
		{head + uint(1, 7) + key + uint(0, 0, 1<<62+1, 0), "first reply of session 7: "},
		{head + uint(1, 7) + key + uint(0, 0, 1, 6), "number of replies: 6 is over the limit of 5"},
		{head + uint(1, 7) + key + uint(0, 0, 1, 1, 1, 1, 1<<32), "code of reply: 4294967296 is over the limit"},
		{head + uint(1, 7) + key + uint(0, 0, 1, 1, 1, 1, 0, 111), "reply: 111 is over the limit of 110"},
		{head + uint(1, 7) + key + uint(0, 0, 1, 1, 1, 1, 5, huge), "message of error: "},
		{head + uint(1, 7) + key + uint(0, 0, 1, 1, 1, 1, 5, 0, huge), "data of error: "},
		{head + uint(1, 7) + key + uint(0, 0, 1, 3) + strings.Repeat(uint(1, 1, 0, 100)+strings.Repeat("r", 100), 3),
			"replies of session 7: over the limit"},
		{head + uint(1, 7) + key + uint(0, maxAway+1, 1, 0), "session's time away: "},
		{head + uint(0, 0, 0), "first event: 0"},
		{head + uint(0, 1<<63, 1<<63), "first event: "},
		{head + uint(0, 1, huge, 1, 0), "event time: unexpected EOF"},
		{head + uint(0, 1, 1, 1, huge), "event: 4611686018427387904 is over the limit"},
	} {
		require.ErrorContains(t, restore([]byte(tt.stream)), "migrate: journal.example: restore: "+tt.want)
	}

	for i := range app {
		b := bytes.Clone(whole)
		b[i] ^= 0xff
		_ = restore(b) // whatever it says: it must not panic
	}
}

// TestRestoreIsBounded: counts and lengths that a stream only claims cost nothing.
func TestRestoreIsBounded(t *testing.T) {
	var b bytes.Buffer
	w := &snapshotWriter{w: bufio.NewWriter(&b)}
	w.w.WriteString("roam\x01\x0fjournal.example")
	for _, v := range []uint64{1, 1, 1, 1, 0, 1, 1 << 60} {
		w.uint(v)
	}
	for range 200_000 {
		w.uint(1)
		w.bytes(make([]byte, 100))
	}
	require.NoError(t, w.w.Flush())
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Restore("journal.example", &journal{}, Limits{EventBytes: 1 << 20}, &b)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20))
}

func TestRestoreService(t *testing.T) {
	whole := stream(t, usedMachine())
	broken := errors.New("broken")
	for _, tt := range []struct {
		name    string
		restore func(io.Reader) error
		r       io.Reader
		want    string
	}{
		{"error", func(io.Reader) error { return broken }, bytes.NewReader(whole), "restore: broken"},
		{"panic", func(io.Reader) error { panic("oh") }, bytes.NewReader(whole), "restore: Restore panicked: oh"},
		{"rest", func(r io.Reader) error { _, err := r.Read(make([]byte, 5)); return err }, bytes.NewReader(whole),
			"restore: the service did not read to the end"},
		{"overlooked", func(r io.Reader) error { _, _ = io.ReadAll(r); return nil },
			io.MultiReader(bytes.NewReader(whole), iotest.ErrReader(broken)), "restore: broken"},
		{"overlooked once", func(r io.Reader) error { _, _ = io.ReadAll(r); return nil },
			io.MultiReader(bytes.NewReader(whole), iotest.TimeoutReader(strings.NewReader("more"))), "restore: timeout"},
		{"unread", func(r io.Reader) error {
			_, err := io.CopyN(io.Discard, r, int64(len(usedMachine().app.(*journal).text)))
			return err
		},
			io.MultiReader(bytes.NewReader(whole), iotest.ErrReader(broken)), "restore: broken"},
		{"one byte at a time", nil, iotest.OneByteReader(bytes.NewReader(whole)), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Restore("journal.example", &journal{restore: tt.restore}, tightLimits, tt.r)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, "migrate: journal.example: "+tt.want)
		})
	}
}

// badSnapshots fails in its methods.
type badSnapshots struct {
	journal
	snap func() (Snapshot, error)
}

func (b *badSnapshots) Snapshot() (Snapshot, error) { return b.snap() }

type panickySnapshot struct{}

func (panickySnapshot) WriteTo(io.Writer) (int64, error) { panic("write") }
func (panickySnapshot) Release()                         { panic("release") }

func TestSnapshotErrors(t *testing.T) {
	for want, snap := range map[string]func() (Snapshot, error){
		"full":              func() (Snapshot, error) { return nil, errors.New("full") },
		"returned none":     func() (Snapshot, error) { return nil, nil },
		"Snapshot panicked": func() (Snapshot, error) { panic("oh") },
	} {
		m := New("bad.example", &badSnapshots{snap: snap}, Limits{})
		_, err := m.Snapshot()
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "bad.example")
	}
	m := New("bad.example", &badSnapshots{snap: func() (Snapshot, error) { return panickySnapshot{}, nil }}, Limits{})
	var told []string
	m.OnPanic = func(method string, _ any, _ []byte) { told = append(told, method) }
	s, err := m.Snapshot()
	require.NoError(t, err)
	_, err = s.WriteTo(io.Discard)
	require.ErrorContains(t, err, "bad.example: snapshot: WriteTo panicked: write")
	s.Release()
	require.Equal(t, []string{"WriteTo", "Release"}, told)

	s, err = usedMachine().Snapshot()
	require.NoError(t, err)
	n, err := s.WriteTo(&limitedWriter{5})
	require.ErrorIs(t, err, io.ErrShortWrite)
	require.EqualValues(t, 5, n)
	s.Release()
}

type limitedWriter struct{ n int }

func (w *limitedWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.n)
	if w.n -= n; n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// blob is a service with a state of any size, of which it holds nothing.
type blob struct {
	journal
	size, got int64
}

func (b *blob) Snapshot() (Snapshot, error)     { return &blob{size: b.size}, nil }
func (b *blob) Release()                        {}
func (b *blob) Restore(r io.Reader) (err error) { b.got, err = io.Copy(io.Discard, r); return err }
func (b *blob) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, io.LimitReader(zeros{}, b.size))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestSnapshotStreams: neither side holds the state's bytes.
func TestSnapshotStreams(t *testing.T) {
	const size = 256 << 20
	m := New("blob.example", &blob{size: size}, Limits{})
	s, err := m.Snapshot()
	require.NoError(t, err)
	defer s.Release()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, w := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := s.WriteTo(w)
		w.CloseWithError(err)
	})
	app := &blob{}
	_, err = Restore("blob.example", app, Limits{}, r)
	wg.Wait()
	require.NoError(t, err)
	require.EqualValues(t, size, app.got)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20))
}

func FuzzRestoreMachine(f *testing.F) {
	f.Add(stream(f, usedMachine()))
	f.Add(stream(f, New("journal.example", &journal{}, tightLimits)))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Restore("journal.example", &journal{}, tightLimits, bytes.NewReader(b))
		if err != nil {
			return
		}
		checkTable(t, m)
		// What was accepted is whole: it can be written and read again, and applied to.
		again := viaSnapshot(t, m, tightLimits)
		require.Equal(t, stream(t, m), stream(t, again))
		if m.index < 1<<62 {
			r := newRand(1)
			for range 20 {
				e := randomEntry(r, m)
				require.Equal(t, m.Apply(e), again.Apply(e))
			}
			checkTable(t, m)
		}
	})
}
