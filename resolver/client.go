package resolver

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/transport"
)

// ClientConfig configures a [Client]. Transport and Server are required.
type ClientConfig struct {
	Transport transport.Transport

	// Server is where the resolver listens, and the key that it must prove; a zero key trusts whoever answers there.
	Server transport.Peer

	// Timeout bounds one attempt of a call other than Watch; then the connection is given up and the call is tried again
	// on another one. 0 stands for 1 s.
	Timeout time.Duration

	// Logger is told when the resolver is lost and found; nil discards.
	Logger *slog.Logger
}

// Client is the [Resolver] that a [Server] serves. It is safe for concurrent use.
//
// All calls share one connection, which is made when a call needs it and made again when it broke: an idle client has at
// most the connection, and no goroutine beside the connection's. A call whose attempt fails is repeated after a pause (at
// random about 20 ms at first, 1 s later) until its context ends: give every call one. However many calls wait, they dial
// together. What was asked is the same in each attempt, and the server takes a resent change for what it is, so that
// nothing happens twice. The error then wraps the context's and says what the last attempt ran into; after a
// CompareAndSwap its outcome is unknown. Errors that the server answered are returned at once, and so are
// [transport.ErrWrongKey], where who answers does not prove the key of ClientConfig.Server, and [transport.ErrVersion]: no
// later attempt of the call would fare better, and none is made. The next call dials again.
type Client struct {
	cfg     ClientConfig
	watchID atomic.Uint64
	list    chan struct{}      // held by the call that sends a list of services in parts
	stop    context.CancelFunc // ends dialling
	stopped context.Context
	wait    sync.WaitGroup // the dialling goroutine, and one for each connection until its handler was told its end

	mu      sync.Mutex // guards what follows
	conn    *clientConn
	dialing *dial               // not nil while someone dials
	failed  int                 // dials that failed since the last one that did not
	known   map[string]listSent // by host ID: the announcements that the server should know
	closed  bool
}

// clientConn is a connection as the client sees it; it is the connection's handler, too. Client.mu guards its fields.
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

// listSent is an announcement that the server took.
type listSent struct {
	host   Host
	digest [sha256.Size]byte
}

var errClientClosed = transport.Errorf(transport.CodeClosed, "the client is closed")

const (
	dialTimeout = 5 * time.Second // longer than an attempt: after a restart many clients shake hands at once
	minPause    = 20 * time.Millisecond
	maxPause    = time.Second
	maxKnown    = 64 // hosts whose announcements a client remembers; others send their list each time
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
	c := &Client{cfg: cfg, list: make(chan struct{}, 1), known: make(map[string]listSent)}
	c.stopped, c.stop = context.WithCancel(context.Background())
	return c, nil
}

// Dial is [NewClient] for programs that should say at once, in an error that names the address, when no resolver answers, or
// one with another key: it connects, and does not try twice.
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
				conn.Notify(methodUnwatch, p) // The server learns of a broken connection by itself.
			}
		}
		return result, err
	})
	return record(what, data, err)
}

// Announce implements [Resolver]. A list of services that the server knows from before is not sent again.
func (c *Client) Announce(ctx context.Context, h Host, services []string, ttl time.Duration) error {
	if err := CheckAnnouncement(h, services, ttl); err != nil {
		return err
	}
	if ttl == 0 {
		services = nil
	} else {
		services = slices.Clone(services)
		slices.Sort(services)
		services = slices.Compact(services)
	}
	sent := listSent{host: h, digest: digestOf(services)}
	p := announceParams{Host: h, TTL: wireTTL(ttl), Digest: sent.digest[:]}
	what := "announce host " + h.ID

	c.mu.Lock()
	known := c.known[h.ID] == sent
	c.mu.Unlock()
	if known && ttl > 0 {
		p.Part, p.Services = partRenew, []string{}
		data, err := c.call(ctx, what, methodAnnounce, p)
		if err != nil {
			return err
		}
		if err := transport.Unmarshal(data, &known); err != nil {
			return fmt.Errorf("resolver: %s: the answer: %w", what, err)
		}
		if known {
			return nil
		}
	}

	// Parts of two lists of one host must not mix.
	select {
	case c.list <- struct{}{}:
		defer func() { <-c.list }()
	case <-ctx.Done():
		return fmt.Errorf("resolver: %s: %w", what, ctx.Err())
	}
	var parts [][]byte
	for last := false; !last; {
		var n int
		n, last = nextPart(services)
		p.Part, p.Services = partMore, append([]string{}, services[:n]...)
		if last {
			p.Part = partLast
		}
		services = services[n:]
		part, err := transport.Marshal(p)
		if err != nil {
			return fmt.Errorf("resolver: %s: %w", what, err)
		}
		parts = append(parts, part)
	}
	// All parts go over one connection; when it breaks they begin anew.
	_, err := c.retry(ctx, what, func(conn *clientConn) (result []byte, err error) {
		for _, part := range parts {
			if result, err = c.attempt(ctx, conn, methodAnnounce, part); err != nil {
				return nil, err
			}
		}
		return result, nil
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, h.ID)
	if err == nil && ttl > 0 && len(c.known) < maxKnown {
		c.known[h.ID] = sent
	}
	return err
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

// Close ends the client and its connection; calls under way end with [transport.ErrClosed]. It waits for the client's
// goroutines, always returns nil, and may be called twice and from many goroutines.
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

// call makes a call with v as its params, as often as it takes.
func (c *Client) call(ctx context.Context, what, method string, v any) ([]byte, error) {
	params, err := transport.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("resolver: %s: %w", what, err)
	}
	return c.retry(ctx, what, func(conn *clientConn) ([]byte, error) { return c.attempt(ctx, conn, method, params) })
}

// attempt makes a call once, and gives the connection up when no answer comes in time: a connection to a host that
// vanished looks like that.
func (c *Client) attempt(ctx context.Context, conn *clientConn, method string, params []byte) ([]byte, error) {
	tctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	result, err := conn.Call(tctx, method, params)
	if err != nil && tctx.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("no answer from %s within %v", c.cfg.Server.Addr, c.cfg.Timeout)
		c.drop(conn)
		conn.Close()
	}
	return result, err
}

// retry calls try with a connection until it succeeds, the server answers an error, or ctx ends.
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
			if e, ok := errors.AsType[*transport.Error](err); ok && e.Remote {
				return nil, answered(what, e)
			}
		}
		switch {
		case c.stopped.Err() != nil:
			return nil, fmt.Errorf("resolver: %s: %w", what, errClientClosed)
		case errors.Is(err, transport.ErrWrongKey), errors.Is(err, transport.ErrVersion):
			return nil, fmt.Errorf("resolver: %s: %w", what, err) // No later attempt fares better.
		}
		if ctx.Err() == nil {
			if last == nil {
				c.cfg.Logger.Warn("resolver does not answer", "what", what, "addr", c.cfg.Server.Addr, "err", err)
			}
			last = err
			if dialed { // Otherwise the next dial waits, for all callers.
				failed++
				pause(failed, ctx.Done(), c.stopped.Done())
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

// answered is the error e that the server answered, and says what was asked where e does not say what it is about.
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

// pause waits before what has failed some times is tried again, longer each time; the channels end it early.
func pause(failed int, end, stop <-chan struct{}) {
	if failed == 0 {
		return
	}
	d := maxPause
	if failed < 7 {
		d = min(minPause<<(failed-1), maxPause)
	}
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-end:
	case <-stop:
	}
}

// connect returns the connection, and makes it if there is none. Its errors are without the name of this package.
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
		// It goes on when the caller's context ends: other calls may wait for it, too, or come soon.
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

// dial makes the connection that d's callers wait for, after a number of dials that failed.
func (c *Client) dial(d *dial, failed int) {
	defer close(d.done)
	pause(failed, nil, c.stopped.Done())
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
			d.err = fmt.Errorf("the resolver at %s hung up", c.cfg.Server.Addr)
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

// dialError says what an error of the transport's Dial means.
func (c *Client) dialError(err error) error {
	addr := c.cfg.Server.Addr
	switch {
	case !errors.Is(err, transport.ErrWrongKey):
		return fmt.Errorf("no resolver answers at %s: %w", addr, err)
	case c.cfg.Transport.Key().IsZero(): // Without TLS nobody has been asked.
		return fmt.Errorf("the resolver at %s does not prove its key: %w", addr, err)
	}
	return fmt.Errorf("the resolver at %s has another key: %w", addr, err)
}

// drop makes the next call dial, unless someone has dialled since.
func (c *Client) drop(conn *clientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.conn = nil
	}
}

// Handle implements [transport.Handler]: a resolver calls nobody.
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
		c.wait.Done()
	}
}

// nextPart returns how many of the services go into the next part of an announcement, and whether it is the last.
func nextPart(services []string) (n int, last bool) {
	size := 0
	for ; n < len(services) && n < partNames; n++ {
		if size += len(services[n]) + 3; size > partBytes {
			break
		}
	}
	return n, n == len(services)
}

// digestOf tells a sorted list of services from any other.
func digestOf(services []string) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, name := range services {
		h.Write(append([]byte(name), 0)) // No name contains a zero byte.
	}
	h.Sum(sum[:0])
	return sum
}
