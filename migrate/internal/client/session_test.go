package client

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
)

func TestSessionExpired(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		var eventsErr error
		var wg sync.WaitGroup
		wg.Go(func() {
			for _, err := range c.Events(t.Context(), 0) {
				eventsErr = err
			}
		})
		synctest.Wait()
		w.mu.Lock()
		clear(w.sessions)
		x, y := mustGo(t, c, "x"), mustGo(t, c, "y") // before the host can look at x
		w.mu.Unlock()
		for _, call := range []*Call{x, y} {
			_, err := call.Reply(t.Context())
			require.ErrorIs(t, err, wire.ErrSessionExpired)
			require.ErrorContains(t, err, testService)
		}
		wg.Wait()
		require.ErrorIs(t, eventsErr, wire.ErrSessionExpired)
		_, err := c.Do(t.Context(), []byte("z"))
		require.ErrorIs(t, err, wire.ErrSessionExpired)
		_, err = c.Go([]byte("z"))
		require.ErrorIs(t, err, wire.ErrSessionExpired)
		_, err = c.Query(t.Context(), nil)
		require.ErrorIs(t, err, wire.ErrSessionExpired)
		require.ErrorIs(t, c.Flush(t.Context()), wire.ErrSessionExpired)
		require.NoError(t, c.Shutdown(t.Context()))
		require.Empty(t, w.executed())
		require.Empty(t, w.sessions, "no fresh session")
	})
}

// When the connection breaks, the client resumes the session and never opens a fresh one.
func TestSessionExpiredMeanwhile(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		w.mu.Lock()
		clear(w.sessions)
		w.mu.Unlock()
		w.net.Cut("a", "client0")
		_, err := c.Query(t.Context(), nil)
		require.ErrorIs(t, err, wire.ErrSessionExpired)
		require.Empty(t, w.sessions)
	})
}

// A long-deposed host may not know the session, so its answer is ignored.
func TestSessionUnknownToStaleHost(t *testing.T) {
	for _, late := range []bool{false, true} {
		inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
			c := w.dial()
			defer c.Close()
			w.res.fail(errors.New("down"))
			w.crash("a")
			rec := w.rec
			rec.Active, rec.Version = w.hosts["b"].host, rec.Version+1
			rec.Epoch++
			w.set("b", func(h *fakeHost) {
				h.hint, h.late = &rec, late
				h.refuse = func(method string, _ int) error {
					if method == wire.MethodOpen {
						return wire.ErrNotActive
					}
					return wire.ErrSessionExpired
				}
			})
			call := mustGo(t, c, "x")
			c.learn(rec, nil) // the client opens the session at b, with its commands behind
			time.Sleep(5 * time.Second)
			require.NoError(t, c.Err())
			w.set("b", func(h *fakeHost) { h.refuse = nil })
			w.serve("b", false)
			requireReply(t, call, "re:x")
		})
	}
}

func TestStateLost(t *testing.T) {
	for _, way := range []string{"moved", "resolver", "events", "open"} {
		t.Run(way, func(t *testing.T) {
			inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
				c := w.dial()
				defer c.Close()
				type pair struct {
					ev  Event
					err error
				}
				var got []pair
				var wg sync.WaitGroup
				hold := make(chan struct{})
				wg.Go(func() {
					for ev, err := range c.Events(t.Context(), 1) {
						got = append(got, pair{ev, err})
						<-hold
					}
				})
				w.publish("first")
				synctest.Wait()
				w.publish("second") // buffered
				synctest.Wait()
				w.set("a", func(h *fakeHost) { h.mute = true })
				call := mustGo(t, c, "x")
				synctest.Wait()
				w.mu.Lock()
				w.rec.Loss++
				clear(w.sessions)
				w.mu.Unlock()
				switch way {
				case "moved":
					w.serve("b", true)
				case "resolver":
					w.serve("b", false)
				case "events":
					w.mu.Lock()
					w.hosts["a"].notifyAll(wire.MethodEvents, &wire.EventsParams{Service: testService, Loss: 1, Epoch: 2, First: 1,
						Times: []int64{0}, Bodies: [][]byte{[]byte("new")}})
					w.mu.Unlock()
				case "open":
					w.res.fail(errors.New("down"))
					w.set("a", func(h *fakeHost) { h.mute = false })
					w.serve("a", false)
					w.net.Cut("a", "client0")
				}
				_, err := call.Reply(t.Context())
				if way == "open" { // or ErrSessionExpired, since the new host does not know the session
					require.True(t, errors.Is(err, wire.ErrStateLost) || errors.Is(err, wire.ErrSessionExpired), "%v", err)
				} else {
					require.ErrorIs(t, err, wire.ErrStateLost)
				}
				close(hold)
				wg.Wait()
				require.NotEmpty(t, got)
				require.Error(t, got[len(got)-1].err)
				for _, p := range got[:len(got)-1] {
					require.NoError(t, p.err, "only the last pair has an error")
					require.NotEqual(t, "new", string(p.ev.Body))
				}
				_, err = c.Do(t.Context(), []byte("y"))
				require.Equal(t, c.Err(), err)
			})
		})
	}
}
