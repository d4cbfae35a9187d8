package migrate

import (
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// slow is a tally that takes its time: Apply takes what takes says for the command.
type slow struct {
	tally
	takes func(cmd string) time.Duration
}

func (s *slow) Apply(cmd Command) ([]byte, error) {
	time.Sleep(s.takes(string(cmd.Body)))
	return s.tally.Apply(cmd)
}

// A service that takes a millisecond, five, or thousands for a command does not disturb the protocol: nobody fails over, all
// hosts stay in sync, and another service of the same hosts does not notice.
func TestSlowService(t *testing.T) {
	for name, tc := range map[string]struct {
		clients, commands int
		takes             func(string) time.Duration
	}{
		"1 ms": {20, 1000, func(string) time.Duration { return time.Millisecond }},
		"5 ms": {4, 100, func(string) time.Duration { return 5 * time.Millisecond }},
		"30 s once": {1, 20, func(cmd string) time.Duration {
			if cmd == "0/3" {
				return 30 * time.Second
			}
			return 0
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				names := []string{"a", "b", "c"}
				w := newWorld(t, names...)
				defer w.close()
				p := Policy{Copies: 3}
				for i, n := range names {
					host := w.nodes[n].Standby
					if i == 0 {
						host = w.nodes[n].Host
					}
					_, err := host(t.Context(), "svc", func() Migratable { return &slow{takes: tc.takes} }, p)
					require.NoError(t, err)
				}
				a := w.nodes["a"].service("svc")
				other := w.host("b", "other", p) // its acknowledgements cross the connections of the slow one
				w.standby("a", "other", p)
				w.standby("c", "other", p)
				w.inSync(a, 3)
				w.inSync(other, 3)
				rec := a.Status().Record

				oc := w.dial("oc", "other", ClientConfig{})
				var worst atomic.Int64
				stop := make(chan struct{})
				stopped := make(chan struct{})
				go func() {
					defer close(stopped)
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						case <-time.After(3 * time.Millisecond):
						}
						began := time.Now()
						if w.do(t.Context(), oc, fmt.Sprint(i)) != nil {
							t.Error("the other service fails")
							return
						}
						worst.Store(max(worst.Load(), int64(time.Since(began))))
					}
				}()
				done := make(chan error, tc.clients)
				for i := range tc.clients {
					c := w.dial(fmt.Sprint("c", i), "svc", ClientConfig{})
					go func() {
						for n := range tc.commands {
							if _, err := c.Go(fmt.Appendf(nil, "%d/%d", i, n)); err != nil {
								done <- err
								return
							}
						}
						done <- c.Flush(t.Context())
					}()
				}
				for range tc.clients {
					require.NoError(t, <-done)
				}
				close(stop)
				<-stopped
				require.Equal(t, rec, a.Status().Record, "nobody came, went, or took over")
				require.LessOrEqual(t, time.Duration(worst.Load()), 10*time.Millisecond)
				require.Len(t, appOf(a).(*slow).Seen, tc.clients*tc.commands)
			})
		})
	}
}

// A service that becomes slow on the goroutine that works for its loop and reads a connection holds up both for some
// milliseconds, not until it returns.
func TestLoopBesideSlowApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		began := make(chan struct{})
		s, err := w.node("a").Host(t.Context(), "svc", func() Migratable {
			return &slow{takes: func(cmd string) time.Duration {
				if cmd != "slow" {
					return 0
				}
				close(began)
				return time.Minute
			}}
		}, Policy{Copies: 1})
		require.NoError(t, err)
		c := w.dial("c", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), c, "quick"))
		first, err := c.Go([]byte("slow"))
		require.NoError(t, err)
		<-began
		at := time.Now()
		require.NoError(t, s.ask(t.Context(), func() {}))
		require.Positive(t, time.Since(at), "the loop's own goroutine calls Apply")
		require.LessOrEqual(t, time.Since(at), 4*time.Millisecond)
		require.EqualValues(t, 1, s.Stats().Unapplied)

		second, err := c.Go([]byte("next"))
		require.NoError(t, err)
		time.Sleep(10 * time.Millisecond)
		require.EqualValues(t, 3, s.Stats().Ordered, "the connection is read")
		require.EqualValues(t, 2, s.Stats().Unapplied)
		for i, call := range []*Call{first, second} {
			reply, err := call.Reply(t.Context())
			require.NoError(t, err)
			require.Equal(t, strconv.Itoa(i+2), string(reply))
		}
		require.InDelta(t, time.Minute, time.Since(at), float64(20*time.Millisecond))
		require.EqualValues(t, 3, s.Stats().Answered)
	})
}

// Beside a service that takes a millisecond for each of many commands, or seconds for one, another service of the same hosts
// is as fast as alone: its p99 rises by at most 10 %. Time is virtual here, so that this is what it waits for its hosts, and
// not for a processor. BenchmarkBeside measures both.
func TestBesideSlowService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		p := Policy{Copies: 3}
		takes := func(cmd string) time.Duration {
			ms, _ := strconv.Atoi(cmd)
			return time.Duration(ms) * time.Millisecond
		}
		fresh := func() Migratable { return &slow{takes: takes} }
		a, err := w.nodes["a"].Host(t.Context(), "svc", fresh, p)
		require.NoError(t, err)
		other := w.host("a", "other", p)
		for _, n := range []string{"b", "c"} {
			_, err := w.nodes[n].Standby(t.Context(), "svc", fresh, p)
			require.NoError(t, err)
			w.standby(n, "other", p)
		}
		w.inSync(a, 3)
		w.inSync(other, 3)
		oc := w.dial("oc", "other", ClientConfig{})
		require.NoError(t, w.do(t.Context(), oc, "first"))
		n := 0
		p99 := func(until func() bool) (p99, worst time.Duration) {
			var all []time.Duration
			for !until() {
				began := time.Now()
				n++
				require.NoError(t, w.do(t.Context(), oc, strconv.Itoa(n)))
				all = append(all, time.Since(began))
			}
			require.Greater(t, len(all), 400)
			slices.Sort(all)
			return all[len(all)*99/100], all[len(all)-1]
		}
		end := time.Now().Add(2 * time.Second)
		alone, worst := p99(func() bool { return time.Now().After(end) })
		t.Logf("alone: p99 %v, at most %v", alone, worst)
		var clients []*Client
		for i := range 20 {
			clients = append(clients, w.dial(fmt.Sprint("c", i), "svc", ClientConfig{QueueLen: 1000}))
		}
		for _, tc := range []struct {
			clients, commands int
			takes             string
		}{{1, 1, "5000"}, {20, 100, "1"}, {20, 1000, "1"}} {
			var left atomic.Int64
			for _, c := range clients[:tc.clients] {
				for range tc.commands {
					_, err := c.Go([]byte(tc.takes))
					require.NoError(t, err)
				}
				left.Add(1)
				go func() {
					if c.Flush(t.Context()) == nil {
						left.Add(-1)
					}
				}()
			}
			end := time.Now().Add(3 * time.Second) // most of the last commands wait until everything is closed
			beside, worst := p99(func() bool { return left.Load() == 0 || tc.commands == 1000 && time.Now().After(end) })
			t.Logf("beside %d x %d of %s ms: p99 %v, at most %v", tc.clients, tc.commands, tc.takes, beside, worst)
			require.LessOrEqual(t, beside, alone+alone/10)
		}
	})
}
