package core

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

// stored is a host with a store that holds a copy: entries 1 to 4 of epoch 1, of which 1 is committed.
func stored(t *testing.T, self resolver.Host) *Core {
	c := New(Config{Name: "svc", Self: self, Durable: true})
	st := State{Meta: Meta{Term: Term{0, 1}, Copy: true}, Commit: 1}
	for i := range uint64(4) {
		st.Entries = append(st.Entries, Entry{Index: i + 1, Epoch: 1, Kind: Command})
	}
	c.Step(time.Second, Recovered{State: st})
	r := c.Ready()
	require.True(t, r.Get)
	require.Nil(t, r.Save)
	require.Len(t, r.Committed, 1)
	return c
}

// acks are the indexes that are acknowledged in ms.
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
	return resolver.Record{Name: "svc", Generation: 1, Version: ver, Epoch: epoch, Active: active, ISR: []resolver.Host{storedA, storedB}}
}

// What the store held of an end of the log that was cut off does not count for what takes its place.
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

// A host that was active begins a new epoch, at the address that it has now.
func TestStoredActive(t *testing.T) {
	moved := storedA
	moved.Addr = "a:2"
	now := time.Second
	c := stored(t, moved)
	c.Step(now, Got{Record: storedRecord(1, 1, storedA)})
	r := c.Ready()
	require.NotNil(t, r.Save, "the resolver's gen")
	c.Step(now, Persisted{r.Save.Seq})
	for range 4 {
		if r = c.Ready(); r.Get {
			c.Step(now, Got{Record: storedRecord(1, 1, storedA)})
		}
		if r.CAS != nil {
			break
		}
		now += 100 * time.Millisecond
		c.Step(now, Tick{})
	}
	require.NotNil(t, r.CAS)
	before := storedRecord(1, 1, storedA)
	require.NoError(t, resolver.Check(&before, r.CAS.Next))
	require.EqualValues(t, 2, r.CAS.Next.Epoch)
	require.Equal(t, moved, r.CAS.Next.Active)
	require.Len(t, r.CAS.Next.ISR, 2)
	next := r.CAS.Next
	next.Generation, next.Version = 1, 2
	c.Step(now, CASDone{Nonce: next.Nonce, Record: next, Outcome: CASOK})
	r = c.Ready()
	require.Equal(t, Recovering, c.Role())
	require.Empty(t, r.Msgs)
	require.Equal(t, []Lag{{Host: "b", Entries: 4, Heard: now}}, c.Lags(nil), "of what is committed it lacks nothing")
	c.Step(now, Recv{Msg{Type: MsgAck, From: storedB, Term: Term{0, 2}, Index: 4, Round: 1}})
	r2 := c.Ready()
	require.EqualValues(t, 1, c.Commit(), "what it inherited is committed with the first entry of its own")
	require.Empty(t, r2.Committed)
	c.Step(now, Persisted{r.Save.Seq})
	require.NotEmpty(t, c.Ready().Msgs)

	// A standby that has started again elsewhere is known by what it says.
	elsewhere := storedB
	elsewhere.Addr = "b:2"
	c.Step(now, Recv{Msg{Type: MsgAck, From: elsewhere, Term: Term{0, 2}, Index: 5, Round: 1}})
	r = c.Ready()
	require.Equal(t, Serving, c.Role())
	require.NotNil(t, r.CAS)
	require.NoError(t, resolver.Check(&next, r.CAS.Next))
	require.Equal(t, elsewhere, r.CAS.Next.ISR[1])
}

// A host that the record names, but that holds nothing, is not active and does not count.
func TestStoreIsGone(t *testing.T) {
	c := New(Config{Name: "svc", Self: storedA, Durable: true})
	c.Step(time.Second, Got{Record: storedRecord(1, 1, storedA)})
	r := c.Ready()
	require.Equal(t, Out, c.Role())
	require.Nil(t, r.CAS)

	c = New(Config{Name: "svc", Self: storedB, Durable: true})
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

// A reset that comes to nothing, asked for while the host wonders whether the active one is still there, does not keep it
// from taking over later.
func TestResetWhileWondering(t *testing.T) {
	now := time.Second
	c := stored(t, storedB)
	rec := storedRecord(2, 2, storedA)
	// step returns what the event, and the store's answer to it, lead to.
	step := func(ev Event) (get bool, cas *CAS) {
		for ev != nil {
			c.Step(now, ev)
			r := c.Ready()
			ev, get = nil, get || r.Get
			if r.CAS != nil {
				cas = r.CAS
			}
			if r.Save != nil {
				ev = Persisted{r.Save.Seq}
			}
		}
		return get, cas
	}
	step(Got{Record: rec})
	now += time.Second
	get, _ := step(Tick{})
	require.True(t, get, "it wonders")
	_, cas := step(Reset{Record: rec})
	require.NotNil(t, cas)
	require.Equal(t, uint64(1), cas.Next.Loss)
	step(CASDone{Nonce: cas.Next.Nonce, Outcome: CASRefused})
	for range 20 {
		if get {
			if get, cas = step(Got{Record: rec}); cas != nil {
				require.Equal(t, uint64(3), cas.Next.Epoch)
				require.Zero(t, cas.Next.Loss)
				return
			}
			continue
		}
		now += time.Second
		get, _ = step(Tick{})
	}
	t.Fatal("it never takes over")
}

// What is committed already when a host becomes active is applied, and so heard of by its clients, only when its store
// holds the new term.
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
	c.Step(now, Got{Record: rec})
	r = c.Ready()
	require.True(t, r.Activated)
	require.Empty(t, r.Committed)
	require.Len(t, c.Tail(), 4, "what is not applied yet is in the log all the same: nothing of it is ordered again")
	c.Step(now, Persisted{r.Save.Seq})
	require.Len(t, c.Ready().Committed, 4, "three entries and its own")
	require.Empty(t, c.Tail())
}

// A host that nobody hears speaks to the active one at the address that the record shows, though it knew another.
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

// turn gives c an event, and what its store and the resolver, which shows rec, answer to that. It returns what c proposes.
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
		}
	}
	return cas
}

// That the process of an earlier active host is gone says nothing about the one that took over.
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

// That nothing listens where the active host was says nothing about where it is.
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

// A reset that is given up is not asked for again.
func TestCancelReset(t *testing.T) {
	now := time.Second
	c := stored(t, storedB)
	rec := storedRecord(1, 1, storedA)
	turn(c, now, rec, Got{Record: rec})
	cas := turn(c, now, rec, Reset{Record: rec})
	require.NotNil(t, cas)
	require.EqualValues(t, 1, cas.Next.Loss)
	turn(c, now, rec, CancelReset{})
	turn(c, now, rec, CASDone{Nonce: cas.Next.Nonce, Outcome: CASUnknown})
	for range 100 {
		now += 100 * time.Millisecond
		require.Nil(t, turn(c, now, rec, Recv{Msg{Type: MsgAppend, From: storedA, Term: Term{0, 1}, Prev: 1, PrevEpoch: 1, Commit: 1, Round: 1}}))
	}
	// It had been made all the same.
	rec = cas.Next
	rec.Generation, rec.Version = 1, 2
	turn(c, now, rec, Got{Record: rec})
	require.True(t, c.Role().Active())
}

// A reset that is given up leaves the doubt about what was proposed before: that is proposed again until it has an outcome.
func TestCancelResetInDoubt(t *testing.T) {
	now := time.Second
	c := stored(t, storedB)
	rec := storedRecord(1, 1, storedA)
	turn(c, now, rec, Got{Record: rec})
	turn(c, now, rec, Recv{Msg{Type: MsgAppend, From: storedA, Term: Term{0, 1}, Prev: 1, PrevEpoch: 1, Commit: 1, Round: 1}})
	now += 60 * time.Millisecond
	promote := turn(c, now, rec, PeerDown{storedA})
	require.NotNil(t, promote)
	for range 2 {
		reset := turn(c, now, rec, Reset{Record: rec})
		require.NotNil(t, reset)
		require.NotEqual(t, promote.Next.Nonce, reset.Next.Nonce)
	}
	again := turn(c, now, rec, CancelReset{})
	require.NotNil(t, again)
	require.Equal(t, *promote, *again)
	require.Nil(t, turn(c, now, rec, CancelReset{}))
}

// Where the resolver has forgotten the service, hosts that know the same of it do not begin the same when they reset it, and the
// later reset counts for more.
func TestResetsOfForgottenDiffer(t *testing.T) {
	reset := func(self resolver.Host, at int64) uint64 {
		c := stored(t, self)
		turn(c, time.Second, resolver.Record{}, Got{Record: storedRecord(1, 1, storedA)})
		cas := turn(c, time.Second, resolver.Record{}, Reset{At: at})
		require.NotNil(t, cas)
		return cas.Next.Loss
	}
	storedC := resolver.Host{ID: "c", Incarnation: storedB.Incarnation, Addr: "c:1"}
	const now = 1_700_000_000_000
	require.Less(t, reset(storedB, now), reset(storedC, now+2000))
	require.Less(t, reset(storedC, now), reset(storedB, now+2000))
	require.NotEqual(t, reset(storedB, now), reset(storedC, now))
	require.NotEqual(t, reset(storedB, -5), reset(storedC, -5)) // whose clocks are wrong
	require.Positive(t, reset(storedB, -5))
}

// A record that has changed since a reset was thought of is not reset.
func TestResetOfAnotherRecord(t *testing.T) {
	c := stored(t, storedB)
	old := storedRecord(1, 1, storedA)
	rec := storedRecord(2, 2, storedA)
	turn(c, time.Second, rec, Got{Record: rec})
	cas := turn(c, time.Second, rec, Reset{Record: old})
	require.EqualValues(t, 1, cas.Expect)
}
