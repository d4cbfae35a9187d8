package migrate

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

// A standby takes the service over from a host that is shut down although the resolver does not show that it is present, as
// after a restart of the resolver.
func TestShutdownWithoutPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, names := newTapped(t, "a", "b")
		defer w.close()
		_, b := w.pair(Policy{})
		c := w.dial("c", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), c, "one"))
		names.absent.Store(true)
		require.NoError(t, w.nodes["a"].Shutdown(t.Context()))
		delete(w.nodes, "a")
		w.role(b, Active)
		w.eventually(func() bool { seen, ok := w.state(b); return ok && len(seen) == 1 }, "what was acknowledged")
	})
}

// A service whose hosts are all shut down at once ends, though it may not lose a standby.
func TestShutdownOfAll(t *testing.T) {
	for _, p := range []Policy{{}, {MinInSync: 2}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "a", "b")
			defer w.close()
			w.pair(p)
			errs := make(chan error, 2)
			for _, name := range []string{"a", "b"} {
				go func() { errs <- w.nodes[name].Shutdown(t.Context()) }()
			}
			ended := 0
			for range 2 {
				if err := <-errs; err != nil {
					require.ErrorIs(t, err, ErrNoTarget)
					ended++
				}
			}
			clear(w.nodes)
			require.Equal(t, 1, ended, "who held it last says so")
			rec, err := w.res.Get(t.Context(), "svc")
			require.NoError(t, err)
			require.Empty(t, rec.Active.ID)
		})
	}
}

// A host whose Leave was given up stays what it is for good.
func TestLeaveGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "d")
		defer w.close()
		p := Policy{Copies: 2, MinInSync: 2}
		a, b := w.pair(p)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, b.Leave(ctx), ErrTransferFailed)
		require.Equal(t, Standby, b.Status().Role)
		time.Sleep(time.Second) // until then what b said last still counts
		w.standby("d", "svc", p)
		time.Sleep(10 * time.Second)
		require.Equal(t, Standby, b.Status().Role)
		_, err := a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		w.role(b, Active)
	})
}

// What the resolver refuses is said at once.
func TestHostRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, names := newTapped(t, "a")
		defer w.close()
		names.cas = func(context.Context, resolver.Record, func() (resolver.Record, error)) (resolver.Record, error) {
			return resolver.Record{}, resolver.ErrRefused
		}
		began := time.Now()
		_, err := w.nodes["a"].Host(t.Context(), "svc", newTally, Policy{})
		require.ErrorIs(t, err, resolver.ErrRefused)
		require.Less(t, time.Since(began), time.Second)
		require.Empty(t, w.nodes["a"].Services())
	})
}
