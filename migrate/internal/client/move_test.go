package client

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
)

// With a spare connection a move takes one round trip from the notice to the first reply.
func TestMovePrepared(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		w.net.SetDelay(5 * time.Millisecond)
		moves := make(chan Move, 1)
		c := w.dial(func(cfg *Config) { cfg.OnMove = func(m Move) { moves <- m } })
		defer c.Close()
		w.prepare("a", "b", 200*time.Millisecond)
		time.Sleep(300 * time.Millisecond)
		require.Equal(t, 1, w.count("b", wire.MethodPark))
		require.Equal(t, 1, w.count("a", wire.MethodReady))
		gets := w.res.asked()

		w.set("a", func(h *fakeHost) { h.mute = true })
		calls := []*Call{mustGo(t, c, "x"), mustGo(t, c, "y")}
		time.Sleep(50 * time.Millisecond)
		w.serve("b", true)
		begin := time.Now()
		calls = append(calls, mustGo(t, c, "z"))
		requireReply(t, calls[0], "re:x")
		require.Equal(t, 15*time.Millisecond, time.Since(begin), "half a round trip for the notice, one for the commands")
		requireReply(t, calls[1], "re:y")
		requireReply(t, calls[2], "re:z")
		m := <-moves
		require.Equal(t, Move{Epoch: 2, Host: w.hosts["b"].host, Planned: true, Pause: 10 * time.Millisecond, Resent: 3}, m)
		require.Equal(t, 0, w.count("b", wire.MethodReady))
		require.Equal(t, gets, w.res.asked(), "the resolver is not needed")
		require.Equal(t, "b", c.Where().ID)
		time.Sleep(time.Second)
		require.Zero(t, w.connected("a"), "the old connection is closed")
		require.Equal(t, []string{"x", "y", "z"}, w.executed())
	})
}

func TestMoveUnprepared(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		w.net.SetDelay(5 * time.Millisecond)
		moves := make(chan Move, 1)
		c := w.dial(func(cfg *Config) { cfg.OnMove = func(m Move) { moves <- m } })
		defer c.Close()
		w.res.fail(errors.New("down"))
		w.serve("b", true)
		begin := time.Now()
		_, err := c.Do(t.Context(), []byte("x"))
		require.NoError(t, err)
		require.Less(t, time.Since(begin), 60*time.Millisecond, "a dial and a round trip")
		require.True(t, (<-moves).Planned)
	})
}

// A host that is taking over refuses at first, and notifies the client when it serves.
func TestMoveToHostThatRecovers(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		w.prepare("a", "b", 0)
		synctest.Wait()
		w.set("b", func(h *fakeHost) { h.refuse = func(string, int) error { return wire.ErrRetry } })
		w.serve("b", true)
		call := mustGo(t, c, "x")
		time.Sleep(30 * time.Second)
		n := w.count("b", wire.MethodOpen)
		require.Less(t, n, 100, "it backs off")
		w.mu.Lock()
		h := w.hosts["b"]
		h.refuse = nil
		h.notifyAll(wire.MethodMoved, &wire.MovedParams{Service: testService, Record: w.rec})
		w.mu.Unlock()
		begin := time.Now()
		requireReply(t, call, "re:x")
		require.Zero(t, time.Since(begin), "it does not wait for its next try")
	})
}

func TestSpareDropped(t *testing.T) {
	inWorld(t, []string{"a", "b", "c"}, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		w.prepare("a", "b", 0)
		synctest.Wait()
		require.Equal(t, 1, w.connected("b"))
		time.Sleep(20 * time.Second)
		w.prepare("a", "b", 0) // again: the connection is kept for longer
		time.Sleep(20 * time.Second)
		require.Equal(t, 1, w.connected("b"))
		require.Equal(t, 2, w.count("a", wire.MethodReady))
		require.Equal(t, 1, w.count("b", wire.MethodPark))
		w.prepare("a", "c", 0) // another host
		time.Sleep(2 * time.Second)
		require.Zero(t, w.connected("b"))
		require.Equal(t, 1, w.connected("c"))
		time.Sleep(31 * time.Second)
		require.Zero(t, w.connected("c"), "the move did not come")
		_, err := c.Do(t.Context(), []byte("x"))
		require.NoError(t, err)
	})
}

// OnMove may call the client and close it.
func TestOnMoveCallsBack(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		var c *Client
		var moves []uint64
		done := make(chan error)
		c = w.dial(func(cfg *Config) {
			cfg.OnMove = func(m Move) {
				moves = append(moves, m.Epoch)
				if len(moves) < 3 {
					_, err := c.Do(t.Context(), []byte("from OnMove"))
					if err != nil {
						t.Error(err)
					}
					return
				}
				done <- c.Close()
			}
		})
		for i := range 3 {
			w.serve(ab[(i+1)%2], true)
			time.Sleep(time.Second)
		}
		require.NoError(t, <-done)
		require.Equal(t, []uint64{2, 3, 4}, moves)
	})
}
