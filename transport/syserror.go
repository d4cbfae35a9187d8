package transport

import (
	"errors"
	"syscall"
)

// portable makes an error of a socket match the errors of package syscall that programs check for on every system, such as
// syscall.ECONNREFUSED. Only some systems have numbers of their own for them: see socketErrors.
func portable(err error) error { return portableBy(socketErrors, err) }

func portableBy(same map[syscall.Errno]syscall.Errno, err error) error {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		if s, ok := same[e]; ok {
			return &socketError{err, s}
		}
	}
	return err
}

// socketError is an error with a number of the system's own, which also matches another one.
type socketError struct {
	error
	same syscall.Errno
}

func (e *socketError) Unwrap() []error { return []error{e.error, e.same} }

// Timeout reports whether the error is a timeout, as [net.Error] requires.
func (e *socketError) Timeout() bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](e.error)
	return ok && t.Timeout()
}

// Temporary is a part of [net.Error].
func (e *socketError) Temporary() bool { return e.Timeout() }
