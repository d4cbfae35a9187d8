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
