package machine

import (
	"encoding/binary"
	"math/bits"

	"github.com/roam-go/roam/migrate/internal/core"
)

// The running hash covers every entry, reply, error code and data, event, and the memory held for replies. Machines that
// applied the same entries have the same hash; a difference in any of these goes unnoticed with a probability of about
// 2^-64. The service's own state is covered as far as its Hash covers it. The hash does not resist an adversary.

// The latest hashPoints hashes are kept, one for every hashStride'th index, because the hash in a HashCheck is older than
// the entry by the commands that were in flight.
const (
	hashStride = 64
	hashPoints = 64
)

type hashPoint struct{ index, sum uint64 }

// sumAt returns the hash that is kept for an index.
func (m *Machine) sumAt(index uint64) (sum uint64, ok bool) {
	if index == 0 || m.sums == nil {
		return 0, false
	}
	p := &m.sums[index/hashStride%hashPoints]
	return p.sum, p.index == index
}

// Hash returns the running hash up to the last applied entry. It belongs to the applier.
func (m *Machine) Hash() uint64 { return m.sum }

// HashCheck returns Low and Body of a HashCheck entry; ok is false if no hash is kept yet.
func (m *Machine) HashCheck() (low uint64, body []byte, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	low = m.index - m.index%hashStride
	sum, ok := m.sumAt(low)
	if !ok {
		return 0, nil, false
	}
	return low, binary.LittleEndian.AppendUint64(nil, sum), true
}

func (m *Machine) runHashCheck(e core.Entry, a *Result) {
	a.Checked = e.Low
	if want, ok := m.sumAt(e.Low); ok {
		a.Mismatch = len(e.Body) != 8 || binary.LittleEndian.Uint64(e.Body) != want
	}
	var sum uint64
	var ok bool
	if m.protect("Hash", func() error { sum, ok = m.app.Hash(); return nil }) == nil && ok {
		m.mix(sum)
	}
}

func (m *Machine) mixEntry(e core.Entry) {
	for _, v := range [...]uint64{e.Index, e.Epoch, uint64(e.Kind), e.Session, e.Seq, e.Low, uint64(e.Time)} {
		m.mix(v)
	}
	m.mixBytes(e.Body)
}

func (m *Machine) mixOutcome(a *Result) {
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

// keepSum keeps the hash of every hashStride'th index. The array is allocated on first use, because most services are idle.
func (m *Machine) keepSum() {
	if m.index == 0 || m.index%hashStride != 0 {
		return
	}
	if m.sums == nil {
		m.sums = new([hashPoints]hashPoint)
	}
	m.sums[m.index/hashStride%hashPoints] = hashPoint{m.index, m.sum}
}

// mix adds a word to the hash by a 128-bit product, as wyhash does; it adds the rotated old hash so that a product of 0
// does not erase it.
func (m *Machine) mix(v uint64) { m.sum = mixWord(m.sum, v) }

func mixWord(sum, v uint64) uint64 {
	hi, lo := bits.Mul64(sum^0xa0761d6478bd642f, v^0xe7037ed1a0b428db)
	return (hi ^ lo) + bits.RotateLeft64(sum, 23)
}

func (m *Machine) mixBytes(b []byte) {
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
