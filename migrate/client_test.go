package migrate

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// inWorld runs f in a bubble, with hosts of these names of which the first is active.
func inWorld(t *testing.T, hosts []string, f func(t *testing.T, w *fakeWorld)) {
	synctest.Test(t, func(t *testing.T) { f(t, newFakeWorld(t, hosts...)) })
}

var ab = []string{"a", "b"}

func mustGo(t *testing.T, c *Client, command string) *Call {
	t.Helper()
	call, err := c.Go([]byte(command))
	require.NoError(t, err)
	return call
}

func requireReply(t *testing.T, call *Call, want string) {
	t.Helper()
	got, err := call.Reply(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

func TestClientCommands(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		require.Equal(t, "a", c.Where().ID)
		require.Less(t, c.Session(), uint64(1)<<53)
		reply, err := c.Do(t.Context(), []byte("x"))
		require.NoError(t, err)
		require.Equal(t, "re:x", string(reply))

		_, err = c.Do(t.Context(), []byte("fail"))
		require.EqualError(t, err, "it failed")
		require.Equal(t, CodeApplication, transport.CodeOf(err))

		reply, err = c.Query(t.Context(), []byte("?"))
		require.NoError(t, err)
		require.Equal(t, "2", string(reply))
		require.NoError(t, c.Shutdown(t.Context()))
		require.Empty(t, w.sessions)
		require.ErrorIs(t, c.Err(), transport.ErrClosed)
	})
}

func TestClientConfig(t *testing.T) {
	tr := transport.NewMemory().Host("x")
	defer tr.Close()
	res := newFakeResolver()
	for field, cfg := range map[string]ClientConfig{
		"Resolver":   {Transport: tr},
		"Transport":  {Resolver: res},
		"QueueLen":   {Resolver: res, Transport: tr, QueueLen: -1},
		"QueueBytes": {Resolver: res, Transport: tr, QueueBytes: -1},
	} {
		_, err := Dial(t.Context(), testService, cfg)
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, field)
	}
	_, err := Dial(t.Context(), "", ClientConfig{Resolver: res, Transport: tr})
	require.ErrorIs(t, err, ErrConfig)
}

func TestClientDialErrors(t *testing.T) {
	for _, tc := range []struct {
		name  string
		setup func(w *fakeWorld)
		want  error
		text  string
	}{
		{"no such name", func(w *fakeWorld) { w.res.set(resolver.Record{}) }, ErrNoService, "no such name"},
		{"retired", func(w *fakeWorld) {
			rec := w.rec
			rec.Active, rec.ISR = resolver.Host{}, nil
			w.res.set(rec)
		}, ErrNoService, "retired"},
		{"host gone", func(w *fakeWorld) { w.crash("a"); w.crash("b") }, context.DeadlineExceeded, "at "},
		{"host silent", func(w *fakeWorld) {
			w.set("a", func(h *fakeHost) { h.mute = true })
			w.set("b", func(h *fakeHost) { h.mute = true })
		}, context.DeadlineExceeded, "does not serve this client"},
		{"resolver down", func(w *fakeWorld) { w.res.fail(errors.New("out of order")) }, context.DeadlineExceeded,
			"the resolver can't be asked: out of order"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
				tc.setup(w)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				_, err := w.tryDial(ctx)
				t.Log(err)
				require.ErrorIs(t, err, tc.want)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.ErrorContains(t, err, tc.text)
				require.ErrorContains(t, err, testService)
			})
		})
	}
}

func TestClientDialWaitsForTheService(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		w.res.set(resolver.Record{})
		time.AfterFunc(time.Minute, func() { w.res.set(w.rec) })
		begin := time.Now()
		c := w.dial()
		defer c.Close()
		require.Less(t, time.Since(begin), time.Minute+50*time.Millisecond)
	})
}

// A lost reply, a broken connection and a retry: executed once, and the reply comes.
func TestClientExactlyOnce(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		w.set("a", func(h *fakeHost) { h.lossy = true })
		x, y := mustGo(t, c, "x"), mustGo(t, c, "y")
		synctest.Wait()
		require.Equal(t, []string{"x", "y"}, w.executed())
		w.set("a", func(h *fakeHost) { h.lossy = false })
		for name := range w.hosts {
			w.net.Cut(name, "client0")
		}
		requireReply(t, x, "re:x")
		requireReply(t, y, "re:y")
		require.Equal(t, []string{"x", "y"}, w.executed())
	})
}

func TestClientOrder(t *testing.T) {
	inWorld(t, []string{"a", "b", "c"}, func(t *testing.T, w *fakeWorld) {
		w.net.SetDelay(3 * time.Millisecond)
		c := w.dial()
		defer c.Close()
		var mu sync.Mutex
		var want []string
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 100 {
					body := fmt.Sprintf("%d-%d", g, i)
					mu.Lock()
					call, err := c.Go([]byte(body))
					if err == nil {
						want = append(want, body)
					}
					mu.Unlock()
					if err != nil {
						return
					}
					if i%10 == 9 {
						if got, err := call.Reply(t.Context()); err != nil || string(got) != "re:"+body {
							t.Errorf("reply to %s: %q, %v", body, got, err)
						}
					}
				}
			})
		}
		for i := range 12 {
			time.Sleep(7 * time.Millisecond)
			w.serve(string("abc"[(i+1)%3]), i%3 != 2)
			if i%4 == 3 {
				w.net.Cut(string("abc"[(i+1)%3]), "client0")
			}
		}
		wg.Wait()
		require.NoError(t, c.Flush(t.Context()))
		require.Equal(t, want, w.executed())
		require.Len(t, want, 800)
	})
}

func TestClientQueueFull(t *testing.T) {
	for name, limit := range map[string]func(*ClientConfig){
		"length": func(cfg *ClientConfig) { cfg.QueueLen = 3 },
		"bytes":  func(cfg *ClientConfig) { cfg.QueueBytes = 15 },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
				c := w.dial(limit)
				defer c.Close()
				w.set("a", func(h *fakeHost) { h.mute = true })
				for range 3 {
					mustGo(t, c, "12345")
				}
				_, err := c.Go([]byte("12345"))
				require.ErrorIs(t, err, ErrQueueFull)

				// The first to wait gives up, the second gets its turn, and so does the smaller one behind it.
				ctx, cancel := context.WithCancel(t.Context())
				results := make(chan string, 3)
				for i, command := range []string{"gives-up", "big-one", "s"} {
					go func() {
						doCtx := t.Context()
						if i == 0 {
							doCtx = ctx
						}
						reply, err := c.Do(doCtx, []byte(command))
						results <- fmt.Sprint(string(reply), err)
					}()
					synctest.Wait()
				}
				cancel()
				require.Contains(t, <-results, "context canceled")
				_, err = c.Go([]byte("1"))
				require.ErrorIs(t, err, ErrQueueFull, "others wait")

				w.set("a", func(h *fakeHost) { h.mute = false })
				w.net.Cut("a", "client0")
				require.ElementsMatch(t, []string{"re:big-one<nil>", "re:s<nil>"}, []string{<-results, <-results})
				require.NotContains(t, w.executed(), "gives-up")
				synctest.Wait()
				require.Equal(t, 0, c.room.len+c.room.bytes+len(c.room.waiting))
			})
		})
	}
}

func TestClientTooLarge(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial(func(cfg *ClientConfig) { cfg.QueueBytes = 100 })
		defer c.Close()
		_, err := c.Go(make([]byte, 101))
		require.ErrorIs(t, err, ErrTooLarge)
		_, err = c.Query(t.Context(), make([]byte, MaxCommand+1))
		require.ErrorIs(t, err, ErrTooLarge)

		// Refused by the host without a place in the log: its number goes to the next.
		x, large, y, z := mustGo(t, c, "x"), mustGo(t, c, "large"), mustGo(t, c, "y"), mustGo(t, c, "z")
		_, err = large.Reply(t.Context())
		require.ErrorIs(t, err, ErrTooLarge)
		requireReply(t, x, "re:x")
		requireReply(t, y, "re:y")
		requireReply(t, z, "re:z")
		require.Equal(t, []string{"x", "y", "z"}, w.executed())
		synctest.Wait()
		require.Zero(t, c.room.len)
	})
}

// A transport that takes less than a command refuses that command alone.
func TestClientTransportLimit(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial(func(cfg *ClientConfig) {
			tr, err := w.net.HostWith("small", transport.TCPConfig{InsecurePlaintext: true})
			require.NoError(t, err)
			w.t.Cleanup(func() { tr.Close() })
			cfg.Transport = smallTransport{tr}
			w.hosts["a"].host.Key = transport.Key{}
			w.rec.Active = w.hosts["a"].host
			w.res.set(w.rec)
		})
		defer c.Close()
		large, x := mustGo(t, c, strings.Repeat("l", 100<<10)), mustGo(t, c, "x")
		_, err := large.Reply(t.Context())
		require.ErrorIs(t, err, ErrTooLarge)
		requireReply(t, x, "re:x")
	})
}

// smallTransport refuses calls of more than 64 KiB.
type smallTransport struct{ transport.Transport }

func (t smallTransport) Dial(ctx context.Context, to transport.Peer, h transport.Handler) (transport.Conn, error) {
	c, err := t.Transport.Dial(ctx, to, h)
	return smallConn{c}, err
}

type smallConn struct{ transport.Conn }

func (c smallConn) Go(method string, params []byte, done func(result []byte, err error)) {
	if len(params) > 64<<10 {
		done(nil, transport.Errorf(transport.CodeBadMessage, "too large"))
		return
	}
	c.Conn.Go(method, params, done)
}

func TestClientDoCancelled(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		w.set("a", func(h *fakeHost) { h.slow = time.Second })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, err := c.Do(ctx, []byte("x"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = c.Do(ctx, []byte("never"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		reply, err := c.Do(t.Context(), []byte("y"))
		require.NoError(t, err)
		require.Equal(t, "re:y", string(reply))
		require.Equal(t, []string{"x", "y"}, w.executed())
	})
}

// With a parked connection a move costs one round trip from the notice to the first reply.
func TestClientMovePrepared(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		w.net.SetDelay(5 * time.Millisecond)
		moves := make(chan Move, 1)
		c := w.dial(func(cfg *ClientConfig) { cfg.OnMove = func(m Move) { moves <- m } })
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

func TestClientMoveUnprepared(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		w.net.SetDelay(5 * time.Millisecond)
		moves := make(chan Move, 1)
		c := w.dial(func(cfg *ClientConfig) { cfg.OnMove = func(m Move) { moves <- m } })
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

// A host that is taking over refuses at first, and says when it serves.
func TestClientMoveToHostThatRecovers(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		w.prepare("a", "b", 0)
		synctest.Wait()
		w.set("b", func(h *fakeHost) { h.refuse = func(string, int) error { return ErrRetry } })
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

func TestClientSpareDropped(t *testing.T) {
	inWorld(t, []string{"a", "b", "c"}, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		w.prepare("a", "b", 0)
		synctest.Wait()
		require.Equal(t, 1, w.connected("b"))
		time.Sleep(20 * time.Second)
		w.prepare("a", "b", 0) // once more: it is kept for longer
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

func TestClientCrash(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		moves := make(chan Move, 1)
		c := w.dial(func(cfg *ClientConfig) { cfg.OnMove = func(m Move) { moves <- m } })
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

// Without the resolver the hosts say who serves.
func TestClientCrashResolverDown(t *testing.T) {
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

// A host that is only tried gets no commands until it says that it serves.
func TestClientProbesWithoutCommands(t *testing.T) {
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

// The host is there, but cut off from the others: it answers nothing, and the resolver knows another one.
func TestClientSilentHost(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		moves := make(chan Move, 2)
		c := w.dial(func(cfg *ClientConfig) { cfg.OnMove = func(m Move) { moves <- m } })
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

func TestClientIgnoresTheStale(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		moves := make(chan Move, 4)
		c := w.dial(func(cfg *ClientConfig) { cfg.OnMove = func(m Move) { moves <- m } })
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
		w.mu.Lock()
		h := w.hosts["b"]
		h.notifyAll(wire.MethodMoved, &wire.MovedParams{Service: testService, Record: old})
		h.notifyAll(wire.MethodMoved, &wire.MovedParams{Service: "another.example", Record: resolver.Record{Name: "another.example", Epoch: 9, Active: old.Active}})
		h.notifyAll(wire.MethodEvents, &wire.EventsParams{Service: testService, Epoch: 1, First: 1, Times: []int64{0}, Bodies: [][]byte{[]byte("stale")}})
		h.notifyAll(wire.MethodEvents, &wire.EventsParams{Service: "another.example", Epoch: 2, First: 1, Times: []int64{0}, Bodies: [][]byte{[]byte("alien")}})
		h.notifyAll(wire.MethodEvents, &wire.EventsParams{Service: testService, Epoch: 2, First: 1, Times: nil, Bodies: [][]byte{[]byte("malformed")}})
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

// The record at the resolver is older than the one a host knows, and so on along a chain.
func TestClientNotActiveChain(t *testing.T) {
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

func TestClientSessionExpired(t *testing.T) {
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
			require.ErrorIs(t, err, ErrSessionExpired)
			require.ErrorContains(t, err, testService)
		}
		wg.Wait()
		require.ErrorIs(t, eventsErr, ErrSessionExpired)
		_, err := c.Do(t.Context(), []byte("z"))
		require.ErrorIs(t, err, ErrSessionExpired)
		_, err = c.Go([]byte("z"))
		require.ErrorIs(t, err, ErrSessionExpired)
		_, err = c.Query(t.Context(), nil)
		require.ErrorIs(t, err, ErrSessionExpired)
		require.ErrorIs(t, c.Flush(t.Context()), ErrSessionExpired)
		require.NoError(t, c.Shutdown(t.Context()))
		require.Empty(t, w.executed())
		require.Empty(t, w.sessions, "no fresh session in silence")
	})
}

// The session is taken up again, never opened afresh, when the connection breaks.
func TestClientSessionExpiredMeanwhile(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		w.mu.Lock()
		clear(w.sessions)
		w.mu.Unlock()
		w.net.Cut("a", "client0")
		_, err := c.Query(t.Context(), nil)
		require.ErrorIs(t, err, ErrSessionExpired)
		require.Empty(t, w.sessions)
	})
}

// A host that was active long ago does not know the session; what it says about that is not believed.
func TestClientSessionUnknownToStaleHost(t *testing.T) {
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
						return ErrNotActive
					}
					return ErrSessionExpired
				}
			})
			call := mustGo(t, c, "x")
			c.learn(rec, nil) // b is where the client opens with its commands behind
			time.Sleep(5 * time.Second)
			require.NoError(t, c.Err())
			w.set("b", func(h *fakeHost) { h.refuse = nil })
			w.serve("b", false)
			requireReply(t, call, "re:x")
		})
	}
}

func TestClientStateLost(t *testing.T) {
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
				if way == "open" { // the new host does not know the session, which comes to the same
					require.True(t, errors.Is(err, ErrStateLost) || errors.Is(err, ErrSessionExpired), "%v", err)
				} else {
					require.ErrorIs(t, err, ErrStateLost)
				}
				close(hold)
				wg.Wait()
				require.NotEmpty(t, got)
				require.Error(t, got[len(got)-1].err)
				for _, p := range got[:len(got)-1] {
					require.NoError(t, p.err, "told once")
					require.NotEqual(t, "new", string(p.ev.Body))
				}
				_, err = c.Do(t.Context(), []byte("y"))
				require.Equal(t, c.Err(), err)
			})
		})
	}
}

func TestClientFlush(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		require.NoError(t, c.Flush(t.Context()))
		w.set("a", func(h *fakeHost) { h.slow = time.Second })
		x := mustGo(t, c, "x")
		mustGo(t, c, "fail")
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.ErrorIs(t, c.Flush(ctx), context.DeadlineExceeded)
		require.NoError(t, c.Flush(t.Context()))
		requireReply(t, x, "re:x")
		mustGo(t, c, "y")
		require.NoError(t, c.Shutdown(t.Context()), "flushes, too")
		require.Equal(t, []string{"x", "fail", "y"}, w.executed())
		_, err := c.Go([]byte("z"))
		require.ErrorIs(t, err, transport.ErrClosed)
	})
}

func TestClientShutdownWithoutService(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		w.crash("a")
		w.crash("b")
		x := mustGo(t, c, "x")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, c.Shutdown(ctx), context.DeadlineExceeded)
		_, err := x.Reply(t.Context())
		require.ErrorIs(t, err, transport.ErrClosed)
	})
}

// Close ends everything, whatever is going on, from many goroutines, and leaves nothing behind.
func TestClientClose(t *testing.T) {
	for name, act := range map[string]func(t *testing.T, w *fakeWorld, c *Client){
		"idle":      func(t *testing.T, w *fakeWorld, c *Client) {},
		"waiting":   func(t *testing.T, w *fakeWorld, c *Client) { w.set("a", func(h *fakeHost) { h.mute = true }) },
		"searching": func(t *testing.T, w *fakeWorld, c *Client) { w.crash("a"); w.crash("b"); time.Sleep(time.Second) },
		"dialing": func(t *testing.T, w *fakeWorld, c *Client) {
			w.net.Isolate("a")
			w.net.Isolate("b")
			w.net.Cut("a", "client0")
			time.Sleep(10 * time.Millisecond)
		},
		"parking": func(t *testing.T, w *fakeWorld, c *Client) {
			w.prepare("a", "b", time.Second)
			time.Sleep(time.Millisecond)
		},
		"parked":  func(t *testing.T, w *fakeWorld, c *Client) { w.prepare("a", "b", 0); synctest.Wait() },
		"refused": func(t *testing.T, w *fakeWorld, c *Client) { w.set("a", func(h *fakeHost) { h.refuse = alwaysRetry }) },
		"moving":  func(t *testing.T, w *fakeWorld, c *Client) { w.serve("b", true) },
		"silent": func(t *testing.T, w *fakeWorld, c *Client) {
			w.set("a", func(h *fakeHost) { h.mute = true })
			mustGo(t, c, "x")
			time.Sleep(time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
				c := w.dial(func(cfg *ClientConfig) { cfg.QueueLen = 4 })
				act(t, w, c)
				var wg sync.WaitGroup
				for range 8 {
					wg.Go(func() {
						for {
							if _, err := c.Do(t.Context(), []byte("x")); err != nil {
								if !errors.Is(err, transport.ErrClosed) {
									t.Errorf("Do: %v", err)
								}
								return
							}
							time.Sleep(time.Millisecond)
						}
					})
				}
				wg.Go(func() {
					for _, err := range c.Events(t.Context(), 1) {
						if err != nil && !errors.Is(err, transport.ErrClosed) {
							t.Errorf("Events: %v", err)
						}
					}
				})
				wg.Go(func() {
					for {
						if _, err := c.Query(t.Context(), nil); err != nil {
							if !errors.Is(err, transport.ErrClosed) {
								t.Errorf("Query: %v", err)
							}
							return
						}
						time.Sleep(time.Millisecond)
					}
				})
				time.Sleep(50 * time.Millisecond)
				for range 3 {
					wg.Go(func() { c.Close() })
				}
				wg.Wait()
				require.NoError(t, c.Close())
				synctest.Wait() // for a goroutine that has said that it is done, and is just about to end
				require.Empty(t, goroutines("migrate.(*Client)."))
				require.Equal(t, resolver.Host{}, c.Where())
			})
		})
	}
}

// Close waits for what the client has begun.
func TestClientCloseWaits(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		w.res.mu.Lock()
		w.res.linger = time.Second
		w.res.mu.Unlock()
		w.crash("a")
		time.Sleep(time.Second)
		begin := time.Now()
		require.NoError(t, c.Close())
		require.Equal(t, time.Second, time.Since(begin))
	})
}

func alwaysRetry(string, int) error { return ErrRetry }

// goroutines returns the stacks of those that run code of that name.
func goroutines(name string) (found []string) {
	buf := make([]byte, 1<<20)
	for s := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(s, name) && !strings.Contains(s, "testing.tRunner") {
			found = append(found, s)
		}
	}
	return found
}

func TestClientIdle(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		_, err := c.Do(t.Context(), []byte("x"))
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Empty(t, goroutines("migrate.(*Client)."))
		c.mu.Lock()
		require.False(t, c.watching || c.tending || c.telling)
		c.mu.Unlock()
		gets := w.res.asked()
		time.Sleep(time.Hour)
		require.Equal(t, gets, w.res.asked())
		require.Equal(t, 2, w.count("a", wire.MethodOpen)+w.count("a", wire.MethodDo))
	})
}

// OnMove may call the client, and close it.
func TestClientOnMoveCallsBack(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		var c *Client
		var moves []uint64
		done := make(chan error)
		c = w.dial(func(cfg *ClientConfig) {
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

// More than a transport buffers is waiting: it is sent in portions.
func TestClientLargeBacklog(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		w.set("a", func(h *fakeHost) { h.mute = true })
		body := strings.Repeat("x", 300<<10)
		for range 16 {
			mustGo(t, c, body)
		}
		w.serve("b", true)
		require.NoError(t, c.Flush(t.Context()))
		require.Len(t, w.executed(), 16)
		require.Equal(t, 1, w.count("b", wire.MethodOpen), "one connection was enough")
	})
}
