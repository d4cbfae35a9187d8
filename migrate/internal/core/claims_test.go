package core

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

var (
	third    = resolver.Host{ID: "c", Incarnation: 1, Addr: "c:1", Key: transport.Key{3}}
	stranger = resolver.Host{ID: "x", Incarnation: 1, Addr: "x:1", Key: transport.Key{9}}
)

// activeTrio is activePair with a third member, which has acknowledged the first entry.
func activeTrio(t *testing.T) (c *Core, rec resolver.Record) {
	c, rec = activePair(t)
	c.cfg.Standbys = 2
	rec.Version, rec.ISR = 3, []resolver.Host{storedA, storedB, third}
	c.Step(c.now, Got{Record: rec})
	c.Ready()
	c.Step(c.now, Recv{Msg{Type: MsgAck, From: third, Term: TermOf(rec), Index: 1, PrevEpoch: 1, Round: 1}})
	return c, rec
}

// trioFollower is follower with a third member.
func trioFollower(t *testing.T) (c *Core, rec resolver.Record) {
	c, rec = follower(t)
	rec.Version, rec.ISR = 3, []resolver.Host{storedA, storedB, third}
	c.Step(c.now, Got{Record: rec})
	c.Step(c.now+300*time.Millisecond, Tick{}) // it may read again
	persist(c)
	return c, rec
}

// While the resolver has lost the record, the answer of a host that no in-sync set names changes nothing. It keeps the members
// from bringing the record back only if it speaks of a later beginning of the service.
func TestStrangerDuringLoss(t *testing.T) {
	named := func(a *Answer) {
		a.Record.Version++
		a.Record.Active, a.Record.Proposer, a.Record.ISR = stranger, stranger, append(a.Record.ISR[:2:2], stranger)
	}
	for name, tc := range map[string]struct {
		change func(a *Answer)
		blocks bool
	}{
		"retired":     {func(a *Answer) { a.Record.Version++; a.Record.Active, a.Record.ISR = resolver.Host{}, nil }, false},
		"shrunk":      {func(a *Answer) { a.Record.Version++; a.Record.ISR = a.Record.ISR[:1] }, false},
		"grown":       {func(a *Answer) { a.Record.Version++; a.Record.ISR = append(a.Record.ISR[:2:2], stranger) }, false},
		"active next": {func(a *Answer) { a.Record.Epoch++; named(a); a.Active, a.Copy = true, true }, false},
		"active now":  {func(a *Answer) { a.Active, a.Copy = true, true }, false},
		"far":         {func(a *Answer) { a.Record.Epoch += far; named(a) }, false},
		"began anew": {func(a *Answer) {
			a.Record.Loss++
			a.Record.Active, a.Record.ISR, a.Copy, a.Loss = stranger, []resolver.Host{stranger}, true, a.Record.Loss
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			c, rec := activePair(t)
			loseRecord(t, c, resolver.Record{})
			c.Propose(c.now, Entry{Kind: Command})
			c.Ready()
			lie := Answer{From: stranger, Record: rec, Loss: rec.Loss}
			tc.change(&lie)
			lie.Term = TermOf(lie.Record)
			b := Answer{From: storedB, Term: TermOf(rec), Record: rec, Copy: true, Loss: rec.Loss, Commit: Place{1, 1}, Last: Place{1, 1}}
			for _, answers := range [][]Answer{{lie}, {lie}, {lie, b}} {
				for c.Ready(); !c.recovery.asking || c.asked != nil; { // the one after the next read
					c.Step(c.now+100*time.Millisecond, Recv{Msg{Type: MsgAck, From: storedB, Term: TermOf(rec), Index: 1, Round: 1}})
					if c.Ready(); c.asked != nil {
						c.Step(c.now, Got{})
					}
				}
				c.Ready()
				c.Step(c.now, Answers{answers})
				require.True(t, c.HasState())
				require.True(t, c.Role().Active())
				require.EqualValues(t, 1, c.Commit(), "b has not acknowledged entry 2")
				require.Equal(t, rec.ISR, c.Record().ISR)
			}
			cas := c.Ready().CAS
			require.Equal(t, tc.blocks, cas == nil)
			require.Equal(t, tc.blocks, c.Alone())
			if tc.blocks {
				require.Equal(t, stranger, c.Better(), "it is reported")
				return
			}
			require.Equal(t, rec.ISR, cas.Next.ISR)
		})
	}
}

// Another host in the place of a member, with another key, does not answer for it.
func TestRestoreNeedsKey(t *testing.T) {
	c, rec := activePair(t)
	loseRecord(t, c, resolver.Record{})
	impostor := storedB
	impostor.Key = transport.Key{9}
	c.Step(c.now, Answers{[]Answer{{From: impostor, Term: TermOf(rec), Record: rec, Copy: true, Loss: rec.Loss}}})
	require.Nil(t, c.Ready().CAS)
	require.True(t, c.Alone())
}

// About its own epoch an active host believes nobody but the resolver, not even a member.
func TestMemberAboutOwnEpoch(t *testing.T) {
	for name, change := range map[string]func(r *resolver.Record){
		"shrunk":  func(r *resolver.Record) { r.ISR = []resolver.Host{storedA, storedB} },
		"retired": func(r *resolver.Record) { r.Active, r.ISR = resolver.Host{}, nil },
		"taken":   func(r *resolver.Record) { r.Active = storedB },
	} {
		for how, lost := range map[string]bool{"rejects": false, "answers": true} {
			t.Run(name+"/"+how, func(t *testing.T) {
				c, rec := activeTrio(t)
				c.Propose(c.now, Entry{Kind: Command})
				c.Ready()
				lie := rec
				lie.Version++
				change(&lie)
				if lost {
					loseRecord(t, c, resolver.Record{})
					c.Step(c.now, Answers{[]Answer{{From: storedB, Term: TermOf(lie), Record: lie, Copy: true, Loss: lie.Loss}}})
				} else {
					c.Step(c.now, Recv{Msg{Type: MsgReject, From: storedB, Term: TermOf(rec), Record: &lie, Flag: true}})
					require.NotZero(t, c.getAt, "it reads the record")
				}
				c.Step(c.now, Recv{Msg{Type: MsgAck, From: storedB, Term: TermOf(rec), Index: 2, PrevEpoch: 1, Round: 1}})
				c.Ready()
				require.NoError(t, c.Err())
				require.True(t, c.HasState())
				require.True(t, c.Role().Active())
				require.EqualValues(t, 1, c.Commit(), "c has not acknowledged entry 2")
			})
		}
	}
}

// A host becomes active only by the word of the resolver, while its proposal is in flight and also when the resolver has lost
// the record.
func TestMemberDoesNotMakeActive(t *testing.T) {
	c, now, rec, promote := promoting(t)
	lie := promote.Next
	lie.Generation, lie.Version, lie.ISR = 1, promote.Expect+1, []resolver.Host{lie.Active}
	from := c.Record().Active
	c.Step(now, Recv{Msg{Type: MsgReject, From: from, Term: TermOf(lie), Record: &lie, Flag: true}})
	persist(c)
	require.False(t, c.Role().Active())
	require.NotZero(t, c.getAt, "it asks the resolver")
	c.Step(now+time.Second, Got{Record: rec})
	c.Step(c.now, CASDone{Nonce: lie.Nonce, Outcome: CASConflict}) // the resolver has lost the record
	persist(c)
	for n := 0; !c.recovery.read().asking; n++ {
		require.Less(t, n, 100, "it does not ask")
		c.Step(c.now+100*time.Millisecond, Got{})
		persist(c)
	}
	c.Step(c.now, Answers{[]Answer{{From: from, Term: TermOf(lie), Record: lie, Copy: true}}})
	r := c.Ready()
	for ; r.Save != nil; r = c.Ready() {
		c.Step(c.now, Persisted{r.Save.Seq})
	}
	cas := r.CAS
	require.False(t, c.Role().Active())
	require.NotNil(t, cas, "all members have answered, and nobody was active by a record that is lost")
	require.ElementsMatch(t, rec.ISR, cas.Next.ISR)
	require.True(t, beyond(cas.Next.Epoch, lie.Epoch))
}

// After a restart a host that was active takes over by the record that it knows, whatever others say of its own epoch.
func TestOwnEpochAfterRestart(t *testing.T) {
	for name, isr := range map[string][]resolver.Host{"fewer": {storedB}, "more": {storedA, storedB, stranger}, "retired": nil} {
		t.Run(name, func(t *testing.T) {
			c := stored(t, storedB)
			rec := storedRecord(2, 1, storedB)
			c.Step(c.now, Got{Record: rec})
			lie := rec
			lie.Version, lie.ISR = 3, isr
			if isr == nil {
				lie.Active = resolver.Host{}
			}
			var cas *CAS
			for n := 0; cas == nil; n++ {
				require.Less(t, n, 100, "it does not take over")
				r := c.Ready()
				cas = r.CAS
				if r.Save != nil {
					c.Step(c.now, Persisted{r.Save.Seq})
				}
				if r.Get {
					c.Step(c.now, Got{Record: rec})
				}
				if r.Ask != nil {
					c.Step(c.now, Answers{[]Answer{{From: stranger, Term: TermOf(lie), Record: lie}}})
				}
				c.Step(c.now+100*time.Millisecond, Tick{})
			}
			require.Equal(t, rec.ISR, cas.Next.ISR)
			require.True(t, c.HasState())
		})
	}
}

// A host that always claims something new keeps another one from taking over, or from removing a member, only with a report.
func TestBlockedByClaims(t *testing.T) {
	claim := func(rec resolver.Record, n uint64) Answers {
		rec.Version, rec.Epoch = rec.Version+1+n, rec.Epoch+1+n
		rec.Active, rec.Proposer, rec.ISR = stranger, stranger, []resolver.Host{stranger}
		return Answers{[]Answer{{From: stranger, Term: TermOf(rec), Record: rec}}}
	}
	t.Run("takeover", func(t *testing.T) {
		c, rec := askedAfterRestart(t)
		for n := uint64(0); !c.Alone(); n++ {
			require.Less(t, n, uint64(100), "no report")
			if c.recovery.asking {
				c.Step(c.now, claim(rec, n))
			}
			r := persist(c)
			require.Nil(t, r.CAS)
			if r.Get {
				c.Step(c.now, Got{Record: rec})
			}
			c.Step(c.now+100*time.Millisecond, Tick{})
		}
		require.Equal(t, stranger, c.Better())
		require.True(t, c.HasState())
		require.Equal(t, Term{0, 1}, c.Term())
	})
	t.Run("removal", func(t *testing.T) {
		c, rec := activeTrio(t)
		c.Step(3*time.Second, Tick{}) // it was paused
		for n := uint64(0); !c.Alone(); n++ {
			require.Less(t, n, uint64(100), "no report")
			r := c.Ready()
			require.Nil(t, r.CAS)
			if r.Get {
				c.Step(c.now, Got{Record: rec})
			}
			if r.Ask != nil {
				c.Step(c.now, claim(rec, n))
			}
			c.Step(c.now+100*time.Millisecond, Tick{})
		}
		require.True(t, c.Role().Active())
		for r := c.Ready(); r.CAS == nil; r = c.Ready() {
			if r.Ask != nil {
				c.Step(c.now, Answers{})
			}
			c.Step(c.now+100*time.Millisecond, Tick{})
		}
		require.False(t, c.Alone(), "nobody claims it any more")
	})
}

// A record that no resolver would hold is not taken from a member either, which is reported, and the record is read.
func TestMalformedRecord(t *testing.T) {
	const most = 1<<53 - 1
	for name, change := range map[string]func(r *resolver.Record){
		"highest version":  func(r *resolver.Record) { r.Version = 1<<64 - 1 },
		"another service":  func(r *resolver.Record) { r.Name = "other" },
		"active elsewhere": func(r *resolver.Record) { r.Active = stranger },
		"highest loss":     func(r *resolver.Record) { r.Loss = most },
		"highest epoch":    func(r *resolver.Record) { r.Epoch = most },
		"no epoch":         func(r *resolver.Record) { r.Epoch, r.Loss = 0, 1 },
		"twice":            func(r *resolver.Record) { r.ISR = append(r.ISR, third) },
	} {
		for how, lost := range map[string]bool{"rejects": false, "answers": true} {
			t.Run(name+"/"+how, func(t *testing.T) {
				c, rec := trioFollower(t)
				c.cfg.Start = -1 // a clock from before 1970
				lie := rec
				lie.Version, lie.Epoch = 4, 2
				lie.Active, lie.Proposer = third, third
				change(&lie)
				if lost {
					c.needRecovery().asking = true
					c.Step(c.now, Answers{[]Answer{{From: third, Term: TermOf(lie), Record: lie, Copy: true, Loss: lie.Loss}}})
				} else {
					c.Step(c.now, Recv{Msg{Type: MsgReject, From: third, Term: TermOf(lie), Record: &lie, Flag: true}})
				}
				r := persist(c)
				require.NoError(t, c.Err())
				require.Len(t, r.Reports, 1)
				require.ErrorContains(t, r.Reports[0], "host c breaks the protocol")
				require.Equal(t, !lost, r.Get)
				require.Equal(t, known{rec.Generation, rec.Version, TermOf(rec)}, c.known())
				require.True(t, c.HasState())
			})
		}
	}
}

// In a move with three hosts the third one follows the new active host while the resolver does not answer, although it has
// missed a record, or the new active host's record has overtaken one.
func TestRecordAfterGap(t *testing.T) {
	for name, newcomer := range map[string]bool{"missed": false, "overtaken": true} {
		t.Run(name, func(t *testing.T) {
			c, rec := follower(t) // in sync: a, b
			next := third
			if !newcomer {
				c, rec = trioFollower(t)
			}
			add := rec // a adds a host, and hands over at once
			add.Version, add.Proposer, add.Nonce, add.ISR = rec.Version+1, storedA, 5, append(rec.ISR[:2:2], third, stranger)
			move := add
			move.Version, move.Epoch, move.Active, move.Proposer, move.Nonce = add.Version+1, 2, next, next, 6
			a := New(next, Config{Name: "svc"}) // which sends what the new active host sends
			a.rec, a.term, a.tried, a.hasState = add, TermOf(add), TermOf(move), true
			a.rebase(4, 1)
			a.commit, a.emitted, a.applied = 4, 4, 4
			a.Step(c.now, Told{move})
			acked := false
			for n := range 100 {
				for _, o := range a.Ready().Msgs {
					if o.To.Same(storedB) {
						c.Step(c.now, Recv{o.Msg})
					}
				}
				if newcomer && n == 2 {
					c.Step(c.now, Recv{Msg{Type: MsgRecord, From: storedA, Term: TermOf(add), Record: &add}})
				}
				r := persist(c)
				if r.Get {
					c.Step(c.now, Got{Err: true})
				}
				acked = acked || len(acks(r.Msgs)) > 0
				c.Step(c.now+50*time.Millisecond, Tick{})
				a.Step(c.now, Tick{})
			}
			require.True(t, acked, "no commit of the new active host")
			require.Equal(t, TermOf(move), c.Term())
		})
	}
}

// A host takes over at the request of the active one although it has missed a record.
func TestTransferAfterGap(t *testing.T) {
	c, rec := follower(t)
	c.standby.contact = c.now
	next := rec
	next.Version, next.Proposer, next.Nonce = rec.Version+2, storedA, 9
	c.Step(c.now, Recv{Msg{Type: MsgTransfer, From: storedA, Term: TermOf(rec), Record: &next}})
	for _, o := range persist(c).Msgs {
		require.NotEqual(t, MsgFailed, o.Msg.Type, o.Msg.Reason)
	}
	require.True(t, c.Pending())
}

// A record is restored in a term above those of all hosts that have answered: a host that has followed a proposal of a member
// before the loss follows the restored record, too. One far ahead of all clocks does not count.
func TestRestoreAboveOthers(t *testing.T) {
	for ahead, counts := range map[uint64]bool{3 * far: true, (1_700_000_000_000 + 2*year) * hostNumbers: false} {
		c, rec := activePair(t)
		loseRecord(t, c, resolver.Record{})
		proposed := rec
		proposed.Version, proposed.Epoch, proposed.Active, proposed.Proposer = rec.Version+1, rec.Epoch+ahead, storedB, storedB
		c.Step(c.now, Answers{[]Answer{
			{From: storedB, Term: TermOf(rec), Record: rec, Copy: true, Loss: rec.Loss, Commit: Place{1, 1}, Last: Place{1, 1}},
			{From: third, Term: TermOf(proposed), Record: proposed},
		}})
		cas := c.Ready().CAS
		require.NotNil(t, cas)
		require.Equal(t, counts, cas.Next.Epoch > proposed.Epoch)
	}
}
