package core

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// follower returns a standby of host a in epoch 1, in memory or with a store, by record 2.
func follower(t *testing.T) (*Core, resolver.Record) {
	c := holder()
	rec := storedRecord(2, 1, storedA)
	c.Step(c.now, Told{rec})
	persist(c)
	require.Equal(t, Standby, c.Role())
	return c, rec
}

// What a host says that the record does not name changes nothing: it is a reason to read the record.
func TestStrangerIsNotBelieved(t *testing.T) {
	const most = 1<<53 - 1
	impostor := storedA
	impostor.Key = transport.Key{9}
	for name, claim := range map[string]func(rec *resolver.Record){
		"next epoch":       func(r *resolver.Record) { r.Epoch++ },
		"far epoch":        func(r *resolver.Record) { r.Epoch += resolver.RestoreStep },
		"highest epoch":    func(r *resolver.Record) { r.Epoch = most },
		"later beginning":  func(r *resolver.Record) { r.Loss++; r.Epoch++ },
		"highest version":  func(r *resolver.Record) { r.Version = most },
		"other generation": func(r *resolver.Record) { r.Generation++; r.Epoch++ },
	} {
		for from, h := range map[string]resolver.Host{"stranger": stranger, "another key": impostor} {
			for ty := MsgAppend; ty <= MsgPolicy; ty++ {
				t.Run(name+"/"+from+"/"+ty.String(), func(t *testing.T) {
					for _, makeCore := range []func(*testing.T) (*Core, resolver.Record){follower, activePair} {
						c, rec := makeCore(t)
						was, role, commit, last := c.known(), c.Role(), c.Commit(), c.Last()
						next := rec
						next.Version, next.Nonce = next.Version+1, 7
						next.Active, next.Proposer, next.ISR = h, h, append([]resolver.Host{h}, storedB)
						claim(&next)
						c.Step(c.now, Recv{Msg{
							Type: ty, From: h, Term: TermOf(next), Record: &next, Flag: true, Index: 99, Commit: 99, Round: 9,
							Entries: []Entry{{Index: c.Last() + 1, Epoch: next.Epoch, Kind: Command}},
						}})
						r := persist(c)
						require.NoError(t, c.Err())
						require.Equal(t, []any{was, role, commit, last}, []any{c.known(), c.Role(), c.Commit(), c.Last()})
						require.True(t, c.HasState())
						require.Empty(t, r.Committed)
						require.Nil(t, r.Fetch)
					}
				})
			}
		}
	}
}

// A member of the in-sync set is believed that it is active next, which saves a read in each move, but not more than that.
func TestMemberIsBelieved(t *testing.T) {
	for name, tc := range map[string]struct {
		claim    func(rec *resolver.Record)
		believed bool
	}{
		"next":            {func(*resolver.Record) {}, true},
		"without a":       {func(r *resolver.Record) { r.ISR = []resolver.Host{storedB, third} }, true},
		"without b":       {func(r *resolver.Record) { r.ISR = []resolver.Host{storedA, third} }, false},
		"far":             {func(r *resolver.Record) { r.Epoch += resolver.RestoreStep }, false},
		"later beginning": {func(r *resolver.Record) { r.Loss++ }, false},
		"later version":   {func(r *resolver.Record) { r.Version++ }, true},
		"much later":      {func(r *resolver.Record) { r.Version += 1000 }, false},
		"of another host": {func(r *resolver.Record) { r.Proposer = storedA }, false},
	} {
		t.Run(name, func(t *testing.T) {
			c, rec := follower(t)
			rec.Version, rec.ISR = 3, []resolver.Host{storedA, storedB, third}
			c.Step(c.now, Got{Record: rec})
			c.Step(c.now+300*time.Millisecond, Tick{}) // it may read again
			persist(c)
			next := rec
			next.Version, next.Epoch, next.Active, next.Proposer, next.Nonce = 4, 2, third, third, 7
			tc.claim(&next)
			c.Step(c.now, Recv{Msg{Type: MsgRecord, From: third, Term: TermOf(next), Record: &next}})
			r := persist(c)
			require.Equal(t, tc.believed, c.Term() == TermOf(next))
			require.True(t, c.HasState())
			require.Equal(t, !tc.believed, r.Get, "it reads the record")
		})
	}
}

// An invitation by a host that the record names active, which this one has yet to read, is accepted after the read.
func TestInvitationWaitsForRecord(t *testing.T) {
	for name, named := range map[string]bool{"named": true, "not named": false} {
		t.Run(name, func(t *testing.T) {
			c := New(storedB, Config{Name: "svc"})
			rec := storedRecord(1, 1, storedA)
			rec.ISR = rec.ISR[:1]
			c.Step(time.Second, Recv{Msg{Type: MsgInvite, From: storedA, Term: TermOf(rec), Record: &rec, Round: 1, Index: 1}})
			r := c.Ready()
			require.True(t, r.Get)
			require.Empty(t, r.Msgs)
			require.Equal(t, Out, c.Role())
			if !named {
				rec.Active = resolver.Host{ID: "c", Incarnation: 1, Addr: "c:1"}
				rec.ISR = []resolver.Host{rec.Active}
			}
			c.Step(c.now, Got{Record: rec})
			require.Equal(t, named, c.Role() == Joining)
			r = c.Ready()
			require.Equal(t, named, len(r.Msgs) == 1)
			require.Equal(t, named, len(r.Reports) == 0, "it says that the host lied")
		})
	}
}

// In the term of the record only its active host is obeyed, and another one that claims to be that is reported.
func TestOnlyActiveIsObeyed(t *testing.T) {
	third := resolver.Host{ID: "c", Incarnation: 1, Addr: "c:1"}
	for _, ty := range []Type{MsgAppend, MsgInvite, MsgSnapshot, MsgRecord, MsgRelease, MsgTransfer} {
		t.Run(ty.String(), func(t *testing.T) {
			c, rec := follower(t)
			c.Step(c.now, Recv{Msg{
				Type: ty, From: third, Term: c.Term(), Record: &rec, Prev: 4, PrevEpoch: 1, Round: 3,
				Entries: []Entry{{Index: 5, Epoch: 1, Kind: Command}},
			}})
			r := persist(c)
			require.Len(t, r.Reports, 1)
			require.EqualError(t, r.Reports[0],
				"host c breaks the protocol, which host b ignores: it claims to be active in e1, in which host a is")
			require.Empty(t, r.Msgs)
			require.Nil(t, r.Fetch)
			require.EqualValues(t, 4, c.Last())
			require.Equal(t, Standby, c.Role())
			require.False(t, c.Pending())
		})
	}
}

// A host that acknowledges what the log does not hold is not counted.
func TestAckBeyondTheLog(t *testing.T) {
	c, _ := activePair(t)
	c.Propose(c.now, Entry{Kind: Command})
	c.Ready()
	c.Step(c.now, Recv{Msg{Type: MsgAck, From: storedB, Term: c.Term(), Index: 7, PrevEpoch: 1, Round: 1}})
	r := c.Ready()
	require.NoError(t, c.Err())
	require.Len(t, r.Reports, 1)
	require.ErrorContains(t, r.Reports[0], "it acknowledges entry 7, the log ends at 2")
	require.EqualValues(t, 1, c.Commit())
}

// An answer of an epoch or a loss that no host begins in a hundred years does not count, so that there is room for far terms.
func TestAnswerOfAnotherAge(t *testing.T) {
	for term, counts := range map[Term]bool{{0, 5}: true, {0, 1<<53 - 1}: false, {5, 5}: true, {1<<53 - 1, 5}: false} {
		c, rec := askedAfterRestart(t)
		lie := rec
		lie.Loss, lie.Epoch, lie.Version = term.Loss, term.Epoch, 9
		c.Step(c.now, Answers{[]Answer{{From: stranger, Term: term, Record: lie}}})
		r := persist(c)
		require.Equal(t, counts, !c.Pending(), "it takes over unless the answer counts")
		require.Equal(t, counts, len(r.Reports) == 0)
	}
}

// A host that follows one active host does not acknowledge its entries to another one of the same term: the resolver has gone
// back and let a second host win it. It stops, as acknowledgements may count that it cannot tell apart.
func TestTwoActiveInOneTerm(t *testing.T) {
	c, rec := follower(t)
	other := rec
	other.Version, other.Active = 3, storedB
	c.Step(c.now, Told{other})
	require.ErrorContains(t, c.Err(), "hosts a and b are active in one term")

	c = New(storedB, Config{Name: "svc"})
	c.Step(time.Second, Told{rec})
	c.Step(time.Second, Told{other})
	require.NoError(t, c.Err(), "without a copy there is nothing to acknowledge")
}
