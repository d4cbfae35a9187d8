package migrate

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/transport"
)

// What one connection may have under way here: requests without a reply, and messages of a host that no loop has looked at.
// Beyond that it is not read until some of it is done, so that whoever sends faster waits at its own end, and nobody else
// waits for more of it than this. Where several connections of clients have asked for something of late, they share that, down
// to a part that still keeps a host busy: what the others wait for is what one of them has under way.
//
// A connection that carries the messages of a host that is known has knownFactor times as much: it speaks for all services
// that two hosts share, and one of them must not hold up the others.
const (
	intakeCalls = 256
	intakeBytes = 4 << 20
	sharedCalls = 32
	sharedBytes = 512 << 10
	knownFactor = 16
)

// askers counts the connections of clients that have asked for something of late: in the present tenth of a second, as far as
// the services' loops have noticed it, or in the one before.
type askers struct {
	period atomic.Int64
	count  atomic.Int64

	mu           sync.Mutex // guards what follows
	seen         int64      // the period in which now is counted
	now, earlier int64
}

// tick tells the time.
func (a *askers) tick(now time.Duration) {
	if p := int64(now / (100 * time.Millisecond)); p != a.period.Load() {
		a.period.Store(p)
	}
}

// ask counts one more in period p.
func (a *askers) ask(p int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p != a.seen {
		if a.earlier = 0; p == a.seen+1 {
			a.earlier = a.now
		}
		a.seen, a.now = p, 0
	}
	a.now++
	a.count.Store(max(a.now, a.earlier))
}

// intake counts what a connection has under way.
type intake struct {
	known  atomic.Bool // a service knows the host that calls
	askers *askers
	asked  int64 // the period after the one in which it was last counted there; for the reading goroutine

	mu           sync.Mutex // guards what follows
	room         sync.Cond
	calls, bytes int
	closed       bool
}

func (q *intake) init(a *askers) { q.room.L, q.askers = &q.mu, a }

// ask notes that a client asks for something.
func (q *intake) ask() {
	if p := q.askers.period.Load(); q.asked != p+1 {
		q.asked = p + 1
		q.askers.ask(p)
	}
}

// limits are what may be under way now.
func (q *intake) limits() (calls, bytes int) {
	if q.known.Load() {
		return intakeCalls * knownFactor, intakeBytes * knownFactor
	}
	n := int(max(q.askers.count.Load(), 1))
	return max(intakeCalls/n, sharedCalls), max(intakeBytes/n, sharedBytes)
}

// enter lets in size bytes more if there is room, or waits until there is. What is larger than all the room comes in alone.
func (q *intake) enter(size int, wait bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed {
		if calls, bytes := q.limits(); q.calls == 0 || q.calls < calls && q.bytes+size <= bytes {
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
	c.intake.ask()
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
