package core

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// Kind says what an [Entry] does. Numbers are append-only; a host that meets a kind it does not know must halt.
type Kind uint8

const (
	// EpochStart is the first entry that an active host orders in its epoch; until it is committed the host serves nobody.
	// Low is the host's incarnation if it took over from one that was silent, see [Core.Halted], and 0 if it was handed the
	// service or made it.
	EpochStart Kind = 1
	// OpenSession registers the session Session for the key in Body.
	OpenSession Kind = 2
	// CloseSession ends Session; Seq is 1 if it expired and 0 if its client closed it.
	CloseSession Kind = 3
	// Command is a client's command.
	Command Kind = 4
	// HashCheck carries, in Body, the hash that the active's state had when everything up to Low was applied.
	HashCheck Kind = 5
	// Refusal stands in the place of a command that the service's Validate refused: Body is the error. It keeps the
	// session's numbers without a gap and gives every retry the same answer.
	Refusal Kind = 6
)

// Entry is one place in a service's log. Two entries with the same Loss, Index and Epoch are the same entry, and so are
// all before them.
type Entry struct {
	Index uint64
	Epoch uint64
	Kind  Kind
	// Session, Seq and Low are the client's session, the number of the command in it, and the lowest number for which
	// the client still wants a reply.
	Session, Seq, Low uint64
	// Time is the log's time in Unix milliseconds; it never decreases along the log.
	Time int64
	Body []byte
}

// Size estimates the memory that e takes.
func (e Entry) Size() int { return len(e.Body) + 96 }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

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
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// ReadEntry reads one entry from the front of b and returns what follows it. The entry's Body points into b.
func ReadEntry(b []byte) (e Entry, rest []byte, err error) {
	size, n := binary.Uvarint(b)
	if n < 0 {
		return e, nil, ErrEntryForm
	}
	if n == 0 || uint64(len(b)-n) < 4 || uint64(len(b)-n-4) < size {
		return e, nil, ErrEntryShort
	}
	p, rest := b[n:n+int(size)], b[n+int(size):]
	if crc32.Checksum(p, castagnoli) != binary.LittleEndian.Uint32(rest) {
		return e, nil, ErrEntryCRC
	}
	rest = rest[4:]
	if len(p) == 0 {
		return e, nil, ErrEntryForm
	}
	e.Kind, p = Kind(p[0]), p[1:]
	var t uint64
	for _, v := range [...]*uint64{&e.Index, &e.Epoch, &e.Session, &e.Seq, &e.Low, &t} {
		x, n := binary.Uvarint(p)
		if n <= 0 {
			return e, nil, ErrEntryForm
		}
		*v, p = x, p[n:]
	}
	e.Time = int64(t)
	e.Body = p[:len(p):len(p)]
	return e, rest, nil
}
