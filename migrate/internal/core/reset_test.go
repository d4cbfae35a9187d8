package core

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

// A standby is about to read the record when it gets a reset, and another host takes over first. The standby must keep
// watching the active host. The simulation found one that waited for ever.
func TestResetThatComesToNothing(t *testing.T) {
	x := newSearch(t)
	s := x.start()
	c := x.nodes[s.node[1]].clone()
	now := c.now + searchJump
	c.getAfter = now + time.Second
	c.Step(now, Tick{})
	require.False(t, c.Ready().Get)
	c.Step(now, Reset{Record: c.Record()})
	cas := c.Ready().CAS
	require.NotNil(t, cas)
	now += time.Second
	c.Step(now, Tick{})
	require.True(t, c.Ready().Get)
	c.Step(now, Got{Record: c.Record()})
	other := c.Record()
	other.Version, other.Epoch, other.Active = 2, 2, searchHost(2, 1)
	other.ISR = append(slices.Clone(other.ISR), other.Active)
	c.Step(now, CASDone{Nonce: cas.Next.Nonce, Record: other, Outcome: CASConflict})
	require.False(t, c.Ready().Get)
	require.Equal(t, Standby, c.Role())
	c.Step(now+searchJump, Tick{})
	require.True(t, c.Ready().Get)
}

// A reset without effect, during a check of the active host, does not prevent a later takeover.
func TestResetDuringCheck(t *testing.T) {
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
			switch {
			case r.Save != nil:
				ev = Persisted{r.Save.Seq}
			case r.Ask != nil:
				ev = Answers{}
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
				require.Greater(t, cas.Next.Epoch, uint64(3), "it had not heard the active host")
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

// A cancelled reset is not proposed again.
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
		beat := Msg{Type: MsgAppend, From: storedA, Term: Term{0, 1}, Prev: 1, PrevEpoch: 1, Commit: 1, Round: 1}
		require.Nil(t, turn(c, now, rec, Recv{beat}))
	}
	// It had been made all the same.
	rec = cas.Next
	rec.Generation, rec.Version = 1, 2
	turn(c, now, rec, Got{Record: rec})
	require.True(t, c.Role().Active())
}

// promoting returns host b, which has proposed itself in place of host a by record rec.
func promoting(t *testing.T) (c *Core, now time.Duration, rec resolver.Record, promote *CAS) {
	now = time.Second
	c = stored(t, storedB)
	rec = storedRecord(1, 1, storedA)
	turn(c, now, rec, Got{Record: rec})
	turn(c, now, rec, Recv{Msg{Type: MsgAppend, From: storedA, Term: Term{0, 1}, Prev: 1, PrevEpoch: 1, Commit: 1, Round: 1}})
	now += 60 * time.Millisecond
	promote = turn(c, now, rec, PeerDown{storedA})
	require.NotNil(t, promote)
	return c, now, rec, promote
}

// A cancelled reset restores the proposal that it replaced, which is proposed again until it has an outcome.
func TestCancelResetInDoubt(t *testing.T) {
	c, now, rec, promote := promoting(t)
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

// If the resolver has lost the service, hosts with the same knowledge begin different terms when they reset it, and the
// later reset has the higher term.
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

// A reset has no effect if the record has changed since its request.
func TestResetOfAnotherRecord(t *testing.T) {
	c := stored(t, storedB)
	old := storedRecord(1, 1, storedA)
	rec := storedRecord(2, 2, storedA)
	turn(c, time.Second, rec, Got{Record: rec})
	cas := turn(c, time.Second, rec, Reset{Record: old})
	require.EqualValues(t, 1, cas.Expect)
}

// Two hosts that begin a service anew after the same record, of which the resolver forgets one, do not use the same term.
func TestRecreateDrawsTerm(t *testing.T) {
	ended := resolver.Record{Name: "svc", Generation: 1, Version: 2, Loss: 3, Epoch: 4}
	terms := map[Term]bool{}
	for _, self := range []resolver.Host{storedA, storedB} {
		for _, at := range []int64{1_700_000_000_000, 1_700_000_000_001} {
			c := New(self, Config{Name: "svc"})
			c.Step(0, Told{Record: ended})
			c.Step(0, Create{At: at})
			cas := c.Ready().CAS
			require.NoError(t, resolver.Check(&ended, cas.Next))
			require.Equal(t, 1, TermOf(cas.Next).Compare(TermOf(ended)))
			terms[TermOf(cas.Next)] = true
		}
	}
	require.Len(t, terms, 4)
}
