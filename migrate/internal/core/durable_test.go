package core

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

// stored returns a host whose store holds entries 1 to 4 of epoch 1; entry 1 is committed.
func stored(t *testing.T, self resolver.Host) *Core {
	c := New(self, Config{Name: "svc", Durable: true})
	st := State{Meta: Meta{Term: Term{0, 1}, Copy: true}, Commit: 1}
	for i := range uint64(4) {
		st.Entries = append(st.Entries, Entry{Index: i + 1, Epoch: 1, Kind: Command})
	}
	c.Step(time.Second, Recovered{State: st})
	r := c.Ready()
	require.True(t, r.Get)
	require.Nil(t, r.Save)
	require.Len(t, r.Committed, 1)
	c.Applied(time.Second, 1)
	return c
}

// acks returns the acknowledged indexes in ms.
func acks(ms []Outgoing) (list []uint64) {
	for _, m := range ms {
		if m.Msg.Type == MsgAck {
			list = append(list, m.Msg.Index)
		}
	}
	return list
}

var (
	storedA = resolver.Host{ID: "a", Incarnation: 1, Addr: "a:1"}
	storedB = resolver.Host{ID: "b", Incarnation: 1, Addr: "b:1"}
)

func storedRecord(ver, epoch uint64, active resolver.Host) resolver.Record {
	return resolver.Record{
		Name: "svc", Generation: 1, Version: ver, Epoch: epoch, Active: active, ISR: []resolver.Host{storedA, storedB},
		Proposer: active, Nonce: 1,
	}
}

// Entries that the store held before the log was truncated do not count for those that replace them.
func TestStoredStandby(t *testing.T) {
	now := time.Second
	c := stored(t, storedB)
	c.Step(now, Got{Record: storedRecord(2, 2, storedA)})
	r := c.Ready()
	require.Equal(t, Standby, c.Role())
	require.Empty(t, r.Msgs, "nothing is said in a term that the store does not hold")
	require.Equal(t, Term{0, 2}, r.Save.Term)
	beat := Msg{Type: MsgAppend, From: storedA, Term: Term{0, 2}, Prev: 1, PrevEpoch: 1, Commit: 1, Round: 1}
	c.Step(now, Recv{beat})
	r2 := c.Ready()
	require.Empty(t, r2.Msgs)
	require.True(t, r2.Save.Counted)
	c.Step(now, Persisted{r.Save.Seq})
	require.NotContains(t, acks(c.Ready().Msgs), uint64(1), "that it counts is not in the store yet")
	c.Step(now, Persisted{r2.Save.Seq})
	require.Contains(t, acks(c.Ready().Msgs), uint64(1))

	more := beat
	more.Entries = []Entry{{Index: 2, Epoch: 2, Kind: EpochStart}, {Index: 3, Epoch: 2, Kind: Command}}
	c.Step(now, Recv{more})
	r = c.Ready()
	require.Equal(t, Place{1, 1}, r.Save.Base)
	require.Len(t, r.Save.Entries, 2)
	for _, index := range acks(r.Msgs) {
		require.EqualValues(t, 1, index)
	}
	c.Step(now, Persisted{r.Save.Seq})
	require.Equal(t, []uint64{3}, acks(c.Ready().Msgs))
}

// A host that was active begins a new epoch, at its present address.
func TestStoredActive(t *testing.T) {
	moved := storedA
	moved.Addr = "a:2"
	now := time.Second
	c := stored(t, moved)
	c.Step(now, Got{Record: storedRecord(1, 1, storedA)})
	r := c.Ready()
	require.NotNil(t, r.Save, "the resolver's gen")
	c.Step(now, Persisted{r.Save.Seq})
	var far Term
	for range 4 {
		if r = c.Ready(); r.Get {
			c.Step(now, Got{Record: storedRecord(1, 1, storedA)})
			r = c.Ready()
		}
		if r.Ask != nil {
			c.Step(now, Answers{})
			r = c.Ready()
		}
		if r.Save != nil {
			far = r.Save.Far
			c.Step(now, Persisted{r.Save.Seq})
			r = c.Ready()
		}
		if r.CAS != nil {
			break
		}
		now += 100 * time.Millisecond
		c.Step(now, Tick{})
	}
	require.NotNil(t, r.CAS)
	require.Equal(t, TermOf(r.CAS.Next), far, "no start of this host may propose that term again")
	before := storedRecord(1, 1, storedA)
	require.NoError(t, resolver.Check(&before, r.CAS.Next))
	require.Greater(t, r.CAS.Next.Epoch, uint64(hostNumbers), "far above what others may have begun")
	require.Equal(t, moved, r.CAS.Next.Active)
	require.Len(t, r.CAS.Next.ISR, 2)
	next := r.CAS.Next
	next.Generation, next.Version = 1, 2
	c.Step(now, CASDone{Nonce: next.Nonce, Record: next, Outcome: CASOK})
	r = c.Ready()
	require.Equal(t, Recovering, c.Role())
	require.Empty(t, r.Msgs)
	require.Equal(t, []Lag{{Host: "b", Entries: 4, Unapplied: 1, Heard: now}}, c.Lags(nil), "it holds all committed entries; what it has applied is not known yet")
	c.Step(now, Recv{Msg{Type: MsgAck, From: storedB, Term: TermOf(next), Index: 4, Round: 1}})
	r2 := c.Ready()
	require.EqualValues(t, 1, c.Commit(), "what it inherited is committed with the first entry of its own")
	require.Empty(t, r2.Committed)
	c.Step(now, Persisted{r.Save.Seq})
	require.NotEmpty(t, c.Ready().Msgs)

	// A standby that has started again elsewhere is known by what it says.
	elsewhere := storedB
	elsewhere.Addr = "b:2"
	c.Step(now, Recv{Msg{Type: MsgAck, From: elsewhere, Term: TermOf(next), Index: 5, Round: 1}})
	r = c.Ready()
	require.Equal(t, Serving, c.Role())
	require.NotNil(t, r.CAS)
	require.NoError(t, resolver.Check(&next, r.CAS.Next))
	require.Equal(t, elsewhere, r.CAS.Next.ISR[1])
}

// A host that the record names but that has no copy does not become active and does not count.
func TestStoreIsGone(t *testing.T) {
	c := New(storedA, Config{Name: "svc", Durable: true})
	c.Step(time.Second, Got{Record: storedRecord(1, 1, storedA)})
	r := c.Ready()
	require.Equal(t, Out, c.Role())
	require.Nil(t, r.CAS)

	c = New(storedB, Config{Name: "svc", Durable: true})
	c.Step(time.Second, Got{Record: storedRecord(1, 1, storedA)})
	c.Step(time.Second, Recv{Msg{Type: MsgAppend, From: storedA, Term: Term{0, 1}, Prev: 4, PrevEpoch: 1, Commit: 4, Round: 1}})
	r = c.Ready()
	c.Step(time.Second, Persisted{r.Save.Seq})
	msgs := c.Ready().Msgs
	require.NotEmpty(t, msgs)
	for _, m := range msgs {
		require.Equal(t, MsgLeave, m.Msg.Type)
	}
}

func TestStateApply(t *testing.T) {
	e := func(i, epoch uint64) Entry { return Entry{Index: i, Epoch: epoch} }
	s := State{Entries: []Entry{e(1, 1), e(2, 1), e(3, 1)}}
	require.NoError(t, s.Apply(Save{State: State{Base: Place{2, 1}, Entries: []Entry{e(3, 2)}, Commit: 2}}))
	require.Equal(t, []Entry{e(1, 1), e(2, 1), e(3, 2)}, s.Entries)
	for _, v := range []Save{
		{State: State{Base: Place{3, 1}}},                                               // another entry
		{State: State{Base: Place{4, 2}}},                                               // a gap
		{State: State{Base: Place{3, 2}, Entries: []Entry{e(5, 2)}}},                    // a gap
		{State: State{Base: Place{3, 2}, Commit: 4}},                                    // what is not there
		{State: State{Base: Place{3, 2}, Entries: []Entry{e(4, 2), e(4, 2)}}},           // twice
		{State: State{Base: Place{3, 2}, Matched: 9}},                                   // what is not there
		{Rebase: true, State: State{Base: Place{9, 2}, Entries: []Entry{e(9, 2)}}},      // twice
		{Rebase: true, State: State{Base: Place{9, 2}, Entries: []Entry{e(11, 2)}}},     // a gap
		{Rebase: true, State: State{Base: Place{9, 2}, Commit: 10, Entries: []Entry{}}}, // what is not there
	} {
		before := s
		require.Error(t, s.Apply(v), "%+v", v)
		require.Equal(t, before, s)
	}
	s.Trim(2)
	require.Equal(t, State{Commit: 2, Base: Place{2, 1}, Entries: []Entry{e(3, 2)}}, s)
}

// A new active host applies already committed entries, whose results its clients see, only when its store holds the new
// term.
func TestStoredActiveAppliesInItsTerm(t *testing.T) {
	now := time.Second
	c := stored(t, storedB)
	c.Step(now, Got{Record: storedRecord(2, 2, storedA)})
	r := c.Ready()
	c.Step(now, Persisted{r.Save.Seq})
	// The word that everything is committed comes together with the record that makes this host active.
	c.Step(now, Recv{Msg{Type: MsgAppend, From: storedA, Term: Term{0, 2}, Prev: 4, PrevEpoch: 1, Commit: 4, Round: 1}})
	rec := storedRecord(3, 3, storedB)
	rec.ISR = []resolver.Host{storedB}
	c.tried = TermOf(rec) // it has proposed that
	c.Step(now, Got{Record: rec})
	r = c.Ready()
	require.True(t, r.Activated)
	require.Empty(t, r.Committed)
	require.Len(t, c.Tail(c.applied), 4, "what is not applied yet is in the log all the same: nothing of it is ordered again")
	c.Step(now, Persisted{r.Save.Seq})
	require.Len(t, c.Ready().Committed, 4, "three entries and its own")
	c.Applied(now, c.emitted)
	require.Empty(t, c.Tail(c.applied))
}

// A host does not begin a term that the record gives to it if it does not know that it has proposed it: its directory may be
// an old copy, and the term have begun.
func TestStoredTermIsNotBegunAgain(t *testing.T) {
	c := stored(t, storedB)
	rec := storedRecord(3, 3, storedB)
	c.Step(time.Second, Got{Record: rec})
	require.False(t, c.Ready().Activated)
	require.Equal(t, Standby, c.Role())
	require.Equal(t, Term{0, 3}, c.Term())
}

// A host without contact sends to the active host at the address in the record, even if it knew another one.
func TestLeaderMoved(t *testing.T) {
	now := time.Second
	c := stored(t, storedB)
	rec := storedRecord(1, 1, storedA)
	c.Step(now, Got{Record: rec})
	rec.Version, rec.Active.Addr = 2, "a:2"
	rec.ISR = []resolver.Host{rec.Active, storedB}
	c.Step(now, Got{Record: rec})
	c.Step(now, Leave{})
	var to []string
	for range 2 {
		r := c.Ready()
		for _, m := range r.Msgs {
			to = append(to, m.To.Addr)
		}
		if r.Save != nil {
			c.Step(now, Persisted{r.Save.Seq})
		}
	}
	require.Contains(t, to, "a:2")
	require.Equal(t, "a:2", to[len(to)-1])
}

// turn steps c with an event and answers its saves and reads of the record, which is rec. It returns the proposal of c.
func turn(c *Core, now time.Duration, rec resolver.Record, ev Event) (cas *CAS) {
	for ev != nil {
		c.Step(now, ev)
		r := c.Ready()
		ev = nil
		if r.CAS != nil {
			cas = r.CAS
		}
		switch {
		case r.Save != nil:
			ev = Persisted{r.Save.Seq}
		case r.Get:
			ev = Got{Record: rec}
		case r.Ask != nil:
			ev = Answers{} // nobody answers
		}
	}
	return cas
}

// A report that an earlier active host's process is gone does not affect the host that took over.
func TestDownInEarlierTerm(t *testing.T) {
	now := time.Second
	third := resolver.Host{ID: "c", Incarnation: 1, Addr: "c:1"}
	c := stored(t, third)
	rec := storedRecord(1, 1, storedA)
	rec.ISR = append(rec.ISR, third)
	turn(c, now, rec, Got{Record: rec})
	turn(c, now, rec, Recv{Msg{Type: MsgAppend, From: storedA, Term: Term{0, 1}, Prev: 1, PrevEpoch: 1, Commit: 1, Round: 1}})
	require.Equal(t, Standby, c.Role())
	now += 10 * time.Millisecond
	turn(c, now, rec, PeerDown{storedA})
	rec.Version, rec.Epoch, rec.Active = 2, 2, storedB
	rec.ISR = []resolver.Host{storedB, third}
	turn(c, now, rec, Got{Record: rec})
	require.Equal(t, Term{0, 2}, c.Term())
	for range 40 {
		now += 10 * time.Millisecond
		require.Nil(t, turn(c, now, rec, Tick{}))
	}
	now += 200 * time.Millisecond
	require.NotNil(t, turn(c, now, rec, Tick{}), "which was silent for too long")
}

// A refused connection at an earlier address of the active host does not affect the present one.
func TestDownAtOldAddress(t *testing.T) {
	now := time.Second
	c := stored(t, storedB)
	moved := storedA
	moved.Addr = "a:2"
	rec := storedRecord(2, 2, moved)
	rec.ISR[0] = moved
	turn(c, now, rec, Got{Record: rec})
	turn(c, now, rec, Recv{Msg{Type: MsgAppend, From: moved, Term: Term{0, 2}, Prev: 1, PrevEpoch: 1, Commit: 1, Round: 1}})
	now += 60 * time.Millisecond
	require.Nil(t, turn(c, now, rec, PeerDown{storedA}))
	require.NotNil(t, turn(c, now, rec, PeerDown{moved}))
}
