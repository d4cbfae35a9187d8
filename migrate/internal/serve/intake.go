package serve

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// A connection may have this much in flight: requests without an answer, and messages of a host that its loop has not
// handled. Beyond that it is not read, so that a fast sender waits at its own end and delays others by no more than this.
const (
	MaxCalls = 256
	MaxBytes = 4 << 20
)

// knownFactor multiplies the limits of a connection that a known host has made: it carries the messages of all services that
// two hosts share, and one service must not block the others.
const knownFactor = 16

// blockedInterval is how often a peer whose connection is not read is informed. Its pings are not read either: without a
// sign it would take this host for dead, connect again, and be blocked again.
const blockedInterval = time.Second

// Conn is a connection that a client or another host has made to this host. It is safe for concurrent use, except that only
// the reading goroutine calls TryEnter and Enter.
type Conn struct {
	transport.Conn

	known   atomic.Bool // a service knows the host that has made it
	blocked atomic.Bool // the reading goroutine waits in Enter

	mu           sync.Mutex    // guards the fields below
	room         chan struct{} // has a token when there may be room again; nil until the reading goroutine first waits
	calls, bytes int           // in flight
	closed       bool
}

// SetKnown raises the limits for a connection that a known host has made.
func (c *Conn) SetKnown() {
	if !c.known.Load() {
		c.known.Store(true)
	}
}

// TryEnter counts size bytes as in flight, or returns false if there is no room.
func (c *Conn) TryEnter(size int) bool { return c.enter(size) == nil }

// Enter counts size bytes as in flight, when there is room or the connection is closed.
func (c *Conn) Enter(size int) {
	room := c.enter(size)
	if room == nil {
		return
	}
	c.blocked.Store(true)
	defer c.blocked.Store(false)
	ticker := time.NewTicker(blockedInterval)
	defer ticker.Stop()
	for room != nil {
		select {
		case <-room:
		case <-ticker.C:
			if c.Notify(wire.MethodHeld, nil) != nil {
				c.Ended()
			}
		}
		room = c.enter(size)
	}
}

// enter counts size bytes as in flight if there is room. Otherwise it returns a channel that receives when there may be
// room. A message over the limit enters alone.
func (c *Conn) enter(size int) (room <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	factor := 1
	if c.known.Load() {
		factor = knownFactor
	}
	if c.closed || c.calls == 0 || c.calls < MaxCalls*factor && c.bytes+size <= MaxBytes*factor {
		c.calls++
		c.bytes += size
		return nil
	}
	if c.room == nil {
		c.room = make(chan struct{}, 1)
	}
	return c.room
}

// Leave counts size bytes as no longer in flight.
func (c *Conn) Leave(size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls--
	c.bytes -= size
	c.wake()
}

// Ended marks the connection as closed. Enter does not wait any more: nothing will be answered.
func (c *Conn) Ended() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.wake()
}

// Abort closes the connection, even while its reading goroutine waits in Enter.
func (c *Conn) Abort() {
	c.Close()
	c.Ended()
}

// wake lets Enter look again; c.mu is held.
func (c *Conn) wake() {
	if c.room != nil {
		select {
		case c.room <- struct{}{}:
		default:
		}
	}
}

// InFlight returns the calls and bytes in flight.
func (c *Conn) InFlight() (calls, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls, c.bytes
}

func (c *Conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}
