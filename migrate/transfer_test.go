package migrate

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/transfer"
)

// nosySnapshot calls its node when it is released.
type nosySnapshot struct {
	bytesSnapshot
	t        *testing.T
	node     *Node
	released *int
}

func (s nosySnapshot) Release() {
	*s.released++
	if s.node.mu.TryLock() { // else the call would never come back
		s.node.mu.Unlock()
		s.node.Services()
		return
	}
	s.t.Error("released while the node is locked")
}

// However it ends with a snapshot that nobody fetches, its Release may call the node.
func TestReleaseCallsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{})
		released := 0
		offer := func() uint64 {
			return a.node.offers.Add(b.node.self, nosySnapshot{t: t, node: a.node, released: &released}, nil)
		}
		require.NotZero(t, offer())
		time.Sleep(transfer.OfferTimeout + time.Second)
		synctest.Wait()
		require.Equal(t, 1, released, "it was not fetched in time")
		require.NotZero(t, offer())
		require.NoError(t, a.node.Close())
		require.Equal(t, 2, released, "the node was closed")
		require.Zero(t, offer())
		require.Equal(t, 3, released, "the node is closed")
	})
}

// liar is a tally whose snapshot ends far beyond every limit.
type liar struct{ tally }

func (*liar) Snapshot() (Snapshot, error) { return endless{}, nil }

type endless struct{}

func (endless) WriteTo(w io.Writer) (n int64, err error) {
	for piece := []byte(strings.Repeat(" ", 64<<10)); err == nil && n < 16<<20; {
		var k int
		k, err = w.Write(piece)
		n += int64(k)
	}
	return n, err
}
func (endless) Release() {}

// A host that is to join fetches no more than MaxState from the active host, does not join, and reports it.
func TestMaxState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		var f failureTexts
		f.node(w, "a")
		f.node(w, "b")
		a, err := w.nodes["a"].Host(t.Context(), "svc", func() Migratable { return new(liar) }, Policy{})
		require.NoError(t, err)
		b := w.standby("b", "svc", Policy{MaxState: 3 << 20})
		w.eventually(func() bool { return len(f.of("b")) > 0 }, "host b reports it")
		got := f.of("b")[0]
		require.Contains(t, got, "migrate: service svc: no copy from host a: ")
		require.Contains(t, got, "more than the 3145728 bytes allowed")
		require.Contains(t, got, "Policy.MaxState")
		require.Equal(t, Latent, b.Status().Role)
		require.Len(t, a.Status().Record.ISR, 1)
		require.NoError(t, w.do(t.Context(), w.dial("c", "svc", ClientConfig{}), "still here"))

		// A copy within the limit joins.
		f.node(w, "c")
		c, err := w.nodes["c"].Host(t.Context(), "svc2", newTally, Policy{})
		require.NoError(t, err)
		_, err = w.nodes["b"].Standby(t.Context(), "svc2", newTally, Policy{MaxState: 10_000})
		require.NoError(t, err)
		w.inSync(c, 2)
	})
}
