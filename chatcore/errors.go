package chatcore

import "github.com/roam-go/roam/transport"

// The codes of this package's errors; see [transport.Code].
const (
	CodeNameTaken       transport.Code = 300 // the name, or one that looks like it, belongs to somebody else
	CodeBadName         transport.Code = 301 // the name breaks a rule for names
	CodeBadText         transport.Code = 302 // the text breaks a rule for texts
	CodeNotJoined       transport.Code = 303 // the session is not in the room
	CodeJoined          transport.Code = 304 // the session is in the room under another name
	CodeFull            transport.Code = 305 // the room has no place left
	CodeHeldFull        transport.Code = 306 // the chat has not begun, and no more messages can wait for it
	CodeBadCommand      transport.Code = 307 // bytes that are no command or query of this package
	CodeNoSuchName      transport.Code = 308 // nobody of that name is in the room
	CodePeerUnreachable transport.Code = 309 // no connection to the participant's own address
	CodePeerKey         transport.Code = 310 // the participant's key is not the one that belongs to the name
	CodeNoPrivate       transport.Code = 311 // the participant, or this client, takes no private messages
	CodePeerRefused     transport.Code = 312 // the participant's client refused the private message
	CodeReplay          transport.Code = 313 // the private message was delivered before, or was made for another connection
	CodeBadSnapshot     transport.Code = 314 // bytes that are no snapshot of a room
	CodeConfig          transport.Code = 315 // a field of a configuration is invalid
	CodeUnverified      transport.Code = 316 // private messages need keys, and the transport has none
	CodePeerLost        transport.Code = 317 // the connection to the participant broke, and the message may have arrived
)

// Sentinels for [errors.Is].
var (
	ErrNameTaken       error = &transport.Error{Code: CodeNameTaken, Message: "chat: name taken"}
	ErrBadName         error = &transport.Error{Code: CodeBadName, Message: "chat: bad name"}
	ErrBadText         error = &transport.Error{Code: CodeBadText, Message: "chat: bad text"}
	ErrNotJoined       error = &transport.Error{Code: CodeNotJoined, Message: "chat: not in the room"}
	ErrJoined          error = &transport.Error{Code: CodeJoined, Message: "chat: in the room already"}
	ErrFull            error = &transport.Error{Code: CodeFull, Message: "chat: the room is full"}
	ErrHeldFull        error = &transport.Error{Code: CodeHeldFull, Message: "chat: too many messages wait for the chat to begin"}
	ErrBadCommand      error = &transport.Error{Code: CodeBadCommand, Message: "chat: bad command"}
	ErrNoSuchName      error = &transport.Error{Code: CodeNoSuchName, Message: "chat: no such name"}
	ErrPeerUnreachable error = &transport.Error{Code: CodePeerUnreachable, Message: "chat: participant unreachable"}
	ErrPeerKey         error = &transport.Error{Code: CodePeerKey, Message: "chat: participant has another key"}
	ErrNoPrivate       error = &transport.Error{Code: CodeNoPrivate, Message: "chat: no private messages"}
	ErrPeerRefused     error = &transport.Error{Code: CodePeerRefused, Message: "chat: private message refused"}
	ErrReplay          error = &transport.Error{Code: CodeReplay, Message: "chat: private message replayed"}
	ErrBadSnapshot     error = &transport.Error{Code: CodeBadSnapshot, Message: "chat: bad snapshot"}
	ErrConfig          error = &transport.Error{Code: CodeConfig, Message: "chat: invalid configuration"}
	ErrUnverified      error = &transport.Error{Code: CodeUnverified, Message: "chat: the transport proves no keys"}
	ErrPeerLost        error = &transport.Error{Code: CodePeerLost, Message: "chat: the private message may have arrived"}
)
