package migrate

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Hooks come one at a time and in order, and may call the library.
func TestHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		var (
			running atomic.Int32
			mu      sync.Mutex
			changes []Status
			reports []Report
		)
		enter := func() func() {
			if running.Add(1) != 1 {
				t.Error("two hooks at a time")
			}
			return func() { running.Add(-1) }
		}
		w.hooks.Changed = func(st Status) {
			defer enter()()
			time.Sleep(5 * time.Millisecond) // slow
			mu.Lock()
			defer mu.Unlock()
			changes = append(changes, st)
		}
		var again atomic.Bool
		w.hooks.Moved = func(rep Report, err error) {
			defer enter()()
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			reports = append(reports, rep)
			mu.Unlock()
			if s := w.nodes["a"].service("svc"); again.CompareAndSwap(false, true) {
				// Called while nothing is held, so that this can't block for ever.
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := s.Handoff(ctx, ""); err == nil {
					t.Error("a handed over twice")
				}
				s.Status()
				s.node.Services()
			}
		}
		w.node("a")
		w.hooks = Hooks{}
		w.node("b")
		a, _ := w.pair(Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		wr := w.write(c)
		time.Sleep(time.Second)
		wr.resetGap()
		want, err := a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Less(t, wr.longest(), 20*time.Millisecond, "slow hooks delay nobody")
		require.NoError(t, w.nodes["a"].Close())
		n := len(changes)
		require.Equal(t, []Report{want}, reports)
		require.Equal(t, Active, changes[0].Role)
		require.Equal(t, Standby, changes[n-1].Role)
		for i := 1; i < n; i++ {
			require.GreaterOrEqual(t, changes[i].Record.Version, changes[i-1].Record.Version)
		}
		time.Sleep(5 * time.Second)
		require.Len(t, changes, n, "no call after Close")
		w.check(c)
	})
}

// Close waits for the hook that is running, and the rest are not called.
func TestHooksAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		var closed atomic.Bool
		var calls atomic.Int32
		w.hooks.Changed = func(Status) {
			calls.Add(1)
			time.Sleep(time.Second)
			if closed.Load() {
				t.Error("a hook runs after Close")
			}
		}
		n := w.node("a")
		w.host("a", "svc", Policy{})
		w.host("a", "other", Policy{})
		time.Sleep(500 * time.Millisecond)
		require.NoError(t, n.Close())
		closed.Store(true)
		require.Equal(t, int32(1), calls.Load())
		time.Sleep(time.Minute)
		require.Equal(t, int32(1), calls.Load())
	})
}
