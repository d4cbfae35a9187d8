package client

import (
	"errors"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// outcome is what an answer means for the request.
type outcome int

const (
	outcomeDone      outcome = iota // final: the service's own reply or error
	outcomeBroken                   // the connection has ended; link.Closed handles that
	outcomeRetry                    // the same host may accept it later
	outcomeNotActive                // another host must be found
	outcomeRefused                  // this command alone is refused, and has no place in the log
	outcomeEnded                    // the session is over
)

// answer is a host's answer to a command.
type answer struct {
	outcome outcome
	reply   []byte
	err     error  // for outcomeDone the service's own
	index   uint64 // the command's place in the log
	data    []byte // of the error
}

// classify decodes the answer to a command. Only three kinds of answers end a command: one with its place in the log;
// CodeReplyGone, when that place is no longer known; and one of the five codes that exclude a place. After any other the
// command may still be executed, and is sent again.
func classify(result []byte, err error) answer {
	if err == nil {
		res, err := wire.UnmarshalDoResult(result)
		if err != nil {
			return answer{outcome: outcomeRetry, err: err}
		}
		return answer{outcome: outcomeDone, reply: res.Reply, index: res.Index}
	}
	e, ok := errors.AsType[*transport.Error](err)
	if !ok || !e.Remote {
		return answer{outcome: outcomeBroken, err: err}
	}
	var applied wire.AppliedData
	if len(e.Data) > 0 && e.Data[0] == 0x94 && transport.Unmarshal(e.Data, &applied) == nil && applied.Index > 0 {
		own := &transport.Error{Code: e.Code, Message: e.Message, Data: applied.Data, Remote: true}
		return answer{outcome: outcomeDone, err: own, index: applied.Index}
	}
	a := answer{outcome: classifyCode(e.Code), err: err, data: e.Data}
	switch e.Code {
	case wire.CodeTooLarge:
		a.outcome = outcomeRefused
	case wire.CodeReplyGone:
		a.outcome = outcomeDone // its number is used
	}
	return a
}

// classifyCode returns what a host's refusal of any call means.
func classifyCode(code transport.Code) outcome {
	switch code {
	case wire.CodeSessionExpired, wire.CodeForbidden, wire.CodeStateLost, wire.CodeQuota, transport.CodeNotMember:
		return outcomeEnded
	case wire.CodeRetry, wire.CodeOutOfOrder, wire.CodeQueueFull:
		return outcomeRetry
	default:
		return outcomeNotActive
	}
}

// aboutHost reports whether an error with this code is about the host, not about the request.
func aboutHost(code transport.Code) bool {
	switch code {
	case wire.CodeNotActive, wire.CodeHalted, wire.CodeNoHost, wire.CodeNoService:
		return true
	}
	return false
}
