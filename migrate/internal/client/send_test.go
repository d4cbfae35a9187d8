package client

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// After a lost reply, a broken connection and a retry, the command was executed once and has its reply.
func TestExactlyOnce(t *testing.T) {
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

func TestOrder(t *testing.T) {
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

func TestQueueFull(t *testing.T) {
	for name, limit := range map[string]func(*Config){
		"length": func(cfg *Config) { cfg.QueueLen = 3 },
		"bytes":  func(cfg *Config) { cfg.QueueBytes = 15 },
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
				require.ErrorIs(t, err, wire.ErrQueueFull)

				// The first waiter gives up; the second and the smaller one behind it get room.
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
				require.ErrorIs(t, err, wire.ErrQueueFull, "others wait")

				w.set("a", func(h *fakeHost) { h.mute = false })
				w.net.Cut("a", "client0")
				require.ElementsMatch(t, []string{"re:big-one<nil>", "re:s<nil>"}, []string{<-results, <-results})
				require.NotContains(t, w.executed(), "gives-up")
				synctest.Wait()
				require.Equal(t, 0, c.queue.room.len+c.queue.room.bytes+len(c.queue.room.waiting))
			})
		})
	}
}

func TestTooLarge(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial(func(cfg *Config) { cfg.QueueBytes = 100 })
		defer c.Close()
		_, err := c.Go(make([]byte, 101))
		require.ErrorIs(t, err, wire.ErrTooLarge)
		_, err = c.Query(t.Context(), make([]byte, wire.MaxCommand+1))
		require.ErrorIs(t, err, wire.ErrTooLarge)

		// The host refuses it without a place in the log: the next command gets its number.
		x, large, y, z := mustGo(t, c, "x"), mustGo(t, c, "large"), mustGo(t, c, "y"), mustGo(t, c, "z")
		_, err = large.Reply(t.Context())
		require.ErrorIs(t, err, wire.ErrTooLarge)
		requireReply(t, x, "re:x")
		requireReply(t, y, "re:y")
		requireReply(t, z, "re:z")
		require.Equal(t, []string{"x", "y", "z"}, w.executed())
		synctest.Wait()
		require.Zero(t, c.queue.room.len)
	})
}

// A command that exceeds the transport's limit fails; the others do not.
func TestTransportLimit(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial(func(cfg *Config) {
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
		require.ErrorIs(t, err, wire.ErrTooLarge)
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

func TestDoCancelled(t *testing.T) {
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

// A backlog larger than what a transport buffers is sent in portions.
func TestLargeBacklog(t *testing.T) {
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
