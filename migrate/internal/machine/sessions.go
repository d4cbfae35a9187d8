package machine

import (
	"iter"
	"slices"

	"github.com/roam-go/roam/transport"
)

// sessionTable is the replicated table of sessions and their cached replies. It depends only on the log, never on a clock
// or a connection.
//
// Sessions are elements of one slice, so that a snapshot captures them by copying it; slot 0 is the sentinel of the lists. A
// service that never had a session has neither slice nor map.
type sessionTable struct {
	lim   *Limits
	slots []sessionSlot
	byID  map[uint64]int32
	free  []int32
	keys  map[transport.Key]int // sessions of each key, without the zero key
	bytes int                   // of the replies of all sessions
}

// sessionSlot is one session. It keeps the replies of the commands from first to the last one applied; lower ones were
// executed, and their replies are gone.
type sessionSlot struct {
	id    uint64
	key   transport.Key
	used  int64 // log time of its latest entry
	away  int64 // for how long its client has been disconnected, in ms, as last recorded
	first uint64
	bytes int // of its replies
	ring  []cachedReply
	head  int32
	n     int32
	links [2]sessionLink
}

// sessionLink links a slot into a circular list.
type sessionLink struct{ prev, next int32 }

// The lists, ordered from the least to the most recently used session.
const (
	listUsed  = 0 // all sessions
	listReply = 1 // sessions with cached replies
)

type cachedReply struct {
	index, epoch uint64
	body         []byte
	err          *transport.Error
}

const replyOverhead = 64 // memory of a cached reply in addition to its bytes

func (r *cachedReply) size() int {
	n := len(r.body) + replyOverhead
	if r.err != nil {
		n += len(r.err.Message) + len(r.err.Data)
	}
	return n
}

func (t *sessionTable) len() int { return len(t.byID) }

// get returns a session or nil. The pointer is valid until the next open.
func (t *sessionTable) get(id uint64) *sessionSlot {
	if i, ok := t.byID[id]; ok {
		return &t.slots[i]
	}
	return nil
}

// open adds a session as the most recently used; it must not exist, and the table must not be full.
func (t *sessionTable) open(id uint64, key transport.Key, now int64) *sessionSlot {
	var i int32
	if n := len(t.free); n > 0 {
		i, t.free = t.free[n-1], t.free[:n-1]
	} else {
		i = max(int32(len(t.slots)), 1)
		t.slots = append(t.slots, make([]sessionSlot, int(i)+1-len(t.slots))...)
	}
	t.slots[i] = sessionSlot{id: id, key: key, used: now, first: 1}
	if t.byID == nil {
		t.byID = make(map[uint64]int32)
	}
	t.byID[id] = i
	addTo(&t.keys, key, 1)
	t.link(listUsed, i)
	return &t.slots[i]
}

// remove removes an existing session.
func (t *sessionTable) remove(id uint64) {
	i := t.byID[id]
	t.forget(&t.slots[i], t.slots[i].last()+1)
	t.unlink(listUsed, i)
	addTo(&t.keys, t.slots[i].key, -1)
	t.slots[i] = sessionSlot{}
	delete(t.byID, id)
	t.free = append(t.free, i)
}

func (t *sessionTable) full() bool { return len(t.byID) >= t.lim.Sessions }

// victim returns the session to end so that key can have another one, among those that may end; nil if there is none. It is
// the least recently used session of key itself, otherwise that of the key with the most sessions, so that a client with
// many sessions does not evict those of others. Sessions without a key count as one key each.
func (t *sessionTable) victim(key transport.Key, mayEnd func(*sessionSlot) bool) *sessionSlot {
	own := t.keys[key]
	most := 1
	if own == 0 {
		for _, n := range t.keys {
			most = max(most, n)
		}
	}
	var best *sessionSlot
	found := 0
	for s := range t.byUse() {
		n := max(t.keys[s.key], 1)
		switch {
		case own > 0 && s.key == key:
			n = len(t.byID) + 1
		case n <= found:
			continue
		}
		if !mayEnd(s) {
			continue
		}
		best, found = s, n
		if found > len(t.byID) || own == 0 && found == most {
			break
		}
	}
	return best
}

// addTo adds n to the count of a key. The zero key is not counted: it belongs to all clients without a key.
func addTo(counts *map[transport.Key]int, key transport.Key, n int) {
	if key.IsZero() {
		return
	}
	if *counts == nil {
		*counts = make(map[transport.Key]int)
	}
	if (*counts)[key] += n; (*counts)[key] == 0 {
		delete(*counts, key)
	}
}

// touch makes s the most recently used session.
func (t *sessionTable) touch(s *sessionSlot, now int64) {
	i := t.byID[s.id]
	s.used = now
	t.unlink(listUsed, i)
	t.link(listUsed, i)
	if s.n > 0 {
		t.unlink(listReply, i)
		t.link(listReply, i)
	}
}

// add caches the reply of the command after s's last one, then drops the oldest replies over the limits: first those of s,
// then all replies of the least recently used sessions.
func (t *sessionTable) add(s *sessionSlot, r cachedReply) {
	if s.n == 0 {
		t.link(listReply, t.byID[s.id])
	}
	s.push(r)
	s.bytes += r.size()
	t.bytes += r.size()
	for s.n > 1 && (int(s.n) > t.lim.RepliesPerSession || s.bytes > t.lim.ReplyBytesPerSession) {
		t.forget(s, s.first+1)
	}
	for t.bytes > t.lim.ReplyBytes {
		o := &t.slots[t.slots[0].links[listReply].next]
		if o == s {
			break
		}
		t.forget(o, o.last()+1)
	}
}

// forget drops the replies below low.
func (t *sessionTable) forget(s *sessionSlot, low uint64) {
	if s.n == 0 || low <= s.first {
		return
	}
	for s.n > 0 && s.first < low {
		n := s.pop()
		s.bytes -= n
		t.bytes -= n
	}
	if s.n == 0 {
		t.unlink(listReply, t.byID[s.id])
	}
}

func (t *sessionTable) link(list int, i int32) {
	last := t.slots[0].links[list].prev
	t.slots[i].links[list] = sessionLink{prev: last, next: 0}
	t.slots[last].links[list].next = i
	t.slots[0].links[list].prev = i
}

func (t *sessionTable) unlink(list int, i int32) {
	l := t.slots[i].links[list]
	t.slots[l.prev].links[list].next = l.next
	t.slots[l.next].links[list].prev = l.prev
	t.slots[i].links[list] = sessionLink{}
}

// byUse yields the sessions from the least to the most recently used. The table must not change during the loop.
func (t *sessionTable) byUse() iter.Seq[*sessionSlot] {
	return func(yield func(*sessionSlot) bool) {
		if len(t.slots) == 0 {
			return
		}
		for i := t.slots[0].links[listUsed].next; i != 0; i = t.slots[i].links[listUsed].next {
			if !yield(&t.slots[i]) {
				return
			}
		}
	}
}

// capture returns a copy that later changes of t do not affect, to be read through byUse; the ring of a session in it holds
// exactly its replies, in order.
func (t *sessionTable) capture() sessionTable {
	c := sessionTable{slots: slices.Clone(t.slots)}
	total := 0
	for i := range c.slots {
		total += int(c.slots[i].n)
	}
	replies := make([]cachedReply, 0, total)
	for i := range c.slots {
		s := &c.slots[i]
		start := len(replies)
		for k := range s.n {
			replies = append(replies, s.ring[(s.head+k)&int32(len(s.ring)-1)])
		}
		s.ring, s.head = replies[start:len(replies):len(replies)], 0
	}
	return c
}

// last returns the number of the last applied command, 0 for none.
func (s *sessionSlot) last() uint64 { return s.first + uint64(s.n) - 1 }

// reply returns the reply of command seq; seq must be from s.first to s.last().
func (s *sessionSlot) reply(seq uint64) *cachedReply {
	return &s.ring[(s.head+int32(seq-s.first))&int32(len(s.ring)-1)]
}

func (s *sessionSlot) push(r cachedReply) {
	if int(s.n) == len(s.ring) {
		s.resize(max(1, 2*len(s.ring)))
	}
	s.ring[(s.head+s.n)&int32(len(s.ring)-1)] = r
	s.n++
}

// pop drops the oldest reply and returns its size.
func (s *sessionSlot) pop() int {
	r := &s.ring[s.head]
	size := r.size()
	*r = cachedReply{}
	s.head = (s.head + 1) & int32(len(s.ring)-1)
	s.n--
	s.first++
	// A burst of commands must not hold memory forever.
	if len(s.ring) >= 16 && int(s.n) <= len(s.ring)/8 {
		s.resize(len(s.ring) / 4)
	}
	return size
}

// resize moves the replies to a ring of n elements, a power of two that fits them.
func (s *sessionSlot) resize(n int) {
	ring := make([]cachedReply, n)
	for k := range s.n {
		ring[k] = s.ring[(s.head+k)&int32(len(s.ring)-1)]
	}
	s.ring, s.head = ring, 0
}
