package transport

import (
	"net"
	"sync"
)

const (
	// sealPiece is how many bytes are encrypted before they are written: one record, which is then still in the cache.
	sealPiece = 15 << 10
	// sealLarge is the same for a huge chunk. A large chunk holds the records.
	sealLarge = 60 << 10
	// maxSealed limits the bytes that TLS itself writes to a peer that does not read, besides a piece being encrypted. TLS
	// responds at most 16 times in one read.
	maxSealed = 2 * chunkLarge
)

// sealer is between TLS and the socket. After the greeting it buffers the output of TLS until the conn takes it: so
// encrypting never waits for the peer, and many records leave in one system call.
type sealer struct {
	net.Conn // TLS reads from it, and writes to it before hold is called

	mu   sync.Mutex // guards the fields below; taken after conn.mu
	held bool
	buf  []byte // records not taken yet; nil: none
}

// hold begins the buffering. s may be nil.
func (s *sealer) hold() {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.held = true
	s.mu.Unlock()
}

// Write is called by TLS: for the data of the conn and, on the reading goroutine, for responses of TLS itself.
func (s *sealer) Write(b []byte) (int, error) {
	s.mu.Lock()
	if !s.held {
		s.mu.Unlock()
		return s.Conn.Write(b)
	}
	defer s.mu.Unlock()
	if s.buf == nil {
		s.buf = smallChunks.Get().(*[chunkSmall]byte)[:0]
	}
	s.buf = append(s.buf, b...)
	return len(b), nil
}

// grow makes room for n bytes and the overhead of TLS.
func (s *sealer) grow(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.buf == nil && n > chunkSmall*7/8 {
		s.buf = largeChunks.Get().(*[chunkLarge]byte)[:0]
	}
}

// take returns the buffered records, or nil. The caller passes them to putChunk.
func (s *sealer) take() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buf
	s.buf = nil
	return b
}

// pending returns the number of buffered bytes.
func (s *sealer) pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.buf)
}
