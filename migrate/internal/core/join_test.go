package core

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

// A host accepts an invitation to itself but not to an earlier incarnation: the active host may count what that one
// acknowledged under the same number.
func TestInvitationToAnotherIncarnation(t *testing.T) {
	for _, stable := range []bool{false, true} {
		c := New(storedB, Config{Name: "svc", Durable: stable})
		rec := storedRecord(1, 1, storedA)
		rec.ISR = []resolver.Host{storedA}
		c.Step(time.Second, Told{rec})
		persist(c)
		// joins are the answers to an invitation to an incarnation.
		joins := func(inc uint64) (n int) {
			c.Step(time.Second, Recv{Msg{Type: MsgInvite, From: storedA, Term: Term{0, 1}, Record: &rec, Round: 1, Index: inc}})
			for saved := true; saved; {
				r := c.Ready()
				for _, m := range r.Msgs {
					if m.Msg.Type == MsgJoin {
						n++
					}
				}
				if saved = r.Save != nil; saved {
					c.Step(time.Second, Persisted{r.Save.Seq})
				}
			}
			return n
		}
		require.Zero(t, joins(storedB.Incarnation+1))
		require.Equal(t, Out, c.Role())
		require.Equal(t, 1, joins(storedB.Incarnation))
		require.Equal(t, Joining, c.Role())
	}
}

// Invited and joining hosts have no lag: commits do not wait for them.
func TestLagsOfMembers(t *testing.T) {
	c := New(storedA, Config{Name: "svc", Standbys: 1})
	c.Step(0, Create{})
	rec := c.Ready().CAS.Next
	rec.Generation, rec.Version = 1, 1
	c.Step(0, CASDone{Nonce: rec.Nonce, Record: rec, Outcome: CASOK})
	require.True(t, c.Ready().Seek)
	c.Step(0, Candidates{Hosts: []resolver.Host{storedB}})
	require.Len(t, c.Ready().Msgs, 1)
	require.Empty(t, c.Lags(nil))
}

// A host without a copy in an earlier term may have got one since: it stays if the in-sync set must not shrink.
func TestLeaveOfEarlierTerm(t *testing.T) {
	c := New(storedA, Config{Name: "svc", Standbys: 1, MinInSync: 2})
	c.Step(0, Create{})
	rec := c.Ready().CAS.Next
	rec.Generation, rec.Version, rec.Epoch, rec.ISR = 1, 1, 2, []resolver.Host{storedA, storedB}
	c.freshTerm = TermOf(rec)
	c.Step(0, Got{Record: rec})
	require.Equal(t, Recovering, c.Role())
	c.Ready()
	ack := Msg{Type: MsgAck, From: storedB, Term: Term{0, 2}, Index: 1, PrevEpoch: 1}
	c.Step(0, Recv{ack})
	require.Equal(t, Serving, c.Role())

	c.Step(0, Recv{Msg{Type: MsgLeave, From: storedB, Term: Term{0, 1}, Flag: true}})
	require.Nil(t, c.Ready().CAS)
	c.Step(0, Recv{Msg{Type: MsgLeave, From: storedB, Term: Term{0, 2}}})
	require.Nil(t, c.Ready().CAS, "it holds a copy")
	c.Step(0, Recv{Msg{Type: MsgLeave, From: storedB, Term: Term{0, 2}, Flag: true}})
	require.Len(t, c.Ready().CAS.Next.ISR, 1)
}

// A message has at most AppendBytes of entries, or one entry.
func TestSizeOfAppend(t *testing.T) {
	c := New(storedA, Config{Name: "svc", Standbys: 1, AppendBytes: 1000})
	c.Step(0, Create{})
	rec := c.Ready().CAS.Next
	rec.Generation, rec.Version, rec.ISR = 1, 1, []resolver.Host{storedA, storedB}
	c.Step(0, Got{Record: rec})
	c.Ready()
	for _, size := range []int{100, 600, 2000, 10, 10} {
		_, ok := c.Propose(0, Entry{Kind: Command, Body: make([]byte, size)})
		require.True(t, ok)
	}
	var got []int
	for _, m := range c.Ready().Msgs {
		if m.Msg.Type == MsgAppend {
			got = append(got, len(m.Msg.Entries))
		}
	}
	require.Equal(t, []int{2, 1, 2}, got)
}

// A release that belongs to an earlier invitation says nothing about the copy that a host holds for the present one.
func TestReleaseOfAnEarlierInvitation(t *testing.T) {
	c := New(storedB, Config{Name: "svc"})
	rec := storedRecord(1, 1, storedA)
	rec.ISR = []resolver.Host{storedA}
	c.Step(time.Second, Told{rec})
	recv := func(m Msg) Ready {
		m.From, m.Term = storedA, Term{0, 1}
		c.Step(time.Second, Recv{m})
		return c.Ready()
	}
	recv(Msg{Type: MsgInvite, Record: &rec, Round: 1, Index: storedB.Incarnation})
	f := recv(Msg{Type: MsgSnapshot, Round: 7, Index: 3, PrevEpoch: 1, Prev: 1}).Fetch
	require.NotNil(t, f)
	c.Step(time.Second, Restored{ID: f.ID, From: f.From, OK: true})
	c.Ready()
	recv(Msg{Type: MsgInvite, Record: &rec, Round: 2, Index: storedB.Incarnation})
	require.True(t, c.HasState())
	require.False(t, recv(Msg{Type: MsgRelease, Record: &rec, Round: 1}).Drop)
	require.True(t, c.HasState(), "the active host may count on it since")
	require.True(t, recv(Msg{Type: MsgRelease, Record: &rec, Round: 2}).Drop)
	require.False(t, c.HasState())
}

// Each message behind a lost one asks for it again. The active host resends once for a heartbeat, not once for each: else
// under load everything would be sent many times.
func TestResendsAreNotMultiplied(t *testing.T) {
	now := time.Duration(0)
	c := New(storedA, Config{Name: "svc", Standbys: 1})
	c.Step(now, Create{})
	rec := c.Ready().CAS.Next
	rec.Generation, rec.Version = 1, 1
	c.Step(now, CASDone{Nonce: rec.Nonce, Record: rec, Outcome: CASOK})
	c.Ready()
	c.rec.ISR = []resolver.Host{storedA, storedB}
	p := c.addPeer(storedB)
	p.member, p.stage, p.match, p.next = true, streaming, 1, 2
	sent := func() (entries int) {
		for _, m := range c.Ready().Msgs {
			entries += len(m.Msg.Entries)
		}
		return entries
	}
	for range 5 {
		_, ok := c.Propose(now, Entry{Kind: Command, Session: 1, Seq: 1})
		require.True(t, ok)
	}
	require.Equal(t, 5, sent())
	ask := func() int {
		c.Step(now, Recv{Msg{Type: MsgAck, From: storedB, Term: c.term, Index: 1, Commit: 1, PrevEpoch: 1, Flag: true}})
		return sent()
	}
	require.Equal(t, 5, ask())
	for range 4 {
		require.Zero(t, ask(), "of the same loss")
	}
	now += 101 * time.Millisecond
	require.Equal(t, 5, ask(), "the resent ones were lost, too")
}

// What a host acknowledged under an earlier invitation does not count under the present one: it may have dropped that copy
// since.
func TestAcksOfAnEarlierInvitation(t *testing.T) {
	c := New(storedA, Config{Name: "svc", Standbys: 1})
	c.Step(0, Create{})
	rec := c.Ready().CAS.Next
	rec.Generation, rec.Version = 1, 1
	c.Step(0, CASDone{Nonce: rec.Nonce, Record: rec, Outcome: CASOK})
	c.Ready()
	for range 5 {
		_, ok := c.Propose(0, Entry{Kind: Command, Session: 1, Seq: 1})
		require.True(t, ok)
	}
	c.Ready()
	p := c.addPeer(storedB)
	p.stage, p.invitation, p.next = streaming, 2, 1
	ack := func(invitation, index uint64) {
		c.Step(0, Recv{Msg{Type: MsgAck, From: storedB, Term: c.term, Index: index, PrevEpoch: 1, Prev: invitation}})
	}
	ack(1, 6)
	require.Zero(t, p.match)
	require.False(t, c.eligible(p), "it is not proposed for the in-sync set")
	ack(2, 6)
	require.EqualValues(t, 6, p.match)
}

// A host that fetches a snapshot and never restores it does not keep its place for ever: another one is invited as well, and
// the first one is released when that has joined.
func TestRestoreNeverReturns(t *testing.T) {
	now := time.Duration(0)
	storedC := resolver.Host{ID: "c", Incarnation: 1, Addr: "c:1"}
	c := New(storedA, Config{Name: "svc", Standbys: 1})
	var (
		msgs    []Outgoing
		reports []error
		rec     resolver.Record
	)
	ready := func() {
		for done := false; !done; {
			r := c.Ready()
			msgs, reports, done = append(msgs, r.Msgs...), append(reports, r.Reports...), true
			if n := len(r.Committed); n > 0 {
				done = !c.Applied(now, r.Committed[n-1].Index)
			}
			if r.CAS != nil {
				rec = r.CAS.Next
				rec.Generation, rec.Version = 1, r.CAS.Expect+1
				c.Step(now, CASDone{Nonce: rec.Nonce, Record: rec, Outcome: CASOK})
				done = false
			}
			if r.Seek {
				c.Step(now, Candidates{Hosts: []resolver.Host{storedB, storedC}})
				done = false
			}
			for _, to := range r.Snapshots {
				c.Step(now, Captured{To: to, ID: 7, Index: 1, Epoch: 1})
				done = false
			}
		}
	}
	step := func(ev Event) { c.Step(now, ev); ready() }
	recv := func(from resolver.Host, m Msg) {
		m.From, m.Term = from, c.Term()
		step(Recv{m})
	}
	// sent returns how many messages of a type a host has received since the last call.
	sent := func(to resolver.Host, ty Type) (n int) {
		for _, m := range msgs {
			if m.To == to && m.Msg.Type == ty {
				n++
			}
		}
		return n
	}
	// wait lets time pass; b acknowledges each heartbeat, as a host does that restores a copy.
	wait := func(d time.Duration) {
		for end := now + d; now < end; now += 100 * time.Millisecond {
			recv(storedB, Msg{Type: MsgAck, Prev: 1, Round: c.active.round})
			if p := c.peer(storedC); p != nil && p.stage == streaming {
				recv(storedC, Msg{Type: MsgAck, Prev: p.invitation, Index: c.Last(), PrevEpoch: 2, Round: c.active.round})
			}
		}
	}
	step(Create{})
	recv(storedB, Msg{Type: MsgJoin, Round: 1})
	require.Equal(t, 1, sent(storedB, MsgSnapshot))

	wait(c.restoreTimeout() - time.Second)
	require.Empty(t, reports, "a large state may take long")
	require.Zero(t, sent(storedC, MsgInvite))
	wait(2 * time.Second)
	require.Len(t, reports, 1)
	require.Equal(t, &JoinDelay{Host: storedB, After: c.restoreTimeout()}, reports[0])
	require.ErrorContains(t, reports[0], "host b has not restored its copy within 1m0s: another host is invited")
	require.Positive(t, sent(storedC, MsgInvite))
	require.NotNil(t, c.peer(storedB), "it may still join")
	require.Zero(t, sent(storedB, MsgRelease))

	recv(storedC, Msg{Type: MsgJoin, Round: c.peer(storedC).invitation, Flag: true, Commit: 1})
	wait(time.Second)
	require.Equal(t, []resolver.Host{storedA, storedC}, rec.ISR)
	require.Nil(t, c.peer(storedB))
	require.Equal(t, 1, sent(storedB, MsgRelease))
	require.Len(t, reports, 1)
}
