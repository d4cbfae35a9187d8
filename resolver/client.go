package resolver

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/transport"
)

// ClientConfig configures a [Client]. Transport and Server are required.
type ClientConfig struct {
	Transport transport.Transport

	// Server is the address of the resolver and the key that it must prove. A zero key accepts any.
	Server transport.Peer

	// Timeout limits one attempt of a call other than Watch; Hosts, which a [Server] answers late after its start, gets a
	// second more. Then the client closes the connection and repeats the call on another one. It defaults to 1 s.
	Timeout time.Duration

	// Logger logs when the resolver does not answer. It defaults to none.
	Logger *slog.Logger
}

// Client is a [Resolver] that uses a [Server]. It is safe for concurrent use.
//
// All calls share one connection. The client dials when a call needs it and the connection is missing or broken; calls that
// wait share the dial. A call whose attempt fails is repeated after a random pause, at first about 20 ms, later 1 s, until
// its context ends: give every call a deadline. The error then wraps the context's error and describes the last failure.
// Repeating a change is safe, because the server recognizes it, but after such an error of CompareAndSwap its outcome is
// unknown.
//
// A client that has announced a host dials at once when it loses the connection, and repeats the announcement for the rest
// of its ttl. It then pauses less than a second between dials. So a [Server] that restarts knows the hosts within a second.
//
// Errors that the server replied are returned at once, except one: if the server cannot store a change at the moment, the
// client repeats the call. The errors of [transport.IsFinal], which a further attempt would not change, are returned at once
// as well. The next call dials again.
type Client struct {
	cfg     ClientConfig
	watchID atomic.Uint64
	list    chan struct{}      // held by the call that sends a list of services in parts
	stop    context.CancelFunc // stops dialling
	stopped context.Context
	wait    sync.WaitGroup // the dialling goroutine, and one for each connection until Closed is called

	mu       sync.Mutex // guards the fields below
	conn     *clientConn
	dialing  *dial               // nil: no dial in progress
	failed   int                 // dials that failed since the last one that did not
	known    map[string]listSent // by host ID: the announcements that the server has accepted
	present  time.Time           // the end of the last announcement to expire, accepted or not
	renewing bool                // renewAll runs
	closed   bool
}

// clientConn is a connection and its handler. Client.mu guards its fields.
type clientConn struct {
	transport.Conn
	client  *Client
	gone    bool // the connection has ended
	counted bool // in Client.wait
}

// dial is an attempt to connect that several calls wait for.
type dial struct {
	done chan struct{}
	conn *clientConn
	err  error
}

// listSent is an announcement that the server has accepted.
type listSent struct {
	host     Host
	digest   [sha256.Size]byte
	services []string // sorted, not changed
	until    time.Time
}

// same reports whether l and o announce the same.
func (l *listSent) same(o *listSent) bool { return l.host == o.host && l.digest == o.digest }

var errClientClosed = transport.Errorf(transport.CodeClosed, "the client is closed")

const (
	dialTimeout = 5 * time.Second // longer than Timeout: after a restart many clients connect at once
	minPause    = 20 * time.Millisecond
	maxPause    = time.Second
	hostPause   = 500 * time.Millisecond // of a client with hosts: 1.5 times this is below hostsDelay
	maxKnown    = 64                     // hosts whose announcements a client remembers; it sends other lists each time
)

// NewClient returns a client that connects when it is first used.
func NewClient(cfg ClientConfig) (*Client, error) {
	switch {
	case cfg.Transport == nil:
		return nil, invalid("ClientConfig.Transport is nil")
	case cfg.Server.Addr == "":
		return nil, invalid("ClientConfig.Server has no address")
	case cfg.Timeout < 0:
		return nil, invalid("ClientConfig.Timeout is %v: it must not be negative", cfg.Timeout)
	case cfg.Timeout == 0:
		cfg.Timeout = time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Server.Role = transport.RoleHost // a guest must not play resolver
	c := &Client{cfg: cfg, list: make(chan struct{}, 1), known: make(map[string]listSent)}
	c.stopped, c.stop = context.WithCancel(context.Background())
	return c, nil
}

// Dial is like [NewClient] but connects at once. It does not retry: the error names the address if no resolver answers, or
// one with another key.
func Dial(ctx context.Context, cfg ClientConfig) (*Client, error) {
	c, err := NewClient(cfg)
	if err != nil {
		return nil, err
	}
	if _, err := c.connect(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("resolver: %w", err)
	}
	return c, nil
}

var _ Resolver = (*Client)(nil)

// Get implements [Resolver].
func (c *Client) Get(ctx context.Context, name string) (Record, error) {
	if err := CheckName(name); err != nil {
		return Record{}, err
	}
	what := "get the record of " + name
	data, err := c.call(ctx, what, methodGet, nameParams{Name: name})
	return record(what, data, err)
}

// CompareAndSwap implements [Resolver].
func (c *Client) CompareAndSwap(ctx context.Context, expect uint64, next Record) (Record, error) {
	if err := validate(next); err != nil {
		return Record{}, err
	}
	what := fmt.Sprintf("change %s at version %d (outcome unknown)", next.Name, expect)
	data, err := c.call(ctx, what, methodCAS, casParams{Expect: expect, Next: next.onWire()})
	rec, err := record(what, data, err)
	if e, ok := errors.AsType[*transport.Error](err); ok && e.Code == CodeConflict && len(e.Data) > 0 {
		present, derr := decodeRecord(e.Data)
		if derr != nil {
			return Record{}, fmt.Errorf("resolver: %s: the present record in the answer: %w", what, derr)
		}
		return present, err
	}
	return rec, err
}

// Watch implements [Resolver].
func (c *Client) Watch(ctx context.Context, name string, after uint64) (Record, error) {
	if err := CheckName(name); err != nil {
		return Record{}, err
	}
	what := "watch " + name
	id := c.watchID.Add(1)
	params, err := transport.Marshal(watchParams{Name: name, After: after, ID: id})
	if err != nil {
		return Record{}, fmt.Errorf("resolver: %s: %w", what, err)
	}
	data, err := c.retry(ctx, what, func(conn *clientConn) ([]byte, error) {
		result, err := conn.Call(ctx, methodWatch, params)
		if ctx.Err() != nil {
			if p, merr := transport.Marshal(unwatchParams{ID: id}); merr == nil {
				conn.Notify(methodUnwatch, p) // if this fails, the server notices the broken connection
			}
		}
		return result, err
	})
	return record(what, data, err)
}

// Hosts implements [Resolver].
func (c *Client) Hosts(ctx context.Context, name string) ([]Host, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	what := "ask for the hosts of " + name
	data, err := c.call(ctx, what, methodHosts, nameParams{Name: name})
	if err != nil {
		return nil, err
	}
	var hs []Host
	if err := transport.Unmarshal(data, &hs); err != nil {
		return nil, fmt.Errorf("resolver: %s: the answer: %w", what, err)
	}
	if len(hs) == 0 {
		return nil, nil
	}
	return hs, nil
}

// Close closes the client and its connection, waits for its goroutines, and returns nil. Calls in progress return
// [transport.ErrClosed]. It is safe to call several times and from several goroutines.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	conn := c.conn
	c.mu.Unlock()
	c.stop()
	if conn != nil {
		conn.Close()
	}
	c.wait.Wait()
	return nil
}

// record decodes the record in the answer to a call.
func record(what string, data []byte, err error) (Record, error) {
	if err != nil {
		return Record{}, err
	}
	r, err := decodeRecord(data)
	if err != nil {
		err = fmt.Errorf("resolver: %s: the answer: %w", what, err)
	}
	return r, err
}

// call makes a call with v as its params, and repeats it as needed.
func (c *Client) call(ctx context.Context, what, method string, v any) ([]byte, error) {
	params, err := transport.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("resolver: %s: %w", what, err)
	}
	return c.retry(ctx, what, func(conn *clientConn) ([]byte, error) { return c.attempt(ctx, conn, method, params) })
}

// attempt makes a call once. If no answer arrives in time, it closes the connection: the host may have vanished.
func (c *Client) attempt(ctx context.Context, conn *clientConn, method string, params []byte) ([]byte, error) {
	limit := c.cfg.Timeout
	if method == methodHosts {
		limit += hostsDelay
	}
	tctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	result, err := conn.Call(tctx, method, params)
	if err != nil && tctx.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("no answer from %s within %v", c.cfg.Server.Addr, limit)
		c.drop(conn)
		conn.Close()
	}
	return result, err
}

// retry calls try with a connection until it succeeds, the server replies an error other than codeRetry, or ctx ends.
func (c *Client) retry(ctx context.Context, what string, try func(*clientConn) ([]byte, error)) ([]byte, error) {
	var last error
	for failed := 0; ; {
		conn, err := c.connect(ctx)
		dialed := err == nil
		if dialed {
			var result []byte
			if result, err = try(conn); err == nil {
				return result, nil
			}
			if e, ok := errors.AsType[*transport.Error](err); ok && e.Remote && e.Code != codeRetry {
				return nil, answered(what, e)
			}
		}
		switch {
		case c.stopped.Err() != nil:
			return nil, fmt.Errorf("resolver: %s: %w", what, errClientClosed)
		case transport.IsFinal(err):
			return nil, fmt.Errorf("resolver: %s: %w", what, err) // a further attempt would fail, too
		}
		if ctx.Err() == nil {
			if last == nil {
				msg := "resolver does not answer"
				if transport.CodeOf(err) == codeRetry {
					msg = "resolver asks for a repeated call"
				}
				c.cfg.Logger.Warn(msg, "what", what, "addr", c.cfg.Server.Addr, "err", err)
			}
			last = err
			if dialed { // otherwise the next dial waits, for all callers
				failed++
				pause(failed, c.maxPause(), ctx.Done(), c.stopped.Done())
			}
		}
		if end := ctx.Err(); end != nil {
			if last == nil {
				last = err
			}
			if last == end {
				return nil, fmt.Errorf("resolver: %s: %w", what, end)
			}
			return nil, fmt.Errorf("resolver: %s: %w (%v)", what, end, last)
		}
	}
}

// answered returns the error e that the server replied, with the question if e does not name its subject.
func answered(what string, e *transport.Error) error {
	for _, about := range []string{"resolver: service ", "resolver: no service ", "resolver: host "} {
		if strings.HasPrefix(e.Message, about) {
			return e
		}
	}
	short := *e
	short.Message = strings.TrimPrefix(e.Message, "resolver: ")
	return fmt.Errorf("resolver: %s: %w", what, &short)
}

// maxPause is the average of the longest pauses.
func (c *Client) maxPause() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().Before(c.present) {
		return hostPause
	}
	return maxPause
}

// pause waits before the next attempt, longer after each failure, on average at most for most. The channels end it early.
func pause(failed int, most time.Duration, end, stop <-chan struct{}) {
	if failed == 0 {
		return
	}
	d := most
	if failed < 7 {
		d = min(minPause<<(failed-1), most)
	}
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-end:
	case <-stop:
	}
}

// connect returns the connection, and dials if there is none. Its errors do not name this package.
func (c *Client) connect(ctx context.Context) (*clientConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, errClientClosed
	}
	if conn := c.conn; conn != nil {
		c.mu.Unlock()
		return conn, nil
	}
	d := c.dialing
	if d == nil {
		// The dial continues when the caller's context ends: other calls may wait for it, or need it soon.
		d = &dial{done: make(chan struct{})}
		c.dialing = d
		failed := c.failed
		c.wait.Go(func() { c.dial(d, failed) })
	}
	c.mu.Unlock()
	select {
	case <-d.done:
		return d.conn, d.err
	case <-ctx.Done():
		return nil, fmt.Errorf("no resolver answers at %s: %w", c.cfg.Server.Addr, ctx.Err())
	}
}

// dial connects for the callers that wait for d. failed is the number of failed dials before.
func (c *Client) dial(d *dial, failed int) {
	defer close(d.done)
	pause(failed, c.maxPause(), nil, c.stopped.Done())
	ctx, cancel := context.WithTimeout(c.stopped, dialTimeout)
	defer cancel()
	conn := &clientConn{client: c}
	raw, err := c.cfg.Transport.Dial(ctx, c.cfg.Server, conn)
	if err != nil {
		d.err = c.dialError(err)
	}
	c.mu.Lock()
	c.dialing = nil
	closed := c.closed
	c.failed++
	if err == nil {
		conn.Conn = raw
		c.failed = 0
		switch {
		case conn.gone:
			d.err = fmt.Errorf("the resolver at %s closed the connection", c.cfg.Server.Addr)
		case closed:
			d.err = errClientClosed
			fallthrough
		default:
			conn.counted = true
			c.wait.Add(1)
		}
		if d.err == nil {
			c.conn, d.conn = conn, conn
		}
	}
	c.mu.Unlock()
	if err == nil && closed {
		raw.Close()
	}
}

// dialError explains an error of the transport's Dial.
func (c *Client) dialError(err error) error {
	addr := c.cfg.Server.Addr
	switch {
	case errors.Is(err, transport.ErrNotMember):
		return fmt.Errorf("the resolver at %s: %w", addr, err)
	case !errors.Is(err, transport.ErrWrongKey):
		return fmt.Errorf("no resolver answers at %s: %w", addr, err)
	case c.cfg.Transport.Key().IsZero(): // Without TLS the dial was not attempted.
		return fmt.Errorf("the resolver at %s does not prove its key: %w", addr, err)
	}
	return fmt.Errorf("the resolver at %s has another key: %w", addr, err)
}

// drop makes the next call dial, unless there is a newer connection.
func (c *Client) drop(conn *clientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.conn = nil
	}
}

// Handle implements [transport.Handler]. A resolver sends no requests.
func (cc *clientConn) Handle(_ transport.Conn, r *transport.Request) {
	r.Reply(nil, transport.Errorf(transport.CodeNoMethod, "resolver: a client has no method %.100q", r.Method))
}

// Closed implements [transport.Handler].
func (cc *clientConn) Closed(transport.Conn, error) {
	c := cc.client
	c.drop(cc)
	c.mu.Lock()
	defer c.mu.Unlock()
	cc.gone = true
	if cc.counted {
		c.renewSoon()
		c.wait.Done()
	}
}
