package core

import (
	"encoding/binary"
	"errors"

	"github.com/roam-go/roam/migrate/internal/binenc"
)

// Kind is the kind of an [Entry]. Numbers are append-only. A host must halt at a kind that it does not know.
type Kind uint8

const (
	// EpochStart is the first entry of an epoch. The active host serves clients once it is committed. Low is the host's
	// incarnation if it took over from a silent host, see [Core.Halted], and 0 after a handoff, a creation or a reset.
	EpochStart Kind = 1
	// OpenSession registers the session Session for the key in Body.
	OpenSession Kind = 2
	// CloseSession ends Session. Seq is 1 if it expired, 0 if its client closed it.
	CloseSession Kind = 3
	// Command is a client's command.
	Command Kind = 4
	// HashCheck carries, in Body, the hash of the active host's state after all entries up to Low.
	HashCheck Kind = 5
	// Refusal replaces a command that the service's Validate refused; Body is the error. It keeps the session's sequence
	// numbers without a gap and gives every retry the same answer.
	Refusal Kind = 6
	// Away records for how long the clients of sessions have been disconnected, so that a session expires although the
	// service moves. Body holds pairs of uvarints: a session and milliseconds.
	Away Kind = 7
)

// Entry is one entry of a service's log. If two entries have the same Loss, Index and Epoch, they are equal, and so are all
// entries before them.
type Entry struct {
	Index uint64
	Epoch uint64
	Kind  Kind
	// Session, Seq and Low are the client's session, the command's number in it, and the lowest number whose reply the
	// client still needs.
	Session, Seq, Low uint64
	// Time is in Unix milliseconds. It never decreases along the log.
	Time int64
	Body []byte
}

// Size estimates the memory of e.
func (e Entry) Size() int { return len(e.Body) + 96 }

// Errors of [ReadEntry].
var (
	ErrEntryShort = errors.New("entry is cut off")
	ErrEntryCRC   = errors.New("entry has a wrong checksum")
	ErrEntryForm  = errors.New("entry is malformed")
)

// AppendEntry appends e to b: a uvarint length, that many bytes (kind, six uvarints, body), and their CRC-32C.
func AppendEntry(b []byte, e Entry) []byte {
	var h [1 + 6*binary.MaxVarintLen64]byte
	h[0] = byte(e.Kind)
	n := 1
	for _, v := range [...]uint64{e.Index, e.Epoch, e.Session, e.Seq, e.Low, uint64(e.Time)} {
		n += binary.PutUvarint(h[n:], v)
	}
	b = binary.AppendUvarint(b, uint64(n+len(e.Body)))
	start := len(b)
	b = append(b, h[:n]...)
	b = append(b, e.Body...)
	return binary.LittleEndian.AppendUint32(b, binenc.CRC(b[start:]))
}

// ReadEntry reads an entry from the front of b and returns the rest of b. The entry's Body points into b.
func ReadEntry(b []byte) (e Entry, rest []byte, err error) {
	size, n := binary.Uvarint(b)
	if n < 0 {
		return e, nil, ErrEntryForm
	}
	if n == 0 || uint64(len(b)-n) < 4 || uint64(len(b)-n-4) < size {
		return e, nil, ErrEntryShort
	}
	p, rest := b[n:n+int(size)], b[n+int(size):]
	if binenc.CRC(p) != binary.LittleEndian.Uint32(rest) {
		return e, nil, ErrEntryCRC
	}
	rest = rest[4:]
	if len(p) == 0 {
		return e, nil, ErrEntryForm
	}
	e.Kind, p = Kind(p[0]), p[1:]
	var t uint64
	p, ok := binenc.Uvarints(p, &e.Index, &e.Epoch, &e.Session, &e.Seq, &e.Low, &t)
	if !ok {
		return e, nil, ErrEntryForm
	}
	e.Time = int64(t)
	e.Body = p[:len(p):len(p)]
	return e, rest, nil
}
