package transport

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pair connects host b to host a, which handles with h.
func memPair(t *testing.T, n *Memory, h Handler) Conn {
	l, err := n.Host("a").Listen("a:1", func(Conn) Handler { return h })
	require.NoError(t, err)
	c, err := n.Host("b").Dial(t.Context(), Peer{Addr: l.Addr(), Key: n.Host("a").Key()}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { n.Host("a").Close(); n.Host("b").Close() })
	return c
}

func TestMemoryEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewMemory()
		n.SetDelay(10 * time.Millisecond)
		c := memPair(t, n, echo)
		start := time.Now()
		got, err := c.Call(t.Context(), "echo", nil)
		require.NoError(t, err)
		require.Equal(t, []byte{0x90}, got)
		require.Equal(t, 20*time.Millisecond, time.Since(start))
	})
}

func TestMemoryPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewMemory()
		c := memPair(t, n, echo)
		n.Partition("a", "b")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Call(ctx, "echo", nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = n.Host("b").Dial(ctx, Peer{Addr: "a:1"}, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		n.Heal("a", "b")
		_, err = c.Call(t.Context(), "echo", nil)
		require.NoError(t, err)
		n.Partition("a", "b")
		start := time.Now()
		_, err = c.Call(t.Context(), "echo", nil)
		require.ErrorIs(t, err, ErrTimeout)
		require.Less(t, time.Since(start), 16*time.Second)
	})
}

func TestMemoryCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewMemory()
		c := memPair(t, n, testHandler{})
		go n.Crash("a")
		_, err := c.Call(t.Context(), "never", nil)
		require.Error(t, err)
		require.NotErrorIs(t, err, io.EOF)
		_, err = n.Host("b").Dial(t.Context(), Peer{Addr: "a:1"}, nil)
		require.ErrorContains(t, err, "refused")
		require.EqualValues(t, 2, n.Stats().Dials)
		synctest.Wait()
		require.Zero(t, n.Stats().Open)
	})
}
