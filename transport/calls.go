package transport

import (
	"maps"
	"slices"
)

// pending is a call that waits for its reply. One of the two fields is set.
type pending struct {
	done     func([]byte, error)
	borrowed bool        // done gets a part of the read buffer
	wait     chan answer // has room for the one answer
}

type answer struct {
	result []byte
	err    error
}

func (p pending) complete(result []byte, err error) {
	if p.done != nil {
		p.done(result, err)
	} else {
		p.wait <- answer{result, err}
	}
}

// callTable holds the pending calls by id. Most connections have at most one, which needs no map.
type callTable struct {
	alone bool // one is set
	id    uint64
	one   pending
	more  map[uint64]pending
}

func (t *callTable) len() int {
	if t.alone {
		return len(t.more) + 1
	}
	return len(t.more)
}

func (t *callTable) has(id uint64) bool {
	if t.alone && t.id == id {
		return true
	}
	_, ok := t.more[id]
	return ok
}

func (t *callTable) put(id uint64, p pending) {
	if !t.alone {
		t.alone, t.id, t.one = true, id, p
		return
	}
	if t.more == nil {
		t.more = make(map[uint64]pending)
	}
	t.more[id] = p
}

func (t *callTable) take(id uint64) (pending, bool) {
	if t.alone && t.id == id {
		p := t.one
		t.alone, t.one = false, pending{}
		return p, true
	}
	p, ok := t.more[id]
	if ok {
		delete(t.more, id)
	}
	return p, ok
}

// fail completes all calls with an error, in the order of their ids.
func (t *callTable) fail(err error) {
	if t.alone {
		t.put(t.id, t.one) // move it to the map
		t.alone = false
	}
	for _, id := range slices.Sorted(maps.Keys(t.more)) {
		t.more[id].complete(nil, err)
	}
}
