package migrate

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// wrongClock sets the wall clock of a host off; it may be changed at any time.
func (w *world) wrongClock(name string) *atomic.Int64 {
	off := new(atomic.Int64)
	w.nodes[name].wall = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
	return off
}

const year = 365 * 24 * time.Hour

// The clock of a host may be off by a year: log time stays with the truth while and after that host is active, and goes on.
func TestWrongClock(t *testing.T) {
	for name, wrong := range map[string]time.Duration{"year ahead": year, "year behind": -year, "hour ahead": time.Hour} {
		for _, hosts := range [][]string{{"a", "b"}, {"a", "b", "c"}} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					said := make(chan error, 100)
					w.hooks.Failed = func(_ string, err error) { said <- err }
					for _, h := range hosts {
						w.node(h)
					}
					defer w.close()
					off := w.wrongClock("b")
					off.Store(int64(wrong))
					p := Policy{Copies: len(hosts)}
					a := w.host("a", "svc", p)
					for _, h := range hosts[1:] {
						w.standby(h, "svc", p)
					}
					w.inSync(a, len(hosts))
					c := w.dial("client", "svc", ClientConfig{})
					last := time.Time{}
					truthful := func() {
						t.Helper()
						for range 10 {
							_, err := c.Do(t.Context(), []byte("x"))
							require.NoError(t, err)
							info := w.logTime("svc")
							require.InDelta(t, 0, time.Since(info).Seconds(), 5)
							require.True(t, info.After(last), "log time stands still")
							last = info
							time.Sleep(3 * time.Second)
						}
					}
					move := func(to string) {
						t.Helper()
						_, err := w.active("svc").Handoff(t.Context(), to)
						require.NoError(t, err)
						w.inSync(w.active("svc"), len(hosts))
						truthful()
					}
					truthful()
					move("b")
					move("a")
					move("b")
					off.Store(0) // somebody sets it, while it counts
					truthful()
					move("a")
					off.Store(int64(wrong)) // and off again, on a standby and on the active host
					truthful()
					move("b")
					off.Store(0)
					move("a")
					require.NotEmpty(t, said)
					require.ErrorContains(t, <-said, "the clock of host b is ")
				})
			})
		}
	}
}

// logTime is the time of the last entry that the active host has applied.
func (w *world) logTime(service string) (t time.Time) {
	s := w.active(service)
	w.look(s, func() { t = time.UnixMilli(s.machine().LogTime()) })
	return t
}
