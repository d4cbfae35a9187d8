package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A handoff that is asked for while the last one is still being tidied up, because a standby too many is about to leave,
// waits for that and does not fail: not even if it is to that very host.
func TestHandoffAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.net.SetDelay(5 * time.Millisecond)
		w.remoteResolver()
		for _, name := range []string{"a", "b", "c"} {
			w.node(name)
		}
		w.pair(Policy{})
		w.standby("c", "svc", Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		wr := w.write(c)
		for i := range 30 {
			time.Sleep(time.Duration(i) * time.Millisecond)
			s := w.active("svc")
			to := map[string]string{"a": "b", "b": "c", "c": "a"}[s.node.self.ID]
			if i%2 == 1 {
				to = map[string]string{"a": "c", "b": "a", "c": "b"}[s.node.self.ID]
			}
			_, err := s.Handoff(t.Context(), to)
			require.NoError(t, err)
		}
		wr.end()
		w.check(c)
	})
}
