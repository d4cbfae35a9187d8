package migrate

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// held is a tally that does not return from what it is told to until it is let go.
type held struct {
	tally
	apply, query     func(body string) // called first; nil: nothing is
	capture, restore func()
}

func (h *held) Apply(cmd Command) ([]byte, error) {
	if h.apply != nil {
		h.apply(string(cmd.Body))
	}
	return h.tally.Apply(cmd)
}

func (h *held) Query(q Query) ([]byte, error) {
	if h.query != nil {
		h.query(string(q.Body))
	}
	return h.tally.Query(q)
}

func (h *held) Snapshot() (Snapshot, error) {
	if h.capture != nil {
		h.capture()
	}
	return h.tally.Snapshot()
}

func (h *held) Restore(r io.Reader) error {
	if h.restore != nil {
		h.restore()
	}
	return h.tally.Restore(r)
}

// heldPair hosts a held service on a, with b in sync.
func (w *world) heldPair(fresh func(host string) Migratable, p Policy) (a, b *Service) {
	a, err := w.nodes["a"].Host(w.t.Context(), "svc", func() Migratable { return fresh("a") }, p)
	require.NoError(w.t, err)
	b, err = w.nodes["b"].Standby(w.t.Context(), "svc", func() Migratable { return fresh("b") }, p)
	require.NoError(w.t, err)
	w.inSync(a, 2)
	return a, b
}

// A service that never returns from Apply is reported, its hosts stay in sync, and neither Shutdown nor Close waits for it.
func TestStuckService(t *testing.T) {
	for _, how := range []string{"Shutdown", "Close"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.close()
				var mu sync.Mutex
				var said []error
				w.hooks.Failed = func(service string, err error) {
					mu.Lock()
					defer mu.Unlock()
					said = append(said, err)
				}
				w.node("a")
				w.node("b")
				letGo := make(chan struct{})
				defer close(letGo)
				a, b := w.heldPair(func(string) Migratable {
					return &held{apply: func(cmd string) {
						if cmd == "stuck" {
							<-letGo
						}
					}}
				}, Policy{})
				c := w.dial("client", "svc", ClientConfig{})
				require.NoError(t, w.do(t.Context(), c, "before"))
				before := a.Status().Record
				_, err := c.Go([]byte("stuck"))
				require.NoError(t, err)
				_, err = c.Go([]byte("after"))
				require.NoError(t, err)
				time.Sleep(12 * time.Second)

				st := a.Status()
				require.Equal(t, Active, st.Role)
				require.Equal(t, before, st.Record, "nobody took over, nobody fell out")
				require.Equal(t, Standby, b.Status().Role)
				require.Equal(t, st.Commit, st.Last)
				require.Equal(t, st.Commit-2, st.Applied)
				require.InDelta(t, 12*time.Second, st.Busy, float64(100*time.Millisecond))
				require.Equal(t, 2, a.Stats().Unapplied)
				require.InDelta(t, 12*time.Second, a.Stats().Busy, float64(100*time.Millisecond))
				mu.Lock()
				require.Len(t, said, 2, "after 5 s and after 10 s")
				require.ErrorIs(t, said[0], ErrBusy)
				require.ErrorContains(t, said[0], fmt.Sprintf("service svc on host a has not returned from Apply of entry %d for 5s",
					st.Applied+1))
				mu.Unlock()

				began := time.Now()
				if how == "Close" {
					err = w.nodes["a"].Close()
				} else {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					err = w.nodes["a"].Shutdown(ctx)
				}
				require.LessOrEqual(t, time.Since(began), 1100*time.Millisecond)
				require.ErrorIs(t, err, ErrBusy)
				require.ErrorContains(t, err, fmt.Sprintf("service svc has not returned from Apply of entry %d", st.Applied+1))
			})
		})
	}
}

// A handoff, a failover and a shutdown leave a service that is stuck behind: the next host applies what was committed.
func TestStuckOnOneHost(t *testing.T) {
	for _, how := range []string{"handoff", "crash", "shutdown"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "a", "b")
				defer w.close()
				letGo := make(chan struct{})
				defer close(letGo)
				a, b := w.heldPair(func(host string) Migratable {
					return &held{apply: func(cmd string) {
						if cmd == "stuck" && host == "a" {
							<-letGo
						}
					}}
				}, Policy{})
				c := w.dial("client", "svc", ClientConfig{})
				require.NoError(t, w.do(t.Context(), c, "before"))
				call, err := c.Go([]byte("stuck"))
				require.NoError(t, err)
				time.Sleep(time.Second)
				switch how {
				case "crash":
					w.crash("a")
				case "shutdown":
					began := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					err := w.nodes["a"].Shutdown(ctx)
					require.LessOrEqual(t, time.Since(began), 1100*time.Millisecond)
					require.ErrorContains(t, err, "service svc has not returned from Apply of entry ")
				default:
					_, err := a.Handoff(t.Context(), "b")
					require.NoError(t, err)
				}
				reply, err := call.Reply(t.Context())
				require.NoError(t, err)
				require.Equal(t, "2", string(reply))
				w.role(b, Active)
				require.NoError(t, w.do(t.Context(), c, "after"))
				require.Equal(t, []string{"before", "stuck", "after"}, appOf(b).(*held).Seen)
			})
		})
	}
}

// The report of a move says how long the new host took to apply what was committed before it served.
func TestReportOfApplying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.heldPair(func(string) Migratable {
			return &held{apply: func(string) { time.Sleep(100 * time.Millisecond) }}
		}, Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		for i := range 50 {
			_, err := c.Go([]byte(fmt.Sprint(i)))
			require.NoError(t, err)
		}
		time.Sleep(time.Second)
		rep, err := a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		require.Greater(t, rep.Applying, 3*time.Second)
		require.GreaterOrEqual(t, rep.Pause, rep.Applying)
		require.Less(t, rep.Pause-rep.Applying, 100*time.Millisecond)
		require.NoError(t, c.Flush(t.Context()))
		require.Len(t, appOf(b).(*held).Seen, 50)
	})
}

// A standby whose service is far behind is not the host that a move goes to where there is another one; asked for by name,
// it is refused with the reason. It stays in sync.
func TestMoveAvoidsTheHostThatLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		p := Policy{Copies: 3}
		var lag atomic.Bool
		fresh := func(host string) func() Migratable {
			return func() Migratable {
				return &held{apply: func(string) {
					if host == "b" && lag.Load() {
						time.Sleep(20 * time.Millisecond)
					}
				}}
			}
		}
		a, err := w.nodes["a"].Host(t.Context(), "svc", fresh("a"), p)
		require.NoError(t, err)
		for _, host := range []string{"b", "c"} {
			_, err := w.nodes[host].Standby(t.Context(), "svc", fresh(host), p)
			require.NoError(t, err)
		}
		w.inSync(a, 3)
		lag.Store(true)
		cl := w.dial("client", "svc", ClientConfig{QueueLen: 4000})
		for i := range 3000 {
			_, err := cl.Go([]byte(fmt.Sprint(i)))
			require.NoError(t, err)
		}
		require.NoError(t, cl.Flush(t.Context()))
		w.inSync(a, 3)
		began := time.Now()
		_, err = a.Handoff(t.Context(), "b")
		require.ErrorIs(t, err, ErrTransferFailed)
		require.ErrorContains(t, err, "host b has ")
		require.ErrorContains(t, err, " entries yet to apply")
		require.LessOrEqual(t, time.Since(began), time.Second)
		rep, err := a.Handoff(t.Context(), "")
		require.NoError(t, err)
		require.Equal(t, "c", rep.To.ID)
		lag.Store(false)
	})
}

// A query waits for an Apply that runs, unless the service says that it need not; neither disturbs anybody else.
func TestQueryBesideApply(t *testing.T) {
	for _, beside := range []bool{false, true} {
		t.Run(fmt.Sprint(beside), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "a", "b")
				defer w.close()
				a, _ := w.heldPair(func(string) Migratable {
					h := &held{apply: func(cmd string) {
						if cmd == "long" {
							time.Sleep(10 * time.Second)
						}
					}}
					if beside {
						return concurrent{h}
					}
					return h
				}, Policy{})
				c := w.dial("client", "svc", ClientConfig{})
				require.NoError(t, w.do(t.Context(), c, "one"))
				// The query is asked before the long command, so that it need not wait for it.
				answered := make(chan time.Duration, 1)
				began := time.Now()
				go func() {
					_, err := c.Query(t.Context(), []byte("slow"))
					require.NoError(t, err)
					answered <- time.Since(began)
				}()
				time.Sleep(10 * time.Millisecond)
				_, err := c.Go([]byte("long"))
				require.NoError(t, err)
				took := <-answered
				require.Less(t, took, time.Second)
				began = time.Now()
				_, err = c.Query(t.Context(), []byte("count"))
				require.NoError(t, err)
				if beside {
					require.Less(t, time.Since(began), time.Second, "it waits for nothing that was not acknowledged before it")
				} else {
					require.Greater(t, time.Since(began), 5*time.Second)
				}
				require.NoError(t, c.Flush(t.Context()))
				require.Equal(t, uint64(2), a.Status().Record.Version)
			})
		})
	}
}

// concurrent is a held service that is asked beside Apply.
type concurrent struct{ *held }

func (c concurrent) ConcurrentQueries() {}

func (c concurrent) Query(Query) ([]byte, error) { return []byte("beside"), nil }

// A snapshot that takes 2 s to capture, or to restore, is taken once, and the service goes on meanwhile with its protocol.
func TestSlowSnapshot(t *testing.T) {
	for _, what := range []string{"capture", "restore"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "a", "b")
				defer w.close()
				var n atomic.Int32
				wait := func() {
					n.Add(1)
					time.Sleep(4 * time.Second)
				}
				fresh := func() Migratable {
					if what == "capture" {
						return &held{capture: wait}
					}
					return &held{restore: wait}
				}
				a, err := w.nodes["a"].Host(t.Context(), "svc", fresh, Policy{})
				require.NoError(t, err)
				c := w.dial("client", "svc", ClientConfig{})
				require.NoError(t, w.do(t.Context(), c, "before"))
				_, err = w.nodes["b"].Standby(t.Context(), "svc", fresh, Policy{})
				require.NoError(t, err)
				began := time.Now()
				w.eventually(func() bool { return len(a.Status().Record.ISR) == 2 }, "b joins")
				require.Less(t, time.Since(began), 6*time.Second)
				require.EqualValues(t, 1, n.Load())
				require.NoError(t, w.do(t.Context(), c, "after"))
			})
		})
	}
}

// A service that calls itself by a client would wait for ever: the call is refused.
func TestClientInsideApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		var c atomic.Pointer[Client]
		var got atomic.Pointer[error]
		w.heldPair(func(string) Migratable {
			return &held{apply: func(cmd string) {
				if cmd == "recurse" {
					_, err := c.Load().Do(context.Background(), []byte("inner"))
					got.Store(&err)
				}
			}}
		}, Policy{})
		c.Store(w.dial("client", "svc", ClientConfig{}))
		require.NoError(t, w.do(t.Context(), c.Load(), "recurse"))
		require.ErrorIs(t, *got.Load(), ErrForbidden)
		require.ErrorContains(t, *got.Load(), "Do of service svc was called inside an Apply")
		require.NoError(t, w.do(t.Context(), c.Load(), "after"))
	})
}
