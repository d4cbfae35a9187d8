package resolvertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/roam-go/roam/resolver"
)

// rules is the suite, simple rules first.
var rules = append([]rule{
	{"Get of an unknown name is ErrNotFound", func(s *suite) {
		r, err := s.A.Get(s.ctx, name)
		s.ErrorIs(err, resolver.ErrNotFound)
		s.ErrorContains(err, name, "the error must name the service")
		s.Zero(r)
	}},

	{"CompareAndSwap returns the written record with Version and Generation", func(s *suite) {
		next := s.fresh(name, s.host("a"))
		next.Version = 77 // ignored
		got, err := s.A.CompareAndSwap(s.ctx, 0, next)
		s.NoError(err)
		s.EqualValues(1, got.Version, "the first version is 1")
		s.NotZero(got.Generation, "Generation must not be zero")
		next.Version, next.Generation = got.Version, got.Generation
		s.Equal(next, got)
		s.present(got)
		s.Equal(got.Generation, s.create("other.com", s.host("b")).Generation, "all records have the same Generation")
	}},

	{"a record keeps every field", func(s *suite) {
		a, b := s.host("ä/\u65e5\u672c-1"), s.host("b")
		a.Incarnation, a.Addr = 1<<53-1, strings.Repeat("x", maxAddr)
		long := strings.Repeat("n", maxName)
		next := s.fresh(long, a)
		next.Nonce = 1<<53 - 1
		r, err := s.A.CompareAndSwap(s.ctx, 0, next)
		s.NoError(err)
		next.Version, next.Generation = 1, r.Generation
		s.Equal(next, r)
		next = cancelled(r)
		next.Nonce, next.ISR = 5, append(next.ISR, b)
		r = s.swap(s.A, r, next)
		next.Version, next.Generation = 2, r.Generation
		s.Equal(next, r)
		s.present(next)
	}},

	{"every Get that begins after a change returns it", func(s *suite) {
		r := s.create(name, s.host("a"))
		for i := range 50 {
			by, other := s.A, s.B
			if i%2 == 1 {
				by, other = other, by
			}
			r = s.swap(by, r, cancelled(r))
			s.EqualValues(i+2, r.Version, "Version grows by one with each change")
			got, err := other.Get(s.ctx, name)
			s.NoError(err)
			s.Equal(r, got)
		}
	}},

	{"names are independent", func(s *suite) {
		one := s.create(name, s.host("a"))
		two := s.create("other.com", s.host("b"))
		two = s.swap(s.A, two, cancelled(two))
		s.present(one)
		s.present(two)
	}},

	{"ErrConflict comes with the present record and changes nothing", func(s *suite) {
		first := s.create(name, s.host("a"))
		second := s.swap(s.A, first, cancelled(first))
		next := cancelled(second)
		next.Nonce = 99
		for _, expect := range []uint64{0, 1} {
			got, err := s.B.CompareAndSwap(s.ctx, expect, next)
			s.ErrorIs(err, resolver.ErrConflict)
			s.ErrorContains(err, name)
			s.Equal(second, got, "ErrConflict must come with the present record")
		}
		s.present(second)
	}},

	{"a change of a future version or of another Generation is ErrAmnesia", func(s *suite) {
		lost := s.fresh(name, s.host("a"))
		_, err := s.A.CompareAndSwap(s.ctx, 3, lost)
		s.ErrorIs(err, resolver.ErrAmnesia, "a version where there is no record")
		_, err = s.A.Get(s.ctx, name)
		s.ErrorIs(err, resolver.ErrNotFound)

		r := s.create(name, s.host("a"))
		_, err = s.A.CompareAndSwap(s.ctx, 2, cancelled(r))
		s.ErrorIs(err, resolver.ErrAmnesia, "a future version")
		other := cancelled(r)
		if other.Generation--; other.Generation == 0 {
			other.Generation = 2
		}
		_, err = s.A.CompareAndSwap(s.ctx, r.Version, other)
		s.ErrorIs(err, resolver.ErrAmnesia, "another Generation")
		s.ErrorContains(err, name)
		s.present(r)

		other.Generation = 0
		s.swap(s.A, r, other)
	}},

	{"an identical call returns the same while its change is the newest", func(s *suite) {
		next := s.fresh(name, s.host("a"))
		r := s.create(name, s.host("a"))
		for range 3 {
			got, err := s.B.CompareAndSwap(s.ctx, 0, next)
			s.NoError(err, "an identical resend")
			s.Equal(r, got)
		}
		s.present(r)
		other := next
		other.Nonce++
		got, err := s.B.CompareAndSwap(s.ctx, 0, other)
		s.ErrorIs(err, resolver.ErrConflict, "another proposal of the same content")
		s.Equal(r, got)
		newer := s.swap(s.A, r, cancelled(r))
		got, err = s.B.CompareAndSwap(s.ctx, 0, next)
		s.ErrorIs(err, resolver.ErrConflict, "a resend after another change")
		s.Equal(newer, got)
		s.present(newer)
	}},

	{"exactly one of several concurrent changes of a version succeeds", func(s *suite) {
		r := s.create(name, s.host("a"))
		for range 10 {
			const n = 16
			results := make([]result, n)
			var wg sync.WaitGroup
			for i := range n {
				next := cancelled(r)
				next.Nonce = uint64(100 + i)
				by := s.A
				if i%2 == 1 {
					by = s.B
				}
				wg.Go(func() {
					results[i].rec, results[i].err = by.CompareAndSwap(s.ctx, r.Version, next)
				})
			}
			wg.Wait()
			winner := -1
			for i, res := range results {
				if res.err == nil {
					s.Equal(-1, winner, "two changes of one version were made")
					winner = i
				}
			}
			s.NotEqual(-1, winner, "no change was made: %v", results[0].err)
			for i, res := range results {
				s.Equal(results[winner].rec, res.rec, "each call returns the winner's record")
				if i != winner {
					s.ErrorIs(res.err, resolver.ErrConflict)
				}
			}
			s.present(results[winner].rec)
			r = results[winner].rec
		}
	}},

	{"a service lives from its creation to its reset", func(s *suite) {
		a, b, c := s.host("a"), s.host("b"), s.host("c")
		r := s.create(name, a)
		step := func(kind string, edit func(next *resolver.Record)) {
			s.t.Helper()
			next := r
			next.Nonce++
			next.ISR = append([]resolver.Host(nil), r.ISR...)
			edit(&next)
			got, err := s.A.CompareAndSwap(s.ctx, r.Version, next)
			s.NoError(err, kind)
			next.Version++
			s.Equal(next, got, kind)
			s.present(got)
			r = got
		}
		step("add", func(n *resolver.Record) { n.ISR = append(n.ISR, b) })
		step("add", func(n *resolver.Record) { n.ISR = append(n.ISR, c) })
		step("handoff", func(n *resolver.Record) { n.Proposer, n.Active, n.Epoch = b, b, 2 })
		step("cancel", func(n *resolver.Record) {})
		step("failover", func(n *resolver.Record) { n.Proposer, n.Active, n.Epoch, n.ISR = c, c, 3, []resolver.Host{a, c} })
		a2 := a
		a2.Incarnation = 2
		step("replace", func(n *resolver.Record) { n.ISR[0] = a2 })
		step("remove", func(n *resolver.Record) { n.ISR = n.ISR[1:] })
		step("retire", func(n *resolver.Record) { n.Active, n.ISR = resolver.Host{}, nil })
		step("recreate", func(n *resolver.Record) {
			n.Proposer, n.Active, n.ISR, n.Loss, n.Epoch = b, b, []resolver.Host{b}, 1, 4
		})
		step("reset", func(n *resolver.Record) {
			n.Proposer, n.Active, n.ISR, n.Loss, n.Epoch = a2, a2, []resolver.Host{a2}, 2, 5
		})
	}},

	{"a change that Check forbids is ErrRefused and changes nothing", func(s *suite) {
		a, b := s.host("a"), s.host("b")
		early := s.fresh(name, a)
		early.Epoch = 2
		_, err := s.A.CompareAndSwap(s.ctx, 0, early)
		s.ErrorIs(err, resolver.ErrRefused, "create in epoch 2")
		_, err = s.A.Get(s.ctx, name)
		s.ErrorIs(err, resolver.ErrNotFound)

		r := s.create(name, a)
		for what, edit := range map[string]func(next *resolver.Record){
			"a change by a stranger": func(n *resolver.Record) { n.Proposer = b },
			"a promotion of a stranger": func(n *resolver.Record) {
				n.Proposer, n.Active, n.Epoch, n.ISR = b, b, 2,
					[]resolver.Host{a, b}
			},
			"a change by a later incarnation": func(n *resolver.Record) { n.Proposer.Incarnation = 2 },
			"an epoch from nowhere":           func(n *resolver.Record) { n.Epoch = 3 },
			"a stranger alone": func(n *resolver.Record) {
				n.Proposer, n.Active, n.Epoch, n.ISR = b, b, 2,
					[]resolver.Host{b}
			},
			"two members at a time":         func(n *resolver.Record) { n.ISR = []resolver.Host{a, b, s.host("c")} },
			"a reset that keeps the epoch":  func(n *resolver.Record) { n.Loss = 1 },
			"a reset that skips one":        func(n *resolver.Record) { n.Loss, n.Epoch = 2, 2 },
			"a retirement in another epoch": func(n *resolver.Record) { n.Active, n.ISR, n.Epoch = resolver.Host{}, nil, 2 },
		} {
			next := cancelled(r)
			edit(&next)
			_, err := s.A.CompareAndSwap(s.ctx, r.Version, next)
			s.ErrorIs(err, resolver.ErrRefused, what)
			s.ErrorContains(err, name, "the error must name the service")
			s.ErrorContains(err, next.Proposer.ID, "the error must name the host")
		}
		s.present(r)
	}},

	{"a service may be created with any Loss in epoch 1", func(s *suite) {
		for i, loss := range []uint64{1, 7, 1<<53 - 1} {
			next := s.fresh(fmt.Sprintf("service-%d.com", i), s.host("a"))
			next.Loss = loss
			got, err := s.A.CompareAndSwap(s.ctx, 0, next)
			s.NoError(err, "create with loss %d", loss)
			s.Equal(loss, got.Loss)
			s.present(got)
		}
		early := s.fresh(name, s.host("a"))
		early.Epoch = 2
		_, err := s.A.CompareAndSwap(s.ctx, 0, early)
		s.ErrorIs(err, resolver.ErrRefused, "create in epoch 2 with loss 0")
	}},

	{"a restore brings a lost record back", func(s *suite) {
		a, b, c := s.host("a"), s.host("b"), s.host("c")
		restore := func(what string, cur, next resolver.Record) {
			s.t.Helper()
			next.Nonce = cur.Nonce + 1
			got, err := s.A.CompareAndSwap(s.ctx, cur.Version, next)
			s.NoError(err, what)
			next.Generation, next.Version = got.Generation, cur.Version+1
			s.Equal(next, got, what)
			s.present(got)
		}
		far := s.fresh("lost.com", b)
		far.Loss, far.Epoch, far.ISR = 3, resolver.RestoreStep, []resolver.Host{a, b}
		restore("no record, several members", resolver.Record{}, far)
		far.Name, far.Loss, far.Epoch = "first.com", 0, 5000
		restore("no record, loss 0", resolver.Record{}, far)

		old := s.fresh("old.com", a)
		old.Loss = 3
		old, err := s.A.CompareAndSwap(s.ctx, 0, old)
		s.NoError(err)
		far = old
		far.Epoch, far.Active, far.Proposer, far.ISR = old.Epoch+resolver.RestoreStep, a, a, []resolver.Host{a, b, c}
		restore("an old record, by its active host, with members that it does not name", old, far)
		old = s.create("older.com", a)
		far = old
		far.Loss, far.Epoch, far.Active, far.Proposer, far.ISR = 9, 5000, c, c, []resolver.Host{b, c}
		restore("a record with a lower loss, by a host that it does not name", old, far)
	}},

	{"a restore that is too near, for another host or of a lower Loss is ErrRefused", func(s *suite) {
		a, b := s.host("a"), s.host("b")
		cur := s.fresh(name, a)
		cur.Loss = 3
		cur, err := s.A.CompareAndSwap(s.ctx, 0, cur)
		s.NoError(err)
		for _, old := range []resolver.Record{cur, {}} {
			for what, edit := range map[string]func(next *resolver.Record){
				"too near":                     func(n *resolver.Record) { n.Epoch = old.Epoch + resolver.RestoreStep - 1 },
				"for another host":             func(n *resolver.Record) { n.Active = a },
				"of a lower loss":              func(n *resolver.Record) { n.Loss = 2 },
				"without an active host":       func(n *resolver.Record) { n.Active, n.ISR = resolver.Host{}, nil },
				"for a later incarnation of b": func(n *resolver.Record) { n.Proposer.Incarnation = 2 },
			} {
				if what == "of a lower loss" && old.Version == 0 {
					continue // there is none to compare with
				}
				next := s.fresh(name, b)
				next.Loss, next.Epoch, next.ISR, next.Nonce = 3, 5000, []resolver.Host{a, b}, 2
				if old.Version == 0 {
					next.Name = "lost.com"
				}
				edit(&next)
				_, err := s.A.CompareAndSwap(s.ctx, old.Version, next)
				s.ErrorIs(err, resolver.ErrRefused, "a restore %s", what)
				s.ErrorContains(err, next.Name, "the error must name the service")
			}
		}
		s.present(cur)
		_, err = s.A.Get(s.ctx, "lost.com")
		s.ErrorIs(err, resolver.ErrNotFound)
	}},

	{"malformed arguments are ErrInvalid", func(s *suite) {
		a := s.host("a")
		for _, bad := range []string{"", "a b", "a\n", "\xff", strings.Repeat("n", maxName+1)} {
			_, err := s.A.Get(s.ctx, bad)
			s.ErrorIs(err, resolver.ErrInvalid, "Get of %q", bad)
			_, err = s.A.Watch(s.ctx, bad, 0)
			s.ErrorIs(err, resolver.ErrInvalid, "Watch of %q", bad)
			_, err = s.A.Hosts(s.ctx, bad)
			s.ErrorIs(err, resolver.ErrInvalid, "Hosts of %q", bad)
			_, err = s.A.CompareAndSwap(s.ctx, 0, s.fresh(bad, a))
			s.ErrorIs(err, resolver.ErrInvalid, "CompareAndSwap of %q", bad)
			err = s.A.Announce(s.ctx, a, []string{name, bad}, time.Minute)
			s.ErrorIs(err, resolver.ErrInvalid, "Announce of %q", bad)
		}
		for what, h := range map[string]resolver.Host{
			"no id": {Incarnation: 1, Key: s.Key}, "a long id": {ID: strings.Repeat("h", resolver.MaxHostID+1), Incarnation: 1,
				Key: s.Key},
			"no incarnation": {ID: "a", Key: s.Key}, "a large incarnation": {ID: "a", Incarnation: 1 << 53, Key: s.Key},
			"a long address": {ID: "a", Incarnation: 1, Addr: strings.Repeat("x", maxAddr+1), Key: s.Key},
		} {
			_, err := s.A.CompareAndSwap(s.ctx, 0, s.fresh(name, h))
			s.ErrorIs(err, resolver.ErrInvalid, "CompareAndSwap by a host with %s", what)
			s.ErrorIs(s.A.Announce(s.ctx, h, []string{name}, time.Minute), resolver.ErrInvalid, "Announce of a host with %s", what)
		}
		nonce := s.fresh(name, a)
		nonce.Nonce = 0
		_, err := s.A.CompareAndSwap(s.ctx, 0, nonce)
		s.ErrorIs(err, resolver.ErrInvalid, "CompareAndSwap without a nonce")
		s.ErrorIs(s.A.Announce(s.ctx, a, []string{name}, -1), resolver.ErrInvalid, "Announce for a negative time")
		s.ErrorIs(s.A.Announce(s.ctx, a, []string{name}, maxTTL+1), resolver.ErrInvalid, "Announce for too long")
		_, err = s.A.Get(s.ctx, name)
		s.ErrorIs(err, resolver.ErrNotFound, "something malformed was written")
		s.Empty(s.hosts(name), "something malformed was announced")
	}},

	{"records share no memory with the caller", func(s *suite) {
		a, b := s.host("a"), s.host("b")
		mine := s.fresh(name, a)
		r, err := s.A.CompareAndSwap(s.ctx, 0, mine)
		s.NoError(err)
		want := r
		want.ISR = []resolver.Host{a}
		mine.ISR[0] = b
		s.present(want)
		r.ISR[0] = b
		s.present(want)
		got, err := s.A.Get(s.ctx, name)
		s.NoError(err)
		got.ISR[0] = b
		s.present(want)
		got, err = s.A.Watch(s.ctx, name, 0)
		s.NoError(err)
		got.ISR[0] = b
		s.present(want)
		other := s.fresh(name, a)
		other.Nonce = 9
		got, err = s.A.CompareAndSwap(s.ctx, 0, other)
		s.ErrorIs(err, resolver.ErrConflict)
		got.ISR[0] = b
		s.present(want)

		ch1, ch2 := s.watch(s.ctx, s.A, name, 1), s.watch(s.ctx, s.A, name, 1)
		s.quiet(ch1, "Watch returned the version that it should wait to pass")
		r = s.swap(s.A, want, cancelled(want))
		w1 := s.await(ch1, "a watcher")
		w1.ISR[0] = b
		s.Equal(r, s.await(ch2, "another watcher"), "two watchers share memory")
	}},

	{"an ended context ends every call", func(s *suite) {
		ctx, cancel := context.WithCancel(s.ctx)
		cancel()
		_, err := s.A.Get(ctx, name)
		s.ErrorIs(err, context.Canceled, "Get")
		_, err = s.A.CompareAndSwap(ctx, 0, s.fresh(name, s.host("a")))
		s.ErrorIs(err, context.Canceled, "CompareAndSwap")
		_, err = s.A.Watch(ctx, name, 0)
		s.ErrorIs(err, context.Canceled, "Watch")
		s.ErrorIs(s.A.Announce(ctx, s.host("a"), []string{name}, time.Minute), context.Canceled, "Announce")
		_, err = s.A.Hosts(ctx, name)
		s.ErrorIs(err, context.Canceled, "Hosts")
		_, err = s.A.Get(s.ctx, name)
		s.ErrorIs(err, resolver.ErrNotFound, "a cancelled call must not harm the client")
	}},

	{"all methods may be called concurrently", func(s *suite) {
		var wg sync.WaitGroup
		errs := make(chan error, 64)
		for i := range 8 {
			by := s.A
			if i%2 == 1 {
				by = s.B
			}
			wg.Go(func() {
				h := s.host(fmt.Sprint("host-", i))
				service := fmt.Sprint("service-", i/2)
				for n := range 20 {
					if err := use(s.ctx, by, h, service, uint64(1000*i+n+1)); err != nil {
						errs <- fmt.Errorf("host %d, turn %d: %w", i, n, err)
						return
					}
				}
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			s.NoError(err)
		}
		for i := range 4 {
			r, err := s.A.Get(s.ctx, fmt.Sprint("service-", i))
			s.NoError(err)
			s.EqualValues(40, r.Version, "each turn of two hosts makes one change")
			s.Equal([]string{fmt.Sprint("host-", 2*i), fmt.Sprint("host-", 2*i+1)}, s.hosts(r.Name))
		}
	}},
}, append(watchRules, presenceRules...)...)

// use announces a host and changes a record, in competition with another host.
func use(ctx context.Context, by resolver.Resolver, h resolver.Host, service string, nonce uint64) error {
	if err := by.Announce(ctx, h, []string{service}, time.Minute); err != nil {
		return err
	}
	if _, err := by.Hosts(ctx, service); err != nil {
		return err
	}
	next := resolver.Record{Name: service, Epoch: 1, Active: h, ISR: []resolver.Host{h}, Proposer: h, Nonce: nonce}
	var expect uint64
	for {
		r, err := by.CompareAndSwap(ctx, expect, next)
		if err == nil {
			return nil
		}
		if !errors.Is(err, resolver.ErrConflict) {
			return err
		}
		expect, next = r.Version, r
		next.Proposer, next.Active, next.ISR, next.Nonce = h, h, []resolver.Host{h}, nonce
		next.Loss, next.Epoch = r.Loss+1, r.Epoch+1
		if w, err := by.Watch(ctx, service, 0); err != nil || w.Version < r.Version {
			return fmt.Errorf("watch after version %d: version %d, error %w", r.Version, w.Version, err)
		}
	}
}
