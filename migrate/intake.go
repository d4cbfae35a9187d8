package migrate

import (
	"sync"
	"sync/atomic"

	"github.com/roam-go/roam/transport"
)

// What one connection may have under way here: requests without a reply, and messages of a host that no loop has looked at.
// Beyond that it is not read until some of it is done, so that whoever sends faster waits at its own end, and nobody else
// waits for more of it than this.
//
// A connection that carries the messages of a host that is known has knownFactor times as much: it speaks for all services
// that two hosts share, and one of them must not hold up the others.
const (
	intakeCalls = 256
	intakeBytes = 4 << 20
	knownFactor = 16
)

// intake counts what a connection has under way.
type intake struct {
	known atomic.Bool // a service knows the host that calls

	mu           sync.Mutex // guards what follows
	room         sync.Cond
	calls, bytes int
	closed       bool
}

func (q *intake) init() { q.room.L = &q.mu }

// enter lets in size bytes more if there is room, or waits until there is. What is larger than all the room comes in alone.
func (q *intake) enter(size int, wait bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed {
		factor := 1
		if q.known.Load() {
			factor = knownFactor
		}
		if q.calls == 0 || q.calls < intakeCalls*factor && q.bytes+size <= intakeBytes*factor {
			break
		}
		if !wait {
			return false
		}
		q.room.Wait()
	}
	q.calls++
	q.bytes += size
	return true
}

func (q *intake) leave(size int) {
	q.mu.Lock()
	q.calls--
	q.bytes -= size
	q.mu.Unlock()
	q.room.Signal() // only the reading goroutine waits
}

// close lets in whoever waits: nothing will be answered any more.
func (q *intake) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.room.Signal()
}

// request is a client's request. It counts in its connection's intake until it is answered, which happens also where the
// client does not wait for an answer. Until its service's loop has it, it belongs to the reading goroutine.
type request struct {
	*transport.Request
	from *session
	size int
	done bool
}

// take lets a request in; its params were read.
func (c *session) take(r *transport.Request) *request {
	q := &request{Request: r, from: c, size: len(r.Params)}
	r.Params = nil
	c.enter(q.size)
	return q
}

// enter waits until there is room in the intake. What was let in before must not wait for what comes after it.
func (c *session) enter(size int) {
	if !c.intake.enter(size, false) {
		c.work()
		c.intake.enter(size, true)
	}
}

// Reply answers the request. A further reply is dropped.
func (r *request) Reply(result []byte, err error) {
	if r.done {
		return
	}
	r.done = true
	r.Request.Reply(result, err)
	r.from.intake.leave(r.size)
}
