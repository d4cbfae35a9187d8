package transport

import (
	"net"
	"sync"
)

const (
	// sealPiece is how many bytes are sealed before they are written: one record, which is still in the cache then.
	sealPiece = 15 << 10
	// sealLarge is the same for a bulk frame: with what TLS adds, a large chunk holds them.
	sealLarge = 60 << 10
	// maxSealed bounds what TLS has written by itself to a peer that reads nothing, beside a piece that is being sealed. In one
	// read TLS answers 16 times at most.
	maxSealed = 2 * chunkLarge
)

// sealer is between TLS and the socket. Once the two sides have greeted each other it keeps what TLS writes until the conn
// takes it: so to encrypt never waits for the peer, and many records leave in one system call.
type sealer struct {
	net.Conn // what TLS reads from, and writes to before hold is called

	mu   sync.Mutex // guards what follows; taken after conn.mu
	held bool
	buf  []byte // records that wait to be taken; nil: none
}

// hold begins the keeping; s may be nil.
func (s *sealer) hold() {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.held = true
	s.mu.Unlock()
}

// Write is called by TLS: for what the conn sends, and, on the reading goroutine, for answers that TLS gives by itself.
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

// grow makes room for n bytes and what TLS adds to them.
func (s *sealer) grow(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.buf == nil && n > chunkSmall*7/8 {
		s.buf = largeChunks.Get().(*[chunkLarge]byte)[:0]
	}
}

// take returns the records that wait; they end in putChunk. nil: there are none.
func (s *sealer) take() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buf
	s.buf = nil
	return b
}

// pending is how many bytes wait to be taken.
func (s *sealer) pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.buf)
}
