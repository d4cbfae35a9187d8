package migrate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

// The active host starts again with its directory, as the same incarnation, at another address; where it was nothing answers.
// The client goes there, whether it still holds a connection to where the host was or is about to connect to it again.
func TestClientHostAtAnotherAddress(t *testing.T) {
	for name, away := range map[string]time.Duration{"connected": time.Second, "connecting": time.Minute} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
				w.set("b", func(h *fakeHost) { h.host.ID, h.host.Incarnation = "a", w.hosts["a"].host.Incarnation })
				w.rec.ISR = []resolver.Host{w.hosts["a"].host}
				w.serve("a", false)
				c := w.dial()
				defer c.Close()
				w.net.Isolate("a")
				call := mustGo(t, c, "x")
				time.Sleep(away)
				w.set("a", func(h *fakeHost) { h.host.ID = "gone" })
				w.rec.ISR = []resolver.Host{w.hosts["b"].host}
				w.serve("b", false)
				begin := time.Now()
				requireReply(t, call, "re:x")
				require.Less(t, time.Since(begin), time.Second)
				require.Equal(t, w.hosts["b"].host, c.Where())
			})
		})
	}
}
