package transport

import (
	"runtime"
	"sync"
	"time"
)

const (
	// Sizes of the chunks that wait to be written.
	chunkSmall = 4 << 10       // the first
	chunkLarge = 64 << 10      // the next ones
	chunkHuge  = 256<<10 + 512 // for one large message, such as a piece of a snapshot of package migrate

	// The time after a write until a sender writes by itself again.
	quietFor    = 10 * time.Microsecond
	quietForTLS = 50 * time.Microsecond
)

// writer is the sending half of a conn, guarded by its mutex.
//
// Messages are appended to out. The first sender to find no flush running starts one. Until it is over, the messages of
// other senders join the next write, so many small messages cost few system calls and no goroutine switch.
type writer struct {
	raw       *rawWriter // writes to base without blocking; nil if the system cannot
	queue     []piece    // full chunks and frames, to be written before out
	out       []byte     // the current chunk
	waiting   int        // bytes in queue, and those being written
	flushing  bool       // a flush is running or about to
	idle      sync.Cond  // signals the end of a flush after the connection has ended
	lastFlush time.Time
	deadline  time.Time // for writes that can block
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

// enqueue queues a frame without copying it.
func (c *conn) enqueue(f *frame) {
	if len(c.out) > 0 {
		c.queue = append(c.queue, piece{bytes: c.out})
		c.waiting += len(c.out)
		c.out = nil
	}
	c.holdFrame(f)
	c.queue = append(c.queue, piece{f.bytes, f})
	c.waiting += len(f.bytes)
}

// room returns the buffer to which the next message of at most n bytes is appended.
func (c *conn) room(n int) []byte {
	if cap(c.out)-len(c.out) >= n {
		return c.out
	}
	size := chunkSmall
	if len(c.out) > 0 {
		c.queue = append(c.queue, piece{bytes: c.out})
		c.waiting += len(c.out)
		size = chunkLarge
	}
	b := newChunk(n, size)
	c.hold(weight(b))
	return b
}

// newChunk returns a chunk of the given size, or a larger one if n bytes need it.
func newChunk(n, size int) []byte {
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

// forgetAll drops all unwritten bytes, but not those that a flush has taken.
func (c *conn) forgetAll() {
	for _, p := range c.queue {
		c.letGo(p)
	}
	c.hold(-weight(c.out))
	c.queue, c.out = nil, nil
}

// haste is how soon an appended message is written.
type haste uint8

const (
	patient haste = iota // by a goroutine: more messages may join until it runs
	usual                // by the sender if the connection was idle, so a burst takes few writes
	urgent               // by the sender, which then waits for an answer
)

// kick makes the appended messages be written. The caller holds c.mu, which kick releases.
func (c *conn) kick(h haste) error {
	if c.lim.messages != nil {
		c.lim.messages.Add(1)
	}
	if c.flushing {
		waiting := len(c.out) + c.waiting
		c.mu.Unlock()
		if waiting > c.lim.maxPending {
			err := Errorf(CodeSlowPeer, "transport: %s does not read: %d bytes are waiting", c.peer.Addr, waiting)
			c.end(err)
			return err
		}
		c.checkBudget()
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
		runtime.Gosched() // other senders may join: BenchmarkCall64/tls takes 5.1 µs, and 15.6 µs without
	}
	c.flushInline()
	return nil
}

// quiet reports whether nothing was written for a while. With TLS each write costs more, so it should carry more.
func (c *conn) quiet() bool {
	d := quietFor
	if c.seal != nil {
		d = quietForTLS
	}
	return time.Since(c.lastFlush) > d
}

// take returns the next chunk to write. It is empty if only TLS has records to write, and nil if there is nothing: then the
// flush has ended. done is the piece written before.
func (c *conn) take(done piece) piece {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting -= len(done.bytes)
	c.letGo(done)
	if len(c.queue) > 0 {
		p := c.queue[0]
		c.queue[0] = piece{}
		if c.queue = c.queue[1:]; len(c.queue) == 0 {
			c.queue = nil
		}
		return p
	}
	if b := c.out; len(b) > 0 {
		c.out = nil
		c.waiting += len(b)
		return piece{bytes: b}
	}
	if c.seal != nil && c.seal.pending() > 0 {
		return piece{bytes: []byte{}}
	}
	c.flushing = false
	if c.raw != nil {
		c.lastFlush = time.Now()
	}
	if c.err != nil {
		c.idle.Broadcast()
	}
	return piece{}
}

// outgoing is the data that a flush has taken but not written.
type outgoing struct {
	chunk  piece  // goes to putChunk
	plain  []byte // the part of chunk not encrypted yet
	wire   []byte // the next bytes for the socket: part of chunk or of sealed
	sealed []byte // encrypted records; goes to putChunk
}

// fetch fills o.wire. It returns false if there is nothing to write: then the flush has ended.
func (c *conn) fetch(o *outgoing) bool {
	for len(o.wire) == 0 {
		c.hold(-weight(o.sealed))
		putChunk(o.sealed)
		o.sealed = nil
		if len(o.plain) == 0 {
			done := o.chunk
			o.chunk = c.take(done)
			putChunk(done.bytes)
			if o.chunk.bytes == nil {
				return false
			}
			if c.seal == nil {
				o.wire = o.chunk.bytes
				return true
			}
			o.plain = o.chunk.bytes
		}
		n := sealPiece
		if cap(o.chunk.bytes) > chunkLarge {
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
		c.hold(weight(o.sealed))
		o.wire = o.sealed
	}
	return true
}

// flushInline writes without blocking, and leaves the bytes that the system does not accept to a goroutine.
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

// flush writes o and the messages sent after it.
func (c *conn) flush(o outgoing) {
	for c.fetch(&o) {
		c.checkBudget()
		c.armWrite()
		if _, err := c.base.Write(o.wire); err != nil {
			if isTimeout(err) {
				err = Errorf(CodeSlowPeer, "transport: %s has read nothing for %v", c.peer.Addr, c.lim.writing)
			}
			c.giveUp(err)
		}
		o.wire = nil
	}
}

// flushSealed writes the records that TLS produced while reading.
func (c *conn) flushSealed() {
	if c.seal == nil {
		return
	}
	n := c.seal.pending()
	if n == 0 {
		return
	}
	if n > maxSealed {
		c.end(Errorf(CodeSlowPeer, "transport: %s does not read TLS responses", c.peer.Addr))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && !c.flushing {
		c.flushing = true
		go c.flush(outgoing{})
	}
}

// armWrite sets a deadline for the next write. To save calls, it resets the deadline only when a third of it has passed.
func (c *conn) armWrite() {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closeBy.IsZero() && c.deadline.Sub(now) < c.lim.writing {
		c.deadline = now.Add(c.lim.writing * 3 / 2)
		c.nc.SetWriteDeadline(c.deadline)
	}
}

// giveUp ends the connection after a failed write. If it is already closing, the remaining bytes are dropped.
func (c *conn) giveUp(err error) {
	c.end(portable(err))
	c.mu.Lock()
	c.forgetAll()
	c.closeBy = time.Time{}
	c.mu.Unlock()
}
