package migrate

import "github.com/roam-go/roam/migrate/internal/wire"

// The codes of this package's errors; see [transport.Code].
const (
	CodeNotActive      = wire.CodeNotActive      // the host does not serve the name now; Data may hold the record
	CodeRetry          = wire.CodeRetry          // the host serves, but can't take this now
	CodeSessionExpired = wire.CodeSessionExpired // the session is unknown or has ended
	CodeOutOfOrder     = wire.CodeOutOfOrder     // a command whose predecessor in the session is missing
	CodeQueueFull      = wire.CodeQueueFull      // the client's queue of unacknowledged commands is full
	CodeTooLarge       = wire.CodeTooLarge       // a command or query over its limit, which was not executed; an answer to a query
	CodeStateLost      = wire.CodeStateLost      // the service was restarted without its state
	CodeNoTarget       = wire.CodeNoTarget       // no host to move to
	CodeTransferFailed = wire.CodeTransferFailed // a handoff did not complete; the service goes on where it was
	CodeExists         = wire.CodeExists         // this node hosts the service already
	CodeNoHost         = wire.CodeNoHost         // the hosts that held the state do not answer
	CodeForbidden      = wire.CodeForbidden      // the session belongs to another key
	CodeNoQuery        = wire.CodeNoQuery        // the service answers no queries
	CodePanic          = wire.CodePanic          // Apply panicked on the command
	CodeApplication    = wire.CodeApplication    // an error of the service without a code of its own
	CodeConfig         = wire.CodeConfig         // a field of a configuration is invalid
	CodeHalted         = wire.CodeHalted         // the service stopped itself
	CodeNoService      = wire.CodeNoService      // no service of that name exists
	CodeStore          = wire.CodeStore          // the node's directory can't be used
	CodeReplyGone      = wire.CodeReplyGone      // the command was executed, and its reply is over its limit or no longer kept
	CodeBusy           = wire.CodeBusy           // the service's own code has not returned for long
)

// Sentinels for [errors.Is].
var (
	ErrNotActive      = wire.ErrNotActive
	ErrRetry          = wire.ErrRetry
	ErrSessionExpired = wire.ErrSessionExpired
	ErrOutOfOrder     = wire.ErrOutOfOrder
	ErrQueueFull      = wire.ErrQueueFull
	ErrTooLarge       = wire.ErrTooLarge
	ErrStateLost      = wire.ErrStateLost
	ErrNoTarget       = wire.ErrNoTarget
	ErrTransferFailed = wire.ErrTransferFailed
	ErrExists         = wire.ErrExists
	ErrNoHost         = wire.ErrNoHost
	ErrForbidden      = wire.ErrForbidden
	ErrNoQuery        = wire.ErrNoQuery
	ErrPanic          = wire.ErrPanic
	ErrConfig         = wire.ErrConfig
	ErrHalted         = wire.ErrHalted
	ErrNoService      = wire.ErrNoService
	ErrStore          = wire.ErrStore
	ErrReplyGone      = wire.ErrReplyGone
	ErrBusy           = wire.ErrBusy
)
