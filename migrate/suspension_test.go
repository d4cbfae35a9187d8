package migrate

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A host that may not acknowledge commands reports that soon, once, with the number of hosts that it lacks. Clients that open
// a session learn of it.
func TestSuspensionIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		var f failureTexts
		f.node(w, "a")
		f.node(w, "b")
		p := Policy{MinInSync: 2}
		a := w.host("a", "svc", p)
		const text = "migrate: service svc: host a acknowledges no commands: 1 of 2 hosts in sync (Policy.MinInSync is 2): it waits for " +
			"another host"
		began := time.Now()
		w.eventually(func() bool { return len(f.of("a")) > 0 }, "reported")
		require.Less(t, time.Since(began), 5*time.Second)
		time.Sleep(time.Minute)
		require.Equal(t, []string{text}, f.of("a"))

		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := Dial(ctx, "svc", ClientConfig{Resolver: w.resolver("client"), Transport: w.transport("client")})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, ErrRetry)
		require.ErrorContains(t, err, text)

		w.standby("b", "svc", p)
		w.inSync(a, 2)
		c := w.dial("client", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), c, "one"))
		w.crash("b")
		time.Sleep(time.Minute)
		require.Equal(t, []string{text, text}, f.of("a"), "once for each suspension")
	})
}

// A standby that Policy.MinInSync keeps from leaving says so while Leave waits, and in its error.
func TestLeaveSaysWhatItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		var f failureTexts
		f.node(w, "a")
		f.node(w, "b")
		p := Policy{MinInSync: 2}
		_, b := w.pair(p)
		left := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			left <- b.Leave(ctx)
		}()
		time.Sleep(time.Second)
		const text = "migrate: host b waits to leave service svc until another host is in sync: Policy.MinInSync is 2, and 2 are"
		require.Equal(t, []string{text}, f.of("b"))
		require.ErrorContains(t, <-left, text)

		f.node(w, "c")
		w.standby("c", "svc", p)
		time.Sleep(5 * time.Second)
		require.NoError(t, b.Leave(t.Context()))
		require.Len(t, f.of("b"), 1, "another host takes its place at once")
	})
}
