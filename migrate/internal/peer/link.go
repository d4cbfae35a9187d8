package peer

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

const (
	// maxQueue and maxQueueBytes bound the messages that wait for a connection. Further ones are dropped; the protocol sends
	// them again.
	maxQueue      = 256
	maxQueueBytes = 4 << 20
	// idleTimeout is how long a link must be unused before it is not dialled again when its connection ends.
	idleTimeout = time.Minute
)

// link is the connection to another host. Once closed it stays closed; the next message makes a new link.
type link struct {
	links *Links
	to    resolver.Host
	wake  chan struct{} // the host's own connection has ended

	mu         sync.Mutex // guards the fields below
	state      linkState
	conn       transport.Conn // in state connected; nil in the others
	queue      [][]byte       // params of messages that wait for the connection
	queueBytes int
	used       time.Time // when a message was last sent, or the connection was made
	failing    bool      // while dialing: the last attempt has failed, and the host takes messages on its own connection
}

// linkState is what a link does:
//
//	unconnected -> dialing      on the first message, on Open or Probe, and when a connection in use has ended
//	dialing     -> connected    after the hellos
//	connected   -> unconnected  when the connection has ended
//	any state   -> closed       when dialling has failed, when an unused connection has ended, and on Close
type linkState uint8

const (
	unconnected linkState = iota
	dialing               // the goroutine in dial connects
	connected
	closed
)

// send sends a message, queues it, or drops it. The caller may reuse params when send has returned.
func (l *link) send(params []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.state {
	case closed:
		return
	case connected:
		l.used = time.Now()
		switch err := l.conn.Notify(wire.MethodMsg, params); {
		case err == nil:
			return
		case errors.Is(err, transport.ErrBadMessage): // no connection would take it
			l.links.cfg.Log.Error("message to host not sent", "to", l.to.ID, "size", len(params), "err", err)
			return
		}
		// The connection has ended: Closed is about to be called, and dials again.
	case unconnected, dialing:
		if l.sendBack(params) {
			l.openLocked()
			return
		}
	}
	if len(l.queue) < maxQueue && l.queueBytes+len(params) <= maxQueueBytes {
		l.queue = append(l.queue, bytes.Clone(params))
		l.queueBytes += len(params)
	}
	l.openLocked()
}

// open connects, unless the link is connected or about to be.
func (l *link) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.openLocked()
}

func (l *link) openLocked() {
	if l.state != unconnected {
		return
	}
	l.state = dialing
	if !l.links.cfg.Go(l.dial) {
		l.closeLocked()
	}
}

// dial makes the connection, in several attempts, or gives the link up. If the address refuses them, Config.Down reports
// that the process there has died, well before its silence would show that. As long as the host takes messages on a
// connection of its own, it is alive, and attempts go on.
func (l *link) dial() {
	cfg := &l.links.cfg
	attempts := func() retry {
		return newRetry(l.links.Patience(l.to.ID, cfg.FailureTimeout), maxTimeoutFactor*cfg.FailureTimeout)
	}
	redial := firstRedial
	for r := attempts(); ; {
		err := l.connect(r.timeout)
		if err == nil {
			return
		}
		cfg.Log.Debug("no connection to host", "to", l.to.ID, "addr", l.to.Addr, "err", err)
		wait, again := r.failed(err)
		back := l.goBack(err)
		var wake chan struct{}
		switch {
		case cfg.Context.Err() == nil && again:
		case cfg.Context.Err() == nil && back && !l.isIdle():
			wait, redial = redial, min(2*redial, maxRedial)
			wake = l.wake
			r = attempts()
		default:
			l.giveUp()
			if r.died() && !back {
				cfg.Down(l.to)
			}
			return
		}
		if wait > 0 {
			select {
			case <-cfg.Context.Done():
			case <-time.After(wait):
			case <-wake:
			}
		}
	}
}

// isIdle reports whether the link has not been used for long.
func (l *link) isIdle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.isIdleLocked()
}

func (l *link) isIdleLocked() bool { return time.Since(l.used) >= idleTimeout }

func (l *link) connect(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(l.links.cfg.Context, timeout)
	defer cancel()
	h := &linkConn{link: l}
	conn, err := l.links.Connect(ctx, l.to, h)
	if err != nil {
		return err
	}
	return l.connected(conn, h)
}

// connected starts to use a connection, and sends the queue on it. It fails if the connection has ended already.
func (l *link) connected(conn transport.Conn, h *linkConn) error {
	l.mu.Lock()
	if l.state == closed {
		l.mu.Unlock()
		conn.Close()
		return nil
	}
	if h.ended { // Closed has been called, and will not be again
		l.mu.Unlock()
		return errEndedAtOnce
	}
	l.state, l.conn, l.used, l.failing = connected, conn, time.Now(), false
	queue := l.queue
	l.queue, l.queueBytes = nil, 0
	conn.Notify(wire.MethodLink, nil)
	for _, params := range queue {
		conn.Notify(wire.MethodMsg, params)
	}
	l.mu.Unlock()
	l.links.cfg.Reset(l.to)
	return nil
}

// giveUp closes the link and removes it from Links.
func (l *link) giveUp() {
	l.links.remove(l)
	l.close()
}

// close closes the link and its connection, and drops its queue.
func (l *link) close() {
	l.mu.Lock()
	conn := l.conn
	l.closeLocked()
	l.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

func (l *link) closeLocked() {
	l.state, l.conn, l.failing = closed, nil, false
	l.queue, l.queueBytes = nil, 0
}

// linkConn handles a link's connection. The host at the other end sends messages on it if it does not reach this host.
type linkConn struct {
	link     *link
	ended    bool              // Closed was called; guarded by link.mu
	messages transport.Handler // of the host's messages; nil until the first one
}

// Handle implements [transport.Handler].
func (h *linkConn) Handle(c transport.Conn, r *transport.Request) {
	cfg := &h.link.links.cfg
	switch {
	case r.IsCall():
		r.Reply(nil, transport.Errorf(transport.CodeNoMethod, "migrate: method %s is not served here", r.Method))
	case r.Method == wire.MethodMsg:
		if h.messages == nil {
			h.messages = cfg.Accept(h.link.to, c)
		}
		if h.messages != nil {
			h.messages.Handle(c, r)
		}
	case r.Method == wire.MethodUnreached:
		var p wire.UnreachedParams
		if msgpack.UnmarshalSmall(r.Params, &p) == nil {
			cfg.Unreached(h.link.to, p.Reason[:min(len(p.Reason), maxReason)])
		}
	}
}

// Closed implements [transport.Handler]. A connection in use is dialled again at once, which shows whether the host has
// died.
func (h *linkConn) Closed(c transport.Conn, err error) {
	if h.messages != nil {
		h.messages.Closed(c, err)
	}
	l := h.link
	l.mu.Lock()
	h.ended = true
	idle := false
	if l.state == connected && l.conn == c {
		l.state, l.conn = unconnected, nil
		if idle = l.isIdleLocked(); !idle {
			l.openLocked()
		}
	}
	l.mu.Unlock()
	if idle {
		l.giveUp()
	}
}
