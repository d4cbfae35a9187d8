package chatcore

import (
	"context"
	"slices"
	"sync"
	"time"
)

// inbox holds messages for readers, at most limit. Readers that are slow lose the oldest, and are told how many.
//
// Messages come and go in batches, which change hands and are not copied.
type inbox struct {
	mu    sync.Mutex // guards all below; nothing slow runs under it
	limit int
	queue [][]letter // none is empty
	n     int        // letters in the queue
	lost  uint64
	ended bool
	err   error
	news  chan struct{} // 1 deep: there may be something to read
}

// atOnce is how many messages there are in a batch, most often.
const atOnce = 64

// batches are used again by all clients; there are many only where many messages wait.
var batches = sync.Pool{New: func() any { return new([atOnce]letter) }}

func newBatch() []letter { return batches.Get().(*[atOnce]letter)[:0] }

// freeBatch forgets the letters of a batch that nobody else has.
func freeBatch(batch []letter) {
	clear(batch)
	if cap(batch) == atOnce { // and not cut at the front
		batches.Put((*[atOnce]letter)(batch[:atOnce]))
	}
}

// letter is a message as it is kept. What the room publishes comes in great numbers and needs few of a Message's fields.
type letter struct {
	kind    Kind
	history bool
	missing int32
	seq     uint64
	time    int64 // Unix milliseconds
	from    string
	text    string
	other   *Message // all of it, if the room did not publish it
}

func (l *letter) message() Message {
	if l.other != nil {
		return *l.other
	}
	return Message{Kind: l.kind, From: l.from, Text: l.text, Time: time.UnixMilli(l.time), Seq: l.seq,
		History: l.history, Missing: int(l.missing)}
}

// count is how many messages are missing if the letter is: a gap stands for all that are missing in it.
func (l *letter) count() uint64 {
	if l.other != nil {
		return max(l.other.Lost, 1)
	}
	return 1
}

func newInbox(limit int) *inbox {
	return &inbox{limit: limit, news: make(chan struct{}, 1)}
}

// allow raises the limit for good, for messages that come all at once.
func (b *inbox) allow(more int) {
	b.mu.Lock()
	b.limit += more
	b.mu.Unlock()
}

// push reports whether readers will find the message: not after the end.
func (b *inbox) push(m Message) bool { return b.put([]letter{{other: &m}}) }

// put takes a batch of letters over, and reports whether the inbox still took any.
func (b *inbox) put(batch []letter) (open bool) {
	b.mu.Lock()
	open = !b.ended
	kept := open && len(batch) > 0 && b.add(batch)
	b.mu.Unlock()
	if !kept {
		freeBatch(batch)
	}
	return open
}

// add queues letters, and reports whether their memory belongs to the inbox now. b.mu is held, and the inbox has not ended.
func (b *inbox) add(batch []letter) (kept bool) {
	if b.n == 0 {
		b.wake() // a reader that leaves some wakes the next
	}
	b.n += len(batch)
	if last := len(b.queue) - 1; last >= 0 && cap(b.queue[last])-len(b.queue[last]) >= len(batch) {
		b.queue[last] = append(b.queue[last], batch...)
	} else {
		b.queue = append(b.queue, batch)
		kept = true
	}
	for ; b.n > b.limit; b.n-- {
		oldest := b.queue[0]
		b.lost += oldest[0].count()
		oldest[0] = letter{}
		if b.queue[0] = oldest[1:]; len(oldest) == 1 {
			b.pop()
		}
	}
	return kept
}

// pop removes the oldest batch from the queue.
func (b *inbox) pop() {
	b.queue[0] = nil
	if b.queue = b.queue[1:]; len(b.queue) == 0 {
		b.queue = b.queue[:0:0]
	}
}

// end lets readers have what is there, and then err; nil ends in silence. Only the first call counts.
func (b *inbox) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.ended, b.err = true, err
		b.wake()
	}
}

func (b *inbox) wake() {
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// take waits for messages; none means that there will be none. The batch is the caller's.
func (b *inbox) take(ctx context.Context) ([]letter, error) {
	for {
		b.mu.Lock()
		var batch []letter
		switch {
		case b.lost > 0:
			batch = []letter{{other: &Message{Kind: KindGap, Lost: b.lost, Time: time.Now()}}}
			b.lost = 0
		case b.n > 0:
			batch = b.queue[0]
			b.pop()
			b.n -= len(batch)
		}
		if b.n > 0 || b.ended {
			b.wake() // for the other readers
		}
		ended, err := b.ended, b.err
		b.mu.Unlock()
		switch {
		case len(batch) > 0:
			return batch, nil
		case ended:
			return nil, err
		}
		select {
		case <-b.news:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// giveBack takes back the messages that a reader took and did not want, for another one. Those for which there is no room
// any more are lost.
func (b *inbox) giveBack(rest []letter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ; len(rest) > 0 && b.n+len(rest) > b.limit; rest = rest[1:] {
		b.lost += rest[0].count()
	}
	if len(rest) > 0 {
		b.queue = slices.Insert(b.queue, 0, rest)
		b.n += len(rest)
	}
	if b.n > 0 || b.lost > 0 {
		b.wake()
	}
}
