package transport

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	memWindow = 256 << 10 // bytes in flight or unread, as in the buffers of a socket
	memPiece  = 16 << 10  // bytes that travel together
)

var errReset error = syscall.ECONNRESET

// memConn is one end of a connection of a [Memory]: two ordered streams of bytes. Everything is guarded by the network's
// mutex and waits on condition variables, so that it runs in a bubble of testing/synctest.
type memConn struct {
	net           *Memory
	in, out       *memStream
	local, remote memAddr
	closed        bool // by this end
}

// memStream is one direction.
type memStream struct {
	net      *Memory
	link     *memLink
	cond     sync.Cond // signals any change
	segs     []memSegment
	off      int  // bytes of segs[0] already read
	size     int  // bytes written but not read
	black    bool // written bytes are discarded, see Memory.Blackhole
	finished bool // the writer has ended the stream
	deaf     bool // the reader has closed
	reset    error

	readBy, writeBy memDeadline
	arrival         *time.Timer // wakes the reader when a segment arrives
}

// memSegment is bytes and their time of arrival. Without bytes it is the end of the stream, or a reset.
type memSegment struct {
	data  []byte
	at    time.Time
	reset bool
}

type memAddr string

func (memAddr) Network() string  { return "memory" }
func (a memAddr) String() string { return string(a) }

// memDeadline is a deadline that wakes the goroutines that wait on a stream.
type memDeadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *memDeadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *memDeadline) set(s *memStream, at time.Time) {
	d.at = at
	if d.timer != nil {
		d.timer.Stop()
	}
	if wait := time.Until(at); !at.IsZero() && wait > 0 {
		if d.timer == nil {
			d.timer = time.AfterFunc(wait, s.wake)
		} else {
			d.timer.Reset(wait)
		}
	}
	s.cond.Broadcast()
}

func (s *memStream) wake() {
	s.net.mu.Lock()
	s.cond.Broadcast()
	s.net.mu.Unlock()
}

// die ends the stream for both sides.
func (s *memStream) die(err error) {
	if s.reset == nil {
		s.reset = err
	}
	s.segs = nil
	for _, t := range []*time.Timer{s.arrival, s.readBy.timer, s.writeBy.timer} {
		if t != nil {
			t.Stop()
		}
	}
	s.cond.Broadcast()
}

// ready returns the first segment if it has arrived. If it is in flight, the reader is woken later.
func (s *memStream) ready() *memSegment {
	if len(s.segs) == 0 || s.link.blocked {
		return nil
	}
	wait := time.Until(s.segs[0].at)
	if wait <= 0 {
		return &s.segs[0]
	}
	if s.arrival == nil {
		s.arrival = time.AfterFunc(wait, s.wake)
	} else {
		s.arrival.Reset(wait)
	}
	return nil
}

// put sends a segment.
func (s *memStream) put(seg memSegment) {
	now := time.Now()
	at := now
	if s.link.rate > 0 && len(seg.data) > 0 {
		if s.link.free.Before(now) {
			s.link.free = now
		}
		s.link.free = s.link.free.Add(time.Duration(float64(len(seg.data)) / float64(s.link.rate) * float64(time.Second)))
		at = s.link.free
	}
	seg.at = at.Add(s.net.delay(s.link)) // the queue keeps the order
	s.size += len(seg.data)
	if s.black {
		return
	}
	s.segs = append(s.segs, seg)
	s.cond.Broadcast()
}

func (c *memConn) Read(p []byte) (int, error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	s := c.in
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case s.reset != nil:
			return 0, s.opError("read", c, s.reset)
		case s.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		}
		if seg := s.ready(); seg != nil {
			switch {
			case seg.reset:
				c.die(errReset)
				continue
			case len(seg.data) == 0:
				return 0, io.EOF
			}
			n := copy(p, seg.data[s.off:])
			s.off += n
			s.size -= n
			if s.off == len(seg.data) {
				s.segs[0] = memSegment{}
				s.segs, s.off = s.segs[1:], 0
			}
			s.cond.Broadcast()
			return n, nil
		}
		s.cond.Wait()
	}
}

func (c *memConn) Write(p []byte) (n int, err error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	s := c.out
	for n < len(p) {
		switch {
		case c.closed || s.finished:
			return n, net.ErrClosed
		case s.reset != nil:
			return n, s.opError("write", c, s.reset)
		case s.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case s.deaf && !s.link.blocked && !s.black:
			c.die(errReset)
			continue
		}
		room := min(memWindow-s.size, memPiece, len(p)-n)
		if room <= 0 {
			s.cond.Wait()
			continue
		}
		data := append([]byte(nil), p[n:n+room]...)
		cut := s.link.damage(&data)
		n += len(data)
		if len(data) > 0 {
			s.put(memSegment{data: data})
		}
		if cut {
			s.put(memSegment{reset: true})
			c.in.die(errReset)
			s.finished = true
			return n, s.opError("write", c, errReset)
		}
	}
	return n, nil
}

func (s *memStream) opError(op string, c *memConn, err error) error {
	return &net.OpError{Op: op, Net: "memory", Source: c.local, Addr: c.remote, Err: err}
}

// die resets the connection at both ends. The caller holds the network's mutex.
func (c *memConn) die(err error) {
	c.in.die(err)
	c.out.die(err)
	c.net.gone(c)
}

// CloseWrite ends the stream to the peer.
func (c *memConn) CloseWrite() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.finish()
	return nil
}

func (c *memConn) finish() {
	if s := c.out; !s.finished && s.reset == nil {
		s.finished = true
		s.put(memSegment{})
	}
}

func (c *memConn) Close() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.finish()
	c.closed = true
	c.in.deaf = true
	c.in.segs = nil
	for _, t := range []*time.Timer{c.in.arrival, c.in.readBy.timer, c.out.writeBy.timer} {
		if t != nil {
			t.Stop()
		}
	}
	c.in.cond.Broadcast()
	c.out.cond.Broadcast()
	c.net.gone(c)
	return nil
}

func (c *memConn) LocalAddr() net.Addr  { return c.local }
func (c *memConn) RemoteAddr() net.Addr { return c.remote }

func (c *memConn) SetDeadline(t time.Time) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.in.readBy.set(c.in, t)
	c.out.writeBy.set(c.out, t)
	return nil
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.in.readBy.set(c.in, t)
	return nil
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.out.writeBy.set(c.out, t)
	return nil
}
