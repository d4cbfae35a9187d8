package client

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
)

// A query that was refused for so long that its pauses are long is asked at the next host as soon as that serves.
func TestQueryFollowsMove(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		w.set("a", func(h *fakeHost) {
			h.refuse = func(method string, _ int) error {
				if method == wire.MethodQuery {
					return wire.ErrRetry
				}
				return nil
			}
		})
		c := w.dial()
		defer c.Close()
		for range 20 {
			answered := make(chan time.Time, 1)
			go func() {
				c.Query(t.Context(), []byte("n"))
				answered <- time.Now()
			}()
			time.Sleep(5 * time.Second)
			moved := time.Now()
			w.serve("b", true)
			require.Less(t, (<-answered).Sub(moved), 50*time.Millisecond)
			w.serve("a", true)
			time.Sleep(time.Second)
		}
	})
}
