package msgpack

import (
	"encoding/binary"

	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/internal/mp"
)

// UnmarshalSmall is [transport.Unmarshal] with a limit of 256 values, nested ones included. The limit bounds the memory that
// a small message from an untrusted peer can allocate, even if v contains slices of large structs.
func UnmarshalSmall(data []byte, v any) error {
	if err := mp.Unmarshal(data, v, mp.SmallElements); err != nil {
		return transport.Errorf(transport.CodeBadMessage, "msgpack: %v", err)
	}
	return nil
}

// Reader decodes a MessagePack value field by field, without reflection, copies or allocations. Each method reads the next
// value, which must have the method's type. After the first value that is missing or has another type, all methods return
// zero values and Err returns an error.
//
// The data may come from an untrusted peer: Array never returns more than the number of bytes that follow.
type Reader struct {
	b   []byte
	at  int // bytes of b already read. Reslicing b instead would cost a write barrier for each value.
	bad bool
}

// NewReader returns a Reader of data. Slices returned by Bytes are parts of data.
func NewReader(data []byte) Reader { return Reader{b: data} }

// Err returns an error that is [transport.ErrBadMessage] if a value was missing or had another type.
func (r *Reader) Err() error {
	if r.bad {
		return transport.Errorf(transport.CodeBadMessage, "msgpack: a value is missing, has the wrong type, or was not expected")
	}
	return nil
}

func (r *Reader) fail() { r.at, r.bad = len(r.b), true }

// rest returns the bytes not read yet; left sets them.
func (r *Reader) rest() []byte     { return r.b[r.at:] }
func (r *Reader) left(rest []byte) { r.at = len(r.b) - len(rest) }

// Array reads the header of an array and returns the number of its values. Read the values next.
func (r *Reader) Array() int {
	n, rest, ok := mp.TakeArray(r.rest())
	if !ok || n > uint64(len(rest)) {
		r.fail()
		return 0
	}
	r.left(rest)
	return int(n)
}

// Uint reads an integer that is not negative.
func (r *Reader) Uint() uint64 {
	if b := r.b; r.at < len(b) && b[r.at] <= 0x7f { // the common case
		r.at++
		return uint64(b[r.at-1])
	}
	return r.uint()
}

func (r *Reader) uint() uint64 {
	n, rest, ok := mp.TakeUint(r.rest())
	if !ok {
		r.fail()
		return 0
	}
	r.left(rest)
	return n
}

// Int reads an integer.
func (r *Reader) Int() int64 {
	b := r.rest()
	if len(b) >= 9 && b[0] == 0xcf && b[1] < 0x80 { // a time, the common case
		r.at += 9
		return int64(binary.BigEndian.Uint64(b[1:]))
	}
	if len(b) > 0 {
		switch c := b[0]; {
		case c >= 0xe0:
			r.at += 1
			return int64(int8(c))
		case c == 0xd0 && len(b) >= 2:
			r.at += 2
			return int64(int8(b[1]))
		case c == 0xd1 && len(b) >= 3:
			r.at += 3
			return int64(int16(binary.BigEndian.Uint16(b[1:])))
		case c == 0xd2 && len(b) >= 5:
			r.at += 5
			return int64(int32(binary.BigEndian.Uint32(b[1:])))
		case c == 0xd3 && len(b) >= 9:
			r.at += 9
			return int64(binary.BigEndian.Uint64(b[1:]))
		}
	}
	n := r.Uint()
	if n > 1<<63-1 {
		r.fail()
		return 0
	}
	return int64(n)
}

// Bytes reads a bin or a str; it also accepts nil and returns an empty slice for it. The result is a part of the data, with
// no spare capacity.
func (r *Reader) Bytes() []byte {
	b := r.rest()
	if len(b) >= 2 { // a short value, the common case
		head, n := 2, int(b[1])
		switch c := b[0]; {
		case c == 0xc4 || c == 0xd9:
		case c >= 0xa0 && c <= 0xbf:
			head, n = 1, int(c&0x1f)
		default:
			return r.bytes()
		}
		if end := head + n; end <= len(b) {
			r.at += end
			return b[head:end:end]
		}
	}
	return r.bytes()
}

func (r *Reader) bytes() []byte {
	b := r.rest()
	p, rest, ok := mp.TakeBin(b)
	if !ok {
		p, rest, ok = mp.TakeString(b)
	}
	switch {
	case ok:
		r.left(rest)
		return p
	case len(b) > 0 && b[0] == 0xc0:
		r.at++
	default:
		r.fail()
	}
	return nil
}

// End returns Err, or the same error if values are left.
func (r *Reader) End() error {
	if r.at < len(r.b) {
		r.fail()
	}
	return r.Err()
}

// Skip reads a value of any type.
func (r *Reader) Skip() {
	_, rest, ok := mp.TakeValue(r.rest())
	if !ok {
		r.fail()
		return
	}
	r.left(rest)
}
