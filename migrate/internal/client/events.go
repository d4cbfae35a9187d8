package client

import (
	"context"
	"iter"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// Limits of the buffer of received events.
const (
	feedLen   = 4096
	feedBytes = 8 << 20
	feedCost  = 256 // memory of a batch besides its bytes
	// feedKeep is the largest capacity of a slice of batches that is reused, so that a client does not keep a large one.
	feedKeep = 64
)

// Event is an event that the service emitted.
type Event struct {
	// Seq is its number.
	Seq uint64
	// Time is the log time of the command that emitted it.
	Time time.Time
	// Epoch is that of the host that sent it.
	Epoch uint64
	// Body is the emitted body.
	Body []byte
	// Gap, if not 0, is the number of the first event lost before this one.
	Gap uint64
	// More is true if the next event is available.
	More bool
}

// Events yields the events from a number on, or those to come if it is 0. The last pair has the error.
func (c *Client) Events(ctx context.Context, from uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := c.beginEvents(from); err != nil {
			yield(Event{}, err)
			return
		}
		defer c.endEvents()
		var batches []eventBatch
		for {
			var err error
			batches, err = c.nextEvents(ctx, batches)
			for i, b := range batches {
				for b.n > 0 && ctx.Err() == nil {
					ev := b.next()
					ev.More = b.n > 0 || i < len(batches)-1
					if !yield(ev, nil) {
						return
					}
				}
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(Event{}, err)
				return
			}
		}
	}
}

// eventFeed buffers received events until they are read. It does no I/O. Client.mu guards it.
type eventFeed struct {
	open   bool          // there is a reader
	next   uint64        // number of the next event to buffer; 0: not known yet
	buf    []eventBatch  // events that were not read
	unused []eventBatch  // an empty slice that the reader has returned, to be buf again
	n      int           // events in buf
	bytes  int           // their memory
	live   bool          // the host has answered the last roam.listen, and sends from next on
	full   bool          // events were dropped; the client asks for them again when buf is empty
	asks   uint64        // counts the calls of roam.listen; answers to earlier ones are ignored
	wake   chan struct{} // wakes the reader; 1 deep

	taken, gaps, lost uint64 // counters, kept when the reader ends
}

// listen begins another roam.listen. It returns the number to ask for, and whether a call is needed.
func (f *eventFeed) listen() (from, ask uint64, needed bool) {
	f.live = false
	if !f.open || f.full {
		return 0, 0, false
	}
	f.asks++
	return f.next, f.asks, true
}

// begun processes the answer to a roam.listen.
func (f *eventFeed) begun(ask, next uint64) {
	if !f.open || ask != f.asks {
		return
	}
	f.live = true
	if f.next == 0 {
		f.next = max(next, 1)
	}
}

// take buffers a batch.
func (f *eventFeed) take(b *eventBatch) {
	if !f.open || !f.live || f.full {
		return
	}
	for b.n > 0 && b.first < f.next {
		b.next() // sent again when the session was resumed
	}
	b.bytes += feedCost
	switch {
	case b.n == 0:
		return
	case f.n > 0 && (f.n+b.n > feedLen || f.bytes+b.bytes > feedBytes):
		f.full, f.live = true, false
		return
	case b.first > f.next:
		b.gap = f.next
		f.gaps++
		f.lost += b.first - f.next
	}
	if f.buf == nil {
		f.buf, f.unused = f.unused, nil
	}
	f.buf = append(f.buf, *b)
	f.next = b.first + uint64(b.n)
	f.n += b.n
	f.taken += uint64(b.n)
	f.bytes += b.bytes
	f.signal()
}

// drain returns everything in the buffer, and whether the feed has to listen again. used, if not nil, is a slice that drain
// returned before, for reuse.
func (f *eventFeed) drain(used []eventBatch) (batches []eventBatch, listen bool) {
	batches, listen = f.buf, f.full
	f.buf, f.n, f.bytes, f.full = nil, 0, 0, false
	if used != nil && cap(used) <= feedKeep {
		f.unused = used[:0]
	}
	return batches, listen
}

func (f *eventFeed) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// reset ends a reader's feed. The counters stay.
func (f *eventFeed) reset() {
	*f = eventFeed{asks: f.asks, wake: f.wake, taken: f.taken, gaps: f.gaps, lost: f.lost}
}

// end drops the unread events when the client ends, unless only the session expired: then the reader still gets them.
func (f *eventFeed) end(err error) {
	if transport.CodeOf(err) != wire.CodeSessionExpired {
		f.buf, f.n, f.bytes = nil, 0, 0
	}
	f.signal()
}

func (c *Client) beginEvents(from uint64) error {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return c.err
	}
	if c.feed.open {
		c.mu.Unlock()
		return transport.Errorf(wire.CodeExists, "migrate: service %s: another loop is reading the client's events", c.service)
	}
	c.feed.open, c.feed.next = true, from
	c.feed.asks++ // answers still to come are those of an earlier loop
	c.mu.Unlock()
	c.listenAgain()
	return nil
}

func (c *Client) endEvents() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.feed.reset()
}

// nextEvents waits for events and returns all that are buffered. used is the slice that it returned before.
func (c *Client) nextEvents(ctx context.Context, used []eventBatch) ([]eventBatch, error) {
	clear(used)
	for {
		c.mu.Lock()
		batches, again := c.feed.drain(used)
		used = nil // it may be the feed's buffer from now on
		err := c.err
		c.mu.Unlock()
		if again && err == nil {
			c.listenAgain()
		}
		if len(batches) > 0 || err != nil {
			return batches, err
		}
		select {
		case <-c.feed.wake:
		case <-c.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// listenAgain asks the host for the events from the next one on. If there is no host, start does so later.
func (c *Client) listenAgain() {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.mu.Lock()
	l := c.conns.current
	if l == nil || !l.started {
		c.mu.Unlock()
		return
	}
	from, ask, needed := c.feed.listen()
	round := l.round
	c.mu.Unlock()
	if needed {
		c.listen(l, round, from, ask)
	}
}

// listen calls roam.listen on l. sendMu is held.
func (c *Client) listen(l *link, round uint32, from, ask uint64) {
	params, err := transport.Marshal(&wire.ListenParams{Service: c.service, Session: c.session.id, From: from})
	if err != nil {
		return
	}
	l.conn.Go(wire.MethodListen, params, func(result []byte, err error) {
		var res wire.ListenResult
		if err == nil {
			err = transport.Unmarshal(result, &res)
		}
		if err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			l.lastHeard = time.Now()
			if l == c.conns.current {
				c.feed.begun(ask, res.Next)
			}
			return
		}
		a := classify(nil, err)
		if a.outcome != outcomeBroken && a.outcome != outcomeDone {
			c.refused(l, round, false, a.outcome, err, a.data)
		}
	})
}

// eventsArrived processes a batch that arrived on l.
func (c *Client) eventsArrived(l *link, b *eventBatch) {
	c.mu.Lock()
	s := &c.session
	if l == c.conns.current && s.opened && b.term.loss > s.seen.loss {
		c.mu.Unlock()
		c.end(c.errStateLost(b.term.epoch))
		return
	}
	defer c.mu.Unlock()
	if l != c.conns.current || b.term.less(s.seen) {
		return
	}
	l.lastHeard = time.Now()
	s.seen = b.term
	if l.opened {
		l.term = b.term
	}
	c.feed.take(b)
}
