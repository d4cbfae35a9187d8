package client

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// inWorld runs f in a bubble with hosts of these names. The first is active.
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

func TestCommands(t *testing.T) {
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
		require.Equal(t, wire.CodeApplication, transport.CodeOf(err))

		reply, err = c.Query(t.Context(), []byte("?"))
		require.NoError(t, err)
		require.Equal(t, "2", string(reply))
		require.NoError(t, c.Shutdown(t.Context()))
		require.Empty(t, w.sessions)
		require.ErrorIs(t, c.Err(), transport.ErrClosed)
	})
}

func TestConfig(t *testing.T) {
	tr := transport.NewMemory().Host("x")
	defer tr.Close()
	res := newFakeResolver()
	for field, cfg := range map[string]Config{
		"Resolver":   {Transport: tr},
		"Transport":  {Resolver: res},
		"QueueLen":   {Resolver: res, Transport: tr, QueueLen: -1},
		"QueueBytes": {Resolver: res, Transport: tr, QueueBytes: -1},
	} {
		_, err := Dial(t.Context(), testService, cfg)
		require.ErrorIs(t, err, wire.ErrConfig)
		require.ErrorContains(t, err, field)
	}
	_, err := Dial(t.Context(), "", Config{Resolver: res, Transport: tr})
	require.ErrorIs(t, err, wire.ErrConfig)
}

func TestDialErrors(t *testing.T) {
	for _, tc := range []struct {
		name  string
		setup func(w *fakeWorld)
		want  error
		text  string
	}{
		{"no such name", func(w *fakeWorld) { w.res.set(resolver.Record{}) }, wire.ErrNoService, "no such name"},
		{"retired", func(w *fakeWorld) {
			rec := w.rec
			rec.Active, rec.ISR = resolver.Host{}, nil
			w.res.set(rec)
		}, wire.ErrNoService, "retired"},
		{"host gone", func(w *fakeWorld) { w.crash("a"); w.crash("b") }, context.DeadlineExceeded, "at "},
		{"host silent", func(w *fakeWorld) {
			w.set("a", func(h *fakeHost) { h.mute = true })
			w.set("b", func(h *fakeHost) { h.mute = true })
		}, context.DeadlineExceeded, "does not serve this client"},
		{"resolver down", func(w *fakeWorld) { w.res.fail(errors.New("out of order")) }, context.DeadlineExceeded,
			"the resolver failed: out of order"},
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

func TestDialWaitsForTheService(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		w.res.set(resolver.Record{})
		time.AfterFunc(time.Minute, func() { w.res.set(w.rec) })
		begin := time.Now()
		c := w.dial()
		defer c.Close()
		require.Less(t, time.Since(begin), time.Minute+50*time.Millisecond)
	})
}

func TestFlush(t *testing.T) {
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

func TestShutdownWithoutService(t *testing.T) {
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

// Close ends everything in every situation. It may be called from many goroutines and leaves none behind.
func TestClose(t *testing.T) {
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
				c := w.dial(func(cfg *Config) { cfg.QueueLen = 4 })
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
				synctest.Wait() // until a goroutine that wg.Wait no longer counts has ended
				require.Empty(t, goroutines("client.(*Client).", "hooks.(*Queue)."))
				require.Equal(t, resolver.Host{}, c.Where())
			})
		})
	}
}

// Close waits for the client's goroutines.
func TestCloseWaits(t *testing.T) {
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

func alwaysRetry(string, int) error { return wire.ErrRetry }

// goroutines returns the stacks of the goroutines that run functions with one of these names.
func goroutines(names ...string) (found []string) {
	buf := make([]byte, 1<<20)
	for s := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if slices.ContainsFunc(names, func(name string) bool { return strings.Contains(s, name) }) &&
			!strings.Contains(s, "testing.tRunner") {
			found = append(found, s)
		}
	}
	return found
}

func TestIdle(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		_, err := c.Do(t.Context(), []byte("x"))
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Empty(t, goroutines("client.(*Client).", "hooks.(*Queue)."))
		c.mu.Lock()
		require.False(t, c.watch.armed || c.search.running)
		c.mu.Unlock()
		gets := w.res.asked()
		time.Sleep(time.Hour)
		require.Equal(t, gets, w.res.asked())
		require.Equal(t, 2, w.count("a", wire.MethodOpen)+w.count("a", wire.MethodDo))
	})
}
