package resolver

import "github.com/roam-go/roam/transport"

// The codes of this package's errors; see [transport.Code].
const (
	CodeNotFound transport.Code = 100 // no record of that name
	CodeConflict transport.Code = 101 // the record has another version
	CodeRefused  transport.Code = 102 // the change is not legal, whatever the version
	CodeAmnesia  transport.Code = 103 // the resolver lost its memory of the name
	CodeInvalid  transport.Code = 104 // a malformed name, host, record or configuration
	CodeStore    transport.Code = 105 // the resolver's file can't be read, or can't be trusted to keep what is written
)

// Sentinels for [errors.Is].
var (
	ErrNotFound error = &transport.Error{Code: CodeNotFound, Message: "resolver: no such name"}
	ErrConflict error = &transport.Error{Code: CodeConflict, Message: "resolver: the record has changed"}
	ErrRefused  error = &transport.Error{Code: CodeRefused, Message: "resolver: change refused"}
	ErrAmnesia  error = &transport.Error{Code: CodeAmnesia, Message: "resolver: memory of the name was lost"}
	ErrInvalid  error = &transport.Error{Code: CodeInvalid, Message: "resolver: invalid argument"}
	ErrStore    error = &transport.Error{Code: CodeStore, Message: "resolver: storage failed"}
)
