package outside_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
	"github.com/roam-go/roam/transport/transporttest"
)

func TestTransport(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Pair {
		return transporttest.Pair{Listener: newTransport(t), Dialer: newTransport(t), Addr: "127.0.0.1:0"}
	})
}

const (
	maxBody    = 1<<20 - 300
	maxPending = 4 << 20
)

// The kinds of a frame: length (4 bytes), kind (1), id (8), length of the method (1), method, body.
const (
	kindCall = iota
	kindNotify
	kindReply
	kindError
	headSize = 14
)

// netTransport is a transport over plain TCP, without keys.
type netTransport struct {
	wg sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	open   map[io.Closer]struct{}
	closed bool
}

func newTransport(t testing.TB) *netTransport {
	n := &netTransport{open: make(map[io.Closer]struct{})}
	t.Cleanup(n.close)
	return n
}

// run calls f on a goroutine, unless the transport is closed, which closes c.
func (n *netTransport) run(c io.Closer, f func()) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		c.Close()
		return transport.ErrClosed
	}
	n.open[c] = struct{}{}
	n.wg.Go(func() {
		f()
		n.mu.Lock()
		delete(n.open, c)
		n.mu.Unlock()
	})
	return nil
}

func (n *netTransport) close() {
	n.mu.Lock()
	n.closed = true
	for c := range n.open {
		c.Close()
	}
	n.mu.Unlock()
	n.wg.Wait()
}

func (n *netTransport) Key() transport.Key { return transport.Key{} }

func (n *netTransport) Dial(ctx context.Context, to transport.Peer, h transport.Handler) (transport.Conn, error) {
	if !to.Key.IsZero() {
		return nil, fmt.Errorf("dial %s: %w", to.Addr, transport.ErrWrongKey)
	}
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", to.Addr)
	if err == nil {
		stop := context.AfterFunc(ctx, func() { nc.SetReadDeadline(time.Unix(1, 0)) })
		if _, err = io.ReadFull(nc, make([]byte, 1)); !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			nc.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to.Addr, errors.Join(ctx.Err(), err))
	}
	c := newConn(nc, to.Addr)
	c.handler = h
	return c, n.run(c, c.serve)
}

func (n *netTransport) Listen(addr string, accept func(transport.Conn) transport.Handler) (transport.Listener, error) {
	nl, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	l := &listener{Listener: nl}
	return l, n.run(nl, func() {
		for {
			nc, err := nl.Accept()
			if err != nil {
				return
			}
			c := newConn(nc, nc.RemoteAddr().String())
			c.out = []byte{1} // the greeting, before all that accept sends
			_ = n.run(c, func() {
				if l.over() {
					nc.Close()
				} else if c.handler = accept(c); c.handler == nil {
					nc.Close()
				} else {
					c.serve()
				}
			})
		}
	})
}

type listener struct {
	net.Listener
	mu     sync.Mutex // guards closed
	closed bool
}

func (l *listener) Addr() string { return l.Listener.Addr().String() }

func (l *listener) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		return l.Listener.Close()
	}
	return nil
}

type conn struct {
	nc      net.Conn
	addr    string
	handler transport.Handler

	mu     sync.Mutex // guards the fields below
	wake   sync.Cond  // out or err has changed
	out    []byte     // waits to be written
	lastID uint64
	calls  map[uint64]func([]byte, error)
	err    error // why the connection ended
}

func newConn(nc net.Conn, addr string) *conn {
	c := &conn{nc: nc, addr: addr, calls: make(map[uint64]func([]byte, error))}
	c.wake.L = &c.mu
	return c
}

func (c *conn) Peer() transport.Peer { return transport.Peer{Addr: c.addr} }

func (c *conn) Close() error {
	c.end(transport.ErrClosed)
	return nil
}

func (c *conn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(err)
}

func (c *conn) endLocked(err error) {
	if c.err == nil {
		c.err = err
		c.nc.SetReadDeadline(time.Unix(1, 0)) // wakes serve
		c.nc.SetWriteDeadline(time.Now().Add(time.Second))
		c.wake.Broadcast()
	}
}

// send queues a frame. done, if it is not nil, gets the answer, unless send fails.
func (c *conn) send(kind byte, id uint64, method string, body []byte, done func([]byte, error)) (uint64, error) {
	r := msgpack.NewReader(body)
	r.Skip()
	if len(body) > maxBody || len(method) > 255 || r.End() != nil {
		return 0, transport.Errorf(transport.CodeBadMessage, "%d bytes are not one value that fits in a message", len(body))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if done != nil {
		c.lastID++
		id = c.lastID
		c.calls[id] = done
	}
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(headSize-4+len(method)+len(body)))
	c.out = binary.BigEndian.AppendUint64(append(c.out, kind), id)
	c.out = append(append(append(c.out, byte(len(method))), method...), body...)
	if len(c.out) > maxPending {
		c.endLocked(transport.ErrSlowPeer)
	}
	c.wake.Broadcast()
	return id, nil
}

func orEmpty(b []byte, empty byte) []byte {
	if len(b) == 0 {
		return []byte{empty}
	}
	return b
}

func (c *conn) Notify(method string, params []byte) error {
	_, err := c.send(kindNotify, 0, method, orEmpty(params, 0x90), nil)
	return err
}

func (c *conn) Go(method string, params []byte, done func([]byte, error)) {
	if _, err := c.send(kindCall, 0, method, orEmpty(params, 0x90), done); err != nil {
		done(nil, err)
	}
}

func (c *conn) Call(ctx context.Context, method string, params []byte) (result []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	answered := make(chan struct{})
	id, sendErr := c.send(kindCall, 0, method, orEmpty(params, 0x90), func(r []byte, e error) {
		result, err = r, e
		close(answered)
	})
	if sendErr != nil {
		return nil, sendErr
	}
	select {
	case <-ctx.Done():
		if c.take(id) != nil {
			return nil, ctx.Err()
		}
		<-answered
	case <-answered:
	}
	return result, err
}

func (c *conn) take(id uint64) func([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	done := c.calls[id]
	delete(c.calls, id)
	return done
}

func (c *conn) reply(id uint64, result []byte, err error) {
	if err == nil {
		_, err = c.send(kindReply, id, "", orEmpty(result, 0xc0), nil)
	}
	if err == nil {
		return
	}
	e, ok := errors.AsType[*transport.Error](err)
	if !ok {
		e = transport.Errorf(transport.CodeUnknown, "%v", err)
	}
	body, _ := transport.Marshal([]any{e.Code, e.Message, e.Data})
	_, _ = c.send(kindError, id, "", body, nil)
}

// serve reads until the connection ends, and then closes it.
func (c *conn) serve() {
	written := make(chan struct{})
	go func() { c.write(); close(written) }()
	r := bufio.NewReader(c.nc)
	var err error
	for err == nil {
		err = c.read(r)
	}
	c.end(err)
	c.mu.Lock()
	err, calls := c.err, c.calls
	c.calls = nil
	c.mu.Unlock()
	for _, done := range calls {
		done(nil, err)
	}
	if c.handler != nil {
		c.handler.Closed(c, err)
	}
	<-written
	c.nc.(*net.TCPConn).CloseWrite()
	c.nc.SetReadDeadline(time.Now().Add(time.Second)) // for the peer to read everything before a reset
	_, _ = io.Copy(io.Discard, c.nc)
	c.nc.Close()
}

func (c *conn) write() {
	for {
		c.mu.Lock()
		for len(c.out) == 0 && c.err == nil {
			c.wake.Wait()
		}
		out, err := c.out, c.err
		c.out = nil
		c.mu.Unlock()
		if err != nil && (len(out) == 0 || err != transport.ErrClosed) {
			return
		}
		if _, err := c.nc.Write(out); err != nil {
			c.end(err)
			return
		}
	}
}

func (c *conn) read(r io.Reader) error {
	var head [headSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n, method := int(binary.BigEndian.Uint32(head[:])), int(head[13])
	if n < headSize-4+method || n > headSize+255+maxBody {
		return transport.ErrBadMessage
	}
	frame := make([]byte, n-headSize+4)
	if _, err := io.ReadFull(r, frame); err != nil {
		return io.ErrUnexpectedEOF
	}
	kind, id, name, body := head[4], binary.BigEndian.Uint64(head[5:]), string(frame[:method]), frame[method:]
	switch kind {
	case kindReply:
		if done := c.take(id); done != nil {
			done(body, nil)
		}
	case kindError:
		var e struct {
			Code    uint32
			Message string
			Data    []byte
		}
		err := transport.Unmarshal(body, &e)
		if done := c.take(id); done != nil && err == nil {
			done(nil, &transport.Error{Code: transport.Code(e.Code), Message: e.Message, Data: e.Data, Remote: true})
		}
		return err
	case kindNotify, kindCall:
		var reply func([]byte, error)
		if kind == kindCall {
			reply = func(result []byte, err error) { c.reply(id, result, err) }
		}
		q := transport.NewRequest(name, body, reply)
		if c.handler == nil {
			q.Reply(nil, transport.ErrNoMethod)
		} else {
			c.handler.Handle(c, q)
		}
	default:
		return transport.ErrBadMessage
	}
	return nil
}
