package migrate

import (
	"encoding/binary"
	"math/bits"

	"github.com/roam-go/roam/migrate/internal/core"
)

// The running hash. Every machine that applied the same entries has the same; it differs, but for a chance of about
// 2^-64, once an entry, a reply, an error's code or data, an event, or the memory held for replies was different on one
// of two hosts. The service's own state is in it as far as its Hasher sees it. It is not made to resist an adversary.

// A hash is kept for every hashStride'th index, the latest hashPoints of them: the hash in a HashCheck is older than the
// entry by the commands that were in flight.
const (
	hashStride = 64
	hashPoints = 64
)

type hashPoint struct{ index, sum uint64 }

// point is where the hash of an index is kept: the place is made when there is something to keep, for most services idle.
func (m *machine) point(index uint64) *hashPoint {
	if m.sums == nil {
		m.sums = new([hashPoints]hashPoint)
	}
	return &m.sums[index/hashStride%hashPoints]
}

// hash returns the running hash up to the entry applied last.
func (m *machine) hash() uint64 { return m.sum }

// hashCheck returns Low and Body of a HashCheck entry; ok is false when too little was applied.
func (m *machine) hashCheck() (low uint64, body []byte, ok bool) {
	low = m.index - m.index%hashStride
	p := m.point(low)
	if low == 0 || p.index != low {
		return 0, nil, false
	}
	return low, binary.LittleEndian.AppendUint64(nil, p.sum), true
}

func (m *machine) applyHashCheck(e core.Entry, a *applied) {
	p := m.point(e.Low)
	if p.index == e.Low && e.Low != 0 {
		a.Mismatch = len(e.Body) != 8 || binary.LittleEndian.Uint64(e.Body) != p.sum
	}
	if h, ok := m.sm.(Hasher); ok {
		var sum uint64
		if m.protect("Hash", func() error { sum = h.Hash(); return nil }) == nil {
			m.mix(sum)
		}
	}
}

func (m *machine) mixEntry(e core.Entry) {
	for _, v := range [...]uint64{e.Index, e.Epoch, uint64(e.Kind), e.Session, e.Seq, e.Low, uint64(e.Time)} {
		m.mix(v)
	}
	m.mixBytes(e.Body)
}

func (m *machine) mixOutcome(a *applied) {
	m.mix(a.Ended)
	m.mix(a.Next)
	m.mix(uint64(m.sessions.len()))
	if a.Err != nil {
		m.mix(uint64(a.Err.Code))
		m.mixBytes(a.Err.Data)
	} else {
		m.mixBytes(a.Reply)
	}
	m.keepSum()
}

func (m *machine) keepSum() {
	if m.index > 0 && m.index%hashStride == 0 {
		*m.point(m.index) = hashPoint{m.index, m.sum}
	}
}

// mix folds a word into the hash by a 128-bit product, as wyhash does; the rotated old hash is added, so that a product
// of 0 does not wipe it out.
func (m *machine) mix(v uint64) { m.sum = mixWord(m.sum, v) }

func mixWord(sum, v uint64) uint64 {
	hi, lo := bits.Mul64(sum^0xa0761d6478bd642f, v^0xe7037ed1a0b428db)
	return (hi ^ lo) + bits.RotateLeft64(sum, 23)
}

func (m *machine) mixBytes(b []byte) {
	sum := mixWord(m.sum, uint64(len(b)))
	for ; len(b) >= 8; b = b[8:] {
		sum = mixWord(sum, binary.LittleEndian.Uint64(b))
	}
	var tail [8]byte
	if copy(tail[:], b) > 0 {
		sum = mixWord(sum, binary.LittleEndian.Uint64(tail[:]))
	}
	m.sum = sum
}
