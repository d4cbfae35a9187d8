package chatcore

import "github.com/roam-go/roam/transport"

// The codes of this package's errors; see [transport.Code].
const (
	CodeNameTaken       transport.Code = 300 // the name, or a confusable one, belongs to another participant
	CodeBadName         transport.Code = 301 // the name violates the rules for names
	CodeBadText         transport.Code = 302 // the text violates the rules for texts
	CodeNotJoined       transport.Code = 303 // the session is not in the room
	CodeJoined          transport.Code = 304 // the session has already joined under another name
	CodeFull            transport.Code = 305 // the room has reached MaxParticipants, or MaxPerKey for this key
	CodeHeldFull        transport.Code = 306 // the chat has not begun, and the room can hold no more messages
	CodeBadCommand      transport.Code = 307 // malformed or unknown command or query
	CodeNoSuchName      transport.Code = 308 // no participant has that name
	CodePeerUnreachable transport.Code = 309 // cannot connect to the participant's address
	CodePeerKey         transport.Code = 310 // the participant's key is not the key of that name, or cannot be pinned
	CodeNoPrivate       transport.Code = 311 // the participant accepts no private messages
	CodePeerRefused     transport.Code = 312 // the participant's client rejected the private message
	CodeReplay          transport.Code = 313 // the private message was delivered already, or has another connection's token
	CodeBadSnapshot     transport.Code = 314 // malformed snapshot
	CodeConfig          transport.Code = 315 // a field of a configuration is invalid
	CodeUnverified      transport.Code = 316 // private messages need keys, but the transport proves none
	CodePeerLost        transport.Code = 317 // the connection to the participant broke; the message may have arrived
)

// Errors for use with [errors.Is].
var (
	ErrNameTaken       error = &transport.Error{Code: CodeNameTaken, Message: "chat: name taken"}
	ErrBadName         error = &transport.Error{Code: CodeBadName, Message: "chat: bad name"}
	ErrBadText         error = &transport.Error{Code: CodeBadText, Message: "chat: bad text"}
	ErrNotJoined       error = &transport.Error{Code: CodeNotJoined, Message: "chat: not in the room"}
	ErrJoined          error = &transport.Error{Code: CodeJoined, Message: "chat: already in the room"}
	ErrFull            error = &transport.Error{Code: CodeFull, Message: "chat: the room is full"}
	ErrHeldFull        error = &transport.Error{Code: CodeHeldFull, Message: "chat: too many messages before the chat begins"}
	ErrBadCommand      error = &transport.Error{Code: CodeBadCommand, Message: "chat: bad command"}
	ErrNoSuchName      error = &transport.Error{Code: CodeNoSuchName, Message: "chat: no such name"}
	ErrPeerUnreachable error = &transport.Error{Code: CodePeerUnreachable, Message: "chat: participant unreachable"}
	ErrPeerKey         error = &transport.Error{Code: CodePeerKey, Message: "chat: wrong key of participant"}
	ErrNoPrivate       error = &transport.Error{Code: CodeNoPrivate, Message: "chat: participant accepts no private messages"}
	ErrPeerRefused     error = &transport.Error{Code: CodePeerRefused, Message: "chat: private message rejected"}
	ErrReplay          error = &transport.Error{Code: CodeReplay, Message: "chat: private message is a replay"}
	ErrBadSnapshot     error = &transport.Error{Code: CodeBadSnapshot, Message: "chat: bad snapshot"}
	ErrConfig          error = &transport.Error{Code: CodeConfig, Message: "chat: invalid configuration"}
	ErrUnverified      error = &transport.Error{Code: CodeUnverified, Message: "chat: the transport proves no keys"}
	ErrPeerLost        error = &transport.Error{Code: CodePeerLost, Message: "chat: the private message may have arrived"}
)
