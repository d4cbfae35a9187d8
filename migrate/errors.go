package migrate

import "github.com/roam-go/roam/migrate/internal/wire"

// The codes of this package's errors; see [transport.Code].
const (
	CodeNotActive      = wire.CodeNotActive      // the host does not serve the name now; Data may hold the record
	CodeRetry          = wire.CodeRetry          // the host serves, but cannot accept this request now
	CodeSessionExpired = wire.CodeSessionExpired // the session is unknown or has ended
	CodeOutOfOrder     = wire.CodeOutOfOrder     // a previous command of the session is missing
	CodeQueueFull      = wire.CodeQueueFull      // the client's queue of unacknowledged commands is full
	CodeTooLarge       = wire.CodeTooLarge       // a command or query over its limit, not executed; or the answer to a query
	CodeStateLost      = wire.CodeStateLost      // the service was restarted without its state
	CodeNoTarget       = wire.CodeNoTarget       // there is no host to move to
	CodeTransferFailed = wire.CodeTransferFailed // a handoff did not complete; the service stays where it was
	CodeExists         = wire.CodeExists         // the node already hosts the service
	CodeNoHost         = wire.CodeNoHost         // the hosts that held the state do not answer
	CodeForbidden      = wire.CodeForbidden      // the session belongs to another key
	CodeNoQuery        = wire.CodeNoQuery        // the service answers no queries
	CodePanic          = wire.CodePanic          // Apply panicked on the command
	CodeApplication    = wire.CodeApplication    // an error of the service without a code of its own
	CodeConfig         = wire.CodeConfig         // a field of a configuration is invalid
	CodeHalted         = wire.CodeHalted         // the service stopped itself
	CodeNoService      = wire.CodeNoService      // no service has this name
	CodeStore          = wire.CodeStore          // the node's directory cannot be used
	CodeReplyGone      = wire.CodeReplyGone      // the command was executed, but its reply is too large or no longer kept
	CodeBusy           = wire.CodeBusy           // a call of the service's own code has not returned for a long time
	CodeQuota          = wire.CodeQuota          // the client's key has as many sessions as it may have
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
	ErrQuota          = wire.ErrQuota
)
