package machine

import (
	"encoding/binary"
	"iter"
	"math"
	"time"
)

// maxAway is the longest time that an entry of kind Away can record, in milliseconds. It fits into a time.Duration.
const maxAway = math.MaxInt64 / uint64(time.Millisecond)

// AppendAway appends to the body of an entry of kind Away that the client of a session has been disconnected for a time.
func AppendAway(body []byte, session uint64, away time.Duration) []byte {
	body = binary.AppendUvarint(body, session)
	return binary.AppendUvarint(body, uint64(max(away, 0).Milliseconds()))
}

// awayTimes yields the sessions and the milliseconds in the body of an entry of kind Away, up to its end or its first error.
func awayTimes(body []byte) iter.Seq2[uint64, int64] {
	return func(yield func(uint64, int64) bool) {
		for len(body) > 0 {
			session, n := binary.Uvarint(body)
			if n <= 0 {
				return
			}
			away, k := binary.Uvarint(body[n:])
			if k <= 0 || away > maxAway || !yield(session, int64(away)) {
				return
			}
			body = body[n+k:]
		}
	}
}

// Away returns for how long the client of a session has been disconnected, as last recorded.
func (m *Machine) Away(session uint64) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.sessions.get(session); s != nil {
		return time.Duration(s.away) * time.Millisecond
	}
	return 0
}
