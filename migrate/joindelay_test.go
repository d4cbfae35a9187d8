package migrate

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// hanging is a tally whose Restore waits.
type hanging struct {
	tally
	until <-chan struct{}
}

func (h *hanging) Restore(r io.Reader) error {
	<-h.until
	return h.tally.Restore(r)
}

// A host whose Restore hangs does not keep another one from joining. The active host reports it.
func TestRestoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		var f failureTexts
		f.node(w, "a")
		f.node(w, "b")
		a := w.host("a", "svc", Policy{})
		until := make(chan struct{})
		defer close(until)
		_, err := w.nodes["b"].Standby(t.Context(), "svc", func() Migratable { return &hanging{until: until} }, Policy{})
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		f.node(w, "c")
		w.standby("c", "svc", Policy{})
		time.Sleep(30 * time.Second)
		require.Len(t, a.Status().Record.ISR, 1)
		require.Empty(t, f.of("a"), "a large state may take long")
		time.Sleep(30 * time.Second)
		w.inSync(a, 2)
		require.Equal(t, "c", a.Status().Record.ISR[1].ID)
		require.Equal(t, []string{"migrate: service svc: host b has not restored its copy within 1m0s: another host is invited, " +
			"if one is present"}, f.of("a"))
		time.Sleep(5 * time.Minute)
		w.inSync(a, 2)
		require.Len(t, f.of("a"), 1)
	})
}
