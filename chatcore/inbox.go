package chatcore

import (
	"context"
	"slices"
	"sync"
	"time"
)

// inbox buffers at most limit messages for readers. On overflow it drops the oldest and reports their number in a KindGap.
//
// Messages are passed in batches; the ownership of a batch changes, its content is not copied.
type inbox struct {
	mu    sync.Mutex // guards the fields below; never held while blocking
	limit int
	queue [][]entry // contains no empty batch
	n     int       // entries in the queue
	lost  uint64
	ended bool
	err   error
	ready chan struct{} // capacity 1: wakes a reader
}

// batchSize is the usual capacity of a batch.
const batchSize = 64

// batches recycles batches among all clients.
var batches = sync.Pool{New: func() any { return new([batchSize]entry) }}

func newBatch() []entry { return batches.Get().(*[batchSize]entry)[:0] }

// freeBatch recycles a batch owned by the caller.
func freeBatch(batch []entry) {
	clear(batch)
	if cap(batch) == batchSize { // not sliced at the front
		batches.Put((*[batchSize]entry)(batch[:batchSize]))
	}
}

// entry is the compact form of a message in the inbox: events of the room are frequent and need few of Message's fields.
type entry struct {
	kind    Kind
	history bool
	newKey  bool
	missing int32
	seq     uint64
	time    int64 // Unix milliseconds
	from    string
	text    string
	other   *Message // the complete message if it is not an event of the room
}

func (e *entry) message() Message {
	if e.other != nil {
		return *e.other
	}
	return Message{Kind: e.kind, From: e.from, Text: e.text, Time: time.UnixMilli(e.time), Seq: e.seq,
		History: e.history, Missing: int(e.missing), NewKey: e.newKey}
}

// count returns the number of messages lost when the entry is dropped. A gap counts for all messages lost in it.
func (e *entry) count() uint64 {
	if e.other != nil {
		return max(e.other.Lost, 1)
	}
	return 1
}

func newInbox(limit int) *inbox {
	return &inbox{limit: limit, ready: make(chan struct{}, 1)}
}

// raiseLimit raises the limit permanently, to make room for the history.
func (b *inbox) raiseLimit(more int) {
	b.mu.Lock()
	b.limit += more
	b.mu.Unlock()
}

// push adds a message. It reports false after end.
func (b *inbox) push(m Message) bool { return b.put([]entry{{other: &m}}) }

// put adds a batch and takes ownership of it. It reports false after end.
func (b *inbox) put(batch []entry) (open bool) {
	b.mu.Lock()
	open = !b.ended
	kept := open && len(batch) > 0 && b.add(batch)
	b.mu.Unlock()
	if !kept {
		freeBatch(batch)
	}
	return open
}

// add adds a batch and reports whether the inbox now owns its memory. The caller holds b.mu; the inbox has not ended.
func (b *inbox) add(batch []entry) (kept bool) {
	if b.n == 0 {
		b.wake() // a reader that leaves messages wakes the next reader
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
		oldest[0] = entry{}
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

// end lets readers take the buffered messages and then returns err to them. Only the first call has an effect.
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
	case b.ready <- struct{}{}:
	default:
	}
}

// take waits for messages and returns a batch owned by the caller. An empty batch without an error means the end.
func (b *inbox) take(ctx context.Context) ([]entry, error) {
	for {
		b.mu.Lock()
		var batch []entry
		switch {
		case b.lost > 0:
			batch = []entry{{other: &Message{Kind: KindGap, Lost: b.lost, Time: time.Now()}}}
			b.lost = 0
		case b.n > 0:
			batch = b.queue[0]
			b.pop()
			b.n -= len(batch)
		}
		if b.n > 0 || b.ended {
			b.wake() // wake the other readers
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
		case <-b.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// putBack returns unread messages of a batch to the front of the queue. The oldest are dropped if the inbox has since filled
// up.
func (b *inbox) putBack(rest []entry) {
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
