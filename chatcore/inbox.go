package chatcore

import (
	"context"
	"sync"
)

// inbox holds messages for a reader, at most limit. A reader that is slow loses the oldest, and is told how many.
type inbox struct {
	mu    sync.Mutex // guards all below; nothing slow runs under it
	limit int
	buf   []Message // a ring: n messages from head on
	head  int
	n     int
	lost  uint64
	ended bool
	err   error
	news  chan struct{} // 1 deep: there may be something to read
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

func (b *inbox) push(m Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return
	}
	switch {
	case b.n == b.limit:
		b.lost += max(b.buf[b.head].Lost, 1) // a gap that is lost counts for all that is missing in it
		b.buf[b.head] = Message{}
		b.head = (b.head + 1) % len(b.buf)
		b.n--
	case b.n == len(b.buf): // grow, and begin at 0
		grown := make([]Message, min(max(2*b.n, 16), b.limit))
		copy(grown[copy(grown, b.buf[b.head:]):], b.buf[:b.head])
		b.buf, b.head = grown, 0
	}
	b.buf[(b.head+b.n)%len(b.buf)] = m
	if b.n++; b.n == 1 {
		b.wake() // a reader that takes one of several wakes the next
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

// pop waits for a message; more is false when there will be none.
func (b *inbox) pop(ctx context.Context) (m Message, more bool, err error) {
	for {
		b.mu.Lock()
		switch {
		case b.lost > 0:
			m, b.lost = Message{Kind: KindGap, Lost: b.lost}, 0
		case b.n > 0:
			m, b.buf[b.head] = b.buf[b.head], Message{}
			b.head = (b.head + 1) % len(b.buf)
			b.n--
		case b.ended:
			err = b.err
			b.wake() // for the other readers
			b.mu.Unlock()
			return m, false, err
		default:
			b.mu.Unlock()
			select {
			case <-b.news:
				continue
			case <-ctx.Done():
				return m, false, ctx.Err()
			}
		}
		if b.n > 0 || b.ended {
			b.wake()
		}
		b.mu.Unlock()
		return m, true, nil
	}
}
