package resolver

import "github.com/roam-go/roam/transport"

// The codes of this package. See [transport.Code].
const (
	CodeNotFound transport.Code = 100 // the name has no record
	CodeConflict transport.Code = 101 // the record has another version
	CodeRefused  transport.Code = 102 // the change is not allowed, whatever the version
	CodeAmnesia  transport.Code = 103 // the resolver has lost records
	CodeInvalid  transport.Code = 104 // a malformed name, host, record or configuration
	CodeStore    transport.Code = 105 // the resolver cannot read its file, or cannot store changes
)

// codeRetry says that the server cannot make a change at the moment, and that nothing has changed. A [Client] repeats the
// call, so callers do not see this code.
const codeRetry transport.Code = 106

// The errors of this package, for [errors.Is].
var (
	ErrNotFound error = &transport.Error{Code: CodeNotFound, Message: "resolver: no such name"}
	ErrConflict error = &transport.Error{Code: CodeConflict, Message: "resolver: the record has changed"}
	ErrRefused  error = &transport.Error{Code: CodeRefused, Message: "resolver: change refused"}
	ErrAmnesia  error = &transport.Error{Code: CodeAmnesia, Message: "resolver: records were lost"}
	ErrInvalid  error = &transport.Error{Code: CodeInvalid, Message: "resolver: invalid argument"}
	ErrStore    error = &transport.Error{Code: CodeStore, Message: "resolver: storage failed"}
)
