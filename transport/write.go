package transport

import (
	"runtime"
	"sync"
	"time"
)

const (
	writePiece = 256 << 10             // written at once, so that what waits is counted truly
	writeKeep  = 256 << 10             // buffers up to this size are used again
	quietFor   = 30 * time.Microsecond // after a write, before a sender writes by itself again
)

// writer is the sending half of a conn, guarded by its mutex.
//
// Messages are appended to out. Who finds that nobody is flushing makes it happen; until that flush is over, everybody
// else's messages join what is written next, so that many small messages cost few system calls and no goroutine switch.
type writer struct {
	raw       *rawWriter // writes without blocking; nil where that is not to be had
	out       []byte     // messages waiting to be written
	inflight  int        // bytes being written
	flushing  bool       // somebody is writing, or will at once
	idle      sync.Cond  // told when flushing ends after the connection has
	lastFlush time.Time
	deadline  time.Time // armed for writes that may block
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

func putBuffer(b []byte) {
	if c := cap(b); c > 0 && c <= writeKeep {
		b = b[:0]
		buffers.Put(&b)
	}
}

// room is where the next message is appended.
func (w *writer) room() []byte {
	if w.out == nil {
		w.out = *buffers.Get().(*[]byte)
	}
	return w.out
}

// kick sees to it that what was appended gets written. It is called with c.mu held and releases it. An urgent sender is
// going to wait for an answer: it writes by itself where it can. Any other does so only if the connection was quiet, so
// that a burst is written by a goroutine in few pieces.
func (c *conn) kick(urgent bool) error {
	if c.lim.messages != nil {
		c.lim.messages.Add(1)
	}
	if c.flushing {
		waiting := len(c.out) + c.inflight
		c.mu.Unlock()
		if waiting > c.lim.maxPending {
			err := Errorf(CodeSlowPeer, "transport: %s does not read: %d bytes wait for it", c.peer.Addr, waiting)
			c.end(err)
			return err
		}
		return nil
	}
	c.flushing = true
	alone := len(c.calls) <= 1
	quiet := c.raw != nil && (urgent || time.Since(c.lastFlush) > quietFor)
	c.mu.Unlock()
	if !quiet {
		go c.flush()
		return nil
	}
	if urgent && !alone {
		runtime.Gosched() // others who are about to send may join
	}
	c.flushInline()
	return nil
}

// take returns what is to be written next, or nil after it has ended the flush.
func (c *conn) take() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inflight = 0
	if len(c.out) == 0 || c.err != nil && c.closeBy.IsZero() {
		if c.out != nil {
			putBuffer(c.out)
			c.out = nil
		}
		c.flushing = false
		c.lastFlush = time.Now()
		if c.err != nil {
			c.idle.Broadcast()
		}
		return nil
	}
	b := c.out
	c.out = nil
	c.inflight = len(b)
	return b
}

// flushInline writes without blocking, and leaves what the system does not take to a goroutine.
func (c *conn) flushInline() {
	for range 2 {
		b := c.take()
		if b == nil {
			return
		}
		n, err := c.raw.write(b)
		if err != nil {
			c.giveUp(err)
			continue
		}
		if n < len(b) {
			go c.flushRest(b, n)
			return
		}
		putBuffer(b)
	}
	go c.flush()
}

func (c *conn) flush() {
	for b := c.take(); b != nil; b = c.take() {
		c.write(b, 0)
	}
}

func (c *conn) flushRest(b []byte, from int) {
	c.write(b, from)
	c.flush()
}

// write writes b[from:], blocking.
func (c *conn) write(b []byte, from int) {
	for from < len(b) {
		n := min(len(b)-from, writePiece)
		c.armWrite()
		if _, err := c.nc.Write(b[from : from+n]); err != nil {
			if isTimeout(err) {
				err = Errorf(CodeSlowPeer, "transport: %s took nothing for %v", c.peer.Addr, c.lim.writing)
			}
			c.giveUp(err)
			return
		}
		from += n
		if from < len(b) {
			c.mu.Lock()
			c.inflight = len(b) - from
			c.mu.Unlock()
		}
	}
	putBuffer(b)
}

// armWrite sets a deadline for the next write. It is set anew only when half of it has gone, because that is cheaper.
func (c *conn) armWrite() {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closeBy.IsZero() && c.deadline.Sub(now) < c.lim.writing {
		c.deadline = now.Add(c.lim.writing * 3 / 2)
		c.nc.SetWriteDeadline(c.deadline)
	}
}

// giveUp ends the connection after a failed write; when it is closing already, the bytes left are dropped.
func (c *conn) giveUp(err error) {
	c.end(err)
	c.mu.Lock()
	c.out = nil
	c.mu.Unlock()
}
