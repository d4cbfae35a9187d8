// Package wire holds the messages between clients and hosts, their error codes, and the limits that both sides share.
package wire

import "github.com/roam-go/roam/transport"

// The codes of the errors of package migrate, which makes them public; see [transport.Code].
const (
	CodeNotActive      transport.Code = 200 // the host does not serve the name now; Data may hold the record
	CodeRetry          transport.Code = 201 // the host serves, but cannot accept this request now
	CodeSessionExpired transport.Code = 202 // the session is unknown or has ended
	CodeOutOfOrder     transport.Code = 203 // a previous command of the session is missing
	CodeQueueFull      transport.Code = 204 // the client's queue of unacknowledged commands is full
	CodeTooLarge       transport.Code = 205 // a command or query over its limit, not executed; or the answer to a query
	CodeStateLost      transport.Code = 206 // the service was restarted without its state
	CodeNoTarget       transport.Code = 207 // there is no host to move to
	CodeTransferFailed transport.Code = 208 // a handoff did not complete; the service stays where it was
	CodeExists         transport.Code = 209 // the node already hosts the service
	CodeNoHost         transport.Code = 210 // the hosts that held the state do not answer
	CodeForbidden      transport.Code = 211 // the session belongs to another key
	CodeNoQuery        transport.Code = 212 // the service answers no queries
	CodePanic          transport.Code = 213 // Apply panicked on the command
	CodeApplication    transport.Code = 214 // an error of the service without a code of its own
	CodeConfig         transport.Code = 215 // a field of a configuration is invalid
	CodeHalted         transport.Code = 216 // the service stopped itself
	CodeNoService      transport.Code = 217 // no service has this name
	CodeStore          transport.Code = 218 // the node's directory cannot be used
	CodeReplyGone      transport.Code = 219 // the command was executed, but its reply is too large or no longer kept
	CodeBusy           transport.Code = 220 // a call of the service's own code has not returned for a long time
	CodeQuota          transport.Code = 221 // the client's key has as many sessions as it may have
)

// Sentinels for [errors.Is].
var (
	ErrNotActive      error = &transport.Error{Code: CodeNotActive, Message: "migrate: not the active host"}
	ErrRetry          error = &transport.Error{Code: CodeRetry, Message: "migrate: try again"}
	ErrSessionExpired error = &transport.Error{Code: CodeSessionExpired, Message: "migrate: session expired"}
	ErrOutOfOrder     error = &transport.Error{Code: CodeOutOfOrder, Message: "migrate: command out of order"}
	ErrQueueFull      error = &transport.Error{Code: CodeQueueFull, Message: "migrate: queue full"}
	ErrTooLarge       error = &transport.Error{Code: CodeTooLarge, Message: "migrate: too large"}
	ErrStateLost      error = &transport.Error{Code: CodeStateLost, Message: "migrate: the service's state was lost"}
	ErrNoTarget       error = &transport.Error{Code: CodeNoTarget, Message: "migrate: no host to move to"}
	ErrTransferFailed error = &transport.Error{Code: CodeTransferFailed, Message: "migrate: handoff failed"}
	ErrExists         error = &transport.Error{Code: CodeExists, Message: "migrate: hosted already"}
	ErrNoHost         error = &transport.Error{Code: CodeNoHost, Message: "migrate: no host that held the state answers"}
	ErrForbidden      error = &transport.Error{Code: CodeForbidden, Message: "migrate: forbidden"}
	ErrNoQuery        error = &transport.Error{Code: CodeNoQuery, Message: "migrate: the service answers no queries"}
	ErrPanic          error = &transport.Error{Code: CodePanic, Message: "migrate: apply panicked"}
	ErrConfig         error = &transport.Error{Code: CodeConfig, Message: "migrate: invalid configuration"}
	ErrHalted         error = &transport.Error{Code: CodeHalted, Message: "migrate: service halted"}
	ErrNoService      error = &transport.Error{Code: CodeNoService, Message: "migrate: no such service"}
	ErrStore          error = &transport.Error{Code: CodeStore, Message: "migrate: the node's directory can't be used"}
	ErrBusy           error = &transport.Error{Code: CodeBusy, Message: "migrate: the service does not return"}
	ErrQuota          error = &transport.Error{Code: CodeQuota, Message: "migrate: too many sessions of one key"}
	ErrReplyGone      error = &transport.Error{Code: CodeReplyGone, Message: "migrate: executed, the reply is gone"}
)
