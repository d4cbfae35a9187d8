package migrate

import (
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
