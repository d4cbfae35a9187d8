package core

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

var (
	fuzzA = resolver.Host{ID: "a", Incarnation: 1, Addr: "a:1"}
	fuzzB = resolver.Host{ID: "b", Incarnation: 2, Addr: "b:1"}
)

func fuzzRecord(ver, epoch uint64, active resolver.Host, isr ...resolver.Host) resolver.Record {
	return resolver.Record{
		Name: "svc", Generation: 1, Version: ver, Epoch: epoch, Active: active, ISR: isr, Proposer: active, Nonce: 1,
	}
}

// someMsgs returns messages as hosts send them.
func someMsgs(tb testing.TB) (all [][]byte) {
	rec := fuzzRecord(3, 2, fuzzA, fuzzA, fuzzB)
	term := Term{Epoch: 2}
	for _, m := range []Msg{
		{Type: MsgAppend, Prev: 3, PrevEpoch: 1, Commit: 3, Round: 9, Entries: []Entry{
			{Index: 4, Epoch: 2, Kind: Command, Session: 7, Seq: 1, Low: 1, Time: 1e12, Body: []byte("+1")},
			{Index: 5, Epoch: 2, Kind: OpenSession, Session: 8, Body: make([]byte, 32)},
		}},
		{Type: MsgAppend, Prev: ^uint64(0), Round: 3},
		{Type: MsgAck, Index: 5, Commit: 4, Round: 9, Flag: true},
		{Type: MsgReject, Record: &rec},
		{Type: MsgInvite, Record: &rec, Round: 1},
		{Type: MsgInvite, Record: &rec, Round: 1, Prev: 3, PrevEpoch: 2},
		{Type: MsgJoin, Round: 1, Flag: true, Commit: 3, Reason: "host b is about to leave"},
		{Type: MsgSnapshot, Round: 77, Index: 5, PrevEpoch: 2, Prev: 1},
		{Type: MsgRecord, Record: &rec},
		{Type: MsgRelease, Record: &rec, Round: 1},
		{Type: MsgTransfer, Record: &rec},
		{Type: MsgFailed, Reason: "the record changed meanwhile"},
		{Type: MsgMoved, Won: time.Millisecond, Served: time.Second},
		{Type: MsgLeave, Round: 1},
		{Type: MsgPolicy, Prev: 3, PrevEpoch: 2},
	} {
		m.From, m.Term = fuzzB, term
		b, err := AppendMsg(nil, m)
		require.NoError(tb, err)
		all = append(all, b)
	}
	return all
}

// Accepted messages round-trip, and cost no more memory than their length allows.
func FuzzReadMsg(f *testing.F) {
	for _, b := range someMsgs(f) {
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m, err := ReadMsg(b)
		runtime.ReadMemStats(&after)
		// An entry takes 96 bytes here and 12 on the wire; what a record costs does not grow with the message.
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<10+recordCost+16*len(b)))
		if err != nil {
			return
		}
		again, err := AppendMsg(nil, m)
		require.NoError(t, err)
		back, err := ReadMsg(again)
		require.NoError(t, err)
		require.Equal(t, m, back)
	})
}

// recordCost is above the memory cost of the worst record.
const recordCost = 256 << 10

func FuzzReadEntry(f *testing.F) {
	e := Entry{Index: 4, Epoch: 2, Kind: Command, Session: 7, Seq: 1, Low: 1, Time: 1e12, Body: []byte("+1")}
	f.Add(AppendEntry(nil, e))
	f.Add(AppendEntry(AppendEntry(nil, e), Entry{Index: 5, Epoch: 2, Kind: EpochStart}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, rest, err := ReadEntry(b)
		if err != nil {
			return
		}
		require.Less(t, len(rest), len(b))
		back, end, err := ReadEntry(AppendEntry(nil, e))
		require.NoError(t, err)
		require.Empty(t, end)
		require.Equal(t, e, back)
	})
}

// A host that breaks the protocol may stop the core with a Violation. It never makes it panic, and never makes its commit
// index go back.
func FuzzStep(f *testing.F) {
	var all []byte
	for _, b := range someMsgs(f) {
		all = append(append(all, byte(len(b))), b...)
		f.Add(append([]byte{byte(len(b))}, b...), true)
		f.Add(append([]byte{byte(len(b))}, b...), false)
	}
	f.Add(all, true)
	f.Add(all, false)
	f.Fuzz(func(t *testing.T, b []byte, active bool) {
		c := New(fuzzA, Config{Name: "svc", Standbys: 1})
		now := time.Second
		step := func(ev Event) {
			commit, had := c.Commit(), c.HasState()
			c.Step(now, ev)
			r := c.Ready()
			if c.Err() != nil {
				require.Zero(t, r)
				return
			}
			if had && c.HasState() && !r.Drop {
				require.GreaterOrEqual(t, c.Commit(), commit)
			}
			now += 10 * time.Millisecond
		}
		if active {
			step(Create{})
			step(CASDone{Nonce: 1, Outcome: CASConflict, Record: fuzzRecord(2, 1, fuzzA, fuzzA, fuzzB)})
		} else {
			rec := fuzzRecord(2, 2, fuzzB, fuzzB)
			step(Recv{Msg{Type: MsgInvite, From: fuzzB, Term: Term{Epoch: 2}, Record: &rec, Round: 1}})
			step(Recv{Msg{Type: MsgSnapshot, From: fuzzB, Term: Term{Epoch: 2}, Round: 77, Index: 3, PrevEpoch: 1, Prev: 1}})
			step(Restored{ID: 77, From: fuzzB, OK: true})
		}
		for len(b) > 1 {
			n := min(1+int(b[0]), len(b))
			m, err := ReadMsg(b[1:n])
			b = b[n:]
			if err != nil {
				continue
			}
			m.From = fuzzB
			step(Recv{m})
		}
		now += time.Second
		step(Tick{})
	})
}
