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
	// maxStrangers bounds the connections that have come to a transport's listeners and are not through the handshake.
	maxStrangers = 2048
	// welcomed is the part of its time that a stranger has for itself, however many come after it.
	welcomed = 8
)

// door is where connections shake hands. A handshake costs either side some hundred microseconds of computing, in pieces
// between which it waits for the other. When thousands of clients come at once, their pieces would stand in the scheduler's
// queue before everything else that the process has to do, and the heartbeats of hosts would be late. So the pieces take
// turns, of which there are as many as processors: whoever has no handshake to make waits for one piece at most.
//
// Who has begun goes on before others begin, of whom the newest and the oldest are let in by turns: a host that comes in the
// middle of a crowd of clients is not kept waiting by them, and nor is, by those who come later, a client that was among the
// first because somebody waits for it. A stranger that finds no room takes that of the oldest, which was given a fair time
// and has been idle or was too late.
type door struct {
	ctx   context.Context // ends when the door is closed
	close context.CancelFunc
	limit int // of strangers

	mu        sync.Mutex // guards what follows
	turns     int        // that nobody has
	begun     []*visit   // wait for a turn to go on; the first is next
	fresh     []*visit   // wait for their first turn, oldest first
	oldest    bool       // the next of them is the first, not the last
	strangers list.List  // of *visit, oldest first
}

func newDoor(turns int) *door {
	d := &door{limit: maxStrangers, turns: turns}
	d.ctx, d.close = context.WithCancel(context.Background())
	return d
}

// visit is a connection at the door, and what its TLS speaks through: it has a turn while it computes, and none while it
// waits for the peer.
type visit struct {
	net.Conn
	door *door
	ctx  context.Context // ends the waiting for a turn
	turn chan struct{}   // has room for the one turn

	// What follows belongs to the goroutine that shakes hands, and does not change afterwards.
	begun bool
	has   bool // a turn
	over  bool

	// Of a stranger.
	came   time.Time
	limit  time.Duration // for its first word, and from its first turn on for all the rest
	end    context.CancelFunc
	place  *list.Element // guarded by door.mu; nil when it has left
	thrown bool          // guarded by door.mu: it made room for another
}

// enter makes a visit of a connection that this side has dialled. computed ends it.
func (d *door) enter(ctx context.Context, base net.Conn) *visit {
	return &visit{Conn: base, door: d, ctx: ctx, turn: make(chan struct{}, 1)}
}

// receive makes a visit of a stranger. Its first word must come within limit, and the handshake take no longer from its first
// turn on. leave ends it.
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

// room makes room for a stranger, if there is none and the oldest has had its time.
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

// leave ends the visit of a stranger, who is through or refused, and reports whether it had to make room for another.
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

// computed ends the taking of turns, when the handshake is over.
func (v *visit) computed() {
	v.giveTurn()
	v.over = true
}

// Read waits for the peer without a turn, and for a turn after that.
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
		d.next() // the turn has just come
	}
	return net.ErrClosed
}

// begin notes that v has a turn.
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

// next gives a turn away. d.mu is held.
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
