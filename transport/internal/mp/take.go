package mp

import "encoding/binary"

// TakeUint reads an integer that is not negative from the front of b and returns the rest of b. So do the functions below
// for their types.
func TakeUint(b []byte) (uint64, []byte, bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	switch c := b[0]; {
	case c <= 0x7f:
		return uint64(c), b[1:], true
	case (c == 0xcc || c == 0xd0) && len(b) >= 2:
		return uint64(b[1]), b[2:], c == 0xcc || b[1] < 0x80
	case (c == 0xcd || c == 0xd1) && len(b) >= 3:
		return uint64(binary.BigEndian.Uint16(b[1:])), b[3:], c == 0xcd || b[1] < 0x80
	case (c == 0xce || c == 0xd2) && len(b) >= 5:
		return uint64(binary.BigEndian.Uint32(b[1:])), b[5:], c == 0xce || b[1] < 0x80
	case (c == 0xcf || c == 0xd3) && len(b) >= 9:
		return binary.BigEndian.Uint64(b[1:]), b[9:], c == 0xcf || b[1] < 0x80
	}
	return 0, b, false
}

// TakeString reads a str.
func TakeString(b []byte) ([]byte, []byte, bool) {
	if len(b) > 0 && b[0] >= 0xa0 && b[0] <= 0xbf {
		return takeN(b, 1, uint64(b[0]&0x1f))
	}
	return takeSized(b, 0xd9)
}

// TakeBin reads a bin.
func TakeBin(b []byte) ([]byte, []byte, bool) { return takeSized(b, 0xc4) }

// takeSized reads a str or bin whose 8-bit form begins with base, and its 16- and 32-bit forms with the two bytes after.
func takeSized(b []byte, base byte) ([]byte, []byte, bool) {
	switch {
	case len(b) >= 2 && b[0] == base:
		return takeN(b, 2, uint64(b[1]))
	case len(b) >= 3 && b[0] == base+1:
		return takeN(b, 3, uint64(binary.BigEndian.Uint16(b[1:])))
	case len(b) >= 5 && b[0] == base+2:
		return takeN(b, 5, uint64(binary.BigEndian.Uint32(b[1:])))
	}
	return nil, b, false
}

func takeN(b []byte, header int, n uint64) ([]byte, []byte, bool) {
	if n > uint64(len(b)-header) {
		return nil, b, false
	}
	end := header + int(n)
	return b[header:end:end], b[end:], true
}

// TakeValue reads a value of any type.
func TakeValue(b []byte) ([]byte, []byte, bool) {
	var s Scanner
	s.Reset(len(b), MaxDepth)
	if done, err := s.Scan(b); err != nil || !done {
		return nil, b, false
	}
	return b[:s.Pos], b[s.Pos:], true
}

// TakeArray reads the header of an array and returns the number of its values.
func TakeArray(b []byte) (uint64, []byte, bool) {
	if len(b) > 0 && b[0]&0xf0 == 0x90 {
		return uint64(b[0] & 0x0f), b[1:], true
	}
	return takeCount(b, 0xdc)
}

// TakeMap reads the header of a map and returns the number of its pairs.
func TakeMap(b []byte) (uint64, []byte, bool) {
	if len(b) > 0 && b[0]&0xf0 == 0x80 {
		return uint64(b[0] & 0x0f), b[1:], true
	}
	return takeCount(b, 0xde)
}

func takeCount(b []byte, base byte) (uint64, []byte, bool) {
	switch {
	case len(b) >= 3 && b[0] == base:
		return uint64(binary.BigEndian.Uint16(b[1:])), b[3:], true
	case len(b) >= 5 && b[0] == base+1:
		return uint64(binary.BigEndian.Uint32(b[1:])), b[5:], true
	}
	return 0, b, false
}
