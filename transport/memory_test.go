package transport

import (
	"context"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// memPair connects host b to host a, which handles with h.
func memPair(t *testing.T, n *Memory, h Handler) Conn {
	t.Cleanup(func() { n.Host("a").Close(); n.Host("b").Close() })
	l, err := n.Host("a").Listen("a:1", func(Conn) Handler { return h })
	require.NoError(t, err)
	c, err := n.Host("b").Dial(t.Context(), Peer{Addr: l.Addr(), Key: n.Host("a").Key()}, nil)
	require.NoError(t, err)
	return c
}

// inMemory runs a test in a bubble, on a network whose host a echoes and to which host b is connected.
func inMemory(t *testing.T, name string, f func(t *testing.T, n *Memory, c Conn)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := NewMemory()
			f(t, n, memPair(t, n, echo))
		})
	})
}

// try calls with a limit of time.
func try(t *testing.T, c Conn, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	_, err := c.Call(ctx, "echo", nil)
	return err
}

// dialB dials from host b with a limit of time.
func dialB(t *testing.T, n *Memory, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c, err := n.Host("b").Dial(ctx, Peer{Addr: "a:1"}, nil)
	if err == nil {
		c.Close()
	}
	return err
}

func TestMemory(t *testing.T) {
	inMemory(t, "delay", func(t *testing.T, n *Memory, c Conn) {
		n.SetDelay(10 * time.Millisecond)
		n.SetLinkDelay("b", "a", 30*time.Millisecond)
		start := time.Now()
		require.NoError(t, try(t, c, time.Second))
		require.Equal(t, 40*time.Millisecond, time.Since(start))
		n.SetLinkDelay("b", "a", -1)
		start = time.Now()
		require.NoError(t, try(t, c, time.Second))
		require.Equal(t, 20*time.Millisecond, time.Since(start))
		start = time.Now()
		require.NoError(t, dialB(t, n, time.Second))
		require.Equal(t, 40*time.Millisecond, time.Since(start)) // to connect, and to greet
	})
	inMemory(t, "order under a delay that shrinks", func(t *testing.T, n *Memory, c Conn) {
		n.SetDelay(time.Second)
		got := make(chan int, 2)
		for i := range 2 {
			c.Go("echo", nil, func([]byte, error) { got <- i })
			synctest.Wait()
			n.SetDelay(time.Millisecond)
		}
		require.Equal(t, 0, <-got)
		require.Equal(t, 1, <-got)
	})
	inMemory(t, "throttle", func(t *testing.T, n *Memory, c Conn) {
		n.Throttle("b", "a", 100_000)
		start := time.Now()
		_, err := c.Call(t.Context(), "echo", append([]byte{0xc6, 0, 3, 0x0d, 0x40}, make([]byte, 200_000)...))
		require.NoError(t, err)
		require.InDelta(t, 2, time.Since(start).Seconds(), 0.01)
		n.Throttle("b", "a", 0)
		start = time.Now()
		require.NoError(t, try(t, c, time.Second))
		require.Zero(t, time.Since(start))
	})
	inMemory(t, "partition and heal", func(t *testing.T, n *Memory, c Conn) {
		n.Partition("a", "b")
		require.ErrorIs(t, try(t, c, time.Second), context.DeadlineExceeded)
		require.ErrorIs(t, dialB(t, n, time.Second), context.DeadlineExceeded)
		n.Heal("b", "a")
		require.NoError(t, try(t, c, time.Second))
		require.NoError(t, dialB(t, n, time.Second))

		n.Isolate("a")
		start := time.Now()
		_, err := c.Call(t.Context(), "echo", nil)
		require.ErrorIs(t, err, ErrTimeout)
		require.LessOrEqual(t, time.Since(start), 15*time.Second)
		n.HealAll()
		require.NoError(t, dialB(t, n, time.Second))
	})
	inMemory(t, "partition of one direction", func(t *testing.T, n *Memory, c Conn) {
		n.Block("a", "b")
		require.ErrorIs(t, try(t, c, time.Second), context.DeadlineExceeded)
		require.ErrorIs(t, dialB(t, n, time.Second), context.DeadlineExceeded)
		done := make(chan error, 1)
		go func() { done <- try(t, c, time.Minute) }()
		time.Sleep(time.Second)
		n.Heal("a", "b")
		require.NoError(t, <-done) // nothing was lost
	})
	inMemory(t, "dial that waits for the link", func(t *testing.T, n *Memory, c Conn) {
		n.Partition("a", "b")
		done := make(chan error, 1)
		go func() { done <- dialB(t, n, time.Minute) }()
		time.Sleep(time.Second)
		require.Empty(t, done)
		n.Heal("a", "b")
		require.NoError(t, <-done)
	})
	inMemory(t, "refusal", func(t *testing.T, n *Memory, c Conn) {
		n.Refuse("b", "a")
		n.Partition("a", "b")
		start := time.Now()
		require.ErrorIs(t, dialB(t, n, time.Second), syscall.ECONNREFUSED)
		require.Zero(t, time.Since(start))
		n.HealAll()
		require.NoError(t, try(t, c, time.Second))
	})
	inMemory(t, "drop", func(t *testing.T, n *Memory, c Conn) {
		n.Blackhole("b", "a")
		require.NoError(t, dialB(t, n, time.Second)) // new ones work
		start := time.Now()
		_, err := c.Call(t.Context(), "echo", nil)
		require.Error(t, err) // whichever side gives up first
		require.LessOrEqual(t, time.Since(start), 15*time.Second)
	})
	inMemory(t, "cut", func(t *testing.T, n *Memory, c Conn) {
		n.Cut("b", "a")
		require.ErrorIs(t, try(t, c, time.Second), syscall.ECONNRESET)
		require.NoError(t, dialB(t, n, time.Second))
	})
	inMemory(t, "cut after n bytes", func(t *testing.T, n *Memory, c Conn) {
		size := int64(len(appendCall(nil, 9, "echo", nil)))
		n.CutAfter("b", "a", 2*size+3)
		require.NoError(t, try(t, c, time.Second))
		require.NoError(t, try(t, c, time.Second))
		require.ErrorIs(t, try(t, c, time.Second), syscall.ECONNRESET)
		require.NoError(t, dialB(t, n, time.Second))
	})
	inMemory(t, "flip", func(t *testing.T, n *Memory, c Conn) {
		p := append([]byte{0xc4, 100}, make([]byte, 100)...)
		n.FlipAfter("b", "a", 50)
		got, err := c.Call(t.Context(), "echo", p)
		require.NoError(t, err)
		require.Len(t, got, len(p))
		wrong := 0
		for i := range got {
			if got[i] != p[i] {
				wrong++
			}
		}
		require.Equal(t, 1, wrong)
		got, err = c.Call(t.Context(), "echo", p)
		require.NoError(t, err)
		require.Equal(t, p, got)
	})
	inMemory(t, "crash", func(t *testing.T, n *Memory, c Conn) {
		old := n.Host("a")
		n.Crash("a")
		require.ErrorIs(t, try(t, c, time.Second), syscall.ECONNRESET)
		require.ErrorIs(t, dialB(t, n, time.Second), syscall.ECONNREFUSED)
		_, err := old.Listen("a:2", func(Conn) Handler { return echo })
		require.ErrorIs(t, err, ErrClosed)
		_, err = old.Dial(t.Context(), Peer{Addr: "b:1"}, nil)
		require.ErrorIs(t, err, ErrClosed)
		synctest.Wait()
		require.Zero(t, n.Stats().Open)

		again := n.Host("a")
		require.NotSame(t, old, again)
		require.Equal(t, old.Key(), again.Key())
		_, err = again.Listen("a:1", func(Conn) Handler { return echo })
		require.NoError(t, err)
		require.NoError(t, dialB(t, n, time.Second))
		n.Crash("nobody")
	})
	inMemory(t, "stats", func(t *testing.T, n *Memory, c Conn) {
		require.Equal(t, MemoryStats{Dials: 1, Open: 1, Messages: 2}, n.Stats())
		require.NoError(t, try(t, c, time.Second))
		require.Equal(t, MemoryStats{Dials: 1, Open: 1, Messages: 4}, n.Stats())
		require.Error(t, func() error {
			_, err := n.Host("b").Dial(t.Context(), Peer{Addr: "a:99"}, nil)
			return err
		}())
		c.Close()
		synctest.Wait()
		require.Equal(t, MemoryStats{Dials: 2, Open: 0, Messages: 4}, n.Stats())
	})
	inMemory(t, "addresses", func(t *testing.T, n *Memory, c Conn) {
		a := n.Host("a")
		for _, addr := range []string{"b:1", "a", "a:x", "a:1", "a:70000"} {
			_, err := a.Listen(addr, func(Conn) Handler { return echo })
			require.Error(t, err, addr)
		}
		l, err := a.Listen(":0", func(Conn) Handler { return echo })
		require.NoError(t, err)
		require.NotEqual(t, "a:0", l.Addr())
		require.NotEqual(t, "a:1", l.Addr())
		for _, name := range []string{"", "a:b"} {
			_, err := n.HostWith(name, TCPConfig{Open: true})
			require.Error(t, err)
		}
		_, err = n.HostWith("new", TCPConfig{Open: true, MaxPending: -1})
		require.ErrorContains(t, err, "MaxPending")
		none, err := n.HostWith("new", TCPConfig{InsecurePlaintext: true})
		require.NoError(t, err)
		require.True(t, none.Key().IsZero())
	})
}

// What is read has a limit, so that a writer has to wait, and its deadlines hold.
func TestMemoryStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewMemory()
		_, err := n.Host("a").Listen("a:1", func(Conn) Handler { return echo })
		require.NoError(t, err)
		defer n.Host("a").Close()
		up, down := n.stream(n.link("a", "b")), n.stream(n.link("b", "a"))
		a := &memConn{net: n, in: down, out: up, local: "a:1", remote: "b:1"}
		b := &memConn{net: n, in: up, out: down, local: "b:1", remote: "a:1"}
		require.NoError(t, a.SetDeadline(time.Now().Add(time.Second)))
		written, err := a.Write(make([]byte, memWindow+1))
		require.True(t, isTimeout(err))
		require.Equal(t, memWindow, written)
		_, err = a.Read(make([]byte, 1))
		require.True(t, isTimeout(err))
		require.NoError(t, a.SetDeadline(time.Time{}))
		go func() {
			_, err := a.Write(make([]byte, memWindow))
			require.NoError(t, err)
			a.CloseWrite()
		}()
		got, err := io.Copy(io.Discard, b)
		require.NoError(t, err)
		require.EqualValues(t, 2*memWindow, got)
		_, err = b.Write([]byte{1})
		require.NoError(t, err)
		require.NoError(t, a.Close())
		require.Error(t, a.Close())
		_, err = b.Write([]byte{1})
		require.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = a.Read(make([]byte, 1))
		require.Error(t, err)
		require.Equal(t, "memory", a.LocalAddr().Network())
		require.Equal(t, "b:1", a.RemoteAddr().String())
		b.Close()
	})
}
