//go:build unix

package main

import (
	"bytes"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
)

// history is the observations of some clients, for the checker.
type history struct {
	acks   []ack
	events []eventBatch
	sent   map[uint32]uint32
	states map[string]Place
}

// goodHistory has two clients, three commands that do not overlap in time, and a query.
func goodHistory() *history { return historyOf(Ident{1, 1}, Ident{2, 1}, Ident{1, 2}) }

func historyOf(ids ...Ident) *history {
	var (
		h = &history{sent: map[uint32]uint32{1: 2, 2: 1}, states: map[string]Place{}}
		p Place
		b = eventBatch{Observer: 1, First: 1}
	)
	for i, c := range ids {
		p = p.next(c)
		h.acks = append(h.acks, ack{c, p, 1, int64(100 * i), int64(100*i + 50)})
		b.Events = append(b.Events, event{c, p.Link})
	}
	h.acks = append(h.acks, ack{Ident: Ident{Client: 2}, Place: p, Invoked: 300, Done: 350})
	h.events = append(h.events, b)
	h.states["h1"], h.states["h2"] = p, p
	return h
}

func (h *history) check() []string {
	k := newChecker()
	k.acked(h.acks)
	for i := range h.events {
		k.observed(&h.events[i])
	}
	k.finish(h.sent, h.states)
	return k.violations()
}

func TestChecker(t *testing.T) {
	require.Empty(t, goodHistory().check())
	for _, tc := range []struct {
		name string
		harm func(h *history)
		want string
	}{
		{"another command at a position", func(h *history) { h.events[0].Events[1].Seq = 7 }, "(a)"},
		{"another past", func(h *history) { h.events[0].Events[1].Link++ }, "(a)"},
		{"command twice", func(h *history) {
			e := &h.events[0]
			last := Place{3, e.Events[2].Link}.next(Ident{2, 1})
			e.Events = append(e.Events, event{Ident{2, 1}, last.Link})
			h.states["h1"], h.states["h2"] = last, last
		}, "(b, c)"},
		{"acknowledged and not in the log", func(h *history) {
			h.sent[2] = 2
		}, "(b)"},
		{"order in time", func(h *history) { h.acks[0].Invoked, h.acks[0].Done = 160, 190 }, "(d)"},
		{"order of a client", func(h *history) { *h = *historyOf(Ident{1, 2}, Ident{2, 1}, Ident{1, 1}) }, "(e)"},
		{"event again", func(h *history) { h.events = append(h.events, h.events[0]) }, "(f)"},
		{"never sent", func(h *history) { h.sent[1] = 1 }, "(g)"},
		{"state of a host", func(h *history) { h.states["h2"] = Place{2, h.acks[1].Link} }, "host h2 ends with 2 commands"},
		{"link that does not follow", func(h *history) {
			h.acks[1].Link++
			h.events[0].Events[1].Link++
		}, "but the log gives"},
		{"query of the past", func(h *history) { h.acks[3].Place = h.acks[1].Place }, "(i)"},
		{"query of what never was", func(h *history) { h.acks[3].Link++ }, "(i)"},
		{"hole", func(h *history) {
			h.events = nil
			h.acks = append(h.acks[:1], h.acks[2:]...)
			delete(h.sent, 2)
		}, "nobody knows what is at 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := goodHistory()
			tc.harm(h)
			got := h.check()
			require.NotEmpty(t, got)
			require.Contains(t, got[0], tc.want)
		})
	}
}

// There is one service, with one active host in each epoch, and a new Loss only after a reset.
func TestCheckerServes(t *testing.T) {
	k := newChecker()
	k.serves("h1", 7, 1)
	k.serves("h2", 7, 2)
	k.serves("h1", 7, 1)
	k.expectReset()
	k.serves("h2", 9, 1)
	k.serves("h1", 7, 3) // reported late
	require.Empty(t, k.violations())
	k.serves("h3", 7, 2)
	require.Len(t, k.violations(), 1)
	require.Contains(t, k.violations()[0], "hosts h2 and h3 are both active in epoch 2 (j)")
	k.serves("h3", 11, 1)
	require.Len(t, k.violations(), 2)
	require.Contains(t, k.violations()[1], "host h3 is active in a second service")
}

// Concurrent commands may be in any order.
func TestCheckerConcurrent(t *testing.T) {
	h := goodHistory()
	h.acks[1].Invoked = 40 // before the acknowledgement of the first
	h.acks[0].Invoked, h.acks[0].Done = 45, 90
	require.Empty(t, h.check())
}

// Only the observations of others are known about a killed client.
func TestCheckerKilledClient(t *testing.T) {
	h := goodHistory()
	h.sent[1] = 1
	k := newChecker()
	k.acked(h.acks)
	k.forget(1, 1)
	k.finish(h.sent, h.states)
	require.Empty(t, k.violations())

	h = historyOf(Ident{1, 1}, Ident{2, 1}, Ident{1, 3})
	k = newChecker()
	k.acked(h.acks)
	k.forget(1, 1)
	delete(h.sent, 1)
	k.finish(h.sent, h.states)
	require.NotEmpty(t, k.violations())
	require.Contains(t, k.violations()[0], "command 3 of client 1 is at 3, before the one sent before it, at 0 (e)")
}

func TestAnalyse(t *testing.T) {
	var acks []ack
	for i := range 100 {
		epoch, at := uint32(1), time.Duration(i)*10*time.Millisecond
		if i >= 50 {
			epoch, at = 2, at+300*time.Millisecond
		}
		acks = append(acks, ack{Ident{1, uint32(i + 1)}, Place{Pos: uint64(i + 1)}, epoch, int64(at - time.Millisecond),
			int64(at)})
	}
	var res result
	silences := 0
	res.analyse([]fault{{Kind: "kill", At: int64(495 * time.Millisecond), Epoch: 1}}, acks, func(from, to int64) {
		require.Equal(t, [2]int64{int64(490 * time.Millisecond), int64(800 * time.Millisecond)}, [2]int64{from, to})
		silences++
	})
	require.Equal(t, 1, silences)
	require.Equal(t, map[string]int{"kill": 1}, res.Faults)
	require.Equal(t, 305*time.Millisecond, res.Silence["kill"].Max)
	require.Equal(t, 305*time.Millisecond, res.New["kill"].Max)
	require.Equal(t, spread{100, time.Millisecond, time.Millisecond, time.Millisecond, time.Millisecond, time.Millisecond},
		res.Latency)
}

func TestLedger(t *testing.T) {
	var seen board
	l := newLedger(&seen, 1000)
	var emitted [][]byte
	apply := func(c Ident) (answer, error) {
		var a answer
		b, err := l.Apply(migrate.NewCommand(migrate.Command{Index: 10, Epoch: 3, Body: c.body()},
			func(b []byte) { emitted = append(emitted, b) }))
		if err == nil {
			err = a.unmarshal(b)
		}
		return a, err
	}
	one, err := apply(Ident{1, 1})
	require.NoError(t, err)
	require.Equal(t, answer{Place{}.next(Ident{1, 1}), 10, 3}, one)
	two, err := apply(Ident{2, 1})
	require.NoError(t, err)
	require.Equal(t, one.next(Ident{2, 1}), two.Place)
	require.NotEqual(t, one.next(Ident{1, 2}), two.Place)
	require.Equal(t, two.Place, seen.get())
	var e event
	require.NoError(t, e.unmarshal(emitted[1]))
	require.Equal(t, event{Ident{2, 1}, two.Link}, e)

	snap, err := l.Snapshot()
	require.NoError(t, err)
	var b bytes.Buffer
	_, err = snap.WriteTo(&b)
	require.NoError(t, err)
	var other board
	m := newLedger(&other, 1000)
	require.NoError(t, m.Restore(bytes.NewReader(b.Bytes())))
	require.Equal(t, l.Place, m.Place)
	b.Bytes()[500]++
	require.ErrorContains(t, newLedger(&other, 1000).Restore(&b), "damaged")

	body := Ident{1, 2}.body()
	body[60]++
	_, err = l.Apply(migrate.NewCommand(migrate.Command{Body: body}, nil))
	require.ErrorContains(t, err, "damaged")
}

func TestMeter(t *testing.T) {
	m := newMeter()
	now := time.Now().Add(-100 * time.Millisecond)
	var acks []ack
	for i := range 200 {
		acks = append(acks, ack{Ident: Ident{1, uint32(i + 1)}, Epoch: 7,
			Done: now.Add(-time.Duration(i) * time.Millisecond).UnixNano()})
	}
	m.count(acks)
	require.EqualValues(t, 7, m.highest())
	require.InDelta(t, 200, m.rate(time.Second), 60)
	require.NotEmpty(t, maps.Clone(m.buckets))
}
