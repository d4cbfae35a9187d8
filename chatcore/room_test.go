package chatcore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// replica is a room that records its events.
type replica struct {
	migrate.Migratable
	index  uint64
	now    time.Time
	events [][]byte
}

func newReplica(t testing.TB, cfg Config) *replica {
	t.Helper()
	factory, err := New(cfg)
	require.NoError(t, err)
	return &replica{Migratable: factory(), now: time.UnixMilli(1_000_000)}
}

func (r *replica) command(session uint64, key transport.Key, body []byte) migrate.Command {
	r.index++
	r.now = r.now.Add(time.Second)
	cmd := migrate.Command{Index: r.index, Epoch: 1, Time: r.now, Session: session, Seq: r.index, Key: key, Body: body}
	return migrate.NewCommand(cmd, func(b []byte) { r.events = append(r.events, b) })
}

func (r *replica) do(session uint64, key transport.Key, c command) ([]byte, error) {
	return r.Apply(r.command(session, key, c.encode()))
}

// join joins with a key derived from the session number.
func (r *replica) join(t testing.TB, session uint64, name string) joinReply {
	t.Helper()
	reply, err := r.do(session, keyOf(session), command{Op: opJoin, Text: name, Addr: fmt.Sprintf("h:%d", session)})
	require.NoError(t, err)
	var j joinReply
	require.NoError(t, transport.Unmarshal(reply, &j))
	return j
}

func (r *replica) say(session uint64, text string) error {
	_, err := r.do(session, keyOf(session), command{Op: opSay, Text: text})
	return err
}

// published returns and clears the published events, one line each.
func (r *replica) published(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for _, body := range r.events {
		var e event
		require.NoError(t, transport.Unmarshal(body, &e))
		fmt.Fprintln(&b, strings.TrimSpace(fmt.Sprintf("%v %s %s", e.Kind, e.From, e.Text)))
	}
	r.events = nil
	return b.String()
}

func (r *replica) ask(t testing.TB, q query, answer any) {
	t.Helper()
	b, err := r.Migratable.(migrate.Querier).Query(migrate.Query{Body: mustMarshal(&q)})
	require.NoError(t, err)
	require.NoError(t, transport.Unmarshal(b, answer))
}

func (r *replica) history(t testing.TB, before uint64) string {
	t.Helper()
	var list []storedMessage
	r.ask(t, query{Op: queryHistory, After: before}, &list)
	var b strings.Builder
	for _, m := range list {
		fmt.Fprintf(&b, "%d %s: %s\n", m.Seq, m.From, m.Text)
	}
	return b.String()
}

func (r *replica) snapshot(t testing.TB) []byte {
	t.Helper()
	s, err := r.Snapshot()
	require.NoError(t, err)
	defer s.Release()
	var b bytes.Buffer
	n, err := s.WriteTo(&b)
	require.NoError(t, err)
	require.EqualValues(t, b.Len(), n)
	return b.Bytes()
}

func keyOf(session uint64) (k transport.Key) {
	k[0], k[1] = byte(session), byte(session>>8)
	return k
}

func TestRoom(t *testing.T) {
	r := newReplica(t, Config{})
	require.Equal(t, joinReply{Name: "ann", Next: 1, Present: 1}, r.join(t, 1, " ann "))
	require.Equal(t, joinReply{Name: "bob", Next: 2, Present: 2}, r.join(t, 2, "bob"))
	require.NoError(t, r.say(1, "hello"))
	require.NoError(t, r.say(2, "hi"))
	require.Equal(t, "joined ann\njoined bob\nmessage ann hello\nmessage bob hi\n", r.published(t))

	// The history of a newcomer ends before its first event, regardless of when it is queried.
	require.EqualValues(t, 5, r.join(t, 3, "cid").Next)
	require.NoError(t, r.say(3, "later"))
	require.Equal(t, "3 ann: hello\n4 bob: hi\n", r.history(t, 5))
	require.Equal(t, "3 ann: hello\n", r.history(t, 4))
	require.Equal(t, "joined cid\nmessage cid later\n", r.published(t))

	_, err := r.do(1, keyOf(1), command{Op: opLeave})
	require.NoError(t, err)
	_, err = r.do(1, keyOf(1), command{Op: opLeave})
	require.ErrorIs(t, err, ErrNotJoined)
	require.ErrorIs(t, r.say(1, "ghost"), ErrNotJoined)
	r.Migratable.(migrate.SessionCloser).SessionClosed(r.command(1, keyOf(1), nil)) // has already left
	r.Migratable.(migrate.SessionCloser).SessionClosed(r.command(2, keyOf(2), nil))
	require.Equal(t, "left ann\nleft bob\n", r.published(t))

	require.ErrorIs(t, r.say(9, "never joined"), ErrNotJoined)
	_, err = r.do(3, keyOf(3), command{Op: 77})
	require.ErrorIs(t, err, ErrBadCommand)
	_, err = r.Apply(r.command(3, keyOf(3), []byte("nonsense")))
	require.ErrorIs(t, err, ErrBadCommand)
	require.Empty(t, r.published(t))
}

func TestNamesBelongToKeys(t *testing.T) {
	ann, mallory, none := keyOf(1), keyOf(2), transport.Key{}
	for _, tc := range []struct {
		what         string
		first, then  transport.Key
		name         string
		leavesBefore bool
		want         error
	}{
		{"another key", ann, mallory, "ann", false, ErrNameTaken},
		{"another key, other case", ann, mallory, "ANN", false, ErrNameTaken},
		{"no key", ann, none, "ann", false, ErrNameTaken},
		{"both without a key", none, none, "ann", false, ErrNameTaken},
		{"the same key", ann, ann, "ann", false, nil},
		{"another name", ann, mallory, "anna", false, nil},
		{"the name is free again", ann, mallory, "ann", true, nil},
	} {
		t.Run(tc.what, func(t *testing.T) {
			r := newReplica(t, Config{})
			_, err := r.do(1, tc.first, command{Op: opJoin, Text: "ann"})
			require.NoError(t, err)
			if tc.leavesBefore {
				_, err = r.do(1, tc.first, command{Op: opLeave})
				require.NoError(t, err)
			}
			_, err = r.do(2, tc.then, command{Op: opJoin, Text: tc.name})
			if tc.want == nil {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, tc.want)
			require.ErrorContains(t, err, `"ann"`)
			require.Equal(t, "joined ann\n", r.published(t))
		})
	}
}

func TestNewSessionOfTheSameKeyTakesOver(t *testing.T) {
	r := newReplica(t, Config{})
	r.join(t, 1, "ann")
	reply, err := r.do(2, keyOf(1), command{Op: opJoin, Text: "ann", Addr: "new:1"})
	require.NoError(t, err)
	var j joinReply
	require.NoError(t, transport.Unmarshal(reply, &j))
	require.Equal(t, 1, j.Present)
	require.ErrorIs(t, r.say(1, "old"), ErrNotJoined)
	r.Migratable.(migrate.SessionCloser).SessionClosed(r.command(1, keyOf(1), nil)) // the old session expires
	require.NoError(t, r.say(2, "new"))
	require.Equal(t, "joined ann\njoined ann\nmessage ann new\n", r.published(t))

	var p participantInfo
	r.ask(t, query{Op: queryFind, Name: "ANN"}, &p)
	require.Equal(t, "new:1", p.Addr)
}

func TestRejoinInTheSameSession(t *testing.T) {
	r := newReplica(t, Config{})
	r.join(t, 1, "ann")
	r.published(t)
	reply, err := r.do(1, keyOf(1), command{Op: opJoin, Text: "ann", Addr: "new:1"})
	require.NoError(t, err)
	var j joinReply
	require.NoError(t, transport.Unmarshal(reply, &j))
	require.EqualValues(t, 2, j.Next)
	_, err = r.do(1, keyOf(1), command{Op: opJoin, Text: "bob"})
	require.ErrorIs(t, err, ErrJoined)
	require.Empty(t, r.published(t))
	var p participantInfo
	r.ask(t, query{Op: queryFind, Name: "ann"}, &p)
	require.Equal(t, "new:1", p.Addr)
}

func TestSenderIsSetByTheRoom(t *testing.T) {
	r := newReplica(t, Config{})
	r.join(t, 1, "ann")
	r.join(t, 2, "bob")
	r.published(t)
	// A sender in the payload is ignored.
	body, err := transport.Marshal([]any{opSay, "send me money", "ann"})
	require.NoError(t, err)
	_, err = r.Apply(r.command(2, keyOf(1), body))
	require.NoError(t, err)
	require.Equal(t, "message bob send me money\n", r.published(t))
}

func TestChatBegins(t *testing.T) {
	r := newReplica(t, Config{MinParticipants: 3})
	require.Equal(t, 2, r.join(t, 1, "ann").Missing)
	require.NoError(t, r.say(1, "one"))
	require.Equal(t, 1, r.join(t, 2, "bob").Missing)
	require.NoError(t, r.say(2, "two"))
	require.Equal(t, "joined ann\njoined bob\n", r.published(t))

	// Ann leaves and rejoins, also under another name: she counts once, and her messages are still held.
	_, err := r.do(1, keyOf(1), command{Op: opLeave})
	require.NoError(t, err)
	for _, name := range []string{"ann", "anna"} {
		reply, err := r.do(1, keyOf(1), command{Op: opJoin, Text: name})
		require.NoError(t, err)
		var j joinReply
		require.NoError(t, transport.Unmarshal(reply, &j))
		require.Equal(t, 1, j.Missing)
		_, err = r.do(1, keyOf(1), command{Op: opLeave})
		require.NoError(t, err)
	}
	require.Equal(t, "left ann\njoined ann\nleft ann\njoined anna\nleft anna\n", r.published(t))
	require.Empty(t, r.history(t, 100))

	// A move in between loses nothing.
	moved := newReplica(t, Config{})
	require.NoError(t, moved.Restore(bytes.NewReader(r.snapshot(t))))
	j := moved.join(t, 3, "cid")
	require.Equal(t, joinReply{Name: "cid", Next: 8, Present: 2}, j)
	require.Equal(t, "joined cid\nbegun\nmessage ann one\nmessage bob two\n", moved.published(t))
	require.Equal(t, "10 ann: one\n11 bob: two\n", moved.history(t, 100))

	// The chat does not stop when participants leave.
	for s := uint64(2); s <= 3; s++ {
		_, err = moved.do(s, keyOf(s), command{Op: opLeave})
		require.NoError(t, err)
	}
	require.Zero(t, moved.join(t, 4, "dee").Missing)
	require.NoError(t, moved.say(4, "alone"))
	require.Equal(t, "left bob\nleft cid\njoined dee\nmessage dee alone\n", moved.published(t))
}

func TestParticipantsWithoutKeysAreCountedByName(t *testing.T) {
	r := newReplica(t, Config{MinParticipants: 2})
	for s := range uint64(3) {
		_, err := r.do(s, transport.Key{}, command{Op: opJoin, Text: "ann"})
		require.NoError(t, err)
		_, err = r.do(s, transport.Key{}, command{Op: opLeave})
		require.NoError(t, err)
	}
	_, err := r.do(9, transport.Key{}, command{Op: opJoin, Text: "bob"})
	require.NoError(t, err)
	require.Contains(t, r.published(t), "joined bob\nbegun\n")
}

func TestHeldMessagesAreBounded(t *testing.T) {
	for _, tc := range []struct {
		cfg  Config
		want int // number of short messages that fit
	}{
		{Config{MinParticipants: 2, HeldCount: 3}, 3},
		{Config{MinParticipants: 2, HeldBytes: 3*(32+3+5) + 1}, 3},
	} {
		r := newReplica(t, tc.cfg)
		r.join(t, 1, "ann")
		for range tc.want {
			require.NoError(t, r.say(1, "hello"))
		}
		err := r.say(1, "hello")
		require.ErrorIs(t, err, ErrHeldFull)
		require.ErrorContains(t, err, "1 participants are missing")
		r.join(t, 2, "bob")
		require.NoError(t, r.say(1, "hello"))
		require.Equal(t, tc.want+1, strings.Count(r.published(t), "message ann hello"))
	}
}

func TestHistoryIsBounded(t *testing.T) {
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{Config{HistoryCount: 2}, "4 ann: m3\n5 ann: m4\n"},
		{Config{HistoryBytes: 2*(32+3+2) + 1}, "4 ann: m3\n5 ann: m4\n"},
		{Config{HistoryBytes: 10}, ""},
		{Config{HistoryCount: NoHistory}, ""},
	} {
		r := newReplica(t, tc.cfg)
		r.join(t, 1, "ann")
		for i := range 4 {
			require.NoError(t, r.say(1, fmt.Sprintf("m%d", i+1)))
		}
		require.Equal(t, tc.want, r.history(t, 100), "%+v", tc.cfg)
		again := newReplica(t, Config{})
		require.NoError(t, again.Restore(bytes.NewReader(r.snapshot(t))))
		require.Equal(t, tc.want, again.history(t, 100))
	}
}

func TestRoomIsBounded(t *testing.T) {
	r := newReplica(t, Config{MaxParticipants: 2})
	r.join(t, 1, "ann")
	r.join(t, 2, "bob")
	_, err := r.do(3, keyOf(3), command{Op: opJoin, Text: "cid"})
	require.ErrorIs(t, err, ErrFull)
	_, err = r.do(4, keyOf(2), command{Op: opJoin, Text: "bob"}) // bob's new session replaces the old one
	require.NoError(t, err)
}

func TestWho(t *testing.T) {
	r := newReplica(t, Config{})
	const n = 2*maxPage + 7
	for s := uint64(1); s <= n; s++ {
		r.join(t, s, fmt.Sprintf("p%d", s))
	}
	var names []string
	for after := uint64(0); ; {
		var page roster
		r.ask(t, query{Op: queryWho, After: after}, &page)
		require.Equal(t, n, page.Present)
		if len(page.List) == 0 {
			break
		}
		require.LessOrEqual(t, len(page.List), maxPage)
		for _, p := range page.List {
			names = append(names, p.Name)
			after = p.Number
		}
	}
	require.Len(t, names, n)
	require.Equal(t, []string{"p1", "p2"}, names[:2])

	var page roster
	r.ask(t, query{Op: queryWho, After: 5, Limit: 2}, &page)
	require.Len(t, page.List, 2)
	require.Equal(t, "p6", page.List[0].Name)
	r.ask(t, query{Op: queryWho, Limit: 10 * maxPage}, &page)
	require.Len(t, page.List, maxPage)
	r.ask(t, query{Op: queryWho, After: 1<<64 - 1, Limit: -5}, &page)
	require.Empty(t, page.List)

	q := r.Migratable.(migrate.Querier)
	_, err := q.Query(migrate.Query{Body: mustMarshal(&query{Op: queryFind, Name: "pl"})}) // confusable with p1, but not equal
	require.ErrorIs(t, err, ErrNoSuchName)
	_, err = q.Query(migrate.Query{Body: mustMarshal(&query{Op: 9})})
	require.ErrorIs(t, err, ErrBadCommand)
	_, err = q.Query(migrate.Query{Body: []byte{0xc1}})
	require.ErrorIs(t, err, ErrBadCommand)
}

func TestValidate(t *testing.T) {
	r := newReplica(t, Config{})
	v := r.Migratable.(migrate.Validator)
	for _, tc := range []struct {
		c    command
		want error
	}{
		{command{Op: opJoin, Text: "ann"}, nil},
		{command{Op: opSay, Text: "before joining: the join may be on its way"}, nil},
		{command{Op: opLeave}, nil},
		{command{Op: opJoin, Text: "ann\x00"}, ErrBadName},
		{command{Op: opJoin, Text: "ann", Addr: "a\nb"}, ErrBadCommand},
		{command{Op: opJoin, Text: "ann", Addr: strings.Repeat("a", 257)}, ErrBadCommand},
		{command{Op: opSay, Text: "a\x1b[2J"}, ErrBadText},
		{command{Op: 9}, ErrBadCommand},
	} {
		err := v.Validate(r.command(1, keyOf(1), tc.c.encode()))
		if tc.want == nil {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, tc.want, "%+v", tc.c)
		}
	}
	require.ErrorIs(t, v.Validate(r.command(1, keyOf(1), nil)), ErrBadCommand)
}

func TestConfigNamesTheField(t *testing.T) {
	for field, cfg := range map[string]Config{
		"MinParticipants": {MinParticipants: -1},
		"HistoryCount":    {HistoryCount: -2},
		"HistoryBytes":    {HistoryBytes: 1 << 20},
		"HeldCount":       {HeldCount: -1},
		"HeldBytes":       {HeldBytes: 1 << 30},
		"MaxName":         {MaxName: 65},
		"MaxText":         {MaxText: 1 << 20},
		"MaxParticipants": {MaxParticipants: -1},
		"MaxPerKey":       {MaxPerKey: 100_001},
	} {
		_, err := New(cfg)
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, "Config."+field)
	}
}

// scramble returns a random but plausible command.
func scramble(rng *rand.Rand) (session uint64, key transport.Key, body []byte) {
	session = rng.Uint64N(6) + 1
	key = keyOf(rng.Uint64N(4)) // 0: no key
	names := []string{"ann", "ANN", "bob", "b0b", "cid", "dee", "", "a b"}
	switch rng.IntN(10) {
	case 0, 1, 2:
		c := command{Op: opJoin, Text: names[rng.IntN(len(names))], Addr: fmt.Sprintf("h:%d", rng.IntN(3))}
		return session, key, c.encode()
	case 3:
		return session, key, command{Op: opLeave}.encode()
	case 4:
		b := make([]byte, rng.IntN(12))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return session, key, b
	default:
		return session, key, command{Op: opSay, Text: strings.Repeat("x", rng.IntN(50))}.encode()
	}
}

// Two replicas apply the same commands, and one of them moves to another host in between. Their observable behavior must be
// equal.
func TestReplicasAgree(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		cfg := Config{
			MinParticipants: rng.IntN(4), HistoryCount: rng.IntN(5) + 1, HistoryBytes: rng.IntN(400) + 1,
			HeldCount: rng.IntN(5) + 1, MaxParticipants: rng.IntN(4) + 1, MaxPerKey: rng.IntN(3) + 1,
		}
		a, b := newReplica(t, cfg), newReplica(t, cfg)
		const steps = 80
		carry := rng.IntN(steps)
		for step := range steps {
			if step == carry {
				next := newReplica(t, Config{})
				next.index, next.now, next.events = b.index, b.now, b.events
				s, err := b.Snapshot()
				require.NoError(t, err)
				// The old instance keeps applying commands while the snapshot is written.
				for range 5 {
					_, _ = b.Apply(b.command(scramble(rng)))
				}
				var buf bytes.Buffer
				_, err = s.WriteTo(&buf)
				require.NoError(t, err)
				s.Release()
				require.NoError(t, next.Restore(&buf))
				b = next
			}
			session, key, body := scramble(rng)
			if rng.IntN(15) == 0 {
				a.Migratable.(migrate.SessionCloser).SessionClosed(a.command(session, key, nil))
				b.Migratable.(migrate.SessionCloser).SessionClosed(b.command(session, key, nil))
				continue
			}
			ra, ea := a.Apply(a.command(session, key, body))
			rb, eb := b.Apply(b.command(session, key, body))
			require.Equal(t, ra, rb, "seed %d step %d", seed, step)
			require.Equal(t, fmt.Sprint(ea), fmt.Sprint(eb), "seed %d step %d", seed, step)
			require.Equal(t, transport.CodeOf(ea), transport.CodeOf(eb))
			if a.Migratable.(migrate.Validator).Validate(migrate.Command{Body: body}) != nil {
				require.Error(t, ea, "Apply rejects what Validate rejects")
			}
		}
		require.Equal(t, a.events, b.events, "seed %d", seed)
		require.Equal(t, a.snapshot(t), b.snapshot(t), "seed %d", seed)
		require.EqualValues(t, len(a.events), a.Migratable.(*room).events, "events are counted")
	}
}

func TestRestoreReportsReadErrors(t *testing.T) {
	r := newReplica(t, Config{})
	r.join(t, 1, "ann")
	require.NoError(t, r.say(1, "hello"))
	whole := r.snapshot(t)
	for n := range whole {
		err := newReplica(t, Config{}).Restore(bytes.NewReader(whole[:n]))
		require.ErrorIs(t, err, ErrBadSnapshot, "cut at %d", n)
	}
	broken := iotest.ErrReader(io.ErrClosedPipe)
	for n := range len(whole) + 1 { // including an error at the end
		err := newReplica(t, Config{}).Restore(io.MultiReader(bytes.NewReader(whole[:n]), broken))
		require.ErrorIs(t, err, io.ErrClosedPipe)
	}
	require.ErrorIs(t, newReplica(t, Config{}).Restore(bytes.NewReader(append(whole, 0))), ErrBadSnapshot)
	require.NoError(t, newReplica(t, Config{}).Restore(iotest.OneByteReader(bytes.NewReader(whole))))
}

// Restore rejects snapshots that no room could have written. Each case corrupts the state of a room.
func TestRestoreRejectsInvalidState(t *testing.T) {
	for what, spoil := range map[string]func(r *room){
		"duplicate name":        func(r *room) { r.list[1] = &participant{number: 2, name: "ANN", session: 2} },
		"duplicate session":     func(r *room) { r.list[1] = &participant{number: 2, name: "bob", session: 1} },
		"duplicate number":      func(r *room) { r.list[1] = &participant{number: 1, name: "bob", session: 2} },
		"the number 0":          func(r *room) { r.list[0] = &participant{number: 0, name: "ann", session: 1} },
		"number above last":     func(r *room) { r.last = 1 },
		"a bad name":            func(r *room) { r.list[0] = &participant{number: 1, name: "a\nb", session: 1} },
		"a bad address":         func(r *room) { r.list[0] = &participant{number: 1, name: "ann", addr: "\x1b", session: 1} },
		"too many participants": func(r *room) { r.cfg.MaxParticipants = 1 },
		"too much history":      func(r *room) { r.cfg.HistoryCount = 1 },
		"too large a history":   func(r *room) { r.cfg.HistoryBytes = 50 },
		"too many held": func(r *room) {
			r.begun, r.cfg.MinParticipants, r.held = false, 3, make([]storedMessage, 1001)
		},
		"held after the begin":   func(r *room) { r.held = []storedMessage{{From: "ann", Text: "hi"}} },
		"not begun at the count": func(r *room) { r.begun, r.cfg.MinParticipants, r.seen = false, 1, []string{"x"} },
		"key counted twice":      func(r *room) { r.begun, r.cfg.MinParticipants, r.seen = false, 9, []string{"x", "x"} },
		"history out of order":   func(r *room) { r.history[0].Seq = 4 },
		"history above events":   func(r *room) { r.events = 3 },
		"control characters":     func(r *room) { r.history[0].Text = "\x1b[2J" },
		"sender not UTF-8":       func(r *room) { r.history[0].From = "\xff" },
		"an invalid limit":       func(r *room) { r.cfg.MaxName = 1000 },
		"a missing limit":        func(r *room) { r.cfg.MaxName = 0 },
		"counters out of range":  func(r *room) { r.events = 1 << 53 },
	} {
		r := newReplica(t, Config{})
		r.join(t, 1, "ann")
		r.join(t, 2, "bob")
		require.NoError(t, r.say(1, "one"))
		require.NoError(t, r.say(2, "two"))
		require.NoError(t, newReplica(t, Config{}).Restore(bytes.NewReader(r.snapshot(t))))
		spoil(r.Migratable.(*room))
		require.ErrorIs(t, newReplica(t, Config{}).Restore(bytes.NewReader(r.snapshot(t))), ErrBadSnapshot, what)
	}

	huge := binary.AppendUvarint(nil, 1<<60)
	require.ErrorIs(t, newReplica(t, Config{}).Restore(bytes.NewReader(huge)), ErrBadSnapshot)
	later := mustMarshal([]any{snapshotMagic, snapshotVersion + 1})
	later = append(binary.AppendUvarint(nil, uint64(len(later))), later...)
	require.ErrorContains(t, newReplica(t, Config{}).Restore(bytes.NewReader(later)), `"roam-chat" version 2`)
}

// A snapshot does not change while the room applies further commands.
func TestSnapshotIsConsistent(t *testing.T) {
	r := newReplica(t, Config{HistoryCount: 3})
	r.join(t, 1, "ann")
	for range 10 {
		require.NoError(t, r.say(1, "before"))
	}
	s, err := r.Snapshot()
	require.NoError(t, err)
	done := make(chan []byte)
	go func() {
		var b bytes.Buffer
		_, _ = s.WriteTo(&b)
		s.Release()
		done <- b.Bytes()
	}()
	for i := range 100 {
		require.NoError(t, r.say(1, "after"))
		r.join(t, uint64(i+2), fmt.Sprintf("p%d", i))
	}
	again := newReplica(t, Config{})
	require.NoError(t, again.Restore(bytes.NewReader(<-done)))
	require.Equal(t, "9 ann: before\n10 ann: before\n11 ann: before\n", again.history(t, 1000))
	require.Len(t, again.Migratable.(*room).list, 1)
}

func FuzzRestore(f *testing.F) {
	r := newReplica(f, Config{MinParticipants: 2})
	r.join(f, 1, "ann")
	_ = r.say(1, "hello")
	f.Add(r.snapshot(f))
	r.join(f, 2, "bob")
	f.Add(r.snapshot(f))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newReplica(t, Config{})
		if err := r.Restore(bytes.NewReader(b)); err != nil {
			return
		}
		// An accepted snapshot gives a valid room: its own snapshot restores to an equal room.
		first := r.snapshot(t)
		again := newReplica(t, Config{})
		require.NoError(t, again.Restore(bytes.NewReader(first)))
		require.Equal(t, first, again.snapshot(t))
		_, _ = r.do(7, keyOf(7), command{Op: opJoin, Text: "zoe"})
		_ = r.say(7, "hello")
	})
}

func FuzzApply(f *testing.F) {
	f.Add(command{Op: opJoin, Text: "ann", Addr: "h:1"}.encode(), command{Op: opSay, Text: "hello"}.encode())
	f.Add([]byte{0xc0}, []byte{0x93, 0xdf, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		r := newReplica(t, Config{MinParticipants: 1})
		for session, body := range [][]byte{first, second, first, second} {
			_, _ = r.Apply(r.command(uint64(session), keyOf(uint64(session)), body))
			_, _ = r.Migratable.(migrate.Querier).Query(migrate.Query{Body: body})
			_ = r.Migratable.(migrate.Validator).Validate(r.command(1, keyOf(1), body))
		}
		require.NoError(t, newReplica(t, Config{}).Restore(bytes.NewReader(r.snapshot(t))))
	})
}

func BenchmarkSay(b *testing.B) {
	r := newReplica(b, Config{})
	r.join(b, 1, "ann")
	body := command{Op: opSay, Text: strings.Repeat("x", 64)}.encode()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Apply(r.command(1, keyOf(1), body)); err != nil {
			b.Fatal(err)
		}
		r.events = r.events[:0]
	}
}

func BenchmarkSnapshot(b *testing.B) {
	r := newReplica(b, Config{})
	for s := range uint64(10_000) {
		r.join(b, s, fmt.Sprintf("p%d", s))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Snapshot(); err != nil {
			b.Fatal(err)
		}
	}
}
