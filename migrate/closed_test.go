package migrate

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// Close ends a Host that waits for the resolver, and Shutdown does.
func TestHostEndsWithNode(t *testing.T) {
	for name, end := range map[string]func(*Node) error{
		"close":    (*Node).Close,
		"shutdown": func(n *Node) error { return n.Shutdown(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.remoteResolver()
				defer w.close()
				n := w.node("a")
				w.net.Partition("a", "dns")
				hosted := make(chan error, 1)
				go func() {
					_, err := n.Host(context.Background(), "svc", newTally, Policy{})
					hosted <- err
				}()
				time.Sleep(10 * time.Second)
				require.NoError(t, end(n))
				require.ErrorIs(t, <-hosted, transport.ErrClosed)
				require.Empty(t, n.Services())
			})
		})
	}
}

// What is asked of a service whose node is closed says so.
func TestServiceOfClosedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, _ := w.pair(Policy{})
		require.NoError(t, w.nodes["a"].Close())
		_, err := a.Handoff(t.Context(), "b")
		require.ErrorIs(t, err, transport.ErrClosed)
		require.ErrorIs(t, a.Leave(t.Context()), transport.ErrClosed)
		require.Equal(t, Latent, a.Status().Role)
	})
}

func TestHandoffToItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, _ := w.pair(Policy{})
		_, err := a.Handoff(t.Context(), "a")
		require.ErrorIs(t, err, ErrNoTarget)
		require.ErrorContains(t, err, "is on host a already")
	})
}

// A function that makes no instance is found out by the first call that needs one.
func TestNoInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		none := func() Migratable { return nil }
		_, err := w.nodes["a"].Host(t.Context(), "nothing", none, Policy{})
		require.ErrorIs(t, err, ErrConfig)
		require.NotErrorIs(t, err, ErrHalted, "nothing has begun")
		require.ErrorContains(t, err, "service nothing")
		require.Empty(t, w.nodes["a"].Services())

		failed := make(chan error, 100)
		w.hooks.Failed = func(_ string, err error) { failed <- err }
		w.host("a", "svc", Policy{})
		_, err = w.node("c").Standby(t.Context(), "svc", none, Policy{})
		require.NoError(t, err)
		require.ErrorIs(t, <-failed, ErrConfig)
	})
}

// A policy that panics costs a move, not the process.
func TestRankPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "b")
		defer w.close()
		failed := make(chan error, 100)
		w.hooks.Failed = func(_ string, err error) { failed <- err }
		w.node("a")
		a := w.host("a", "svc", Policy{Rank: func([]resolver.Host) []resolver.Host { panic("no idea") }})
		w.standby("b", "svc", Policy{})
		_, err := a.Handoff(t.Context(), "")
		require.ErrorIs(t, err, ErrTransferFailed)
		require.ErrorContains(t, err, "no idea")
		err = <-failed
		require.ErrorIs(t, err, ErrPanic)
		e, _ := errors.AsType[*transport.Error](err)
		require.Contains(t, string(e.Data), "TestRankPanics")
		require.NoError(t, w.do(t.Context(), w.dial("client", "svc", ClientConfig{}), "goes on"))
	})
}
