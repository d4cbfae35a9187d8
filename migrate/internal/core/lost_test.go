package core

import (
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

// activePair returns an active host, which serves with one standby by record 2, and that record.
func activePair(t *testing.T) (c *Core, rec resolver.Record) {
	c = New(storedA, Config{Name: "svc", Standbys: 1})
	c.Step(0, Create{At: 1_700_000_000_000})
	first := c.Ready().CAS.Next
	require.NotZero(t, first.Loss, "no other beginning has this loss")
	rec = first
	rec.Generation, rec.Version, rec.ISR = 1, 2, []resolver.Host{storedA, storedB}
	c.Step(0, CASDone{Nonce: first.Nonce, Record: rec, Outcome: CASOK})
	c.Ready()
	c.Step(0, Recv{Msg{Type: MsgAck, From: storedB, Term: TermOf(rec), Index: 1, PrevEpoch: 1, Round: 1}})
	require.Equal(t, Serving, c.Role())
	c.Ready()
	return c, rec
}

// loseRecord has c read the record at its next check, and find what is left of it. It returns what follows.
func loseRecord(t *testing.T, c *Core, left resolver.Record) Ready {
	now := 3 * time.Second
	c.Step(now, Recv{Msg{Type: MsgAck, From: storedB, Term: c.Term(), Index: 1, PrevEpoch: 2, Round: 1}})
	require.True(t, c.Ready().Get, "it checks that the resolver has the record")
	c.Step(now, Got{Record: left})
	require.True(t, c.Lost())
	return c.Ready()
}

// An active host restores a record that is missing, old, or of another generation, in a far epoch, once the members have
// answered.
func TestRestore(t *testing.T) {
	for name, left := range map[string]func(r *resolver.Record){
		"missing":            func(r *resolver.Record) { *r = resolver.Record{} },
		"old":                func(r *resolver.Record) { r.Version, r.ISR = 1, r.ISR[:1] },
		"another generation": func(r *resolver.Record) { r.Generation, r.Version, r.ISR = 2, 1, r.ISR[:1] },
	} {
		t.Run(name, func(t *testing.T) {
			c, rec := activePair(t)
			was := rec
			left(&was)
			require.Equal(t, []resolver.Host{storedB}, loseRecord(t, c, was).Ask)
			b := Answer{From: storedB, Term: TermOf(rec), Record: rec, Copy: true, Loss: rec.Loss, Commit: Place{1, 1}, Last: Place{1, 1}}
			c.Step(c.now, Answers{[]Answer{b}})
			cas := c.Ready().CAS
			require.NotNil(t, cas)
			require.Equal(t, was.Version, cas.Expect)
			require.Equal(t, was.Generation, cas.Next.Generation)
			require.Equal(t, rec.Loss, cas.Next.Loss)
			require.Greater(t, cas.Next.Epoch, rec.Epoch+resolver.RestoreStep)
			require.Equal(t, storedA, cas.Next.Active)
			require.Equal(t, rec.ISR, cas.Next.ISR)
			cur := &was
			if was.Version == 0 {
				cur = nil
			}
			require.NoError(t, resolver.Check(cur, cas.Next))

			next := cas.Next
			next.Generation, next.Version = 7, cas.Expect+1
			c.Step(c.now, CASDone{Nonce: next.Nonce, Record: next, Outcome: CASOK})
			require.Equal(t, TermOf(next), c.Term())
			require.True(t, c.Role().Active())
			require.False(t, c.Lost())
			require.EqualValues(t, 1, c.Commit(), "nothing is lost")
		})
	}
}

// On a standby, a record of another generation that is otherwise the same is not lost.
func TestSameRecordOfAnotherGeneration(t *testing.T) {
	c := stored(t, storedB)
	rec := storedRecord(1, 1, storedA)
	turn(c, time.Second, rec, Got{Record: rec})
	rec.Generation = 2
	turn(c, time.Second, rec, Got{Record: rec})
	require.False(t, c.Lost())
	require.EqualValues(t, 2, c.Record().Generation)
}

// A record is not restored as long as another host may be active by the record that is lost.
func TestRestoreWaits(t *testing.T) {
	fit := func(rec resolver.Record) Answer {
		return Answer{From: storedB, Term: TermOf(rec), Record: rec, Copy: true, Loss: rec.Loss, Commit: Place{1, 1}, Last: Place{1, 1}}
	}
	for name, answers := range map[string]func(a Answer) []Answer{
		"no answer":     func(a Answer) []Answer { return nil },
		"of another":    func(a Answer) []Answer { a.From.Incarnation++; return []Answer{a} },
		"a higher term": func(a Answer) []Answer { a.Term.Epoch++; return []Answer{a} },
		"it waits for the resolver, which may make it active": func(a Answer) []Answer { a.Pending = true; return []Answer{a} },
	} {
		t.Run(name, func(t *testing.T) {
			c, rec := activePair(t)
			loseRecord(t, c, resolver.Record{})
			c.Step(c.now, Answers{answers(fit(rec))})
			require.Nil(t, c.Ready().CAS)
			c.Step(c.now+time.Second, Recv{Msg{Type: MsgAck, From: storedB, Term: c.Term(), Index: 1, PrevEpoch: 2, Round: 1}})
			c.Step(c.now, Got{})
			require.NotNil(t, c.Ready().Ask, "it asks again")
			c.Step(c.now, Answers{[]Answer{fit(rec)}})
			require.NotNil(t, c.Ready().CAS)
		})
	}
}

// readAt lets c read the record, which the resolver answers at once.
func readAt(c *Core, now time.Duration, rec resolver.Record) Ready {
	c.Step(now, Tick{})
	c.Ready()
	c.Step(now, Got{Record: rec})
	return c.Ready()
}

// An active host that was paused for long asks before it removes a member that it has not heard: that one may have taken over,
// and the resolver may have lost that.
func TestPausedHostAsksBeforeItRemoves(t *testing.T) {
	c, rec := activePair(t)
	r := readAt(c, 600*time.Millisecond, rec)
	require.NotNil(t, r.CAS, "the member is silent, and this host was not")
	require.Equal(t, []resolver.Host{storedA}, r.CAS.Next.ISR)

	for name, taken := range map[string]bool{"gone": false, "active": true} {
		t.Run(name, func(t *testing.T) {
			c, rec := activePair(t)
			r := readAt(c, 3*time.Second, rec)
			require.Nil(t, r.CAS)
			require.Contains(t, r.Ask, storedB)
			var answers []Answer
			next := rec
			next.Version, next.Epoch, next.Active, next.ISR = 3, 2, storedB, []resolver.Host{storedB}
			if taken {
				answers = []Answer{{From: storedB, Term: TermOf(next), Record: next, Copy: true, Active: true, Loss: next.Loss}}
			}
			c.Step(c.now, Answers{answers})
			r = c.Ready()
			require.Equal(t, !taken, r.CAS != nil)
			require.Equal(t, !taken, c.Role().Active())
		})
	}
}

// A record is restored although another host knows of a later beginning, if the host that was to begin it did not.
func TestRestoreBesideVoidBeginning(t *testing.T) {
	c3, d := resolver.Host{ID: "c", Incarnation: 1, Addr: "c:1"}, resolver.Host{ID: "d", Incarnation: 1, Addr: "d:1"}
	for name, tc := range map[string]struct {
		change   func(knows, begins *Answer)
		restores bool
	}{
		"not begun":      {func(_, _ *Answer) {}, true},
		"no answer":      {func(_, b *Answer) { b.From.ID = "e" }, false},
		"pending":        {func(_, b *Answer) { b.Pending = true }, false},
		"begun":          {func(k, b *Answer) { b.Term, b.Record, b.Copy, b.Active = k.Term, k.Record, true, true }, false},
		"begun, dropped": {func(k, b *Answer) { b.Term, b.Record = k.Term, k.Record }, false},
		"later term":     {func(k, _ *Answer) { k.Term.Epoch++ }, false},
		"copied":         {func(k, _ *Answer) { k.Copy, k.Loss = true, k.Term.Loss }, false},
	} {
		t.Run(name, func(t *testing.T) {
			c, rec := activePair(t)
			loseRecord(t, c, resolver.Record{})
			member := Answer{From: storedB, Term: TermOf(rec), Record: rec, Copy: true, Loss: rec.Loss, Commit: Place{1, 1}, Last: Place{1, 1}}
			later := storedRecord(1, 1, d)
			later.Loss, later.ISR = rec.Loss+9, []resolver.Host{d}
			knows, begins := Answer{From: c3, Term: TermOf(later), Record: later}, Answer{From: d}
			tc.change(&knows, &begins)
			c.Step(c.now, Answers{[]Answer{member, knows, begins}})
			require.Equal(t, tc.restores, c.Ready().CAS != nil)
		})
	}
}

// A member without a copy is not restored as a member.
func TestRestoreWithoutCopy(t *testing.T) {
	c, rec := activePair(t)
	loseRecord(t, c, resolver.Record{})
	c.Step(c.now, Answers{[]Answer{{From: storedB, Term: TermOf(rec)}}})
	cas := c.Ready().CAS
	require.NotNil(t, cas)
	require.Equal(t, []resolver.Host{storedA}, cas.Next.ISR)
}

// A record that is only read late is not lost.
func TestLateReadIsNoLoss(t *testing.T) {
	c, rec := activePair(t)
	c.Step(3*time.Second, Recv{Msg{Type: MsgAck, From: storedB, Term: c.Term(), Index: 1, PrevEpoch: 2, Round: 1}})
	require.True(t, c.Ready().Get)
	newer := rec
	newer.Version = 3
	c.Step(c.now, Told{newer})
	require.EqualValues(t, 3, c.Record().Version)
	c.Step(c.now, Got{Record: rec})
	require.False(t, c.Lost(), "the answer was on its way when the record changed")
}

// outOfTouch returns a host that has restarted with its store, and has learned from the resolver that it is in the in-sync
// set of a host that is silent. It has asked the others.
func askedAfterRestart(t *testing.T) (c *Core, rec resolver.Record) {
	now := time.Second
	rec = storedRecord(1, 1, storedA)
	c = stored(t, storedB)
	c.Step(now, Got{Record: rec})
	for range 20 {
		r := c.Ready()
		switch {
		case r.Save != nil:
			c.Step(now, Persisted{r.Save.Seq})
		case r.Get:
			c.Step(now, Got{Record: rec})
		case r.Ask != nil:
			require.Equal(t, []resolver.Host{storedA}, r.Ask)
			return c, rec
		default:
			require.Nil(t, r.CAS, "it does not trust the record alone")
			now += 100 * time.Millisecond
			c.Step(now, Tick{})
		}
	}
	t.Fatal("it does not ask")
	return nil, rec
}

// A host that was out of touch takes over in a far epoch, unless others know better: the resolver may have gone back.
func TestTakeOverAfterInquiry(t *testing.T) {
	third := resolver.Host{ID: "c", Incarnation: 1, Addr: "c:1"}
	for name, test := range map[string]struct {
		answer func(a *Answer, rec resolver.Record)
		over   bool
	}{
		"nobody knows better":     {func(*Answer, resolver.Record) {}, true},
		"a higher term":           {func(a *Answer, _ resolver.Record) { a.Term.Epoch = 2 }, false},
		"a later record":          {func(a *Answer, rec resolver.Record) { a.Record, a.Record.Version = rec, 2; a.Record.ISR = rec.ISR[:1] }, false},
		"a committed entry":       {func(a *Answer, _ resolver.Record) { a.Commit = Place{5, 1} }, false},
		"another entry":           {func(a *Answer, _ resolver.Record) { a.Commit = Place{3, 2} }, false},
		"entries of another loss": {func(a *Answer, _ resolver.Record) { a.Commit, a.Loss = Place{50, 1}, 3 }, true},
	} {
		t.Run(name, func(t *testing.T) {
			c, rec := askedAfterRestart(t)
			a := Answer{From: third, Term: Term{0, 1}, Commit: Place{1, 1}}
			test.answer(&a, rec)
			c.Step(c.now, Answers{[]Answer{a}})
			r := c.Ready()
			for r.Save != nil {
				c.Step(c.now, Persisted{r.Save.Seq})
				r = c.Ready()
			}
			if !test.over {
				require.Nil(t, r.CAS)
				if lacks := a.Commit.Index > 1; lacks {
					require.True(t, c.Alone())
					require.Equal(t, third, c.Better())
				}
				return
			}
			require.NotNil(t, r.CAS)
			require.Greater(t, r.CAS.Next.Epoch, rec.Epoch+resolver.RestoreStep, "another host may have begun the next epoch")
			require.NoError(t, resolver.Check(&rec, r.CAS.Next))
		})
	}
}

// A later beginning by this host, which it would know, does not keep it from taking over: the resolver lost that record at
// once. One by another host does.
func TestOwnBeginningThatWasLost(t *testing.T) {
	third := resolver.Host{ID: "c", Incarnation: 1, Addr: "c:1"}
	for _, own := range []bool{true, false} {
		c, _ := askedAfterRestart(t)
		by := third
		if own {
			by = c.self
		}
		later := storedRecord(2, 1, by)
		later.Loss, later.ISR = 7, []resolver.Host{by}
		c.Step(c.now, Answers{[]Answer{{From: third, Term: TermOf(later), Record: later}}})
		require.Equal(t, own, persist(c).CAS != nil || c.Pending())
	}
}

// A restored record is accepted also after one of an earlier beginning in a higher epoch.
func TestFarTermIsAboveAllEpochs(t *testing.T) {
	c := New(storedA, Config{Name: "svc"})
	c.term = Term{Loss: 9, Epoch: 5}
	earlier := Term{Loss: 8, Epoch: 100 * hostNumbers}
	far := c.farTerm(earlier)
	require.EqualValues(t, 9, far.Loss)
	require.GreaterOrEqual(t, far.Epoch, earlier.Epoch+resolver.RestoreStep)
}

// An answer that comes after a change was given up does not make a host active: the record may be lost since.
func TestLateWin(t *testing.T) {
	c, now, _, promote := promoting(t)
	c.Step(now, CASDone{Nonce: promote.Next.Nonce, Outcome: CASConflict}) // of its repetition: the resolver has no record
	require.False(t, c.Pending())
	won := promote.Next
	won.Generation, won.Version = 1, 2
	c.Step(now, CASDone{Nonce: won.Nonce, Record: won, Outcome: CASOK})
	require.False(t, c.Role().Active())
}

// A reset keeps all that an in-sync member holds: entries after the last that it knows to be committed may have been
// acknowledged.
func TestResetKeepsTheLog(t *testing.T) {
	c := stored(t, storedB)
	rec := storedRecord(1, 1, storedA)
	turn(c, time.Second, rec, Got{Record: rec})
	cas := turn(c, time.Second, rec, Reset{Record: rec})
	next := cas.Next
	next.Version = 2
	turn(c, time.Second, next, CASDone{Nonce: next.Nonce, Record: next, Outcome: CASOK})
	require.True(t, c.Role().Active())
	require.EqualValues(t, 5, c.Commit(), "four entries and the first of its own epoch")
}

// A host needs no recovery as long as no record is lost: while it serves, stands by, hands over and takes over.
func TestHealthyIsSmall(t *testing.T) {
	require.LessOrEqual(t, reflect.TypeFor[Core]().Size(), uintptr(1280), "the next size class of the allocator is 1408")
	p := newPolicyPair(t, Config{Standbys: 1}, Config{Standbys: 1})
	a, b := p.cores["a"], p.cores["b"]
	p.join()
	p.run(func() bool { return p.now > 5*time.Second }) // with checks of the record
	p.step("a", Handoff{Target: storedB})
	p.run(p.serves("b", 2))
	p.run(func() bool { return p.now > 10*time.Second })
	require.Nil(t, b.recovery)
	p.cores["b"] = nil
	p.run(p.serves("a", 1))
	require.Nil(t, a.recovery)
}

// A record that another host's next term has replaced while it was read is not lost.
func TestLateReadOfEarlierTermIsNoLoss(t *testing.T) {
	c := stored(t, storedB)
	rec := storedRecord(1, 1, storedA)
	turn(c, time.Second, rec, Got{Record: rec})
	c.Step(time.Second, CheckRecord{})
	for r := c.Ready(); !r.Get; r = c.Ready() {
		c.Step(c.now+100*time.Millisecond, Tick{})
	}
	third := resolver.Host{ID: "c", Incarnation: 1, Addr: "c:1"}
	next := storedRecord(2, 2, third)
	next.ISR = append(next.ISR, third)
	c.Step(c.now, Told{next})
	require.EqualValues(t, 2, c.Record().Version)
	c.Step(c.now, Got{Record: rec})
	require.False(t, c.Lost(), "the answer was on its way when the record changed")
}
