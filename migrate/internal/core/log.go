package core

// log is the part of a service's log that this host keeps: the entries after base.
type log struct {
	base, baseEpoch uint64 // index and epoch of the entry before the first one kept
	ents            []Entry
	bytes           int
}

func (l *log) last() uint64 { return l.base + uint64(len(l.ents)) }

// epochAt returns the epoch of the entry at i; false if i is not in [base, last].
func (l *log) epochAt(i uint64) (uint64, bool) {
	switch {
	case i == l.base:
		return l.baseEpoch, true
	case i < l.base || i > l.last():
		return 0, false
	}
	return l.ents[i-l.base-1].Epoch, true
}

func (l *log) append(e Entry) {
	l.ents = append(l.ents, e)
	l.bytes += e.Size()
}

// slice returns a view of the entries from..to, inclusive.
func (l *log) slice(from, to uint64) []Entry {
	if from > to {
		return nil
	}
	return l.ents[from-l.base-1 : to-l.base : to-l.base]
}

// truncate drops the entries after i.
func (l *log) truncate(i uint64) {
	for j := i - l.base; j < uint64(len(l.ents)); j++ {
		l.bytes -= l.ents[j].Size()
	}
	// Copy, so that appending does not change earlier views.
	l.ents = append([]Entry(nil), l.ents[:i-l.base]...)
}

// trim drops the entries up to i.
func (l *log) trim(i uint64) {
	if i <= l.base {
		return
	}
	n := int(i - l.base)
	l.baseEpoch, l.base = l.ents[n-1].Epoch, i
	for _, e := range l.ents[:n] {
		l.bytes -= e.Size()
	}
	// A new array, because earlier views may still be in use; with the same capacity, because the log will grow again.
	l.ents = append(make([]Entry, 0, len(l.ents)+16), l.ents[n:]...)
}

// reset empties the log, which then continues after entry i of epoch e.
func (l *log) reset(i, e uint64) { *l = log{base: i, baseEpoch: e} }
