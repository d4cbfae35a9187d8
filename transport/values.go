package transport

import (
	"encoding/binary"
	"math"
)

// Values takes a MessagePack value apart field by field, for messages that come in such numbers that [Unmarshal] costs too
// much: without reflection, without a copy, and without allocating anything. Each method takes the next value, which must
// be of its type. After the first that is not, or that is missing, all return zeros, and Err says so.
//
// What it was made from may come from a peer: a count is never above the number of bytes that follow.
type Values struct {
	b   []byte
	at  int // what was taken of b. A slice that moves on would be a pointer to tell the garbage collector of each time.
	bad bool
}

// ReadValues reads data, which must not change as long as anything that Bytes returned is in use.
func ReadValues(data []byte) Values { return Values{b: data} }

// Err is nil, or an [ErrBadMessage] if a value was not of the type that was asked for.
func (v *Values) Err() error {
	if v.bad {
		return Errorf(CodeBadMessage, "transport: a MessagePack value is not of the type that is wanted, or missing, or one too many")
	}
	return nil
}

func (v *Values) fail() { v.at, v.bad = len(v.b), true }

// rest is what was not taken, and left says that it is no longer than this.
func (v *Values) rest() []byte     { return v.b[v.at:] }
func (v *Values) left(rest []byte) { v.at = len(v.b) - len(rest) }

// Array takes the beginning of an array and returns the number of its values, which come next.
func (v *Values) Array() int {
	n, rest, ok := takeArray(v.rest())
	if !ok || n > uint64(len(rest)) {
		v.fail()
		return 0
	}
	v.left(rest)
	return int(n)
}

// Uint takes a number that is not negative.
func (v *Values) Uint() uint64 {
	if b := v.b; v.at < len(b) && b[v.at] <= 0x7f { // most often
		v.at++
		return uint64(b[v.at-1])
	}
	return v.uint()
}

func (v *Values) uint() uint64 {
	n, rest, ok := takeUint(v.rest())
	if !ok {
		v.fail()
		return 0
	}
	v.left(rest)
	return n
}

// Int takes a number.
func (v *Values) Int() int64 {
	b := v.rest()
	if len(b) >= 9 && b[0] == 0xcf && b[1] < 0x80 { // a time, most often
		v.at += 9
		return int64(binary.BigEndian.Uint64(b[1:]))
	}
	if len(b) > 0 {
		switch c := b[0]; {
		case c >= 0xe0:
			v.at += 1
			return int64(int8(c))
		case c == 0xd0 && len(b) >= 2:
			v.at += 2
			return int64(int8(b[1]))
		case c == 0xd1 && len(b) >= 3:
			v.at += 3
			return int64(int16(binary.BigEndian.Uint16(b[1:])))
		case c == 0xd2 && len(b) >= 5:
			v.at += 5
			return int64(int32(binary.BigEndian.Uint32(b[1:])))
		case c == 0xd3 && len(b) >= 9:
			v.at += 9
			return int64(binary.BigEndian.Uint64(b[1:]))
		}
	}
	n := v.Uint()
	if n > 1<<63-1 {
		v.fail()
		return 0
	}
	return int64(n)
}

// Bytes takes a bin or a string; nil in its place is taken for an empty one. What it returns is a part of the data that
// is read, and nothing can be appended to it in place.
func (v *Values) Bytes() []byte {
	b := v.rest()
	if len(b) >= 2 { // short ones, most often
		head, n := 2, int(b[1])
		switch c := b[0]; {
		case c == 0xc4 || c == 0xd9:
		case c >= 0xa0 && c <= 0xbf:
			head, n = 1, int(c&0x1f)
		default:
			return v.bytes()
		}
		if end := head + n; end <= len(b) {
			v.at += end
			return b[head:end:end]
		}
	}
	return v.bytes()
}

func (v *Values) bytes() []byte {
	b := v.rest()
	p, rest, ok := takeBin(b)
	if !ok {
		p, rest, ok = takeString(b)
	}
	switch {
	case ok:
		v.left(rest)
		return p
	case len(b) > 0 && b[0] == 0xc0:
		v.at++
	default:
		v.fail()
	}
	return nil
}

// End is Err, and the same error if anything was not taken: for data that is to be one value.
func (v *Values) End() error {
	if v.at < len(v.b) {
		v.fail()
	}
	return v.Err()
}

// Skip takes a value of any type.
func (v *Values) Skip() {
	_, rest, ok := takeValue(v.rest())
	if !ok {
		v.fail()
		return
	}
	v.left(rest)
}

// AppendArray appends the beginning of an array of n values, which have to be appended next. What this and the functions
// below append is what [Marshal] makes of the same value, in a tenth of the time.
func AppendArray(b []byte, n int) []byte {
	switch {
	case n < 16:
		return append(b, 0x90|byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 0xdc), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, 0xdd), uint32(n))
}

// AppendUint appends a number that is not negative.
func AppendUint(b []byte, n uint64) []byte {
	switch {
	case n < 1<<7:
		return append(b, byte(n))
	case n < 1<<8:
		return append(b, 0xcc, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 0xcd), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xcf), n)
}

// AppendInt appends a number.
func AppendInt(b []byte, n int64) []byte {
	switch {
	case n >= 0:
		return AppendUint(b, uint64(n))
	case n >= -32:
		return append(b, byte(n))
	case n >= math.MinInt8:
		return append(b, 0xd0, byte(n))
	case n >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(b, 0xd1), uint16(n))
	case n >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(b, 0xd2), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(n))
}

// AppendString appends a string.
func AppendString(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, 0xa0|byte(n))
	case n < 1<<8:
		b = append(b, 0xd9, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0xda), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(n))
	}
	return append(b, s...)
}

// AppendBytes appends p as a bin; nil as an empty one.
func AppendBytes(b, p []byte) []byte { return append(appendBinHeader(b, len(p)), p...) }

func appendBinHeader(b []byte, n int) []byte {
	switch {
	case n < 1<<8:
		return append(b, 0xc4, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 0xc5), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, 0xc6), uint32(n))
}
