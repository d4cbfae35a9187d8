package resolvertest

import (
	"fmt"
	"time"

	"github.com/roam-go/roam/resolver"
)

// shortly is a short ttl.
const shortly = 100 * time.Millisecond

var presenceRules = []rule{
	{"Hosts returns the announced hosts of a name ordered by ID", func(s *suite) {
		s.Empty(s.hosts(name))
		s.announce(s.host("c"), time.Minute, name, "other.com")
		s.announce(s.host("a"), time.Minute, "zzz.com", name, name)
		s.announce(s.host("b"), time.Minute, "other.com")
		s.announce(s.host("d"), time.Minute)
		hs, err := s.B.Hosts(s.ctx, name)
		s.NoError(err)
		s.Equal([]resolver.Host{s.host("a"), s.host("c")}, hs)
		s.Equal([]string{"b", "c"}, s.hosts("other.com"))
		s.Equal([]string{"a"}, s.hosts("zzz.com"))
		s.Empty(s.hosts("nobody.com"))
	}},

	{"an announcement replaces the previous one", func(s *suite) {
		a := s.host("a")
		s.announce(a, time.Minute, name, "other.com")
		s.announce(a, time.Minute, "other.com", "third.com")
		s.Empty(s.hosts(name))
		s.Equal([]string{"a"}, s.hosts("other.com"))
		s.Equal([]string{"a"}, s.hosts("third.com"))
		a.Incarnation, a.Addr = 2, "elsewhere:1"
		s.announce(a, time.Minute, "third.com", "other.com")
		hs, err := s.B.Hosts(s.ctx, "third.com")
		s.NoError(err)
		s.Equal([]resolver.Host{a}, hs, "the later incarnation is present")
	}},

	{"of two incarnations at a time, the earlier one is refused", func(s *suite) {
		first := s.host("a")
		second, third := first, first
		second.Incarnation, second.Addr = 2, "b.example:7000"
		third.Incarnation = 3
		s.announce(first, time.Minute, name)
		s.announce(second, time.Minute, name)
		for range 2 {
			err := s.A.Announce(s.ctx, first, []string{name}, time.Minute)
			s.ErrorIs(err, resolver.ErrRefused)
			s.ErrorContains(err, `"a"`, "the error must name the host")
			s.announce(second, time.Minute, name)
		}
		s.announce(third, time.Minute, name)
		for _, h := range []resolver.Host{first, second} {
			s.ErrorIs(s.A.Announce(s.ctx, h, []string{name}, time.Minute), resolver.ErrRefused)
		}
		s.announce(third, 0)
		s.announce(first, shortly, name) // it is the only one now
		s.pass(2 * shortly)
		s.announce(second, time.Minute, name)
		s.Equal([]string{"a"}, s.hosts(name))
	}},

	{"a ttl of 0 withdraws the announcement of this incarnation", func(s *suite) {
		a, b := s.host("a"), s.host("b")
		s.announce(a, time.Minute, name)
		s.announce(b, time.Minute, name)
		s.announce(a, 0)
		s.announce(a, 0, name)
		s.Equal([]string{"b"}, s.hosts(name))
		s.announce(a, time.Minute, name)
		s.Equal([]string{"a", "b"}, s.hosts(name))
		later := b
		later.Incarnation = 2
		s.announce(later, time.Minute, name)
		s.announce(b, 0)
		s.Equal([]string{"a", "b"}, s.hosts(name), "an earlier incarnation withdrew a later one")
	}},

	{"an announcement expires, but not early", func(s *suite) {
		s.announce(s.host("stays"), time.Minute, name)
		begin := time.Now()
		s.announce(s.host("goes"), shortly, name)
		var seen time.Time
		for {
			asked := time.Now()
			hs, err := s.B.Hosts(s.ctx, name)
			s.NoError(err)
			if len(hs) == 1 {
				s.Equal("stays", hs[0].ID)
				break
			}
			seen = asked
			s.pass(time.Millisecond)
		}
		s.GreaterOrEqual(time.Since(begin), shortly, "the announcement expired early")
		s.Less(seen.Sub(begin), shortly+10*time.Second, "the announcement expired late")
		s.Equal([]string{"stays"}, s.hosts(name))
		s.announce(s.host("goes"), time.Minute, name)
		s.Equal([]string{"goes", "stays"}, s.hosts(name))
	}},

	{"announcing again extends or shortens an announcement", func(s *suite) {
		s.announce(s.host("longer"), shortly, name)
		s.announce(s.host("longer"), time.Minute, name)
		s.announce(s.host("shorter"), time.Minute, name)
		s.announce(s.host("shorter"), shortly, name)
		s.pass(2 * shortly)
		s.Equal([]string{"longer"}, s.hosts(name))
	}},

	{"a host can announce many services", func(s *suite) {
		services := make([]string, 20_000)
		for i := range services {
			services[i] = fmt.Sprintf("service-%05d.example", i)
		}
		given := append([]string(nil), services...)
		for range 2 { // the second time the resolver may know the list
			s.NoError(s.A.Announce(s.ctx, s.host("a"), given, time.Minute))
			s.Equal(services, given, "Announce changed its argument")
			for i := 0; i < len(services); i += 3_917 {
				s.Equal([]string{"a"}, s.hosts(services[i]))
			}
			s.Equal([]string{"a"}, s.hosts(services[len(services)-1]))
		}
		given[0] = "changed-by-the-caller"
		s.Equal([]string{"a"}, s.hosts(services[0]), "the resolver keeps the caller's slice")
		s.NoError(s.A.Announce(s.ctx, s.host("a"), services[1:], time.Minute))
		s.Empty(s.hosts(services[0]))
		s.Equal([]string{"a"}, s.hosts(services[1]))
	}},

	{"more than 131,072 services in one announcement are ErrInvalid", func(s *suite) {
		services := make([]string, maxServices+1)
		for i := range services {
			services[i] = fmt.Sprint("service-", i)
		}
		err := s.A.Announce(s.ctx, s.host("a"), services, time.Minute)
		s.ErrorIs(err, resolver.ErrInvalid)
		s.ErrorContains(err, `"a"`, "the error must name the host")
		s.Empty(s.hosts(services[0]))
	}},

	{"announcements and records are independent", func(s *suite) {
		r := s.create(name, s.host("a"))
		s.Empty(s.hosts(name))
		s.announce(s.host("b"), time.Minute, name)
		s.announce(s.host("b"), 0)
		s.present(r)
	}},
}
