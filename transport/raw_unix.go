//go:build unix

package transport

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// rawWriter writes to a socket without blocking. It is used by one goroutine at a time.
type rawWriter struct {
	rc  syscall.RawConn
	fn  func(fd uintptr) bool // created once, to save an allocation for each write
	buf []byte
	n   int
	err error
}

func newRawWriter(nc net.Conn) *rawWriter {
	sc, ok := nc.(*net.TCPConn)
	if !ok {
		return nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	w := &rawWriter{rc: rc}
	w.fn = func(fd uintptr) bool {
		w.n, w.err = syscall.Write(int(fd), w.buf)
		return true
	}
	return w
}

// write writes as much of b as the system accepts at once, possibly nothing.
func (w *rawWriter) write(b []byte) (int, error) {
	w.buf, w.n, w.err = b, 0, nil
	err := w.rc.Write(w.fn)
	w.buf = nil
	if err == nil {
		err = w.err
	}
	switch {
	case err == nil:
		return w.n, nil
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR), errors.Is(err, os.ErrDeadlineExceeded):
		return 0, nil
	}
	return 0, os.NewSyscallError("write", err)
}
