package mp

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxDepth is how deep arrays and maps may nest in one value.
const MaxDepth = 16

// Scanner finds the end of one MessagePack value in bytes that may still be arriving. It keeps its position, so a value that
// arrives byte by byte costs no more than one that arrives whole, and it does not recurse. It reads headers only and skips
// the contents of strings and binaries.
type Scanner struct {
	max   int                  // the largest size of the value in bytes
	nest  int                  // the deepest nesting of containers, at most MaxDepth+1
	Pos   int                  // bytes scanned; beyond the end of the input if a header announces more
	Elems int                  // values scanned, containers and their contents
	depth int                  // open containers
	Ext   bool                 // the value contains an extension type
	left  uint64               // values missing in the innermost open container, or at the top
	outer [MaxDepth + 1]uint64 // the same for the containers around it
}

// Errors of Scan.
var (
	ErrTooLong  = errors.New("longer than allowed")
	errTooDeep  = errors.New("arrays and maps nested deeper than 16")
	errNotAType = errors.New("byte 0xc1, which is not a MessagePack type")
)

// Reset prepares for a value of at most limit bytes in which containers nest at most nest deep.
func (s *Scanner) Reset(limit, nest int) {
	s.max, s.nest = limit, nest
	s.Pos, s.Elems, s.depth, s.left, s.Ext = 0, 0, 0, 1, false
}

// Scan continues with b, which holds the value's bytes from the first one on, and reports whether the value is complete. A
// complete value is b[:s.Pos].
func (s *Scanner) Scan(b []byte) (bool, error) {
	pos, elems, depth, left := s.Pos, s.Elems, s.depth, s.left // in registers
	var bad error
	for left > 0 && pos < len(b) {
		t := &types[b[pos]]
		size, children := uint64(t.size), uint64(t.children)
		if t.special {
			if b[pos] == 0xc1 {
				bad = errNotAType
				break
			}
			s.Ext = s.Ext || t.ext
			if t.width > 0 {
				if len(b)-pos < 1+int(t.width) {
					break
				}
				var n uint64
				switch p := b[pos+1:]; t.width {
				case 1:
					n = uint64(p[0])
				case 2:
					n = uint64(binary.BigEndian.Uint16(p))
				default:
					n = uint64(binary.BigEndian.Uint32(p))
				}
				if t.container {
					children = n * uint64(t.per)
				} else {
					size += n
				}
			}
		}
		elems++
		// Each child has at least one byte, so a count can be checked before its values arrive.
		if room := uint64(s.max - pos); size > room || children > room-size {
			bad = ErrTooLong
			break
		}
		pos += int(size)
		left--
		if t.container {
			if depth == s.nest {
				bad = errTooDeep
				break
			}
			if children > 0 {
				s.outer[depth] = left
				depth++
				left = children
			}
		}
		for left == 0 && depth > 0 {
			depth--
			left = s.outer[depth]
		}
	}
	s.Pos, s.Elems, s.depth, s.left = pos, elems, depth, left
	return bad == nil && left == 0 && pos <= len(b), bad
}

// types describes the value that begins with each byte: its size in bytes and the number of values in it. In special ones a
// length or count of width bytes follows, with per values for each unit; the extension types and 0xc1 are special, too.
var types = func() (t [256]struct {
	size, children, width, per uint8
	container, special, ext    bool
}) {
	for c := range t {
		switch {
		case c <= 0x7f || c >= 0xe0: // fixint
			t[c].size = 1
		case c <= 0x8f: // fixmap
			t[c].size, t[c].children, t[c].container = 1, 2*uint8(c&0x0f), true
		case c <= 0x9f: // fixarray
			t[c].size, t[c].children, t[c].container = 1, uint8(c&0x0f), true
		case c <= 0xbf: // fixstr
			t[c].size = 1 + uint8(c&0x1f)
		default:
			h := headers[c-0xc0]
			t[c].size, t[c].width, t[c].per, t[c].container, t[c].ext = h.size, h.width, h.per, h.per > 0, h.ext
			t[c].special = h.width > 0 || h.ext || c == 0xc1
		}
	}
	return t
}()

// headers describes the types from 0xc0 to 0xdf: their fixed size in bytes, the width of the length or count that follows
// the first byte, and the values per count of a container.
var headers = [32]struct {
	size, width, per uint8
	ext              bool
}{
	{size: 1}, {size: 1}, {size: 1}, {size: 1}, // nil, (never used), false, true
	{size: 2, width: 1}, {size: 3, width: 2}, {size: 5, width: 4}, // bin 8, 16, 32
	{size: 3, width: 1, ext: true}, {size: 4, width: 2, ext: true}, {size: 6, width: 4, ext: true}, // ext 8, 16, 32
	{size: 5}, {size: 9}, // float 32, 64
	{size: 2}, {size: 3}, {size: 5}, {size: 9}, // uint 8 to 64
	{size: 2}, {size: 3}, {size: 5}, {size: 9}, // int 8 to 64
	{size: 3, ext: true}, {size: 4, ext: true}, {size: 6, ext: true}, {size: 10, ext: true}, // fixext 1 to 8
	{size: 18, ext: true},                                         // fixext 16
	{size: 2, width: 1}, {size: 3, width: 2}, {size: 5, width: 4}, // str 8, 16, 32
	{size: 3, width: 2, per: 1}, {size: 5, width: 4, per: 1}, // array 16, 32
	{size: 3, width: 2, per: 2}, {size: 5, width: 4, per: 2}, // map 16, 32
}

// Check returns an error unless b is exactly one MessagePack value with no extension type at its top.
func Check(b []byte) error {
	var s Scanner
	return s.Check(b)
}

// check is Check with a Scanner that tells what the caller wants to know beyond that.
func (s *Scanner) Check(b []byte) error {
	s.Reset(len(b), MaxDepth)
	switch done, err := s.Scan(b); {
	case err == ErrTooLong || err == nil && !done:
		return fmt.Errorf("%d bytes end before the MessagePack value does", len(b))
	case err != nil:
		return fmt.Errorf("bad MessagePack value: %v", err)
	case s.Pos != len(b):
		return fmt.Errorf("%d bytes after the end of a MessagePack value", len(b)-s.Pos)
	case IsExt(b[0]):
		return fmt.Errorf("extension type 0x%02x as a whole MessagePack value", b[0])
	}
	return nil
}

// IsExt reports whether c begins an extension type.
func IsExt(c byte) bool { return c >= 0xc7 && c <= 0xc9 || c >= 0xd4 && c <= 0xd8 }
