package machine

import "slices"

// eventLog keeps the latest events of a service, numbered from 1 without a gap, for clients that resume. Its bytes are
// bounded: the oldest events are dropped first.
//
// Events are stored in chunks that only ever grow, so that a snapshot captures all of them by copying the list of chunks.
type eventLog struct {
	limit  int // for bytes
	bytes  int // of the events from first on, with eventOverhead for each
	first  uint64
	next   uint64 // number of the next event
	chunks []eventChunk
}

type eventChunk struct {
	first  uint64
	bytes  int
	events []loggedEvent
}

type loggedEvent struct {
	time int64 // Unix milliseconds
	body []byte
}

const (
	eventOverhead    = 32 // memory of an event in addition to its body
	eventChunkLen    = 256
	eventChunkBytes  = 64 << 10
	defaultEventKeep = 16 << 20
)

func newEventLog(limit int) eventLog {
	if limit <= 0 {
		limit = defaultEventKeep
	}
	return eventLog{limit: limit, first: 1, next: 1}
}

func (e loggedEvent) size() int { return len(e.body) + eventOverhead }

// push appends an event and drops the oldest ones over the limit, but never the one just pushed.
func (l *eventLog) push(time int64, body []byte) {
	e := loggedEvent{time, body}
	if n := len(l.chunks); n == 0 || len(l.chunks[n-1].events) == eventChunkLen || l.chunks[n-1].bytes >= eventChunkBytes {
		l.chunks = append(l.chunks, eventChunk{first: l.next})
	}
	c := &l.chunks[len(l.chunks)-1]
	c.events = append(c.events, e)
	c.bytes += e.size()
	l.bytes += e.size()
	l.next++
	for l.bytes > l.limit && l.first < l.next-1 {
		l.drop()
	}
}

// drop drops the oldest event. Its memory is released with the whole chunk, because a snapshot may be reading the chunk.
func (l *eventLog) drop() {
	c := &l.chunks[0]
	l.bytes -= c.events[l.first-c.first].size()
	l.first++
	if l.first == c.first+uint64(len(c.events)) {
		*c = eventChunk{}
		l.chunks = l.chunks[1:]
	}
}

// from is [Machine.Events].
func (l *eventLog) from(seq uint64, maxEvents, maxBytes int) (first uint64, times []int64, bodies [][]byte, next uint64) {
	if seq == 0 {
		seq = l.next
	}
	first = min(max(seq, l.first), l.next)
	n := int(min(l.next-first, uint64(max(maxEvents, 1))))
	if n == 0 {
		return first, nil, nil, first
	}
	i, exact := slices.BinarySearchFunc(l.chunks, first, func(c eventChunk, seq uint64) int {
		return int(min(max(int64(c.first-seq), -1), 1))
	})
	if !exact {
		i--
	}
	times, bodies = make([]int64, 0, n), make([][]byte, 0, n)
	next = first
	for bytes := 0; len(times) < n; next++ {
		c := &l.chunks[i]
		e := c.events[next-c.first]
		if bytes += len(e.body); bytes > maxBytes && len(times) > 0 {
			break
		}
		times, bodies = append(times, e.time), append(bodies, e.body)
		if next+1 == c.first+uint64(len(c.events)) {
			i++
		}
	}
	return first, times, bodies, next
}

// capture returns a read-only copy that later changes of l do not affect.
func (l *eventLog) capture() eventLog {
	c := *l
	c.chunks = slices.Clone(l.chunks)
	return c
}

// all calls yield for each event, oldest first, until it returns false.
func (l *eventLog) all(yield func(loggedEvent) bool) {
	for _, c := range l.chunks {
		events := c.events
		if c.first < l.first {
			events = events[l.first-c.first:]
		}
		for _, e := range events {
			if !yield(e) {
				return
			}
		}
	}
}
