package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// endpoint is the common part of both transports. It tracks listeners, connections and their goroutines.
type endpoint struct {
	lim *limits
	wg  sync.WaitGroup // every goroutine of the transport

	mu        sync.Mutex // guards the fields below
	closed    bool
	listeners map[io.Closer]struct{}
	conns     map[net.Conn]*conn // by base; nil until the greeting is over
}

func (e *endpoint) init(lim *limits) {
	e.lim = lim
	lim.budget.conns = e.each
	e.listeners = make(map[io.Closer]struct{})
	e.conns = make(map[net.Conn]*conn)
}

// add tracks a connection that begins its greeting, unless the endpoint is closed.
func (e *endpoint) add(base net.Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.conns[base] = nil
	return true
}

// each calls f for each connection after its greeting. f must not call methods of e.
func (e *endpoint) each(f func(*conn)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.conns {
		if c != nil {
			f(c)
		}
	}
}

// full reports whether the number of connections is at its limit.
func (e *endpoint) full() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.conns) >= places(e.lim.maxConns, e.lim.files())
}

func (e *endpoint) drop(base net.Conn) {
	base.Close()
	e.mu.Lock()
	delete(e.conns, base)
	e.mu.Unlock()
}

// dialled greets the peer at the other end of base, within the deadline of ctx, and starts to read.
func (e *endpoint) dialled(ctx context.Context, base net.Conn, greet func() (*conn, error)) (*conn, error) {
	if !e.add(base) {
		base.Close()
		return nil, ErrClosed
	}
	// From here on drop closes base, or the connection does when it ends.
	if _, ok := ctx.Deadline(); !ok {
		base.SetDeadline(e.lim.handshakeBy())
	}
	stop := context.AfterFunc(ctx, func() { base.SetDeadline(time.Unix(1, 0)) })
	c, err := greet()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil && !e.enter(c) {
		err = ErrClosed
	}
	if err != nil {
		e.drop(base)
		return nil, err
	}
	go e.read(c, nil)
	return c, nil
}

// enter tracks a connection after its greeting, unless the endpoint was closed meanwhile. read must follow.
func (e *endpoint) enter(c *conn) bool {
	c.seal.hold()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	c.mu.Lock()
	if c.err == nil { // else accept closed it, and its last bytes have a deadline
		c.base.SetDeadline(time.Time{})
	}
	c.mu.Unlock()
	e.conns[c.base] = c
	e.wg.Add(1)
	return true
}

// read is the reading goroutine. first is the first frame of a peer that did not greet, or nil.
func (e *endpoint) read(c *conn, first []byte) {
	c.owner = e
	if !c.run(first) {
		return // another goroutine has taken its place
	}
	e.drop(c.base)
	e.wg.Done()
}

// serve tracks a listener and runs it, unless the endpoint is closed.
func (e *endpoint) serve(l io.Closer, run func()) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	e.listeners[l] = struct{}{}
	if run != nil {
		e.wg.Go(run)
	}
	return nil
}

func (e *endpoint) unserve(l io.Closer) {
	e.mu.Lock()
	delete(e.listeners, l)
	e.mu.Unlock()
}

// close closes everything and waits for it.
func (e *endpoint) close() {
	e.mu.Lock()
	e.closed = true
	listeners := e.listeners
	e.listeners = nil
	for base, c := range e.conns {
		if c == nil {
			base.Close()
		} else {
			c.Close()
		}
	}
	e.mu.Unlock()
	for l := range listeners {
		l.Close()
	}
	e.wg.Wait()
}

// dialError returns the error of Dial for err: the context's error if that was the cause.
func dialError(ctx context.Context, to Peer, err error) error {
	if ctx.Err() != nil && CodeOf(err) != CodeClosed {
		err = ctx.Err()
	} else if _, ok := ctx.Deadline(); ok && errors.Is(err, os.ErrDeadlineExceeded) {
		err = context.DeadlineExceeded // the socket's deadline passed a moment earlier
	}
	return fmt.Errorf("transport: dial %s: %w", to.Addr, portable(err))
}

// gate holds a listener's accept, which is not called after Close.
type gate struct {
	accept func(Conn) Handler

	mu     sync.Mutex // guards closed
	closed bool
}

func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
}

func (g *gate) open() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.closed
}

// receive greets a peer that has connected, calls greeted, and tracks the connection.
func (e *endpoint) receive(c *conn, g *gate, greeted func()) (first []byte, err error) {
	first, err = c.welcome()
	greeted()
	if err != nil {
		return nil, err
	}
	if !g.open() {
		return nil, ErrClosed
	}
	if c.handler = g.accept(c); c.handler == nil {
		err := errors.New("accept refused it")
		c.end(err)
		return nil, err
	}
	entered := e.enter(c)
	if !entered {
		c.end(ErrClosed)
	}
	c.release()
	if !entered {
		c.finish(ErrClosed)
		return nil, ErrClosed
	}
	return first, nil
}

// crash marks the endpoint closed without closing its connections.
func (e *endpoint) crash() {
	e.mu.Lock()
	e.closed = true
	listeners := e.listeners
	e.listeners = nil
	e.mu.Unlock()
	for l := range listeners {
		l.Close()
	}
}
