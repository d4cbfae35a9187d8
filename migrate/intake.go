package migrate

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
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

	// heldBeat is how often a peer that is held back is told so. While it is, its pings are not read: it would take this host
	// for dead, connect anew, and be held back again.
	heldBeat = time.Second
)

// intake counts what a connection has under way.
type intake struct {
	known atomic.Bool // a service knows the host that calls
	held  atomic.Bool // the reading goroutine waits

	mu           sync.Mutex    // guards what follows
	room         chan struct{} // has a token when there may be room again; nil until the reading goroutine first waits
	calls, bytes int
	closed       bool
}

// enter lets in size bytes more if there is room, else it returns what tells when there may be some. What is larger than all
// the room comes in alone.
func (q *intake) enter(size int) (room <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	factor := 1
	if q.known.Load() {
		factor = knownFactor
	}
	if q.closed || q.calls == 0 || q.calls < intakeCalls*factor && q.bytes+size <= intakeBytes*factor {
		q.calls++
		q.bytes += size
		return nil
	}
	if q.room == nil {
		q.room = make(chan struct{}, 1)
	}
	return q.room
}

func (q *intake) leave(size int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.calls--
	q.bytes -= size
	q.wake()
}

// close lets in whoever waits: nothing will be answered any more.
func (q *intake) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake()
}

func (q *intake) wake() {
	if q.room != nil {
		select {
		case q.room <- struct{}{}:
		default:
		}
	}
}

// state tells whether anything is under way, and whether the connection is over.
func (q *intake) state() (busy, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.calls > 0, q.closed
}

// request is a client's request. It counts in its connection's intake until it is answered, which happens also where the
// client does not wait for an answer. Until its service's loop has it, it belongs to the reading goroutine.
type request struct {
	*transport.Request
	from *inbound
	size int
	done bool
	do   wire.DoParams // of a command: most requests are
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
