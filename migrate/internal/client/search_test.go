package client

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
)

func TestCrash(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		moves := make(chan Move, 1)
		c := w.dial(func(cfg *Config) { cfg.OnMove = func(m Move) { moves <- m } })
		defer c.Close()
		w.set("a", func(h *fakeHost) { h.lossy = true })
		call := mustGo(t, c, "x")
		synctest.Wait()
		w.crash("a")
		time.AfterFunc(500*time.Millisecond, func() { w.serve("b", false) })
		begin := time.Now()
		requireReply(t, call, "re:x")
		require.Less(t, time.Since(begin), 550*time.Millisecond)
		require.Equal(t, []string{"x"}, w.executed())
		m := <-moves
		require.False(t, m.Planned)
		require.Equal(t, 1, m.Resent)
		require.GreaterOrEqual(t, m.Pause, 500*time.Millisecond)
	})
}

// While the resolver is down, the client learns from other hosts which one is active.
func TestCrashResolverDown(t *testing.T) {
	inWorld(t, []string{"a", "b", "c"}, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		w.res.fail(errors.New("down"))
		for range 100 {
			_, err := c.Do(t.Context(), []byte("x"))
			require.NoError(t, err)
		}
		w.crash("a")
		w.serve("c", false)
		_, err := c.Do(t.Context(), []byte("y"))
		require.NoError(t, err)
		require.Len(t, w.executed(), 101)
		require.Equal(t, "c", c.Where().ID)
	})
}

// A probed host receives no commands until it reports that it serves.
func TestProbesWithoutCommands(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		w.res.fail(errors.New("down"))
		w.crash("a")
		call := mustGo(t, c, "x")
		time.Sleep(5 * time.Second)
		require.NotZero(t, w.count("b", wire.MethodOpen))
		require.Zero(t, w.count("b", wire.MethodDo))
		w.serve("b", false)
		requireReply(t, call, "re:x")
	})
}

// The connected host is cut off from the others: it answers nothing, and the resolver names another one.
func TestSilentHost(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		moves := make(chan Move, 2)
		c := w.dial(func(cfg *Config) { cfg.OnMove = func(m Move) { moves <- m } })
		defer c.Close()
		for _, what := range []string{"command", "query"} {
			from, to := "a", "b"
			if what == "query" {
				from, to = to, from
			}
			w.set(from, func(h *fakeHost) { h.mute = true })
			time.AfterFunc(500*time.Millisecond, func() { w.serve(to, false) })
			begin := time.Now()
			var err error
			if what == "query" {
				_, err = c.Query(t.Context(), nil)
			} else {
				_, err = c.Do(t.Context(), []byte("x"))
			}
			require.NoError(t, err)
			require.Less(t, time.Since(begin), 1200*time.Millisecond)
			if m := <-moves; what == "command" {
				require.Equal(t, time.Since(begin), m.Pause, "counted from the command")
			}
			w.set(from, func(h *fakeHost) { h.mute = false })
		}
	})
}

func TestIgnoresStale(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		moves := make(chan Move, 4)
		c := w.dial(func(cfg *Config) { cfg.OnMove = func(m Move) { moves <- m } })
		defer c.Close()
		old := w.rec
		w.serve("b", true)
		<-moves
		got := make(chan Event, 10)
		go func() {
			for ev, err := range c.Events(t.Context(), 1) {
				if err != nil {
					return
				}
				got <- ev
			}
		}()
		synctest.Wait()
		const other = "another.example"
		w.mu.Lock()
		h := w.hosts["b"]
		h.notifyAll(wire.MethodMoved, &wire.MovedParams{Service: testService, Record: old})
		h.notifyAll(wire.MethodMoved, &wire.MovedParams{Service: other,
			Record: resolver.Record{Name: other, Epoch: 9, Active: old.Active}})
		h.notifyAll(wire.MethodEvents, &wire.EventsParams{Service: testService, Epoch: 1, First: 1,
			Times: []int64{0}, Bodies: [][]byte{[]byte("stale")}})
		h.notifyAll(wire.MethodEvents, &wire.EventsParams{Service: other, Epoch: 2, First: 1,
			Times: []int64{0}, Bodies: [][]byte{[]byte("alien")}})
		h.notifyAll(wire.MethodEvents, &wire.EventsParams{Service: testService, Epoch: 2, First: 1,
			Times: nil, Bodies: [][]byte{[]byte("malformed")}})
		for c := range h.conns {
			c.Notify(wire.MethodEvents, []byte{0x01})
			c.Notify("roam.unknown", nil)
		}
		w.mu.Unlock()
		w.publish("e1")
		require.Equal(t, "e1", string((<-got).Body))
		require.Equal(t, "b", c.Where().ID)
		require.Empty(t, moves)
	})
}

// The resolver's record is older than the one that a host knows, and so on along a chain of hosts.
func TestNotActiveChain(t *testing.T) {
	inWorld(t, []string{"a", "b", "c", "d"}, func(t *testing.T, w *fakeWorld) {
		first := w.rec
		for _, next := range []string{"b", "c", "d"} {
			prev := w.rec.Active.ID
			w.serve(next, false)
			rec := w.rec
			w.set(prev, func(h *fakeHost) { h.hint = &rec })
		}
		w.res.set(first)
		begin := time.Now()
		c := w.dial()
		defer c.Close()
		require.Equal(t, "d", c.Where().ID)
		require.Less(t, time.Since(begin), 100*time.Millisecond)
	})
}

// The active host restarts with its directory, as the same incarnation, at another address; nothing answers at the old
// one. The client connects to the new address, whether it still has a connection to the old one or is dialling it.
func TestHostAtAnotherAddress(t *testing.T) {
	for name, away := range map[string]time.Duration{"connected": time.Second, "connecting": time.Minute} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
				w.set("b", func(h *fakeHost) { h.host.ID, h.host.Incarnation = "a", w.hosts["a"].host.Incarnation })
				w.rec.ISR = []resolver.Host{w.hosts["a"].host}
				w.serve("a", false)
				c := w.dial()
				defer c.Close()
				w.net.Isolate("a")
				call := mustGo(t, c, "x")
				time.Sleep(away)
				w.set("a", func(h *fakeHost) { h.host.ID = "gone" })
				w.rec.ISR = []resolver.Host{w.hosts["b"].host}
				w.serve("b", false)
				begin := time.Now()
				requireReply(t, call, "re:x")
				require.Less(t, time.Since(begin), time.Second)
				require.Equal(t, w.hosts["b"].host, c.Where())
			})
		})
	}
}
