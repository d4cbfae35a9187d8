package transport

import (
	"container/list"
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// maxStrangers limits the inbound connections in the handshake.
	maxStrangers = 2048
	// welcomed is the fraction of its time limit for which a stranger is not evicted.
	welcomed = 8
)

// door schedules handshakes. A handshake takes some hundred microseconds of CPU time on each side, in steps between which it
// waits for the peer. If thousands of clients connect at once, their steps would fill the scheduler's queue, and the
// heartbeats of hosts would be late. So each step needs a turn, and there are as many turns as processors: other work waits
// for one step at most.
//
// Handshakes that have begun go first. Of the others, the newest and the oldest begin alternately: neither a host that
// connects during a rush of clients nor one of the first clients waits for all others. If there are too many strangers, a
// new one evicts the oldest, which had its share of the time limit.
type door struct {
	ctx   context.Context // ends when the door is closed
	close context.CancelFunc
	limit int // on strangers

	mu        sync.Mutex // guards the fields below
	turns     int        // that are free
	begun     []*visit   // wait for a turn to continue; the first is next
	fresh     []*visit   // wait for their first turn, oldest first
	oldest    bool       // the oldest is next, not the newest
	strangers list.List  // of *visit, oldest first
}

func newDoor(turns int) *door {
	d := &door{limit: maxStrangers, turns: turns}
	d.ctx, d.close = context.WithCancel(context.Background())
	return d
}

// visit is a connection in the handshake, below TLS. It has a turn while it computes, and none while it waits for the peer.
type visit struct {
	net.Conn
	door *door
	ctx  context.Context // ends the waiting for a turn
	turn chan struct{}   // has room for the one turn

	// The fields below belong to the goroutine of the handshake.
	begun bool
	has   bool // a turn
	over  bool

	// Of an inbound connection, a stranger:
	came   time.Time
	limit  time.Duration // for its first bytes, and from its first turn on for the rest
	end    context.CancelFunc
	place  *list.Element // guarded by door.mu; nil after leave
	thrown bool          // guarded by door.mu: it was evicted
}

// enter returns the visit of a connection that this side has dialled. computed ends it.
func (d *door) enter(ctx context.Context, base net.Conn) *visit {
	return &visit{Conn: base, door: d, ctx: ctx, turn: make(chan struct{}, 1)}
}

// receive returns the visit of a stranger. Its first bytes must arrive within limit, and the handshake must end within limit
// from its first turn on. leave ends the visit.
func (d *door) receive(base net.Conn, limit time.Duration) *visit {
	v := d.enter(d.ctx, base)
	v.ctx, v.end = context.WithCancel(d.ctx)
	for !d.room() {
		time.Sleep(5 * time.Millisecond)
	}
	v.came, v.limit = time.Now(), limit
	base.SetDeadline(v.came.Add(limit))
	d.mu.Lock()
	defer d.mu.Unlock()
	v.place = d.strangers.PushBack(v)
	return v
}

// room evicts the oldest stranger if there are too many and it had its time. It reports whether there is room.
func (d *door) room() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.strangers.Len() < d.limit || d.ctx.Err() != nil {
		return true
	}
	oldest := d.strangers.Front().Value.(*visit)
	if time.Since(oldest.came) < oldest.limit/welcomed {
		return false
	}
	d.strangers.Remove(oldest.place)
	oldest.place, oldest.thrown = nil, true
	oldest.end()
	oldest.Conn.Close()
	return true
}

// leave ends the visit of a stranger, and reports whether it was evicted.
func (v *visit) leave() (thrown bool) {
	v.computed()
	v.end()
	v.door.mu.Lock()
	defer v.door.mu.Unlock()
	if v.place != nil {
		v.door.strangers.Remove(v.place)
		v.place = nil
	}
	return v.thrown
}

// computed ends the use of turns when the handshake is over.
func (v *visit) computed() {
	v.giveTurn()
	v.over = true
}

// Read waits for the peer without a turn, and then for a turn.
func (v *visit) Read(b []byte) (int, error) {
	if v.over {
		return v.Conn.Read(b)
	}
	v.giveTurn()
	n, err := v.Conn.Read(b)
	if err == nil {
		err = v.takeTurn()
	}
	return n, err
}

func (v *visit) takeTurn() error {
	d := v.door
	d.mu.Lock()
	if d.turns > 0 {
		d.turns--
		d.mu.Unlock()
		v.begin()
		return nil
	}
	queue := &d.fresh
	if v.begun {
		queue = &d.begun
	}
	*queue = append(*queue, v)
	d.mu.Unlock()
	select {
	case <-v.turn:
		v.begin()
		return nil
	case <-v.ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(*queue, v); i >= 0 {
		*queue = slices.Delete(*queue, i, i+1)
	} else {
		d.next() // it has just received a turn
	}
	return net.ErrClosed
}

// begin records that v has a turn.
func (v *visit) begin() {
	if !v.begun && v.limit > 0 {
		v.Conn.SetDeadline(time.Now().Add(v.limit))
	}
	v.begun, v.has = true, true
}

func (v *visit) giveTurn() {
	if !v.has {
		return
	}
	v.has = false
	v.door.mu.Lock()
	defer v.door.mu.Unlock()
	v.door.next()
}

// next passes a turn on. The caller holds d.mu.
func (d *door) next() {
	var v *visit
	switch {
	case len(d.begun) > 0:
		v = d.begun[0]
		d.begun = slices.Delete(d.begun, 0, 1)
	case len(d.fresh) > 0:
		i := len(d.fresh) - 1
		if d.oldest {
			i = 0
		}
		d.oldest = !d.oldest
		v = d.fresh[i]
		d.fresh = slices.Delete(d.fresh, i, i+1)
	default:
		d.turns++
		return
	}
	v.turn <- struct{}{}
}
