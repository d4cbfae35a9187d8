package transport

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPortableError(t *testing.T) {
	const own = syscall.Errno(10061)
	same := map[syscall.Errno]syscall.Errno{own: syscall.ECONNREFUSED}
	refused := error(&net.OpError{Op: "dial", Err: os.NewSyscallError("connectex", own)})
	err := portableBy(same, fmt.Errorf("dial: %w", refused))
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.ErrorIs(t, err, own, "the original error stays")
	require.ErrorContains(t, err, "connectex")
	require.False(t, isTimeout(err))
	require.True(t, isTimeout(portableBy(map[syscall.Errno]syscall.Errno{syscall.ETIMEDOUT: syscall.EIO}, syscall.ETIMEDOUT)))

	other := error(&net.OpError{Op: "dial", Err: os.NewSyscallError("connectex", syscall.Errno(1))})
	require.Equal(t, other, portableBy(same, other))
	plain := errors.New("plain")
	require.Equal(t, plain, portableBy(same, plain))
	require.NoError(t, portableBy(same, nil))
}

// Programs check for the same errors of sockets on every system.
func TestErrorsOfSockets(t *testing.T) {
	tr, err := NewTCP(TCPConfig{Open: true})
	require.NoError(t, err)
	defer tr.Close()
	l, err := tr.Listen("127.0.0.1:0", func(Conn) Handler { return nil })
	require.NoError(t, err)
	_, err = tr.Listen(l.Addr(), nil)
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	_, err = tr.Listen("192.0.2.1:0", nil)
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)

	// A connection that the peer resets: it closes with unread data.
	plain, err := NewTCP(TCPConfig{InsecurePlaintext: true})
	require.NoError(t, err)
	defer plain.Close()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer raw.Close()
	go func() {
		c, err := raw.Accept()
		if err == nil {
			c.Read(make([]byte, 1))
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()
	_, err = plain.Dial(t.Context(), Peer{Addr: raw.Addr().String()}, nil)
	require.ErrorIs(t, err, syscall.ECONNRESET)

	addr := l.Addr()
	require.NoError(t, l.Close())
	for range 50 { // the system may take a moment
		if _, err = tr.Dial(t.Context(), Peer{Addr: addr}, nil); errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}
