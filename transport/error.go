package transport

import (
	"errors"
	"fmt"
)

// Code is the kind of an [Error]. Codes are exchanged between versions and languages, so they are append-only: a number
// never changes its meaning. 1-99 belong to package transport, 100-199 to resolver, 200-299 to migrate, 300-399 to chatcore;
// programs use numbers from 1000.
type Code uint32

// The codes of this package.
const (
	CodeUnknown    Code = 1 // an error without a code
	CodeNoMethod   Code = 2 // the peer has no such method
	CodeBadMessage Code = 3 // bytes that are not a valid message, or a message that is too large
	CodeClosed     Code = 4 // closed on this side (connection, listener, transport), or by a peer that refused the connection
	CodeSlowPeer   Code = 5 // the peer does not read
	CodeWrongKey   Code = 6 // the peer did not prove the expected key
	CodeVersion    Code = 7 // the two sides have no protocol version in common
	CodeTimeout    Code = 8 // the peer was silent for too long
	CodeNotMember  Code = 9 // one side is not a member of the other's realm, or lacks the role that is needed
)

// Error is an error with a code that survives the wire. [errors.Is] compares codes, so that a sentinel such as [ErrClosed]
// matches wherever the error was made.
type Error struct {
	// Code is the kind of the error, Message its text.
	Code    Code
	Message string
	// Data is an optional detail, one MessagePack value.
	Data []byte
	// Remote is set if the peer replied the error, and clear if it arose on this side.
	Remote bool
}

// Errorf returns an error with a code. The message is formatted as by [fmt.Sprintf].
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Is reports whether target is an [*Error] with the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// CodeOf returns the code of the first [*Error] in err's tree: 0 for nil, [CodeUnknown] if there is none.
func CodeOf(err error) Code {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeUnknown
}

// IsFinal reports whether an error of Dial says that a further attempt would fail as well until somebody changes the
// configuration of one side: [ErrWrongKey], [ErrNotMember] or [ErrVersion].
func IsFinal(err error) bool {
	return errors.Is(err, ErrWrongKey) || errors.Is(err, ErrNotMember) || errors.Is(err, ErrVersion)
}

// The errors of this package, for [errors.Is].
var (
	ErrNoMethod   error = &Error{Code: CodeNoMethod, Message: "no such method"}
	ErrBadMessage error = &Error{Code: CodeBadMessage, Message: "bad message"}
	ErrClosed     error = &Error{Code: CodeClosed, Message: "closed"}
	ErrSlowPeer   error = &Error{Code: CodeSlowPeer, Message: "peer does not read"}
	ErrWrongKey   error = &Error{Code: CodeWrongKey, Message: "peer has another key"}
	ErrVersion    error = &Error{Code: CodeVersion, Message: "no protocol version in common"}
	ErrTimeout    error = &Error{Code: CodeTimeout, Message: "peer is silent"}
	ErrNotMember  error = &Error{Code: CodeNotMember, Message: "not a member of the realm"}
)
