package transport

import (
	"runtime"
	"sync"
	"time"
)

const (
	chunkSmall = 4 << 10       // of what waits to be written: the first chunk
	chunkLarge = 64 << 10      // and the ones after it
	chunkHuge  = 256<<10 + 512 // for a message that needs it, such as a piece of a snapshot of package migrate

	// After a write, before a sender writes by itself again.
	quietFor    = 10 * time.Microsecond
	quietForTLS = 50 * time.Microsecond
)

// writer is the sending half of a conn, guarded by its mutex.
//
// Messages are appended to out. Who finds that nobody is flushing makes it happen; until that flush is over, everybody
// else's messages join what is written next, so that many small messages cost few system calls and no goroutine switch.
type writer struct {
	raw       *rawWriter // writes to base without blocking; nil where that is not to be had
	queue     [][]byte   // full chunks, to be written before out
	out       []byte     // the chunk that is being filled
	waiting   int        // bytes in queue, and those being written
	flushing  bool       // somebody is writing, or will at once
	idle      sync.Cond  // told when flushing ends after the connection has
	lastFlush time.Time
	deadline  time.Time // armed for writes that may block
}

var (
	smallChunks = sync.Pool{New: func() any { return new([chunkSmall]byte) }}
	largeChunks = sync.Pool{New: func() any { return new([chunkLarge]byte) }}
	hugeChunks  = sync.Pool{New: func() any { return new([chunkHuge]byte) }}
)

func putChunk(b []byte) {
	switch cap(b) {
	case chunkSmall:
		smallChunks.Put((*[chunkSmall]byte)(b[:chunkSmall]))
	case chunkLarge:
		largeChunks.Put((*[chunkLarge]byte)(b[:chunkLarge]))
	case chunkHuge:
		hugeChunks.Put((*[chunkHuge]byte)(b[:chunkHuge]))
	}
}

// enqueue puts a frame behind what is to be written, as it is: it is not copied.
func (w *writer) enqueue(frame []byte) {
	if len(w.out) > 0 {
		w.queue = append(w.queue, w.out)
		w.waiting += len(w.out)
		w.out = nil
	}
	w.queue = append(w.queue, frame)
	w.waiting += len(frame)
}

// room is where the next message of at most n bytes is appended.
func (w *writer) room(n int) []byte {
	if cap(w.out)-len(w.out) >= n {
		return w.out
	}
	size := chunkSmall
	if len(w.out) > 0 {
		w.queue = append(w.queue, w.out)
		w.waiting += len(w.out)
		size = chunkLarge
	}
	switch {
	case n > chunkHuge:
		return make([]byte, 0, n)
	case n > chunkLarge:
		return hugeChunks.Get().(*[chunkHuge]byte)[:0]
	case n > chunkSmall, size == chunkLarge:
		return largeChunks.Get().(*[chunkLarge]byte)[:0]
	}
	return smallChunks.Get().(*[chunkSmall]byte)[:0]
}

// forgetAll drops what was not written.
func (w *writer) forgetAll() { w.queue, w.out = nil, nil }

// haste is how soon what was appended is to be written.
type haste uint8

const (
	patient haste = iota // by a goroutine: more may come until it runs
	usual                // by the sender if the connection was quiet, so that a burst is written in few pieces
	urgent               // by the sender, who is going to wait for an answer
)

// kick sees to it that what was appended gets written. It is called with c.mu held and releases it.
func (c *conn) kick(h haste) error {
	if c.lim.messages != nil {
		c.lim.messages.Add(1)
	}
	if c.flushing {
		waiting := len(c.out) + c.waiting
		c.mu.Unlock()
		if waiting > c.lim.maxPending {
			err := Errorf(CodeSlowPeer, "transport: %s does not read: %d bytes wait for it", c.peer.Addr, waiting)
			c.end(err)
			return err
		}
		return nil
	}
	c.flushing = true
	alone := c.calls.len() <= 1
	inline := c.raw != nil && (h == urgent || h == usual && c.quiet())
	c.mu.Unlock()
	if !inline {
		go c.flush(outgoing{})
		return nil
	}
	if h == urgent && !alone {
		runtime.Gosched() // others who are about to send may join
	}
	c.flushInline()
	return nil
}

// quiet reports whether nothing was written for a while. With TLS each piece costs more, so that more should go into one.
func (c *conn) quiet() bool {
	d := quietFor
	if c.seal != nil {
		d = quietForTLS
	}
	return time.Since(c.lastFlush) > d
}

// take returns the chunk that is to be written next, which is empty if there are only records that TLS wrote by itself, or nil
// after it has ended the flush. done is what was written before.
func (c *conn) take(done []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting -= len(done)
	if len(c.queue) > 0 {
		b := c.queue[0]
		c.queue[0] = nil
		if c.queue = c.queue[1:]; len(c.queue) == 0 {
			c.queue = nil
		}
		return b
	}
	if b := c.out; len(b) > 0 {
		c.out = nil
		c.waiting += len(b)
		return b
	}
	if c.seal != nil && c.seal.pending() > 0 {
		return []byte{}
	}
	c.flushing = false
	if c.raw != nil {
		c.lastFlush = time.Now()
	}
	if c.err != nil {
		c.idle.Broadcast()
	}
	return nil
}

// outgoing is what a flush has taken and not written.
type outgoing struct {
	chunk  []byte // ends in putChunk
	plain  []byte // what of it is not sealed yet
	wire   []byte // what goes to the socket next: a part of chunk, or of records
	sealed []byte // where the records are; ends in putChunk, too
}

// fetch sees to it that there is something to write, or returns false after it has ended the flush.
func (c *conn) fetch(o *outgoing) bool {
	for len(o.wire) == 0 {
		putChunk(o.sealed)
		o.sealed = nil
		if len(o.plain) == 0 {
			done := o.chunk
			o.chunk = c.take(done)
			putChunk(done)
			if o.chunk == nil {
				return false
			}
			if c.seal == nil {
				o.wire = o.chunk
				return true
			}
			o.plain = o.chunk
		}
		n := sealPiece
		if cap(o.chunk) > chunkLarge {
			n = sealLarge
		}
		n = min(n, len(o.plain))
		if n > 0 {
			c.seal.grow(n)
			if _, err := c.nc.Write(o.plain[:n]); err != nil {
				c.giveUp(err)
			}
			o.plain = o.plain[n:]
		}
		o.sealed = c.seal.take()
		o.wire = o.sealed
	}
	return true
}

// flushInline writes without blocking, and leaves what the system does not take to a goroutine.
func (c *conn) flushInline() {
	var o outgoing
	for range 2 {
		if !c.fetch(&o) {
			return
		}
		n, err := c.raw.write(o.wire)
		if err != nil {
			c.giveUp(err)
			n = len(o.wire)
		}
		if o.wire = o.wire[n:]; len(o.wire) > 0 {
			break
		}
	}
	go c.flush(o)
}

// flush writes o, and what was sent after it.
func (c *conn) flush(o outgoing) {
	for c.fetch(&o) {
		c.armWrite()
		if _, err := c.base.Write(o.wire); err != nil {
			if isTimeout(err) {
				err = Errorf(CodeSlowPeer, "transport: %s took nothing for %v", c.peer.Addr, c.lim.writing)
			}
			c.giveUp(err)
		}
		o.wire = nil
	}
}

// flushSealed has records written that TLS wrote by itself while it was read.
func (c *conn) flushSealed() {
	if c.seal == nil {
		return
	}
	n := c.seal.pending()
	if n == 0 {
		return
	}
	if n > maxSealed {
		c.end(Errorf(CodeSlowPeer, "transport: %s does not read the answers of TLS", c.peer.Addr))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && !c.flushing {
		c.flushing = true
		go c.flush(outgoing{})
	}
}

// armWrite sets a deadline for the next write. It is set anew only when a third of it has gone, because that is cheaper.
func (c *conn) armWrite() {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closeBy.IsZero() && c.deadline.Sub(now) < c.lim.writing {
		c.deadline = now.Add(c.lim.writing * 3 / 2)
		c.nc.SetWriteDeadline(c.deadline)
	}
}

// giveUp ends the connection after a failed write; when it is closing already, the bytes left are dropped, and there is
// nothing more to wait for.
func (c *conn) giveUp(err error) {
	c.end(err)
	c.mu.Lock()
	c.forgetAll()
	c.closeBy = time.Time{}
	c.mu.Unlock()
}
