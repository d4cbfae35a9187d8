package chatcore

import (
	"context"
	"sync"
	"time"
)

// inbox holds messages for readers, at most limit. Readers that are slow lose the oldest, and are told how many.
type inbox struct {
	mu    sync.Mutex // guards all below; nothing slow runs under it
	limit int
	buf   []letter // a ring: n letters from head on
	head  int
	n     int
	lost  uint64
	ended bool
	err   error
	news  chan struct{} // 1 deep: there may be something to read
}

// letter is a message as it is kept. What the room publishes comes in great numbers and needs few of a Message's fields.
type letter struct {
	kind    Kind
	history bool
	missing int
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
		History: l.history, Missing: l.missing}
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

func (b *inbox) push(m Message) { b.put(&letter{other: &m}) }

func (b *inbox) put(l *letter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return
	}
	if b.n == b.limit {
		oldest := &b.buf[b.head]
		b.lost += oldest.count()
		*oldest = letter{}
		b.head = b.place(1)
		b.n--
	}
	b.grow()
	b.buf[b.place(b.n)] = *l
	if b.n++; b.n == 1 {
		b.wake() // a reader that leaves some wakes the next
	}
}

// grow makes room for one more in the ring, which begins at 0 then.
func (b *inbox) grow() {
	if b.n < len(b.buf) {
		return
	}
	grown := make([]letter, min(max(2*b.n, 16), b.limit))
	copy(grown[copy(grown, b.buf[b.head:]):], b.buf[:b.head])
	b.buf, b.head = grown, 0
}

// place is where in the ring the letter i is; i is not above the length.
func (b *inbox) place(i int) int {
	if i += b.head; i >= len(b.buf) {
		i -= len(b.buf)
	}
	return i
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

// atOnce is how many messages a reader takes at a time.
const atOnce = 32

// take waits for messages and appends some to batch; if there will be none, it appends none.
func (b *inbox) take(ctx context.Context, batch []letter) ([]letter, error) {
	for {
		b.mu.Lock()
		if b.lost > 0 {
			batch = append(batch, letter{other: &Message{Kind: KindGap, Lost: b.lost}})
			b.lost = 0
		}
		for b.n > 0 && len(batch) < atOnce {
			l := &b.buf[b.head]
			batch = append(batch, *l)
			*l = letter{}
			b.head = b.place(1)
			b.n--
		}
		if b.n == 0 {
			b.head = 0 // the memory used last is the fastest
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
	for i := len(rest) - 1; i >= 0; i-- {
		if b.n == b.limit {
			for ; i >= 0; i-- {
				b.lost += rest[i].count()
			}
			break
		}
		b.grow()
		if b.head--; b.head < 0 {
			b.head = len(b.buf) - 1
		}
		b.buf[b.head] = rest[i]
		b.n++
	}
	if len(rest) > 0 {
		b.wake()
	}
}
