package migrate

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/replica"
)

// moody is a service whose replies depend on the host while fickle is set.
type moody struct {
	tally
	fickle *atomic.Bool
}

func (m *moody) Apply(cmd Command) ([]byte, error) {
	reply, err := m.tally.Apply(cmd)
	if m.fickle.Load() {
		reply = append(reply, " of another mind"...)
	}
	return reply, err
}

func (m *moody) Query(Query) ([]byte, error) { return []byte("0"), nil }

// A host whose Apply gives another result is found out within the interval of the checks, and takes a fresh copy.
func TestDivergence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		var told, copies atomic.Int32
		var said atomic.Pointer[error]
		w.hooks.Failed = func(_ string, err error) {
			said.Store(&err)
			told.Add(1)
		}
		w.hooks.Changed = func(st Status) {
			if st.Role == Joining {
				copies.Add(1)
			}
		}
		w.node("a")
		w.node("b")
		var honest, fickle atomic.Bool
		a, err := w.nodes["a"].Host(t.Context(), "svc", func() Migratable { return &moody{fickle: &honest} }, Policy{})
		require.NoError(t, err)
		b, err := w.nodes["b"].Standby(t.Context(), "svc", func() Migratable { return &moody{fickle: &fickle} }, Policy{})
		require.NoError(t, err)
		w.inSync(a, 2)
		c := w.dial("client", "svc", ClientConfig{})
		do := func(n int) {
			for range n {
				_, err := c.Go([]byte("x"))
				for ; err != nil; _, err = c.Go([]byte("x")) {
					require.ErrorIs(t, err, ErrQueueFull)
					time.Sleep(time.Millisecond)
				}
			}
			require.NoError(t, c.Flush(t.Context()))
		}
		do(2 * replica.HashEvery)
		time.Sleep(time.Second)
		require.Zero(t, told.Load(), "equal hosts agree")
		require.Equal(t, Standby, b.Status().Role)

		// While it goes on, the standby is thrown out again and again, but less and less often.
		copies.Store(0)
		began := a.Status().Commit
		fickle.Store(true)
		for told.Load() == 0 {
			do(100)
		}
		require.ErrorContains(t, *said.Load(), "Apply, Restore or Hash is at fault")
		require.Less(t, a.Status().Commit-began, uint64(replica.HashEvery+2000))
		w.inSync(a, 1)
		require.Equal(t, Active, a.Status().Role)
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
			do(500)
		}
		t.Logf("%d copies in a minute, the hook was told %d times", copies.Load(), told.Load())
		require.Greater(t, copies.Load(), int32(1))
		require.LessOrEqual(t, copies.Load(), int32(6))

		fickle.Store(false)
		time.Sleep(5 * time.Minute)
		n := told.Load()
		w.inSync(a, 2)
		do(2 * replica.HashEvery)
		require.Equal(t, n, told.Load())
		w.role(b, Standby)
	})
}
