package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMoveWhileWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		a := w.host("a", "svc", Policy{})
		w.standby("b", "svc", Policy{})
		w.standby("c", "svc", Policy{})
		w.inSync(a, 2)
		c := w.dial("client", "svc", ClientConfig{})
		w.read(c)
		for range 3 {
			w.write(c)
		}
		for range 10 {
			time.Sleep(500 * time.Millisecond)
			_, err := w.active("svc").Handoff(t.Context(), "")
			require.NoError(t, err)
		}
		w.check(c)
	})
}
