// Package client is the client of package migrate, which exports and documents its types: it finds the active host of a
// service, sends commands, receives events, and follows the service to other hosts.
//
// A [Client] is made of parts that do no I/O, each with its own file: the queue of unacknowledged commands (queue.go),
// the feed of received events (events.go), the connections (conn.go, park.go), the search for the active host (search.go)
// and the watchdog (watch.go). Client.mu guards them all, and the Client does the I/O.
package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/roam-go/roam/migrate/internal/hooks"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

const (
	defaultQueueLen   = 1024
	defaultQueueBytes = 8 << 20
)

// Config configures a [Client]. Resolver and Transport are required.
type Config struct {
	// Resolver and Transport find and reach the hosts.
	Resolver  resolver.Resolver
	Transport transport.Transport
	// QueueLen and QueueBytes limit the unacknowledged commands. They default to 1,024 and 8 MiB.
	QueueLen, QueueBytes int
	// OnMove, if set, is called after each move, in order, on a goroutine that Close does not wait for.
	OnMove func(Move)
	// Logger defaults to one that discards.
	Logger *slog.Logger
}

// Move reports that another host has taken up the session.
type Move struct {
	// Loss and Epoch are the term that began with the move.
	Loss, Epoch uint64
	// Host is the new active host.
	Host resolver.Host
	// Planned is false if the client lost its host without notice.
	Planned bool
	// Pause is how long the client had no host.
	Pause time.Duration
	// Resent is the number of commands sent again.
	Resent int
}

// Client is a client of one service. It is safe for concurrent use.
type Client struct {
	service   string
	resolver  resolver.Resolver
	transport transport.Transport
	log       *slog.Logger
	onMove    func(Move)
	moves     *hooks.Queue // calls onMove

	ctx    context.Context // ends with the client
	cancel context.CancelFunc
	done   chan struct{} // closed when err is set
	ready  chan struct{} // closed when the session is open for the first time
	wg     sync.WaitGroup

	// sendMu makes the order of calls on the wire that of the commands. It is locked before mu and held over Conn.Go and
	// Conn.Notify, which don't block. Callbacks that Conn.Go may call before it returns never lock it. It guards Call.params.
	sendMu sync.Mutex

	// mu guards the fields below. It is never held over a call of the transport, the resolver or the user.
	mu      sync.Mutex
	err     error // why the client has ended
	closing bool  // Shutdown was called
	session session
	queue   cmdQueue
	feed    eventFeed
	conns   connections
	search  search
	watch   watchdog
	stats   Stats // the counters, except for the feed's
}

// fence is the fencing token of a term; it only grows.
type fence struct{ loss, epoch uint64 }

func (f fence) less(o fence) bool {
	return f.loss < o.loss || f.loss == o.loss && f.epoch < o.epoch
}

func fenceOf(rec *resolver.Record) fence { return fence{rec.Loss, rec.Epoch} }

// session is the client's session with the service.
type session struct {
	id     uint64
	opened bool  // at least once: from then on it exists or has expired
	seen   fence // the highest term seen

	// host and term are those that took up the session last.
	host resolver.Host
	term fence

	absentSince time.Time // when the session last lost its host; zero while it has one
	planned     bool      // whether it was told before
}

// absent notes that the session has no host since a time, unless it had none before.
func (s *session) absent(since time.Time, planned bool) {
	if s.absentSince.IsZero() {
		s.absentSince, s.planned = since, planned
	}
}

// takenUp notes that host has taken up the session by a term. It returns the move, if it was one: neither the first opening
// nor one by the same host in the same term is.
func (s *session) takenUp(host resolver.Host, term fence) (m Move, moved bool) {
	if moved = s.opened && (!s.host.Same(host) || s.term.less(term)); moved {
		m = Move{Loss: term.loss, Epoch: term.epoch, Host: host, Planned: s.planned}
		if !s.absentSince.IsZero() {
			m.Pause = time.Since(s.absentSince)
		}
	}
	s.opened, s.host, s.term, s.seen = true, host, term, term
	s.absentSince, s.planned = time.Time{}, false
	return m, moved
}

// Dial opens a session and waits for it. If ctx ends first, the error wraps its cause and the last failure.
func Dial(ctx context.Context, service string, cfg Config) (*Client, error) {
	c, err := newClient(ctx, service, cfg)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.ensureSearch()
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

func newClient(ctx context.Context, service string, cfg Config) (*Client, error) {
	if err := wire.CheckName(service); err != nil {
		return nil, err
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c := &Client{
		service:   service,
		resolver:  cfg.Resolver,
		transport: cfg.Transport,
		log:       cfg.Logger.With("service", service),
		onMove:    cfg.OnMove,
		// Close does not wait for this goroutine, because OnMove may call Close.
		moves:   hooks.New(0, func(run func()) { go run() }),
		done:    make(chan struct{}),
		ready:   make(chan struct{}),
		session: session{id: wire.RandomID()},
		feed:    eventFeed{wake: make(chan struct{}, 1)},
		conns:   connections{changed: make(chan struct{})},
		search:  search{wakeup: make(chan struct{}, 1), retry: newBackoff()},
		watch:   watchdog{retry: backoff{first: silenceLimit, step: 2 * silenceLimit}},
	}
	c.queue = cmdQueue{
		prefix: commandPrefix(service, c.session.id),
		next:   1,
		room:   queueRoom{maxLen: cfg.QueueLen, maxBytes: cfg.QueueBytes},
	}
	c.watch.check = c.checkSilence
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return c, nil
}

// validate checks the configuration and fills in the defaults.
func (cfg *Config) validate() error {
	invalid := func(field, why string) error {
		return transport.Errorf(wire.CodeConfig, "migrate: ClientConfig.%s %s", field, why)
	}
	switch {
	case cfg.Resolver == nil:
		return invalid("Resolver", "is nil")
	case cfg.Transport == nil:
		return invalid("Transport", "is nil")
	case cfg.QueueLen < 0:
		return invalid("QueueLen", fmt.Sprintf("is %d, below 0", cfg.QueueLen))
	case cfg.QueueBytes < 0:
		return invalid("QueueBytes", fmt.Sprintf("is %d, below 0", cfg.QueueBytes))
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
	return nil
}

// Session returns the session's ID.
func (c *Client) Session() uint64 { return c.session.id }

// Where returns the host that serves the client now, or the zero Host.
func (c *Client) Where() resolver.Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.conns.current; l != nil && l.opened {
		return l.host
	}
	return resolver.Host{}
}

// Err returns nil until the client has ended, and then the reason.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Flush waits until every command queued before has a reply.
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

// Shutdown flushes, ends the session and closes the client.
func (c *Client) Shutdown(ctx context.Context) error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	defer c.Close()
	err := c.Flush(ctx)
	if err == nil {
		var params []byte
		if params, err = transport.Marshal(&wire.LeaveParams{Service: c.service, Session: c.session.id}); err == nil {
			err = c.ask(ctx, wire.MethodLeave, params, func([]byte) bool { return true })
		}
	}
	if errors.Is(err, wire.ErrSessionExpired) || errors.Is(err, transport.ErrClosed) {
		return nil // the session had ended before
	}
	return err
}

// Close ends the client at once, and waits for its goroutines except for an OnMove call.
func (c *Client) Close() error {
	c.end(transport.Errorf(transport.CodeClosed, "migrate: client of service %s is closed", c.service))
	c.wg.Wait()
	return nil
}

// end ends the client. Only the first call has an effect.
func (c *Client) end(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	c.queue.end(err)
	c.feed.end(err)
	c.moves.Close()
	c.watch.stop()
	links := c.conns.end()
	close(c.done)
	c.mu.Unlock()
	c.cancel()
	for _, l := range links {
		l.conn.Close()
	}
	if !errors.Is(err, transport.ErrClosed) {
		c.log.Warn("client ended", "err", err)
	}
}

// spawn starts a goroutine that Close waits for. c.mu is held.
func (c *Client) spawn(f func()) {
	if c.err == nil {
		c.wg.Go(f)
	}
}

// explain adds to a context's error why the service could not be reached. c.mu is held.
func (c *Client) explain(ctxErr error) error {
	if l := c.conns.current; l != nil && l.opened {
		return ctxErr
	}
	return fmt.Errorf("migrate: service %s: %w: %w", c.service, c.search.cause(), ctxErr)
}

func (c *Client) errStateLost(epoch uint64) error {
	return transport.Errorf(wire.CodeStateLost, "migrate: service %s was restarted without its state (epoch %d)",
		c.service, epoch)
}

// openParams returns the params of roam.open. c.mu is held.
func (c *Client) openParams() wire.OpenParams {
	s := &c.session
	return wire.OpenParams{Service: c.service, Session: s.id, Resume: s.opened, Loss: s.seen.loss, Epoch: s.seen.epoch}
}

// sleep waits for d. It returns false if ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
