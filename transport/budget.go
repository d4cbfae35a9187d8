package transport

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// budget limits the memory that the buffers of all connections of a transport take together: chunks that wait to be written,
// and read buffers. It counts whole buffers when they are taken and returned, not messages. Buffers of at most chunkSmall
// are not counted, so a connection that sends and receives small messages one by one never touches the common counter.
type budget struct {
	max   int64
	log   *slog.Logger
	start time.Time
	conns func(func(*conn)) // calls a function for each connection after its greeting

	used atomic.Int64
	mu   sync.Mutex // held while a connection is selected and cut; taken before conn.mu
	rare rare
}

// holding is the part of the budget that one connection takes.
type holding struct {
	queue, read share
	partial     atomic.Bool // the read buffer holds a part of a message
}

// share is a number of bytes, and the time in nanoseconds since which they make no progress: for the queue, since a buffer
// was last returned or the first one taken; for the read buffer, since the first bytes of an unfinished message arrived.
type share struct{ bytes, since atomic.Int64 }

func (h *holding) bytes() int64 { return h.queue.bytes.Load() + h.read.bytes.Load() }

// weight is the number of bytes that a buffer counts.
func weight(b []byte) int64 {
	if cap(b) <= chunkSmall {
		return 0
	}
	return int64(cap(b))
}

// hold counts n more bytes in the queue of c, or fewer if n is negative. It may be called with c.mu held; checkBudget must
// follow without.
func (c *conn) hold(n int64) {
	if n != 0 {
		c.queued(n)
		c.lim.budget.used.Add(n)
	}
}

func (c *conn) queued(n int64) {
	if q := &c.held.queue; q.bytes.Add(n) == n || n < 0 {
		q.since.Store(c.lim.budget.at(time.Now()))
	}
}

// holdRead counts the read buffer. The reading goroutine calls it when the buffer has changed.
func (c *conn) holdRead() {
	n := weight(c.rd.buf)
	if was := c.held.read.bytes.Swap(n); n != was {
		c.lim.budget.used.Add(n - was)
		if n > was {
			c.checkBudget()
		}
	}
}

// unfinished records that the read buffer holds a part of a message, since now.
func (c *conn) unfinished(now time.Time) {
	c.held.read.since.Store(c.lim.budget.at(now))
	c.held.partial.Store(true)
}

// at returns t as nanoseconds since the budget was made.
func (b *budget) at(t time.Time) int64 { return int64(t.Sub(b.start)) }

// checkBudget cuts connections if the budget is exceeded.
func (c *conn) checkBudget() {
	if b := c.lim.budget; b.used.Load() > b.max {
		b.enforce()
	}
}

// tight reports whether so much of the budget is used that no read buffer should be larger than its message requires. So
// buffers that only save system calls take half of the budget at most.
func (b *budget) tight() bool { return b.used.Load() > b.max/2 }

// leastAge is added to the ages of what connections hold, so that the bytes decide between new holdings.
const leastAge = int64(time.Millisecond)

// claim returns the bytes that a connection holds, and their cost: the product with the time for which it has held them
// without progress. So somebody who sends and reads large messages is not cut for those who let small ones pile up. A buffer
// that was enlarged only to save system calls does not count.
func (h *holding) claim(now int64) (bytes int64, cost float64) {
	age := func(s *share) float64 { return float64(max(now-s.since.Load(), 0) + leastAge) }
	bytes = h.queue.bytes.Load()
	cost = float64(bytes) * age(&h.queue)
	if n := h.read.bytes.Load(); n > readLarge || h.partial.Load() {
		bytes += n
		cost += float64(n) * age(&h.read)
	}
	return bytes, cost
}

// enforce cuts the connections that take most until the rest is a sixteenth below the budget: each cut looks at all
// connections, so it should not be needed for every chunk.
func (b *budget) enforce() {
	for goal := b.max; ; goal = b.max - b.max/16 {
		c, held, all := b.cut(goal)
		if c == nil {
			return
		}
		b.rare.warn(b.log, "connection cut: too many unread and unfinished messages", "peer", c.peer.Addr,
			"held", held, "all", all, "max", b.max)
	}
}

// cut ends the connection that takes most if all take more than goal. It spares those that hold less than the average of all
// that hold something. The buffers of a connection that has ended are returned a moment later, so they do not count here.
func (b *budget) cut(goal int64) (most *conn, held, all int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all = b.used.Load()
	var claimed, holders int64
	b.conns(func(c *conn) {
		if c.over.Load() {
			all -= c.held.bytes()
		} else if n, _ := c.held.claim(0); n > 0 {
			claimed, holders = claimed+n, holders+1
		}
	})
	if all <= goal || holders == 0 {
		return nil, 0, all
	}
	now := b.at(time.Now())
	average := claimed / holders
	var cost float64
	b.conns(func(c *conn) {
		if n, x := c.held.claim(now); n >= average && x > cost && !c.over.Load() {
			most, cost = c, x
		}
	})
	if most == nil { // it has just written
		return nil, 0, all
	}
	held = most.held.bytes()
	most.end(Errorf(CodeSlowPeer, "transport: %s was cut: it held %d bytes of unread and unfinished messages, more and longer "+
		"than other connections, which may hold %d together", most.peer.Addr, held, b.max))
	return most, held, all
}

// frame is a notification that several connections queue. It counts once.
type frame struct {
	bytes  []byte
	refs   atomic.Int64
	budget *budget // nil until a connection has queued it
}

// piece is a part of a queue: a chunk, or the bytes of a frame.
type piece struct {
	bytes []byte
	frame *frame
}

// holdFrame counts a frame that c is about to queue. The sender of the frame has a reference of its own until it has given
// the frame to all connections.
func (c *conn) holdFrame(f *frame) {
	if f.refs.Add(1); f.budget == nil {
		f.budget = c.lim.budget
		f.budget.used.Add(int64(cap(f.bytes)))
	}
	c.queued(int64(cap(f.bytes)))
}

// drop ends a reference.
func (f *frame) drop() {
	if f.refs.Add(-1) == 0 && f.budget != nil {
		f.budget.used.Add(-int64(cap(f.bytes)))
	}
}

// letGo ends the counting of a piece that c has written or dropped.
func (c *conn) letGo(p piece) {
	if p.frame != nil {
		c.queued(-int64(cap(p.bytes)))
		p.frame.drop()
	} else {
		c.hold(-weight(p.bytes))
	}
}
