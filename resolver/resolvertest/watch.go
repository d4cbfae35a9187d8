package resolvertest

import (
	"context"
	"fmt"
	"time"

	"github.com/roam-go/roam/resolver"
)

var watchRules = []rule{
	{"Watch after 0 returns an existing record", func(s *suite) {
		r := s.create(name, s.host("a"))
		got, err := s.B.Watch(s.ctx, name, 0)
		s.NoError(err)
		s.Equal(r, got)
	}},

	{"Watch after 0 waits for the first record", func(s *suite) {
		ch := s.watch(s.ctx, s.B, name, 0)
		s.quiet(ch, "Watch returned without a record")
		s.create("other.com", s.host("a"))
		s.quiet(ch, "Watch returned for another name")
		r := s.create(name, s.host("a"))
		s.Equal(r, s.await(ch, "a watcher of a new record"))
	}},

	{"Watch waits for another version and returns at once if there is one", func(s *suite) {
		r := s.create(name, s.host("a"))
		ch := s.watch(s.ctx, s.B, name, r.Version)
		s.quiet(ch, "Watch returned the version that it should wait to pass")
		_, err := s.A.CompareAndSwap(s.ctx, r.Version+5, cancelled(r))
		s.Error(err)
		_, err = s.A.CompareAndSwap(s.ctx, 0, cancelled(r))
		s.Error(err)
		s.quiet(ch, "Watch returned for a change that was not made")
		next := s.swap(s.A, r, cancelled(r))
		s.Equal(next, s.await(ch, "a watcher of the change"))
		for _, after := range []uint64{1, 9} {
			got, err := s.B.Watch(s.ctx, name, after)
			s.NoError(err)
			s.Equal(next, got, "Watch after another version, %d", after)
		}
	}},

	{"a slow watcher gets the newest record", func(s *suite) {
		r := s.create(name, s.host("a"))
		seen := r.Version
		for range 10 {
			r = s.swap(s.A, r, cancelled(r))
		}
		got, err := s.B.Watch(s.ctx, name, seen)
		s.NoError(err)
		s.Equal(r, got)
	}},

	{"a watcher that watches again gets the last change", func(s *suite) {
		const changes = 100
		last := make(chan result, 1)
		go func() {
			var r resolver.Record
			var err error
			for r.Version < changes && err == nil {
				before := r.Version
				if r, err = s.B.Watch(s.ctx, name, before); err == nil && r.Version <= before {
					err = fmt.Errorf("version %d after version %d", r.Version, before)
				}
			}
			last <- result{r, err}
		}()
		r := s.create(name, s.host("a"))
		for r.Version < changes {
			r = s.swap(s.A, r, cancelled(r))
		}
		s.Equal(r, s.await(last, "a watcher of each change"))
	}},

	{"Watch ends with its own context", func(s *suite) {
		r := s.create(name, s.host("a"))
		ctx, cancel := context.WithCancel(s.ctx)
		ended, stays := s.watch(ctx, s.A, name, r.Version), s.watch(s.ctx, s.A, name, r.Version)
		s.quiet(ended, "Watch returned the version that it should wait to pass")
		cancel()
		select {
		case res := <-ended:
			s.ErrorIs(res.err, context.Canceled)
		case <-s.ctx.Done():
			s.FailNow("Watch did not end with its context")
		}
		s.quiet(stays, "a watch ended with another's context")
		next := s.swap(s.B, r, cancelled(r))
		s.Equal(next, s.await(stays, "the other watcher"))

		ctx, cancel = context.WithTimeout(s.ctx, 20*time.Millisecond)
		defer cancel()
		_, err := s.A.Watch(ctx, name, next.Version)
		s.ErrorIs(err, context.DeadlineExceeded)
	}},

	{"every watcher gets a change", func(s *suite) {
		r := s.create(name, s.host("a"))
		var chs []<-chan result
		for i := range 200 {
			by := s.A
			if i%2 == 1 {
				by = s.B
			}
			chs = append(chs, s.watch(s.ctx, by, name, r.Version))
		}
		s.quiet(chs[0], "Watch returned the version that it should wait to pass")
		next := s.swap(s.A, r, cancelled(r))
		for _, ch := range chs {
			s.Equal(next, s.await(ch, "each watcher"))
		}
	}},
}
