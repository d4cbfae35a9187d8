package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFailover(t *testing.T) {
	for _, tc := range []struct {
		name string
		stop func(w *world) // takes the active host a away
		gap  time.Duration  // allowed between two replies
	}{
		{"crash", func(w *world) { w.crash("a") }, 300 * time.Millisecond},
		{"silence", func(w *world) { w.net.Isolate("a") }, 1200 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "a", "b", "c")
				defer w.close()
				a := w.host("a", "svc", Policy{})
				w.standby("b", "svc", Policy{})
				w.standby("c", "svc", Policy{})
				w.inSync(a, 2)
				c := w.dial("client", "svc", ClientConfig{})
				w.read(c)
				wr := w.write(c)
				time.Sleep(time.Second)
				wr.resetGap()
				tc.stop(w)
				time.Sleep(3 * time.Second)
				gap := wr.longest()
				t.Logf("%d commands, longest gap %s", wr.count(), gap)
				require.Less(t, gap, tc.gap)
				w.inSync(w.active("svc"), 2)
				w.check(c)
			})
		})
	}
}

// A standby that dies holds nobody up for long; when all are gone the service is gone, and says so.
func TestStandbyDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, _ := w.pair(Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		wr := w.write(c)
		time.Sleep(time.Second)
		w.crash("b")
		time.Sleep(time.Second)
		require.Less(t, wr.longest(), 300*time.Millisecond, "a crash")
		w.node("b")
		w.standby("b", "svc", Policy{})
		w.inSync(a, 2)
		wr.resetGap()
		w.net.Isolate("b")
		time.Sleep(2 * time.Second)
		require.Less(t, wr.longest(), 800*time.Millisecond, "silence")
		w.net.HealAll()
		w.inSync(a, 2)
		w.check(c)
	})
}

// An active host that is cut off with some of its clients commits nothing more; after healing it follows.
func TestPartitionedActive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.remoteResolver()
		for _, name := range []string{"a", "b", "c"} {
			w.node(name)
		}
		a, _ := w.pair(Policy{})
		w.standby("c", "svc", Policy{})
		near, far := w.dial("near", "svc", ClientConfig{}), w.dial("far", "svc", ClientConfig{})
		w.read(far)
		w.read(near)
		wn, wf := w.write(near), w.write(far)
		time.Sleep(time.Second)
		for _, other := range []string{"b", "c", "dns", "far"} { // near still reaches a, and the rest
			w.net.Partition("a", other)
		}
		time.Sleep(100 * time.Millisecond)
		commit := a.Status().Commit
		asked := make(chan error, 1)
		go func() { _, err := w.raw("near", a, near.Session()).query(); asked <- err }()
		time.Sleep(10 * time.Second)
		require.Equal(t, commit, a.Status().Commit, "commands that a cut off host has committed")
		require.True(t, a.Status().Suspended)
		require.Less(t, wf.longest(), 1200*time.Millisecond)
		require.Less(t, wn.longest(), 2500*time.Millisecond, "who still reaches the old host asks the resolver")
		require.Equal(t, "b", near.Where().ID)
		require.Empty(t, asked, "answers of a host that may have been replaced")
		w.net.HealAll()
		w.role(a, Latent)
		require.ErrorIs(t, <-asked, ErrNotActive)
		time.Sleep(time.Second)
		_, err := w.active("svc").Handoff(t.Context(), "a")
		require.NoError(t, err)
		w.check(far)
	})
}

// The resolver can be away for long: what is established goes on, and a failover waits for it.
func TestFailoverWithoutResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r := newTapped(t, "a", "b", "c")
		defer w.close()
		w.pair(Policy{})
		w.standby("c", "svc", Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		wr := w.write(c)
		time.Sleep(time.Second)
		r.down.Store(true)
		wr.slow(50 * time.Millisecond)
		time.Sleep(10 * time.Minute)
		require.Less(t, wr.longest(), 10*time.Millisecond)
		w.crash("a")
		time.Sleep(30 * time.Second)
		n := wr.count()
		time.Sleep(30 * time.Second)
		require.Equal(t, n, wr.count(), "commands acknowledged with nobody active")
		r.down.Store(false)
		time.Sleep(5 * time.Second)
		require.Greater(t, wr.count(), n)
		w.inSync(w.active("svc"), 2)
		w.check(c)
	})
}
