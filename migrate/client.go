package migrate

import (
	"context"
	"iter"
	"log/slog"
	"time"

	"github.com/roam-go/roam/migrate/internal/client"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// MaxCommand is the largest size of a command or query in bytes. A larger one fails with [ErrTooLarge].
const MaxCommand = wire.MaxCommand

// ClientConfig configures a [Client]. Resolver and Transport are required.
type ClientConfig struct {
	// Resolver finds the service's hosts, and Transport connects to them. The client closes neither.
	Resolver  resolver.Resolver
	Transport transport.Transport

	// QueueLen and QueueBytes limit the commands that are not acknowledged yet. They default to 1,024 and 8 MiB.
	QueueLen, QueueBytes int

	// OnMove, if set, is called after the client has followed the service to another host. Calls are made in order, on a
	// goroutine of their own, and may call the client. OnMove is not called for the host that Dial found, nor after Close;
	// Close does not wait for a call in progress.
	OnMove func(Move)

	// Logger logs how the client stays connected. It defaults to one that discards everything.
	Logger *slog.Logger
}

// Move describes a move of the service, as a client saw it.
type Move struct {
	// Loss and Epoch are the term that began with the move.
	Loss, Epoch uint64
	// Host is the new active host.
	Host resolver.Host
	// Planned is false if the client lost its host without notice.
	Planned bool
	// Pause is how long the service was unavailable to this client. It ends with the first acknowledgement or answer of the
	// new host. It begins when the old host was last heard, or when the oldest unacknowledged command was queued, whichever is
	// later; with no command waiting, when the client noticed the loss.
	Pause time.Duration
	// Resent is the number of commands sent again to the new host.
	Resent int
}

// ClientStats are the counters and gauges of a [Client]. Counters start at 0 in Dial and only grow.
type ClientStats struct {
	// Sent is the number of commands sent to a host. Resent counts how often one of them was sent again. Acknowledged is the
	// number of commands with a reply; an error of the service is a reply, too.
	Sent, Resent, Acknowledged uint64
	// Moves counts how often the client followed the service to another host, or to another term of the same host.
	// UnplannedMoves counts those without notice; see [Move].
	Moves, UnplannedMoves uint64
	// Reconnects counts new connections to the same host in the same term.
	Reconnects uint64
	// Events is the number of events received for [Client.Events]. Gaps is the number of them that came after a gap, and
	// EventsLost the number of events in these gaps; see [Event].Gap.
	Events, Gaps, EventsLost uint64

	// QueueLen and QueueBytes are gauges: the number and size of the commands that are not acknowledged yet; see
	// [ClientConfig].
	QueueLen, QueueBytes int
}

// Client finds a service by its name and follows it from host to host. It is safe for concurrent use.
//
// A client has one connection, to the active host; around a planned move it has a second one, to the next host. While it
// is connected and idle, it has no goroutine and no running timer of its own. While it has no host, it queues commands
// and searches until it is closed: it asks the resolver, and tries the hosts that it knows to hold the state, so that it
// also finds the service while the resolver is down. If a service with more than 128 clients loses its host, a client
// without a waiting request lets the others go first: it reconnects after a random delay of up to a millisecond for each
// client, 10 s at most. While the host is overloaded, that limit doubles up to three times.
//
// Two errors end a client, because continuing silently would violate its guarantees. Every pending and later call, and
// Events, then return the error, and the user may dial again:
//   - [ErrSessionExpired]: the service no longer knows the session, so it is unknown which of the unacknowledged
//     commands were executed.
//   - [ErrStateLost]: the service was restarted without its state, so acknowledged commands may be lost.
type Client client.Client

// Dial opens a session with a service, and waits until the service is found and the session is open. If ctx ends first, the
// error wraps both ctx's error and the reason: [ErrNoService] if the resolver has no such name or the service was retired,
// otherwise the last error of the resolver or of a host. Dial returns [ErrQuota] at once if the client's key has as many
// sessions as the service allows ([Policy.SessionsPerKey]).
//
// ctx limits Dial alone: the client lives until Close or Shutdown.
func Dial(ctx context.Context, service string, cfg ClientConfig) (*Client, error) {
	inner := client.Config{
		Resolver: cfg.Resolver, Transport: cfg.Transport, QueueLen: cfg.QueueLen, QueueBytes: cfg.QueueBytes, Logger: cfg.Logger,
	}
	if cfg.OnMove != nil {
		inner.OnMove = func(m client.Move) { cfg.OnMove(Move(m)) }
	}
	c, err := client.Dial(ctx, service, inner)
	return (*Client)(c), err
}

func (c *Client) inner() *client.Client { return (*client.Client)(c) }

// Do sends a command and waits for the service's reply. The command takes effect exactly once, even if the service moves
// or hosts die meanwhile. Commands take effect in the order of the Do and Go calls. Do blocks while the queue is full: if
// ctx ends before there is room, the command is not executed. If ctx ends later, the command is still executed, at most
// once.
//
// An error that the service's Apply returned is a [*transport.Error] with Remote set. [ErrTooLarge] means that the
// command was not executed, because it exceeds MaxCommand. [ErrReplyGone] means that the command was executed, but its
// reply was too large, or was lost on its way and is no longer kept: hosts keep 8 MiB of replies for a session, and 64
// MiB for a service. The bytes of command are copied.
//
// Do and Query must not be called inside a service's Apply, because the service could wait for itself: they return
// [ErrForbidden].
func (c *Client) Do(ctx context.Context, command []byte) ([]byte, error) {
	return c.inner().Do(ctx, command)
}

// Go queues a command and returns at once. It returns [ErrQueueFull] if there is no room, [ErrTooLarge] for a command that
// never fits, or the error that ended the client. The bytes of command are copied.
func (c *Client) Go(command []byte) (*Call, error) {
	call, err := c.inner().Go(command)
	return (*Call)(call), err
}

// Query asks the service without changing its state. The answer reflects every command acknowledged before the call, to this
// client or any other. If the service has no host, Query waits for one until ctx ends. A service that does not
// implement [Querier] answers with [ErrNoQuery].
func (c *Client) Query(ctx context.Context, q []byte) ([]byte, error) {
	return c.inner().Query(ctx, q)
}

// Events yields the service's events from number from on, each once and in order, until ctx ends, the client is closed,
// or the session expires. The last pair has the error. If from is 0, it begins with the first event after the active host
// has processed the request. Events are numbered from 1 in the order in which Apply emits them: to miss nothing after a
// command, return its event number from Apply and pass it as from.
//
// The client buffers 4,096 events or 8 MiB for a slow reader. To a reader that falls behind further, the host sends the
// events again from where the buffer ended, so that it only misses those that the service no longer keeps
// ([Policy.EventBytes]); [Event.Gap] reports them.
//
// A client has one stream of events: while one loop runs, a second one yields an error at once.
func (c *Client) Events(ctx context.Context, from uint64) iter.Seq2[Event, error] {
	events := c.inner().Events(ctx, from)
	return func(yield func(Event, error) bool) {
		events(func(ev client.Event, err error) bool { return yield(Event(ev), err) })
	}
}

// Session returns the number of the client's session, which is [Command.Session] of its commands.
func (c *Client) Session() uint64 { return c.inner().Session() }

// Where returns the host that serves the client now, or the zero Host if there is none.
func (c *Client) Where() resolver.Host { return c.inner().Where() }

// Stats returns the client's counters and gauges. They include every reply that a call has returned.
func (c *Client) Stats() ClientStats { return ClientStats(c.inner().Stats()) }

// Err returns nil until the client has ended, and then the reason: [transport.ErrClosed] after Close and Shutdown.
func (c *Client) Err() error { return c.inner().Err() }

// Flush waits until every command queued before the call has a reply. The service's errors are replies, too.
func (c *Client) Flush(ctx context.Context) error { return c.inner().Flush(ctx) }

// Shutdown flushes, ends the session at the service, and closes the client. The client takes no more commands once it is
// called. If ctx ends first, the client is closed and Shutdown returns the error of the step that was not completed.
func (c *Client) Shutdown(ctx context.Context) error { return c.inner().Shutdown(ctx) }

// Close ends the client at once. Commands without a reply may or may not be executed, at most once, and their calls fail
// with [transport.ErrClosed]. The session expires at the service later. Close waits for the client's goroutines, but not
// for an OnMove call in progress.
func (c *Client) Close() error { return c.inner().Close() }

// Call is a command in progress.
type Call client.Call

// Done returns a channel that is closed when the reply has arrived or the client has ended.
func (c *Call) Done() <-chan struct{} { return (*client.Call)(c).Done() }

// Reply waits for the reply and returns it. If ctx ends first, the call continues.
func (c *Call) Reply(ctx context.Context) ([]byte, error) { return (*client.Call)(c).Reply(ctx) }

// Event is an event that the service emitted with [Command.Emit].
type Event struct {
	// Seq is the event's number in the service's stream.
	Seq uint64
	// Time is the log time of the command that emitted it.
	Time time.Time
	// Epoch is the epoch of the host that sent it.
	Epoch uint64
	// Body is what was emitted. It belongs to the receiver, but may share memory with up to 256 KiB of other bodies: copy a
	// small one that is kept for long.
	Body []byte
	// Gap, if not 0, reports that the events from Gap to Seq-1 are lost: the client was away for longer than the service keeps
	// events.
	Gap uint64
	// More reports whether the next event is available: it is yielded right after this one, unless ctx ends.
	More bool
}
