package transport

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// peerConn is a connection whose peer sends a byte when the test says so.
type peerConn struct {
	net.Conn
	says     chan struct{}
	closed   bool
	deadline time.Time
}

func (c *peerConn) SetDeadline(t time.Time) error {
	c.deadline = t
	return nil
}

func (c *peerConn) Read(b []byte) (int, error) {
	if _, ok := <-c.says; !ok {
		return 0, io.EOF
	}
	return 1, nil
}

func (c *peerConn) Close() error {
	c.closed = true
	return nil
}

func newPeerConn() *peerConn { return &peerConn{says: make(chan struct{}, 10)} }

// To wait for a turn is not counted as the stranger's time.
func TestDoorDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(1)
		defer d.close()
		holder := d.enter(t.Context(), newPeerConn())
		require.NoError(t, holder.takeTurn())
		c := newPeerConn()
		v := d.receive(c, time.Second)
		defer v.leave()
		require.Equal(t, time.Second, time.Until(c.deadline))
		time.AfterFunc(time.Minute, holder.computed)
		require.NoError(t, v.takeTurn())
		require.Equal(t, time.Second, time.Until(c.deadline))
		time.Sleep(time.Millisecond)
		v.giveTurn()
		require.NoError(t, v.takeTurn())
		require.Equal(t, time.Second-time.Millisecond, time.Until(c.deadline))
	})
}

// Handshakes that have begun continue first, then the newest and the oldest by turns; none has a turn while it waits for its
// peer.
func TestDoorOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(1)
		defer d.close()
		order := make(chan string, 8)
		shake := func(name string, v *visit, c *peerConn) {
			for piece := range 2 {
				c.says <- struct{}{}
				_, err := v.Read(make([]byte, 1))
				require.NoError(t, err)
				order <- name[piece : piece+1]
				time.Sleep(time.Millisecond)
			}
			v.leave()
		}
		for i, name := range []string{"aA", "bB", "cC", "dD"} {
			c := newPeerConn()
			v := d.receive(c, time.Hour)
			go shake(name, v, c)
			synctest.Wait() // a computes, the others wait
			d.mu.Lock()
			require.Equal(t, i+1, d.strangers.Len())
			d.mu.Unlock()
		}
		silent := d.receive(newPeerConn(), time.Hour)
		go silent.Read(nil)
		time.Sleep(time.Second)
		// a gives its turn to d while it reads, and continues next.
		for _, want := range []string{"a", "d", "A", "D", "b", "c", "B", "C"} {
			require.Equal(t, want, <-order)
		}
		d.mu.Lock()
		require.Equal(t, 1, d.turns)
		require.Equal(t, 1, d.strangers.Len())
		d.mu.Unlock()
		close(silent.Conn.(*peerConn).says)
	})
}

// A turn that nobody waits for any more is passed on.
func TestDoorTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(1)
		holder := d.enter(t.Context(), newPeerConn())
		require.NoError(t, holder.takeTurn())
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := d.enter(ctx, newPeerConn())
		errs := make(chan error, 3)
		go func() { errs <- cancelled.takeTurn() }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-errs, net.ErrClosed)
		holder.computed()
		require.Equal(t, 1, d.turns)

		require.NoError(t, holder.takeTurn())
		stranger := d.receive(newPeerConn(), time.Hour)
		go func() { errs <- stranger.takeTurn() }()
		synctest.Wait()
		d.close()
		require.ErrorIs(t, <-errs, net.ErrClosed)
		require.Empty(t, d.fresh)
		stranger.leave()
		holder.computed()
	})
}

// The oldest stranger makes room for a new one, when it has had its time.
func TestDoorFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(1)
		defer d.close()
		d.limit = 2
		var conns []*peerConn
		var visits []*visit
		began := time.Now()
		for range 4 {
			conns = append(conns, newPeerConn())
			visits = append(visits, d.receive(conns[len(conns)-1], welcomed*time.Second))
		}
		require.Equal(t, time.Second, time.Since(began).Truncate(100*time.Millisecond))
		for i, c := range conns {
			require.Equal(t, i < 2, c.closed)
			require.Equal(t, i < 2, visits[i].ctx.Err() != nil)
			require.Equal(t, i < 2, visits[i].leave())
		}
		require.Zero(t, d.strangers.Len())
	})
}
