package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// limits is the configuration of both transports, with defaults filled in.
type limits struct {
	maxMessage, maxPending      int
	maxConns                    int
	files                       func() uint64 // how many may be open
	pingEvery                   time.Duration
	handshake, message, writing time.Duration
	minVersion, maxVersion      uint64
	log                         *slog.Logger
	realm                       string        // named in errors; "" without one
	messages                    *atomic.Int64 // counts sent messages, if not nil
	budget                      *budget       // never nil
}

// closeGrace is how long Close waits for the peer to read the messages sent before.
const closeGrace = time.Second

// conn is a [Conn] over any net.Conn. One goroutine reads, calls the handler, and finally cleans up (read.go). Senders
// append to a buffer. The sender writes it if that cannot block, else a goroutine that ends when the buffer is empty
// (write.go).
type conn struct {
	nc      net.Conn
	base    net.Conn // the connection below TLS, or nc; closing it never blocks
	seal    *sealer  // between TLS and base; nil without TLS
	lim     *limits
	peer    Peer
	handler Handler
	ended   chan struct{} // closed when err is set
	over    atomic.Bool   // err is set; cheap to check for the reader
	rd      reader        // of the reading goroutine
	owner   *endpoint     // set before that begins
	turn    atomic.Uint64 // odd while Handle runs on the reading goroutine, see lend.go
	held    holding       // of the budget

	mu      sync.Mutex // guards the fields below; never held over I/O
	err     error      // why the connection ended; the first reason wins
	callErr error      // the error that methods return then
	closeBy time.Time  // set by Close: deadline for the last bytes
	lastID  uint64
	calls   callTable
	writer
}

func newConn(nc, base net.Conn, seal *sealer, lim *limits, peer Peer) *conn {
	c := &conn{nc: nc, base: base, seal: seal, lim: lim, peer: peer, ended: make(chan struct{})}
	c.idle.L = &c.mu
	c.raw = newRawWriter(base)
	return c
}

func (c *conn) Peer() Peer { return c.peer }

func (c *conn) Call(ctx context.Context, method string, params []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("transport: call %s of %s: %w", method, c.peer.Addr, err)
	}
	wait := make(chan answer, 1)
	id, err := c.sendCall(method, params, pending{wait: wait}, urgent)
	if err != nil {
		return nil, err
	}
	select {
	case a := <-wait:
		return a.result, a.err
	case <-ctx.Done():
		err = fmt.Errorf("transport: call %s of %s: %w", method, c.peer.Addr, ctx.Err())
	case <-c.ended:
		err = c.callErr
	}
	if c.forget(id) {
		return nil, err
	}
	a := <-wait // it has just arrived
	return a.result, a.err
}

func (c *conn) Go(method string, params []byte, done func(result []byte, err error)) {
	if _, err := c.sendCall(method, params, pending{done: done}, usual); err != nil {
		done(nil, err)
	}
}

// GoBorrow implements [Borrower].
func (c *conn) GoBorrow(method string, params []byte, done func(result []byte, err error)) {
	if _, err := c.sendCall(method, params, pending{done: done, borrowed: true}, usual); err != nil {
		done(nil, err)
	}
}

// sendCall returns an error exactly if p will not be completed.
func (c *conn) sendCall(method string, params []byte, p pending, h haste) (uint64, error) {
	if err := c.checkOut(method, params); err != nil {
		return 0, err
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return 0, c.callErr
	}
	id := c.addCall(method, params, p)
	c.kick(h)
	return id, nil
}

// addCall appends a call. The caller holds c.mu.
func (c *conn) addCall(method string, params []byte, p pending) uint64 {
	for {
		c.lastID = (c.lastID + 1) & (1<<31 - 1)
		if !c.calls.has(c.lastID) {
			break
		}
	}
	id := c.lastID
	c.calls.put(id, p)
	c.out = appendCall(c.room(maxEnvelope+len(params)), id, method, params)
	return id
}

// forget removes a cancelled call, and reports whether it was still pending.
func (c *conn) forget(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.calls.take(id)
	return ok
}

func (c *conn) Notify(method string, params []byte) error {
	if err := c.checkOut(method, params); err != nil {
		return err
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return c.callErr
	}
	c.out = appendNotify(c.room(maxEnvelope+len(params)), method, params)
	return c.kick(usual)
}

// reply answers call id of the peer. It is called once for each.
func (c *conn) reply(id uint64, result []byte, err error) {
	if err == nil && len(result) > 0 {
		if len(result) > c.lim.maxMessage-maxEnvelope {
			err = Errorf(CodeBadMessage, "transport: result of %d bytes is larger than a message", len(result))
		} else if bad := checkValue(result); bad != nil {
			err = bad
		}
	}
	var failed []byte
	if err != nil {
		failed = appendErrorReply(nil, id, err, c.lim.maxMessage-maxEnvelope)
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	if err != nil {
		c.out = append(c.room(len(failed)), failed...)
	} else {
		c.out = appendReply(c.room(maxEnvelope+len(result)), id, result)
	}
	c.kick(usual)
}

func (c *conn) checkOut(method string, params []byte) error {
	if method == "" || len(method) > maxMethod {
		return Errorf(CodeBadMessage, "transport: method %.32q has %d bytes, not 1 to %d", method, len(method), maxMethod)
	}
	if len(params) == 0 {
		return nil
	}
	if len(params) > c.lim.maxMessage-maxEnvelope {
		return Errorf(CodeBadMessage, "transport: params of %s have %d bytes, more than a message can hold (%d)",
			method, len(params), c.lim.maxMessage-maxEnvelope)
	}
	if params[0] == 0xc0 {
		return Errorf(CodeBadMessage, "transport: params of %s are nil", method)
	}
	return checkValue(params)
}

func (c *conn) Close() error {
	c.end(ErrClosed)
	return nil
}

// end ends the connection for a reason. After ErrClosed the queued messages are still written, otherwise not. It does not
// block: the reading goroutine does the rest (finish).
func (c *conn) end(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	if e, ok := errors.AsType[*Error](err); ok && err != ErrClosed {
		c.callErr = e
	} else if err == ErrClosed {
		c.callErr = Errorf(CodeClosed, "transport: connection to %s is closed", c.peer.Addr)
	} else {
		c.callErr = fmt.Errorf("transport: connection to %s ended: %w", c.peer.Addr, err)
	}
	c.over.Store(true)
	close(c.ended)
	if err == ErrClosed {
		c.closeBy = time.Now().Add(closeGrace)
		c.nc.SetWriteDeadline(c.closeBy)
		c.nc.SetReadDeadline(time.Unix(1, 0)) // wakes the reading goroutine
		c.mu.Unlock()
		return
	}
	c.forgetAll()
	c.mu.Unlock()
	c.base.Close()
}

// finish ends the reading goroutine. Its reason counts only if there was none before.
func (c *conn) finish(err error) {
	c.end(err)
	c.mu.Lock()
	err = c.err
	calls := c.calls
	c.calls = callTable{}
	c.mu.Unlock()
	calls.fail(c.callErr)
	if c.handler != nil {
		c.handler.Closed(c, err)
	}
	c.linger()
}

// linger closes the connection when the last bytes are written and, unless the connection failed, the peer has read them:
// closing a socket with unread data would discard the bytes in flight.
func (c *conn) linger() {
	c.mu.Lock()
	for c.flushing {
		c.idle.Wait()
	}
	closeBy := c.closeBy
	c.mu.Unlock()
	if !closeBy.IsZero() {
		// A peer that does not read can block even the last few bytes.
		late := time.AfterFunc(time.Until(closeBy), func() { c.base.Close() })
		defer late.Stop()
		if half, ok := c.nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
			if c.seal != nil { // also write the close_notify alert
				c.base.SetWriteDeadline(closeBy)
				_, _ = c.base.Write(c.seal.take())
			}
			c.nc.SetReadDeadline(closeBy)
			_, _ = io.Copy(io.Discard, c.nc)
		}
	}
	c.base.Close()
	c.rd.release()
	c.holdRead()
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// readError turns the error of a read into the reason for Closed.
func (c *conn) readError(err error, midMessage bool) error {
	switch {
	case errors.Is(err, io.EOF) && midMessage, errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	case errors.Is(err, io.EOF):
		return io.EOF
	}
	return portable(err)
}
