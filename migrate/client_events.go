package migrate

import (
	"context"
	"iter"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

const (
	feedLen   = 4096
	feedBytes = 8 << 20
	feedCost  = 256 // memory of a buffered message of events beside its bytes
)

// Event is something a service published with [Command.Emit].
type Event struct {
	// Seq is the number of the event in the service's stream.
	Seq uint64
	// Time is the log's time of the command that emitted it.
	Time time.Time
	// Epoch is the epoch in which the host that sent it served.
	Epoch uint64
	// Body is what was emitted. It belongs to the receiver, but may share memory with up to 256 KiB of bodies that came
	// with it: copy a small one that is kept for long.
	Body []byte
	// Gap, if not 0, says that the events from Gap to Seq-1 are gone: the client was away for longer than they were kept.
	Gap uint64
	// More says that the next event has arrived already and is yielded right after this one, unless ctx ends.
	More bool
}

// Events yields the service's events from number from on, in order and once each, until ctx ends, the client is closed, or
// the session expires; the last pair holds the error. With 0 it begins with the first event after the loop has begun and
// the host has heard of it: who must miss none since some command asks for that number, for instance in the reply to the
// command, as events are numbered from 1 in the order in which Apply emits them.
//
// The client buffers 4,096 events or 8 MiB for a reader that is slower than the service. To one that falls behind further
// the host sends again, from where the buffer ended, so that it misses only what the service does not keep any more
// ([Policy.EventBytes]); that is told in [Event.Gap].
//
// A client has one stream of events: while one loop runs, the first pair of a second one holds an error.
func (c *Client) Events(ctx context.Context, from uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := c.beginEvents(from); err != nil {
			yield(Event{}, err)
			return
		}
		defer c.endEvents()
		var batch []heardEvents
		for {
			var err error
			batch, err = c.nextEvents(ctx, batch)
			for i, h := range batch {
				for h.n > 0 && ctx.Err() == nil {
					ev := h.next()
					ev.More = h.n > 0 || i < len(batch)-1
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

// eventFeed is what has arrived of the stream of events and was not read. It does no I/O.
type eventFeed struct {
	open  bool   // somebody reads
	next  uint64 // the number of the next event to put into buf; 0: not known yet
	buf   []heardEvents
	used  []heardEvents // empty: what the reader is through with, to be buf again
	n     int           // events in buf
	bytes int
	// live: the host has answered the last roam.listen, and sends from next on.
	live bool
	full bool   // what came was dropped; it is asked for again when buf is empty
	asks uint64 // counts the roam.listen calls; the answer to an earlier one says nothing
	wake chan struct{}

	taken, gaps, lost uint64 // counters that outlive a reader
}

// listen begins another roam.listen: what number it asks for, and whether there is one to be made.
func (f *eventFeed) listen() (from, ask uint64, want bool) {
	f.live = false
	if !f.open || f.full {
		return 0, 0, false
	}
	f.asks++
	return f.next, f.asks, true
}

// begun takes the answer to roam.listen.
func (f *eventFeed) begun(ask, next uint64) {
	if !f.open || ask != f.asks {
		return
	}
	f.live = true
	if f.next == 0 {
		f.next = max(next, 1)
	}
}

// take buffers what a host sent.
func (f *eventFeed) take(h *heardEvents) {
	if !f.open || !f.live || f.full {
		return
	}
	for h.n > 0 && h.first < f.next {
		h.next() // sent twice, around a resume
	}
	h.bytes += feedCost
	switch {
	case h.n == 0:
		return
	case f.n > 0 && (f.n+h.n > feedLen || f.bytes+h.bytes > feedBytes):
		f.full, f.live = true, false
		return
	case h.first > f.next:
		h.gap = f.next
		f.gaps++
		f.lost += h.first - f.next
	}
	if f.buf == nil {
		f.buf, f.used = f.used, nil
	}
	f.buf = append(f.buf, *h)
	f.next = h.first + uint64(h.n)
	f.n += h.n
	f.taken += uint64(h.n)
	f.bytes += h.bytes
	f.signal()
}

func (f *eventFeed) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// end forgets what was not read when the client ends; if it was only the session that expired, the reader still gets it.
func (f *eventFeed) end(err error) {
	if transport.CodeOf(err) != CodeSessionExpired {
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
		return transport.Errorf(CodeExists, "migrate: service %s: the client's events are being read already", c.service)
	}
	c.feed.open, c.feed.next = true, from
	c.feed.asks++ // an answer that is still to come was for an earlier loop
	c.mu.Unlock()
	c.listenAgain()
	return nil
}

func (c *Client) endEvents() {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &c.feed
	*f = eventFeed{asks: f.asks, wake: f.wake, taken: f.taken, gaps: f.gaps, lost: f.lost}
}

// feedKeep is how many messages there may be in a slice that is used again: a client that once got many does not keep it.
const feedKeep = 64

// nextEvents waits for events and takes all that there are. used are those that it returned before.
func (c *Client) nextEvents(ctx context.Context, used []heardEvents) ([]heardEvents, error) {
	clear(used)
	for {
		c.mu.Lock()
		batch := c.feed.buf
		c.feed.buf, c.feed.n, c.feed.bytes = nil, 0, 0
		if used != nil && cap(used) <= feedKeep {
			c.feed.used = used[:0]
		}
		used = nil // it may be buf again already
		again := c.feed.full
		c.feed.full = false
		err := c.err
		c.mu.Unlock()
		if again && err == nil {
			c.listenAgain()
		}
		if len(batch) > 0 || err != nil {
			return batch, err
		}
		select {
		case <-c.feed.wake:
		case <-c.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// listenAgain asks for the events from the next one on, if there is a host; otherwise that is done when there is one.
func (c *Client) listenAgain() {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.mu.Lock()
	l := c.cur
	if l == nil || !l.started {
		c.mu.Unlock()
		return
	}
	from, ask, want := c.feed.listen()
	round := l.round
	c.mu.Unlock()
	if want {
		c.listen(l, round, from, ask)
	}
}

// listen calls roam.listen on l. sendMu is held.
func (c *Client) listen(l *hostLink, round uint32, from, ask uint64) {
	params, err := transport.Marshal(&wire.ListenParams{Service: c.service, Session: c.session, From: from})
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
			l.heard = time.Now()
			if l == c.cur {
				c.feed.begun(ask, res.Next)
			}
			return
		}
		a := judgeCommand(nil, err)
		if a.fate != fateBroken && a.fate != fateReplied {
			c.refusal(l, round, false, a.fate, err, a.data)
		}
	})
}

// heardEvents takes events that arrived on l.
func (c *Client) heardEvents(l *hostLink, h *heardEvents) {
	term := fence{h.loss, h.epoch}
	c.mu.Lock()
	if l == c.cur && c.opened && h.loss > c.seen.loss {
		c.mu.Unlock()
		c.fail(c.stateLost(h.epoch))
		return
	}
	defer c.mu.Unlock()
	if l != c.cur || term.less(c.seen) {
		return
	}
	l.heard = time.Now()
	c.seen = term
	if l.opened {
		l.term = term
	}
	c.feed.take(h)
}
