package core

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

// holder returns host b, whose store holds entries 1 to 4 of epoch 1, of which 3 are committed.
func holder() *Core {
	c := New(storedB, Config{Name: "svc", Durable: true})
	st := State{Meta: Meta{Term: Term{0, 1}, Copy: true}, Commit: 3}
	for i := range uint64(4) {
		st.Entries = append(st.Entries, Entry{Index: i + 1, Epoch: 1, Kind: Command})
	}
	c.Step(time.Second, Recovered{State: st})
	c.Ready()
	return c
}

// tell has c read the record, by which host active is active in the epoch.
func tell(c *Core, epoch uint64, active resolver.Host) {
	c.Step(c.now, Told{storedRecord(c.rec.Version+1, epoch, active)})
	persist(c)
}

// far is an epoch that begins after an inquiry.
const far = 2*hostNumbers + 7

// persist returns what c does, as its store holds every Save at once.
func persist(c *Core) (all Ready) {
	for {
		r := c.Ready()
		all.Msgs = append(all.Msgs, r.Msgs...)
		all.Reports = append(all.Reports, r.Reports...)
		all.Snapshots = append(all.Snapshots, r.Snapshots...)
		all.Committed = append(all.Committed, r.Committed...)
		all.Get = all.Get || r.Get
		if r.Fetch != nil {
			all.Fetch = r.Fetch
		}
		if r.Save == nil {
			return all
		}
		if r.Save.Aside {
			all.Save = r.Save
		}
		c.Step(c.now, Persisted{r.Save.Seq})
	}
}

// An active host with an old copy contradicts committed entries of another host: that one reports it, keeps its copy aside
// and gives it up, and the active host reports it, too.
func TestSuperseded(t *testing.T) {
	for name, m := range map[string]Msg{
		"another entry":          {Prev: 1, PrevEpoch: 1, Entries: []Entry{{Index: 2, Epoch: far, Kind: EpochStart}}},
		"another entry before":   {Prev: 2, PrevEpoch: far},
		"another committed last": {Prev: 2, PrevEpoch: 1, Entries: []Entry{{Index: 3, Epoch: far, Kind: EpochStart}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := holder()
			tell(c, far, storedA)
			m.Type, m.From, m.Term = MsgAppend, storedA, Term{0, far}
			c.Step(c.now, Recv{m})
			r := persist(c)
			require.Equal(t, []error{&Superseded{Holder: storedB, Active: storedA, Last: 3}}, r.Reports)
			require.NotNil(t, r.Save, "the store keeps the copy")
			require.True(t, r.Save.Rebase)
			require.False(t, c.HasState())
			var leave Msg
			for _, o := range r.Msgs {
				require.NotEqual(t, MsgAck, o.Msg.Type)
				if o.Msg.Type == MsgLeave {
					leave = o.Msg
				}
			}
			require.True(t, leave.Flag)
			require.EqualValues(t, 3, leave.Commit)

			a, _ := activePair(t)
			leave.Term = a.Term()
			a.Step(a.now, Recv{leave})
			require.Equal(t, []error{&Superseded{Holder: storedB, Active: storedA, Last: 3}}, a.Ready().Reports)
			a.Step(a.now, Recv{leave})
			require.Empty(t, a.Ready().Reports, "once")
		})
	}
}

// An append that agrees with the committed entries is no contradiction.
func TestNotSuperseded(t *testing.T) {
	c := holder()
	tell(c, far, storedA)
	c.Step(c.now, Recv{Msg{Type: MsgAppend, From: storedA, Term: Term{0, far}, Prev: 1, PrevEpoch: 1, Entries: []Entry{
		{Index: 2, Epoch: 1, Kind: Command}, {Index: 3, Epoch: 1, Kind: Command}, {Index: 4, Epoch: far, Kind: EpochStart},
	}}})
	r := persist(c)
	require.Empty(t, r.Reports)
	require.EqualValues(t, 4, c.Last())
	require.True(t, c.HasState())
}

// A host keeps its copy if another one overwrites a committed entry without an inquiry before: that is no loss.
func TestOverwrittenWithoutInquiry(t *testing.T) {
	c := holder()
	tell(c, 2, storedA)
	c.Step(c.now, Recv{Msg{Type: MsgAppend, From: storedA, Term: Term{0, 2}, Prev: 1, PrevEpoch: 1,
		Entries: []Entry{{Index: 2, Epoch: 2, Kind: EpochStart}}}})
	r := persist(c)
	require.Len(t, r.Reports, 1)
	require.IsType(t, new(Misconduct), r.Reports[0])
	require.ErrorContains(t, r.Reports[0], "host a breaks the protocol, which host b ignores: it overwrites entry 3, which is committed, in epoch 2")
	require.Nil(t, r.Save)
	require.EqualValues(t, 4, c.Last())
	require.NoError(t, c.Err())
}

// A host that joins with committed entries that the active host lacks gets a snapshot, and both report it.
func TestJoinSuperseded(t *testing.T) {
	a, _ := activePair(t)
	joiner := resolver.Host{ID: "c", Incarnation: 1, Addr: "c:1"}
	a.Step(a.now, Candidates{[]resolver.Host{joiner}})
	a.cfg.Standbys = 2
	a.Step(a.now, Candidates{[]resolver.Host{joiner}})
	var invite Msg
	for _, o := range a.Ready().Msgs {
		if o.Msg.Type == MsgInvite {
			invite = o.Msg
		}
	}
	require.Equal(t, MsgInvite, invite.Type)
	join := Msg{Type: MsgJoin, From: joiner, Term: a.Term(), Round: invite.Round, Flag: true, Commit: 30, PrevEpoch: 1, Index: a.term.Loss}
	a.Step(a.now, Recv{join})
	r := a.Ready()
	require.Equal(t, []error{&Superseded{Holder: joiner, Active: storedA, Last: 30}}, r.Reports)
	require.Equal(t, []resolver.Host{joiner}, r.Snapshots)
	a.Step(a.now, Captured{To: joiner, ID: 9, Index: 1, Epoch: 1})
	var offer Msg
	for _, o := range a.Ready().Msgs {
		if o.Msg.Type == MsgSnapshot {
			offer = o.Msg
		}
	}
	require.True(t, offer.Flag)

	for name, test := range map[string]struct {
		epoch       uint64
		flag        bool
		told, maybe bool
	}{
		"contradicted":      {2, true, true, false},
		"after an inquiry":  {far, false, true, true},
		"merely far behind": {2, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := holder()
			term := Term{0, test.epoch}
			rec := storedRecord(2, test.epoch, storedA)
			rec.ISR = rec.ISR[:1]
			b.Step(b.now, Told{rec})
			b.Step(b.now, Recv{Msg{Type: MsgInvite, From: storedA, Term: term, Record: &rec, Round: 1, Index: 1}})
			persist(b)
			b.Step(b.now, Recv{Msg{Type: MsgSnapshot, From: storedA, Term: term, Round: 9, Index: 50, PrevEpoch: test.epoch, Prev: 1, Flag: test.flag}})
			r := persist(b)
			if !test.told {
				require.Empty(t, r.Reports)
				require.Nil(t, r.Save, "nothing is kept aside")
				return
			}
			require.Equal(t, []error{&Superseded{Holder: storedB, Active: storedA, Last: 3, Maybe: test.maybe}}, r.Reports)
			require.NotNil(t, r.Save)
		})
	}
}

// Of two hosts that ask each other at the same time, one acts on the answers.
func TestInquiriesOverlap(t *testing.T) {
	b, _ := askedAfterRestart(t)
	low, high := resolver.Host{ID: "a", Incarnation: 1}, resolver.Host{ID: "c", Incarnation: 1}
	require.True(t, b.Answer(high).Pending, "the other one gives way")
	require.False(t, b.recovery.read().gaveWay)
	require.False(t, b.Answer(low).Pending)
	b.Step(b.now, Answers{})
	require.False(t, b.Pending(), "this one has given way")
}

// After a restart a host knows its record and the hosts that it has proposed, although the resolver has nothing left.
func TestStoredRecord(t *testing.T) {
	third := resolver.Host{ID: "c", Incarnation: 1, Addr: "c:1"}
	c := New(storedA, Config{Name: "svc", Standbys: 2, Durable: true})
	var disk State
	run := func() (cas *CAS) {
		for {
			r := c.Ready()
			if r.CAS != nil {
				cas = r.CAS
			}
			if r.Save == nil {
				return cas
			}
			require.NoError(t, disk.Apply(*r.Save))
			c.Step(c.now, Persisted{r.Save.Seq})
		}
	}
	c.Step(0, Create{At: 1_700_000_000_000})
	first := run().Next
	rec := first
	rec.Generation, rec.Version, rec.ISR = 1, 2, []resolver.Host{storedA, storedB}
	c.Step(0, CASDone{Nonce: first.Nonce, Record: rec, Outcome: CASOK})
	run()
	c.Step(0, Recv{Msg{Type: MsgAck, From: storedB, Term: TermOf(rec), Index: 1, PrevEpoch: 1, Round: 1}})
	run()
	p := c.addPeer(third)
	p.stage, p.next = streaming, 2
	c.proposeAdd(p)
	require.NotNil(t, run())

	again := New(storedA, Config{Name: "svc", Standbys: 2, Durable: true, Nonce: 9})
	again.Step(0, Recovered{State: disk})
	require.Equal(t, rec, again.Record())
	require.Equal(t, []resolver.Host{storedA, storedB, third}, again.members(), "the change may have been made")
}

// An active host that removes a member commits without it only when its store holds the record.
func TestCommitWaitsForTheRecord(t *testing.T) {
	c := New(storedA, Config{Name: "svc", Standbys: 1, Durable: true})
	c.Step(0, Create{At: 1_700_000_000_000})
	c.Step(0, Persisted{c.Ready().Save.Seq})
	first := c.Ready().CAS.Next
	rec := first
	rec.Generation, rec.Version, rec.ISR = 1, 2, []resolver.Host{storedA, storedB}
	c.Step(0, CASDone{Nonce: first.Nonce, Record: rec, Outcome: CASOK})
	persist(c)
	c.Step(0, Recv{Msg{Type: MsgAck, From: storedB, Term: TermOf(rec), Index: 1, PrevEpoch: 1, Round: 1}})
	persist(c)
	require.EqualValues(t, 1, c.Commit())
	c.Propose(0, Entry{Kind: Command})
	persist(c)
	alone := rec
	alone.Version, alone.ISR = 3, []resolver.Host{storedA}
	c.Step(0, Got{Record: alone})
	save := c.Ready().Save
	require.NotNil(t, save)
	require.EqualValues(t, 1, c.Commit(), "after a crash it would wait for host b again")
	c.Step(0, Persisted{save.Seq})
	require.EqualValues(t, 2, c.Commit())
}

// A host gives up its copy for a beginning of the service only if a host tells of it that has begun, or the resolver does.
func TestHearsay(t *testing.T) {
	reset := storedRecord(1, 9, resolver.Host{ID: "c", Incarnation: 1, Addr: "c:1"})
	reset.Loss, reset.ISR = 7, []resolver.Host{reset.Active}
	reject := Msg{Type: MsgReject, From: storedA, Term: TermOf(reset), Record: &reset}
	for name, tell := range map[string]func(c *Core){
		"a member that has begun": func(c *Core) {
			c.needRecovery().asking = true
			c.Step(c.now, Answers{[]Answer{{From: storedA, Term: TermOf(reset), Record: reset, Copy: true, Loss: reset.Loss}}})
		},
		"the resolver": func(c *Core) { c.Step(c.now, Got{Record: reset}) },
	} {
		t.Run(name, func(t *testing.T) {
			c := holder()
			c.Step(c.now, Told{storedRecord(1, 1, storedA)})
			c.Step(c.now, Recv{reject})
			persist(c)
			require.True(t, c.HasState())
			tell(c)
			require.NotNil(t, persist(c).Save, "the copy is kept aside")
			require.False(t, c.HasState())
		})
	}
}

// A record that the resolver accepted and lost at once does not depose the host that it names, which has not begun by it and
// holds the copy of an earlier beginning.
func TestHearsayOfItself(t *testing.T) {
	c := holder()
	rec := storedRecord(1, 1, storedA)
	turn(c, c.now, rec, Got{Record: rec})
	reset := storedRecord(1, 9, c.self)
	reset.Loss, reset.ISR = 7, []resolver.Host{c.self}
	c.Step(c.now, Recv{Msg{Type: MsgReject, From: storedA, Term: TermOf(reset), Record: &reset}})
	persist(c)
	require.True(t, c.HasState())
	c.Step(c.now+time.Second, Tick{})
	require.True(t, c.Ready().Get, "the resolver knows whether it is true")
}

// A host without a copy that knows of a later beginning of the service forgets it if all its hosts only know of the earlier
// one that the resolver has: then nobody has begun by it.
func TestVoidBeginning(t *testing.T) {
	other := resolver.Host{ID: "c", Incarnation: 1, Addr: "c:1"}
	void := storedRecord(1, 1, storedA)
	void.Loss, void.ISR = 7, []resolver.Host{storedA}
	rec := storedRecord(3, 1, other)
	rec.ISR = []resolver.Host{other, storedA}
	knows := func(h resolver.Host, loss uint64) Answer { return Answer{From: h, Term: Term{Loss: loss, Epoch: 1}} }
	for name, tc := range map[string]struct {
		answers []Answer
		void    bool
	}{
		"its host knows only the earlier one": {[]Answer{knows(storedA, 0), knows(other, 0)}, true},
		"its host does not answer":            {[]Answer{knows(other, 0)}, false},
		"another incarnation of it answers":   {[]Answer{knows(resolver.Host{ID: "a", Incarnation: 9}, 0)}, false},
		"its host has begun":                  {[]Answer{knows(storedA, 7)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(storedB, Config{Name: "svc"})
			c.Step(time.Second, Told{Record: void})
			require.EqualValues(t, 7, c.Term().Loss)
			c.Ready()
			now := 2 * time.Second
			c.Step(now, Recv{Msg{Type: MsgInvite, From: other, Term: TermOf(rec), Record: &rec, Round: 1, Index: 1}})
			require.True(t, c.Ready().Get, "the host is active by an earlier beginning")
			c.Step(now, Got{Record: rec})
			require.Equal(t, []resolver.Host{storedA}, c.Ready().Ask)
			c.Step(now, Answers{tc.answers})
			c.Ready()
			want := TermOf(void)
			if tc.void {
				want = TermOf(rec)
			}
			require.Equal(t, want, c.Term())
			require.Equal(t, want, TermOf(c.Record()))
			require.Equal(t, !tc.void, c.Lost())
			c.Step(now, Recv{Msg{Type: MsgInvite, From: other, Term: TermOf(rec), Record: &rec, Round: 1, Index: 1}})
			joins := slices.ContainsFunc(c.Ready().Msgs, func(o Outgoing) bool { return o.Msg.Type == MsgJoin })
			require.Equal(t, tc.void, joins)
		})
	}
}

// A request to take over that was on its way for long is refused: the host that sent it may have removed this one since, and
// the resolver may have lost that.
func TestLateTransferIsRefused(t *testing.T) {
	for _, late := range []time.Duration{0, time.Minute} {
		c := holder()
		now := c.now
		rec := storedRecord(1, 1, storedA)
		turn(c, now, rec, Got{Record: rec})
		beat := Msg{Type: MsgAppend, From: storedA, Term: Term{0, 1}, Prev: 4, PrevEpoch: 1, Commit: 4, Round: 1}
		c.Step(now, Recv{beat})
		for _, o := range persist(c).Msgs {
			if o.Msg.Type == MsgAck {
				beat.Won = o.Msg.Won
			}
		}
		c.Step(now, Recv{beat})
		persist(c)
		c.Step(now+late, Recv{Msg{Type: MsgTransfer, From: storedA, Term: Term{0, 1}, Record: &rec}})
		require.Equal(t, late == 0, c.Pending())
		refused := slices.ContainsFunc(persist(c).Msgs, func(o Outgoing) bool { return o.Msg.Type == MsgFailed })
		require.Equal(t, late > 0, refused)
	}
}

// A host that was removed keeps its copy until the resolver shows that it has the record: it could go back to one that
// counts on the copy.
func TestRemovedCopyStays(t *testing.T) {
	c := holder()
	rec := storedRecord(2, 1, storedA)
	rec.ISR = rec.ISR[:1]
	now := c.now
	c.Step(now, Told{rec})
	persist(c)
	c.Step(now, Got{Record: rec})
	persist(c)
	require.Equal(t, Out, c.Role())
	now += 6 * time.Second
	c.Step(now, Tick{})
	require.True(t, c.Ready().Get)
	require.True(t, c.HasState())
	c.Step(now, Got{Record: storedRecord(1, 1, storedA)})
	persist(c)
	require.True(t, c.HasState(), "the resolver has gone back")
	for range 3 {
		now += 6 * time.Second
		c.Step(now, Tick{})
		if c.Ready().Get {
			c.Step(now, Got{Record: rec})
			persist(c)
		}
	}
	require.False(t, c.HasState())
}

// A message that was on its way for long is no sign that the active host still counts on this one.
func TestLateMessageIsNoTouch(t *testing.T) {
	c := holder()
	now := c.now
	rec := storedRecord(1, 1, storedA)
	turn(c, now, rec, Got{Record: rec})
	beat := Msg{Type: MsgAppend, From: storedA, Term: Term{0, 1}, Prev: 4, PrevEpoch: 1, Commit: 3, Round: 1}
	c.Step(now, Recv{beat})
	var stamp time.Duration
	for _, o := range persist(c).Msgs {
		if o.Msg.Type == MsgAck {
			stamp = o.Msg.Won
		}
	}
	require.NotZero(t, stamp)
	require.True(t, c.outOfTouch(), "the active host may not have heard this one yet")
	beat.Won = stamp
	c.Step(now, Recv{beat})
	require.False(t, c.outOfTouch())
	c.Step(now+time.Minute, Recv{beat})
	require.True(t, c.outOfTouch(), "an answer of a minute ago")
	beat.Won = 1
	c.Step(now+time.Minute, Recv{beat})
	require.True(t, c.outOfTouch(), "an answer to an earlier start of this host")
}

// A host that was the only member had committed all that its store holds, also what it had not stored as committed: another
// host that continues from an older record contradicts committed entries, and both report it.
func TestAloneCommittedAll(t *testing.T) {
	for name, tc := range map[string]struct {
		edit   func(rec *resolver.Record, st *State)
		commit uint64
	}{
		"alone":           {func(*resolver.Record, *State) {}, 4},
		"with another":    {func(rec *resolver.Record, _ *State) { rec.ISR = []resolver.Host{storedB, storedA} }, 3},
		"adding another":  {func(_ *resolver.Record, st *State) { st.Proposed = new(Core).encode([]resolver.Host{storedA}) }, 3},
		"another active":  {func(rec *resolver.Record, _ *State) { rec.Active, rec.ISR = storedA, []resolver.Host{storedA} }, 3},
		"in a later term": {func(_ *resolver.Record, st *State) { st.Term.Epoch = 2 }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			rec := storedRecord(3, 1, storedB)
			rec.ISR = rec.ISR[1:]
			st := State{Meta: Meta{Term: Term{0, 1}, Copy: true}, Commit: 3}
			tc.edit(&rec, &st)
			st.Record = new(Core).encode(rec)
			for i := range uint64(4) {
				st.Entries = append(st.Entries, Entry{Index: i + 1, Epoch: 1, Kind: Command})
			}
			c := New(storedB, Config{Name: "svc", Durable: true})
			c.Step(time.Second, Recovered{State: st})
			persist(c)
			require.Equal(t, tc.commit, c.committedTo())
			require.EqualValues(t, 3, c.Commit(), "it is not active yet, and so commits nothing")
			tell(c, far, storedA)
			c.Step(c.now, Recv{Msg{
				Type: MsgAppend, From: storedA, Term: Term{0, far}, Prev: 3, PrevEpoch: 1,
				Entries: []Entry{{Index: 4, Epoch: far, Kind: EpochStart}},
			}})
			lost := slices.ContainsFunc(persist(c).Reports, func(err error) bool { _, ok := err.(*Superseded); return ok })
			require.Equal(t, tc.commit == 4, lost)
		})
	}
}

// An active host that is asked, in an earlier term, to remove a host that it does not know releases no copy that the host
// holds by an invitation of this term, whose number may be the same.
func TestReleaseOfEarlierTerm(t *testing.T) {
	c := New(storedA, Config{Name: "svc", Standbys: 1})
	c.Step(time.Second, Create{})
	cas := c.Ready().CAS
	rec := cas.Next
	rec.Generation, rec.Version = 1, 1
	c.Step(time.Second, CASDone{Nonce: cas.Next.Nonce, Outcome: CASOK, Record: rec})
	c.Ready()
	require.True(t, c.Role().Active())
	for round, term := range map[uint64]Term{0: {}, 7: c.Term()} {
		c.Step(time.Second, Recv{Msg{Type: MsgLeave, From: storedB, Term: term, Round: 7}})
		r := c.Ready()
		require.Len(t, r.Msgs, 1)
		require.Equal(t, MsgRelease, r.Msgs[0].Msg.Type)
		require.Equal(t, round, r.Msgs[0].Msg.Round)
	}
}

// A request to take over may overtake records that the active host sent before it: it waits until the record is read.
func TestTransferWaitsForRecord(t *testing.T) {
	c, rec := follower(t)
	c.Step(c.now, Got{Record: rec}) // which it has asked for at its start
	persist(c)
	rec.Version += 20 // of fewer it would believe its active host
	c.Step(c.now, Recv{Msg{Type: MsgTransfer, From: storedA, Term: c.Term(), Record: &rec}})
	require.Empty(t, persist(c).Msgs)
	c.Step(c.now+100*time.Millisecond, Tick{})
	require.True(t, persist(c).Get)
	c.Step(c.now, Got{Record: rec})
	cas := proposed(c)
	require.EqualValues(t, 2, cas.Next.Epoch)
	require.Equal(t, rec.Version, cas.Expect)
}

// proposed returns what the host proposes once its store holds what it must.
func proposed(c *Core) (cas CAS) {
	for r := c.Ready(); ; r = c.Ready() {
		if r.CAS != nil {
			cas = *r.CAS
		}
		if r.Save == nil {
			return cas
		}
		c.Step(c.now, Persisted{r.Save.Seq})
	}
}

// handedOver returns a standby that has proposed to be active next, on request of host a, without an answer of the resolver.
func handedOver(t *testing.T) (*Core, CAS) {
	c, rec := follower(t)
	c.Step(c.now, Recv{Msg{Type: MsgTransfer, From: storedA, Term: c.Term(), Record: &rec}})
	cas := proposed(c)
	require.EqualValues(t, 2, cas.Next.Epoch)
	c.Step(c.now, CASDone{Nonce: cas.Next.Nonce, Outcome: CASUnknown})
	persist(c)
	return c, cas
}

// A host that was removed does not serve by what it proposed before, which a resolver that has gone back may accept later.
func TestRemovedHostDoesNotServe(t *testing.T) {
	c, cas := handedOver(t)
	removed := storedRecord(3, 1, storedA)
	removed.ISR = removed.ISR[:1]
	c.Step(c.now, Told{removed})
	persist(c)
	late := cas.Next
	late.Generation, late.Version = 2, 3
	c.Step(c.now, Told{late})
	r := persist(c)
	require.Equal(t, TermOf(late), c.Term())
	require.False(t, c.Role().Active())
	require.False(t, c.HasState())
	require.NotNil(t, r.Save, "the store keeps the copy aside")
	require.Equal(t, []error{&Superseded{Holder: storedB, Active: storedA, Last: 3, Maybe: true}}, r.Reports)

	// Without the removal it serves, however late the answer.
	c, cas = handedOver(t)
	late = cas.Next
	late.Generation, late.Version = 1, 3
	c.Step(c.now, Told{late})
	persist(c)
	require.True(t, c.Role().Active())
}

// A host that has lost touch with the active one does not repeat a proposal to follow it: it reads the record first.
func TestNoProposalOutOfTouch(t *testing.T) {
	for late, repeats := range map[time.Duration]bool{time.Second: true, 3 * time.Second: false} {
		c, _ := handedOver(t)
		c.standby.contact = c.now
		c.asked = nil
		c.Step(c.now+late, Tick{})
		r := c.Ready()
		require.Equal(t, repeats, r.CAS != nil)
		require.Equal(t, repeats, c.Pending())
		require.Equal(t, !repeats, slices.ContainsFunc(r.Msgs, func(o Outgoing) bool { return o.Msg.Type == MsgFailed }))
		if !repeats {
			require.True(t, r.Get)
		}
	}
}
