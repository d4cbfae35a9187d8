// Package binenc has the parts that the binary formats of messages, entries and files share: uvarints, byte strings with
// their length, and CRC-32C.
package binenc

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC returns the CRC-32C of the concatenated parts.
func CRC(parts ...[]byte) uint32 {
	sum := uint32(0)
	for _, p := range parts {
		sum = crc32.Update(sum, castagnoli, p)
	}
	return sum
}

// AppendUvarints appends each value as a uvarint.
func AppendUvarints(b []byte, values ...uint64) []byte {
	for _, v := range values {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// Uvarints reads a uvarint into each value and returns the rest of b; false if one is missing or malformed.
func Uvarints(b []byte, values ...*uint64) (rest []byte, ok bool) {
	for _, p := range values {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, false
		}
		*p, b = v, b[n:]
	}
	return b, true
}

// AppendBytes appends the length of v as a uvarint, then v.
func AppendBytes[T string | []byte](b []byte, v T) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

// Bytes reads what AppendBytes has written, as a view of b, and returns the rest of b; false if it is cut off or malformed.
func Bytes(b []byte) (v, rest []byte, ok bool) {
	size, n := binary.Uvarint(b)
	if n <= 0 || uint64(len(b)-n) < size {
		return nil, nil, false
	}
	b = b[n:]
	return b[:size], b[size:], true
}
