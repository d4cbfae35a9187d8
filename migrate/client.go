package migrate

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// ClientConfig configures a [Client]. Resolver and Transport are required.
type ClientConfig struct {
	Resolver  resolver.Resolver
	Transport transport.Transport

	// QueueLen and QueueBytes bound the commands that are not acknowledged yet. 0 stands for 1,024 and 8 MiB.
	QueueLen, QueueBytes int

	// OnMove, if set, is told after the client has followed the service to another host, in order, on a goroutine of the
	// client's own; it may call the client.
	OnMove func(Move)

	// Logger is told what the client does to stay connected; nil discards.
	Logger *slog.Logger
}

// Move tells a client's user that the service has moved.
type Move struct {
	// Loss and Epoch are the term that began with the move.
	Loss, Epoch uint64
	// Host serves now.
	Host resolver.Host
	// Planned is false when the client lost its host without being told to move.
	Planned bool
	// Pause is how long the service was not there for this client: from the later of the last thing heard from the old
	// host and the sending of the oldest unacknowledged command, until the new host's first acknowledgement or answer.
	Pause time.Duration
	// Resent is the number of commands sent again to the new host.
	Resent int
}

// Event is something a service published with [Command.Emit].
type Event struct {
	// Seq is the number of the event in the service's stream.
	Seq uint64
	// Time is the log's time of the command that emitted it.
	Time time.Time
	// Epoch is the epoch in which the host that sent it served.
	Epoch uint64
	// Body is what was emitted. It belongs to the receiver.
	Body []byte
	// Gap, if not 0, says that the events from Gap to Seq-1 are gone: the client was away for longer than they were kept.
	Gap uint64
}

// Client follows a service by its name, wherever it lives. It is safe for concurrent use.
type Client struct{}

// Dial opens a session with a service.
func Dial(ctx context.Context, service string, cfg ClientConfig) (*Client, error) {
	return nil, errors.ErrUnsupported
}

// Do sends a command and waits for the service's reply: it is executed exactly once, whatever moved or died meanwhile.
// Commands take effect in the order of the Do and Go calls. When ctx ends first the command is still executed, at most
// once. It blocks while the queue is full.
func (c *Client) Do(ctx context.Context, command []byte) ([]byte, error) {
	return nil, errors.ErrUnsupported
}

// Go queues a command and returns at once: ErrQueueFull if there is no room.
func (c *Client) Go(command []byte) (*Call, error) { return nil, errors.ErrUnsupported }

// Query asks without changing the state; the answer reflects every command acknowledged before.
func (c *Client) Query(ctx context.Context, q []byte) ([]byte, error) {
	return nil, errors.ErrUnsupported
}

// Events yields the service's events from number from on (0: only those to come), in order and once each, until ctx ends,
// the client is closed, or the session expires; the last pair holds the error. A reader that does not keep up gets a Gap.
func (c *Client) Events(ctx context.Context, from uint64) iter.Seq2[Event, error] { return nil }

// Session is the number of the client's session, as in [Command.Session].
func (c *Client) Session() uint64 { return 0 }

// Where is the host that serves the client now; the zero Host while there is none.
func (c *Client) Where() resolver.Host { return resolver.Host{} }

// Flush waits until every command queued before is acknowledged.
func (c *Client) Flush(ctx context.Context) error { return errors.ErrUnsupported }

// Shutdown flushes, ends the session so that the service learns of it, and closes the client.
func (c *Client) Shutdown(ctx context.Context) error { return errors.ErrUnsupported }

// Close ends the client at once; commands not acknowledged may or may not be executed, once at most. The session expires.
func (c *Client) Close() error { return nil }

// Call is a command on its way.
type Call struct{}

// Done is closed when the reply is there.
func (c *Call) Done() <-chan struct{} { return nil }

// Reply waits for and returns the reply.
func (c *Call) Reply(ctx context.Context) ([]byte, error) { return nil, errors.ErrUnsupported }
