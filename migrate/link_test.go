package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A host whose round trip is most of the time after which it would be taken for silent can still stand by.
func TestFarHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		w.net.SetDelay(120 * time.Millisecond)
		a := w.host("a", "svc", Policy{})
		w.standby("b", "svc", Policy{})
		w.inSync(a, 2)
		time.Sleep(10 * time.Second)
		require.Len(t, a.Status().Record.ISR, 2)
		require.EqualValues(t, 1, a.Status().Record.Epoch)
	})
}
