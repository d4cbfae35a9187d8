package binenc

import (
	"hash/crc32"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRoundTrip(t *testing.T) {
	b := AppendUvarints([]byte("x"), 0, 127, 128, math.MaxUint64)
	b = AppendBytes(b, "text")
	b = AppendBytes(b, []byte(nil))
	b = append(b, "end"...)
	for n := range len(b) - 3 { // every cut
		var v [4]uint64
		rest, ok := Uvarints(b[:n][min(n, 1):], &v[0], &v[1], &v[2], &v[3])
		if ok {
			_, rest, ok = Bytes(rest)
		}
		if ok {
			_, _, ok = Bytes(rest)
		}
		require.False(t, ok, "cut to %d bytes", n)
	}
	var v [4]uint64
	rest, ok := Uvarints(b[1:], &v[0], &v[1], &v[2], &v[3])
	require.True(t, ok)
	require.Equal(t, [4]uint64{0, 127, 128, math.MaxUint64}, v)
	text, rest, ok := Bytes(rest)
	require.True(t, ok)
	require.Equal(t, "text", string(text))
	empty, rest, ok := Bytes(rest)
	require.True(t, ok)
	require.Empty(t, empty)
	require.Equal(t, "end", string(rest))
}

func TestMalformed(t *testing.T) {
	long := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01} // over 64 bits
	_, ok := Uvarints(long, new(uint64))
	require.False(t, ok)
	_, _, ok = Bytes(long)
	require.False(t, ok)
	_, _, ok = Bytes(AppendUvarints(nil, math.MaxUint64)) // longer than anything
	require.False(t, ok)
}

func TestCRC(t *testing.T) {
	want := crc32.Checksum([]byte("123456789"), crc32.MakeTable(crc32.Castagnoli))
	require.Equal(t, uint32(0xe3069283), want)
	require.Equal(t, want, CRC([]byte("123456789")))
	require.Equal(t, want, CRC([]byte("1234"), nil, []byte("56789")))
}
