package migrate

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/roam-go/roam/transport"
)

const (
	feedLen   = 4096
	feedBytes = 8 << 20
	feedCost  = 64 // memory of a buffered event beside its body
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
}

// Events yields the service's events from number from on (0: only those to come), in order and once each, until ctx ends,
// the client is closed, or the session expires; the last pair holds the error.
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
		var batch []heardEvent
		for {
			var err error
			batch, err = c.nextEvents(ctx, batch)
			for i := range batch {
				if err = ctx.Err(); err != nil {
					break
				}
				if !yield(batch[i].event(), nil) {
					return
				}
			}
			if err != nil {
				yield(Event{}, err)
				return
			}
		}
	}
}

// heardEvent is an Event as it is kept.
type heardEvent struct {
	seq, epoch, gap uint64
	time            int64 // Unix milliseconds
	body            []byte
}

func (e *heardEvent) event() Event {
	return Event{Seq: e.seq, Time: time.UnixMilli(e.time), Epoch: e.epoch, Body: e.body, Gap: e.gap}
}

// eventFeed is what has arrived of the stream of events and was not read. It does no I/O.
type eventFeed struct {
	open  bool   // somebody reads
	next  uint64 // the number of the next event to put into buf; 0: not known yet
	buf   []heardEvent
	used  []heardEvent // empty: what the reader is through with, to be buf again
	bytes int
	// live: the host has answered the last roam.listen, and sends from next on.
	live bool
	full bool   // what came was dropped; it is asked for again when buf is empty
	asks uint64 // counts the roam.listen calls; the answer to an earlier one says nothing
	wake chan struct{}
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
func (f *eventFeed) take(p *eventsParams) {
	if !f.open || !f.live || f.full || len(p.Times) != len(p.Bodies) {
		return
	}
	if f.buf == nil {
		f.buf, f.used = f.used, nil
	}
	f.buf = slices.Grow(f.buf, min(len(p.Bodies), feedLen))
	for i, body := range p.Bodies {
		seq := p.First + uint64(i)
		if seq < f.next {
			continue // sent twice, around a resume
		}
		if len(f.buf) >= feedLen || f.bytes+len(body) > feedBytes && len(f.buf) > 0 {
			f.full, f.live = true, false
			break
		}
		ev := heardEvent{seq: seq, time: p.Times[i], epoch: p.Epoch, body: body}
		if seq > f.next {
			ev.gap = f.next
		}
		f.next = seq + 1
		f.buf = append(f.buf, ev)
		f.bytes += len(body) + feedCost
	}
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
		f.buf = nil
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
		return transport.Errorf(CodeExists, "migrate: service %q: the client's events are being read already", c.service)
	}
	c.feed.open, c.feed.next = true, from
	c.mu.Unlock()
	c.listenAgain()
	return nil
}

func (c *Client) endEvents() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.feed = eventFeed{asks: c.feed.asks, wake: c.feed.wake}
}

// usedEvents is how many events there may be in a slice that is used again: a client that once got many does not keep it.
const usedEvents = 1024

// nextEvents waits for events and takes all that there are. used are those that it returned before.
func (c *Client) nextEvents(ctx context.Context, used []heardEvent) ([]heardEvent, error) {
	clear(used)
	for {
		c.mu.Lock()
		batch := c.feed.buf
		c.feed.buf, c.feed.bytes = nil, 0
		if used != nil && cap(used) <= usedEvents {
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
	params, err := transport.Marshal(&listenParams{Service: c.service, Session: c.session, From: from})
	if err != nil {
		return
	}
	l.conn.Go(methodListen, params, func(result []byte, err error) {
		var res listenResult
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

// heardParams are used again by all clients. What they held for a moment is bounded by the size of a message.
var heardParams = sync.Pool{New: func() any { return new(eventsParams) }}

// heardEvents takes events that arrived on l.
func (c *Client) heardEvents(l *hostLink, p *eventsParams) {
	term := fence{p.Loss, p.Epoch}
	c.mu.Lock()
	if l == c.cur && c.opened && p.Loss > c.seen.loss {
		c.mu.Unlock()
		c.fail(c.stateLost(p.Epoch))
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
	c.feed.take(p)
}
