package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// MaxCommand is the size in bytes of the largest command or query; a longer one is [ErrTooLarge]. It leaves room for others
// in one message between hosts.
const MaxCommand = wire.MaxCommand

const (
	defaultQueueLen   = 1024
	defaultQueueBytes = 8 << 20
)

// ClientConfig configures a [Client]. Resolver and Transport are required.
type ClientConfig struct {
	Resolver  resolver.Resolver
	Transport transport.Transport

	// QueueLen and QueueBytes bound the commands that are not acknowledged yet. 0 stands for 1,024 and 8 MiB.
	QueueLen, QueueBytes int

	// OnMove, if set, is told after the client has followed the service to another host, in order, on a goroutine of the
	// client's own; it may call the client. It is not called for the host that Dial found, nor after Close; Close does not
	// wait for a call in progress.
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
	// Pause is how long the service was not there for this client, until the new host's first acknowledgement or answer:
	// from the later of the last thing heard from the old host and the sending of the oldest unacknowledged command; with
	// no command waiting, from when the client noticed.
	Pause time.Duration
	// Resent is the number of commands sent again to the new host.
	Resent int
}

// Client follows a service by its name, wherever it lives. It is safe for concurrent use.
//
// A client holds one connection, to the active host, and for the time around a planned move a second one, to the next
// host. While it is connected and nothing is asked of it, it has no goroutine and no running timer of its own. While it is
// not connected, commands are queued, and it looks for the service until it is closed: it asks the resolver, and tries the
// hosts that it knows to hold the state, so that a resolver that is down is no hindrance as long as a host answers. If the
// service has more than 128 clients, those that wait for no answer let the others come back first: they take up to a
// millisecond for each client, 10 s at most, and up to eight times as long if the host can't cope with that.
//
// Two things end a client, because to go on in silence would break what it promises; every pending and later call, and
// Events, then returns the error, and the user dials again if that makes sense:
//   - [ErrSessionExpired]: the service has forgotten the session, and with it which of the unacknowledged commands it has
//     executed.
//   - [ErrStateLost]: the service was restarted without its state, so that acknowledged commands can be gone.
type Client struct {
	service  string
	session  uint64
	resolver resolver.Resolver
	tr       transport.Transport
	onMove   func(Move)
	log      *slog.Logger
	prefix   []byte // how the params of every command begin

	ctx    context.Context // ends with the client
	cancel context.CancelFunc
	done   chan struct{} // closed when err is set
	ready  chan struct{} // closed when the session is open for the first time
	wg     sync.WaitGroup

	// sendMu makes the order on the wire the order of the commands. It is taken before mu and held over Conn.Go and
	// Conn.Notify, which don't block; what Conn.Go may call before it returns never takes it. It guards Call.params.
	sendMu sync.Mutex

	// mu guards everything below. It is never held over a call of the transport, the resolver or the user.
	mu      sync.Mutex
	err     error // why the client has ended
	leaving bool  // Shutdown was called
	queue   cmdQueue
	room    queueRoom
	lastAck uint64 // highest Index acknowledged
	feed    eventFeed
	stats   ClientStats // those of them that are counted, but for the feed's

	// replySize is what a reply may well have in bytes: as much as the largest of late; sendWindow after a connection was
	// lost before any came.
	replySize int64

	seen    fence           // the highest seen
	rec     resolver.Record // the newest
	opened  bool            // the session was opened: from now on it exists or has expired
	cur     *hostLink       // carries the session; nil while there is none
	changed chan struct{}   // closed and replaced when commands can be sent on another cur, and at the end
	home    hostTerm        // what OnMove knows: the last host that took up the session, and its term
	away    absence         // since when there is no host

	tending   bool               // the goroutine that looks for the service is there
	wake      chan struct{}      // tells it, 1 deep
	tries     int                // failures in a row: the exponent of the backoff
	notBefore time.Time          // when the next try may be
	spread    time.Duration      // what the host said of coming back without it
	giveWay   time.Time          // until then others come back first, if nothing is waited for
	attempt   int                // which of the known hosts is next
	undial    context.CancelFunc // cancels the dial under way; nil if there is none
	dialling  resolver.Host      // where it goes
	lastErr   searchErrors

	spare  *sparing    // the connection to the next host, or the making of it
	former *hostLink   // carried the session before a planned move, and is closed by hangUp
	hangUp *time.Timer // nil before the first planned move

	watch    *time.Timer // looks after commands that are not answered
	watching bool
	checking bool // the resolver is being asked because the host is silent
	checks   int  // how often in a row
	asking   int  // queries under way
	askSince time.Time

	moves   []Move // not told yet
	telling bool
}

// Dial opens a session with a service. It waits until the service is found and has opened the session. If ctx ends before,
// the error says why that did not come about, and wraps ctx's error beside the cause: [ErrNoService] if the resolver has no
// such name or the service was retired, otherwise the resolver's or the host's last error.
//
// ctx is for Dial alone: the client lives until Close or Shutdown.
func Dial(ctx context.Context, service string, cfg ClientConfig) (*Client, error) {
	c, err := newClient(ctx, service, cfg)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.tend()
	c.mu.Unlock()
	select {
	case <-c.ready:
		return c, nil
	case <-c.done:
		err = c.Err()
	case <-ctx.Done():
		c.mu.Lock()
		err = c.explain(ctx.Err())
		c.mu.Unlock()
	}
	c.Close()
	return nil, err
}

func newClient(ctx context.Context, service string, cfg ClientConfig) (*Client, error) {
	bad := func(field, why string) error {
		return transport.Errorf(CodeConfig, "migrate: ClientConfig.%s %s", field, why)
	}
	if err := wire.CheckName(service); err != nil {
		return nil, err
	}
	switch {
	case cfg.Resolver == nil:
		return nil, bad("Resolver", "is nil")
	case cfg.Transport == nil:
		return nil, bad("Transport", "is nil")
	case cfg.QueueLen < 0:
		return nil, bad("QueueLen", fmt.Sprintf("is %d, below 0", cfg.QueueLen))
	case cfg.QueueBytes < 0:
		return nil, bad("QueueBytes", fmt.Sprintf("is %d, below 0", cfg.QueueBytes))
	}
	if cfg.QueueLen == 0 {
		cfg.QueueLen = defaultQueueLen
	}
	if cfg.QueueBytes == 0 {
		cfg.QueueBytes = defaultQueueBytes
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		service:  service,
		session:  wire.RandomID(),
		resolver: cfg.Resolver,
		tr:       cfg.Transport,
		onMove:   cfg.OnMove,
		log:      cfg.Logger.With("service", service),
		done:     make(chan struct{}),
		ready:    make(chan struct{}),
		changed:  make(chan struct{}),
		wake:     make(chan struct{}, 1),
		room:     queueRoom{maxLen: cfg.QueueLen, maxBytes: cfg.QueueBytes},
		queue:    cmdQueue{next: 1},
		feed:     eventFeed{wake: make(chan struct{}, 1)},
	}
	c.prefix = commandPrefix(service, c.session)
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return c, nil
}

// Do sends a command and waits for the service's reply: it is executed exactly once, whatever moved or died meanwhile.
// Commands take effect in the order of the Do and Go calls. When ctx ends first the command is still executed, at most
// once; only if there was no room for it yet it is not executed at all. It blocks while the queue is full.
//
// An error that the service's Apply returned is an [*transport.Error] with Remote set. [ErrTooLarge] is that of a command over
// MaxCommand, which is not executed. [ErrReplyGone] says that the command was executed, but that the reply was too large, or
// was lost on its way and is no longer kept: hosts keep 8 MiB of replies for a session and 64 MiB for a service. The
// command's bytes are copied.
func (c *Client) Do(ctx context.Context, command []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	call, err := c.enqueue(ctx, command, true)
	if err != nil {
		return nil, err
	}
	return call.Reply(ctx)
}

// Go queues a command and returns at once: ErrQueueFull if there is no room, [ErrTooLarge] for a command that never fits,
// or the error that ended the client. The command's bytes are copied.
func (c *Client) Go(command []byte) (*Call, error) {
	return c.enqueue(context.Background(), command, false)
}

// Query asks without changing the state; the answer reflects every command acknowledged before, to this client or any
// other. It waits for the service while that is moving, until ctx ends. A service that is no [Querier] answers ErrNoQuery.
func (c *Client) Query(ctx context.Context, q []byte) ([]byte, error) {
	if len(q) > MaxCommand {
		return nil, transport.Errorf(CodeTooLarge, "migrate: service %s: query of %d bytes, more than %d", c.service, len(q), MaxCommand)
	}
	params, err := transport.Marshal(&wire.QueryParams{Service: c.service, Session: c.session, Body: q})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	atLeast := c.lastAck
	c.mu.Unlock()
	var reply []byte
	err = c.ask(ctx, wire.MethodQuery, params, func(result []byte) bool {
		var res wire.QueryResult
		if transport.Unmarshal(result, &res) != nil {
			return false
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		reply = res.Reply
		return res.Epoch >= c.seen.epoch && res.Index >= atLeast
	})
	return reply, err
}

// Session is the number of the client's session, as in [Command.Session].
func (c *Client) Session() uint64 { return c.session }

// Where is the host that serves the client now; the zero Host while there is none.
func (c *Client) Where() resolver.Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur == nil || !c.cur.opened {
		return resolver.Host{}
	}
	return c.cur.host
}

// Err is nil until the client has ended, and then says why: [transport.ErrClosed] after Close and Shutdown.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Flush waits until every command queued before is acknowledged, whether the service's reply is an error or not.
func (c *Client) Flush(ctx context.Context) error {
	c.mu.Lock()
	err, calls := c.err, c.queue.pending()
	c.mu.Unlock()
	if err != nil {
		return err
	}
	for _, call := range calls {
		select {
		case <-call.done:
		case <-ctx.Done():
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.explain(ctx.Err())
		}
	}
	if slices.ContainsFunc(calls, func(call *Call) bool { return call.ended }) {
		return c.Err()
	}
	return nil
}

// Shutdown flushes, ends the session so that the service learns of it, and closes the client. Commands are refused from
// the moment it is called. It returns the error of what was not completed before ctx ended; the client is closed then, too.
func (c *Client) Shutdown(ctx context.Context) error {
	c.mu.Lock()
	c.leaving = true
	c.mu.Unlock()
	defer c.Close()
	err := c.Flush(ctx)
	if err == nil {
		var params []byte
		if params, err = transport.Marshal(&wire.LeaveParams{Service: c.service, Session: c.session}); err == nil {
			err = c.ask(ctx, wire.MethodLeave, params, func([]byte) bool { return true })
		}
	}
	if errors.Is(err, ErrSessionExpired) || errors.Is(err, transport.ErrClosed) {
		return nil // it had ended already
	}
	return err
}

// Close ends the client at once; commands not acknowledged may or may not be executed, once at most, and their calls end
// with [transport.ErrClosed]. The service sees the session expire later. Close waits for the client's goroutines, but not
// for an OnMove call in progress.
func (c *Client) Close() error {
	c.fail(transport.Errorf(transport.CodeClosed, "migrate: client of service %s is closed", c.service))
	c.wg.Wait()
	return nil
}

// explain adds to the error of a context why the service was not there.
func (c *Client) explain(ctxErr error) error {
	if c.cur != nil && c.cur.opened {
		return ctxErr
	}
	return fmt.Errorf("migrate: service %s: %w: %w", c.service, c.lastErr.cause(c.rec), ctxErr)
}
