package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/roam-go/roam/migrate/internal/binenc"
	"github.com/roam-go/roam/migrate/internal/core"
)

const (
	logMagic  = "roam-wl1"
	saltSize  = 8
	frameHead = 12
)

// log is a position in a file of frames, for reading or writing.
type log struct {
	salt   [saltSize]byte
	frames uint32 // number of frames before the position
}

func (l *log) sum(head, body []byte) uint32 {
	return binenc.CRC(l.salt[:], head, body)
}

// seal writes the head of frame b into its first bytes, which the caller has reserved.
func (l *log) seal(b []byte) error {
	if uint64(len(b)-frameHead) > math.MaxUint32 || l.frames == math.MaxUint32 {
		return errors.New("the log is too large")
	}
	binary.LittleEndian.PutUint32(b, l.frames)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-frameHead))
	binary.LittleEndian.PutUint32(b[8:], l.sum(b[:8], b[frameHead:]))
	l.frames++
	return nil
}

var errFrame = errors.New("frame is cut off or has a wrong checksum")

// next reads the frame at the front of b.
func (l *log) next(b []byte) (body, rest []byte, err error) {
	body, rest, ok := l.frame(b)
	if !ok || binary.LittleEndian.Uint32(b) != l.frames {
		return nil, b, errFrame
	}
	l.frames++
	return body, rest, nil
}

func (l *log) frame(b []byte) (body, rest []byte, ok bool) {
	if len(b) < frameHead {
		return nil, nil, false
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if uint64(len(b)-frameHead) < uint64(n) {
		return nil, nil, false
	}
	body, rest = b[frameHead:frameHead+int(n)], b[frameHead+int(n):]
	return body, rest, l.sum(b[:8], body) == binary.LittleEndian.Uint32(b[8:])
}

// laterFrame reports whether b, which begins with a bad frame, contains a later good one. Because of the salt, data from
// clients cannot look like a frame.
func (l *log) laterFrame(b []byte) bool {
	for i := 1; i+frameHead <= len(b); i++ {
		if n := binary.LittleEndian.Uint32(b[i:]); n > l.frames && n-l.frames < 1<<20 {
			if _, _, ok := l.frame(b[i:]); ok {
				return true
			}
		}
	}
	return false
}

const (
	flagCopy    = 1
	flagCounted = 2
	flagRecord  = 4 // Record, Proposed and Far follow
)

func appendState(b []byte, s *core.State) []byte {
	flags := byte(0)
	if s.Copy {
		flags |= flagCopy
	}
	if s.Counted {
		flags |= flagCounted
	}
	if s.Record != "" || s.Proposed != "" || s.Far != (core.Term{}) {
		flags |= flagRecord
	}
	b = append(b, flags)
	b = binenc.AppendUvarints(b, s.Term.Loss, s.Term.Epoch, s.Invitation, s.Fresh.Loss, s.Fresh.Epoch, s.Gen,
		s.Commit, s.Matched, s.Base.Index, s.Base.Epoch, uint64(len(s.Entries)))
	if flags&flagRecord != 0 {
		b = binenc.AppendBytes(binenc.AppendBytes(b, s.Record), s.Proposed)
		b = binenc.AppendUvarints(b, s.Far.Loss, s.Far.Epoch)
	}
	for _, e := range s.Entries {
		b = core.AppendEntry(b, e)
	}
	return b
}

var errBody = errors.New("frame is malformed")

func readState(b []byte) (s core.State, rest []byte, err error) {
	if len(b) == 0 || b[0] > flagCopy|flagCounted|flagRecord {
		return s, nil, errBody
	}
	s.Copy, s.Counted = b[0]&flagCopy != 0, b[0]&flagCounted != 0
	known := b[0]&flagRecord != 0
	b = b[1:]
	var count uint64
	b, ok := binenc.Uvarints(b, &s.Term.Loss, &s.Term.Epoch, &s.Invitation, &s.Fresh.Loss, &s.Fresh.Epoch, &s.Gen,
		&s.Commit, &s.Matched, &s.Base.Index, &s.Base.Epoch, &count)
	if !ok || count > uint64(len(b)) {
		return s, nil, errBody
	}
	if known {
		for _, p := range [...]*string{&s.Record, &s.Proposed} {
			v, rest, ok := binenc.Bytes(b)
			if !ok {
				return s, nil, errBody
			}
			*p, b = string(v), rest
		}
		if b, ok = binenc.Uvarints(b, &s.Far.Loss, &s.Far.Epoch); !ok {
			return s, nil, errBody
		}
	}
	if count > 0 {
		s.Entries = make([]core.Entry, 0, min(count, uint64(len(b)/12+1)))
	}
	for range count {
		var e core.Entry
		if e, b, err = core.ReadEntry(b); err != nil {
			return s, nil, err
		}
		s.Entries = append(s.Entries, e)
	}
	return s, b, nil
}

// header is the body of frame 0.
type header struct {
	service, host string
	inc, number   uint64
	state         core.State
}

func appendHeader(b []byte, h *header) []byte {
	b = binenc.AppendBytes(b, h.service)
	b = binenc.AppendBytes(b, h.host)
	b = binenc.AppendUvarints(b, h.inc, h.number)
	return appendState(b, &h.state)
}

func readHeader(b []byte) (h header, err error) {
	for _, p := range [...]*string{&h.service, &h.host} {
		v, rest, ok := binenc.Bytes(b)
		if !ok {
			return h, errBody
		}
		*p, b = string(v), rest
	}
	b, ok := binenc.Uvarints(b, &h.inc, &h.number)
	if !ok {
		return h, errBody
	}
	var whole core.State
	if h.state, b, err = readState(b); err != nil {
		return h, err
	}
	if len(b) > 0 {
		return h, errBody
	}
	return h, whole.Apply(core.Save{Rebase: true, State: h.state})
}

// readLog reads a log. It calls first with the header and change with each state after it. good is the length of the valid
// frames, less than all if the last one is incomplete; with an error it is the position of the error.
func readLog(data []byte, first func(header) error, change func(core.State) error) (l *log, good int, err error) {
	l = new(log)
	if len(data) < len(logMagic)+saltSize || string(data[:len(logMagic)]) != logMagic {
		return nil, 0, fmt.Errorf("it does not begin with %q", logMagic)
	}
	copy(l.salt[:], data[len(logMagic):])
	rest := data[len(logMagic)+saltSize:]
	for {
		good = len(data) - len(rest)
		if len(rest) == 0 && l.frames > 0 {
			return l, good, nil
		}
		var body []byte
		if body, rest, err = l.next(rest); err != nil {
			if l.frames == 0 || l.laterFrame(rest) {
				return nil, good, err
			}
			return l, good, nil
		}
		if l.frames == 1 {
			h, err := readHeader(body)
			if err == nil {
				err = first(h)
			}
			if err != nil {
				return nil, good, err
			}
			continue
		}
		for len(body) > 0 {
			var s core.State
			if s, body, err = readState(body); err == nil {
				err = change(s)
			}
			if err != nil {
				return nil, good, err
			}
		}
	}
}
