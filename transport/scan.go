package transport

import (
	"encoding/binary"
	"errors"
)

// maxDepth is how deep arrays and maps may nest in one value.
const maxDepth = 16

// A scanner finds the end of one MessagePack value in bytes that may still be arriving. It keeps its place, so that a value
// that comes byte by byte costs no more than one that comes whole, and it does not recurse. It looks at headers only: what
// strings and binaries hold is skipped.
type scanner struct {
	max   int                  // bytes that the value may have
	nest  int                  // containers that may nest, at most maxDepth+1
	pos   int                  // bytes looked at; more than there are when the value is known to go on so far
	elems int                  // values seen so far, containers and what is in them
	depth int                  // containers that are open
	ext   bool                 // an extension type was seen
	left  uint64               // values still to come in the innermost open container, or outside of any
	outer [maxDepth + 1]uint64 // the same for those around it, when it will be complete
}

// What a scanner can object to.
var (
	errTooLong  = errors.New("longer than allowed")
	errTooDeep  = errors.New("arrays and maps nested deeper than 16")
	errNotAType = errors.New("byte 0xc1, which is no type of MessagePack")
)

// reset prepares for a value of at most max bytes.
func (s *scanner) reset(limit, nest int) {
	s.max, s.nest = limit, nest
	s.pos, s.elems, s.depth, s.left, s.ext = 0, 0, 0, 1, false
}

// scan goes on with b, which holds the value's bytes from the first one on, and reports whether all are there: then the
// value is b[:s.pos].
func (s *scanner) scan(b []byte) (bool, error) {
	pos, elems, depth, left := s.pos, s.elems, s.depth, s.left // in registers
	var bad error
	for left > 0 && pos < len(b) {
		t := &types[b[pos]]
		size, children := uint64(t.size), uint64(t.children)
		if t.special {
			if b[pos] == 0xc1 {
				bad = errNotAType
				break
			}
			s.ext = s.ext || t.ext
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
		// Each child has a byte at least, so that a count can be judged before anything is kept for it.
		if room := uint64(s.max - pos); size > room || children > room-size {
			bad = errTooLong
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
	s.pos, s.elems, s.depth, s.left = pos, elems, depth, left
	return bad == nil && left == 0 && pos <= len(b), bad
}

// types describes what begins with each byte: its size in bytes and the values in it; special ones have a length or a
// count of so many bytes after the first, for so many values each, or are of other types than most.
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
	{size: 3, ext: true}, {size: 4, ext: true}, {size: 6, ext: true}, {size: 10, ext: true}, {size: 18, ext: true}, // fixext 1 to 16
	{size: 2, width: 1}, {size: 3, width: 2}, {size: 5, width: 4}, // str 8, 16, 32
	{size: 3, width: 2, per: 1}, {size: 5, width: 4, per: 1}, // array 16, 32
	{size: 3, width: 2, per: 2}, {size: 5, width: 4, per: 2}, // map 16, 32
}

// checkValue returns an error unless b is exactly one MessagePack value, with no extension type at its top.
func checkValue(b []byte) error {
	var s scanner
	return s.check(b)
}

// check is checkValue with a scanner that tells what the caller wants to know beyond that.
func (s *scanner) check(b []byte) error {
	s.reset(len(b), maxDepth)
	switch done, err := s.scan(b); {
	case err == errTooLong || err == nil && !done:
		return Errorf(CodeBadMessage, "transport: %d bytes end before the MessagePack value does", len(b))
	case err != nil:
		return Errorf(CodeBadMessage, "transport: bad MessagePack value: %v", err)
	case s.pos != len(b):
		return Errorf(CodeBadMessage, "transport: %d bytes after the end of a MessagePack value", len(b)-s.pos)
	case isExt(b[0]):
		return Errorf(CodeBadMessage, "transport: extension type 0x%02x as a whole MessagePack value", b[0])
	}
	return nil
}

func isExt(c byte) bool { return c >= 0xc7 && c <= 0xc9 || c >= 0xd4 && c <= 0xd8 }
