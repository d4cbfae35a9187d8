package transport

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A listener that others keep busy answers late. Who dials with a deadline waits for it.
func TestDialOutlastsHandshakeTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	tr, err := NewTCP(TCPConfig{Open: true, handshakeTimeout: 10 * time.Millisecond})
	require.NoError(t, err)
	defer tr.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dialled := make(chan error, 1)
	go func() {
		_, err := tr.Dial(ctx, Peer{Addr: l.Addr().String()}, nil)
		dialled <- err
	}()
	c, err := l.Accept()
	require.NoError(t, err)
	select {
	case err := <-dialled:
		require.FailNow(t, "the dial ended", "%v", err)
	case <-time.After(100 * time.Millisecond):
	}
	c.Close()
	require.NotErrorIs(t, <-dialled, ErrTimeout)
	_, err = tr.Dial(t.Context(), Peer{Addr: l.Addr().String()}, nil)
	require.ErrorIs(t, err, ErrTimeout)
}
