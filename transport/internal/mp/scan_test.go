package mp

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// nested is an array in an array and so on.
func nested(n int) []byte { return append(bytes.Repeat([]byte{0x91}, n-1), 0x90) }

func TestScannerByteByByte(t *testing.T) {
	big, err := Marshal(map[string]any{"a": []any{1, -1, int64(1) << 40, 3.5, float32(2), nil, true, "text", make([]byte, 300)},
		"b": string(make([]byte, 70_000)), "c": make([]int, 20)})
	require.NoError(t, err)
	for _, b := range [][]byte{big, {0}, {0xc0}, {0x90}, {0x80}, nested(16), {0xa0}, {0xc4, 0}, {0xd4, 1, 2}, {0xc7, 1, 5, 5}} {
		var s Scanner
		s.Reset(1<<20, MaxDepth)
		for i := range b {
			done, err := s.Scan(b[:i])
			require.NoError(t, err)
			require.False(t, done)
		}
		done, err := s.Scan(append(b[:len(b):len(b)], 0xc1)) // what follows does not matter
		require.NoError(t, err)
		require.True(t, done)
		require.Equal(t, len(b), s.Pos)
	}
}

// A value that arrives byte by byte costs no more than one that arrives whole: starting over at each byte would take a
// minute.
func TestScannerIsLinear(t *testing.T) {
	const n = 1 << 18
	b := append([]byte{0xdd, 0, n >> 16, 0, 0}, make([]byte, n)...)
	var s Scanner
	s.Reset(len(b), MaxDepth)
	start := time.Now()
	for i := range len(b) + 1 {
		done, err := s.Scan(b[:i])
		require.True(t, err == nil && done == (i == len(b)))
	}
	require.Less(t, time.Since(start), 10*time.Second)
}

func TestScannerRefuses(t *testing.T) {
	for _, c := range []struct {
		in   []byte
		want error
	}{
		{nested(17), errTooDeep},
		{bytes.Repeat([]byte{0x81, 0}, 17), errTooDeep},
		{bytes.Repeat([]byte{0x91}, 1<<16), errTooDeep},
		{[]byte{0xc1}, errNotAType},
		{[]byte{0x91, 0xc1}, errNotAType},
		{[]byte{0xc6, 0xff, 0xff, 0xff, 0xff}, ErrTooLong},
		{[]byte{0xdb, 0x00, 0x01, 0x00, 0x00}, ErrTooLong},
		{[]byte{0xc9, 0xff, 0xff, 0xff, 0xff, 1}, ErrTooLong},
		{[]byte{0xdd, 0xff, 0xff, 0xff, 0xff}, ErrTooLong},
		{[]byte{0xdf, 0xff, 0xff, 0xff, 0xff}, ErrTooLong},
		{[]byte{0xdc, 0xff, 0xff}, ErrTooLong},
		{append([]byte{0x92, 0xda, 0x7f, 0xff}, make([]byte, 0x8000)...), ErrTooLong}, // the second value has no room
	} {
		var s Scanner
		s.Reset(0x7fff+4, MaxDepth)
		_, err := s.Scan(c.in)
		require.Equal(t, c.want, err, "% .10x", c.in)
	}
}

// seeds are inputs with likely faults.
var seeds = [][]byte{
	{0x94, 0, 1, 0xa1, 'a', 0x90}, {0x93, 2, 0xa1, 'a', 0x90}, {0x94, 1, 1, 0xc0, 0xc0},
	{0x94, 1, 1, 0x81, 0xa4, 'c', 'o', 'd', 'e', 2, 0xc0},
	{0xc6, 0x40, 0, 0, 0}, {0xdd, 0xff, 0xff, 0xff, 0xff}, {0xdf, 0xff, 0xff, 0xff, 0xff}, {0xc1}, {0xc0}, {}, {0xd9},
	{0xda, 1},
	{0xd4, 1, 2}, {0xc9, 0, 0, 0, 1, 5, 5}, {0x82, 0xa1, 'a', 1, 0xa1, 'a', 2},
	bytes.Repeat([]byte{0x91}, 40), bytes.Repeat([]byte{0x81, 0x80}, 20),
	bytes.Repeat([]byte{0x80}, 64), nested(16), nested(17),
}

// However the input is split, the scanner finds the same end or the same fault, within the input.
func FuzzScanner(f *testing.F) {
	for _, s := range seeds {
		f.Add(s, uint8(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		var whole, cut Scanner
		whole.Reset(1<<12, MaxDepth)
		cut.Reset(1<<12, MaxDepth)
		done, err := whole.Scan(b)
		var done2 bool
		var err2 error
		for n := 0; !done2 && err2 == nil; n += int(step) + 1 {
			n = min(n, len(b))
			if done2, err2 = cut.Scan(b[:n]); n == len(b) {
				break
			}
		}
		require.Equal(t, done, done2)
		require.Equal(t, err, err2)
		require.Equal(t, whole.Pos, cut.Pos)
		if done {
			require.LessOrEqual(t, whole.Pos, len(b))
		}
		require.LessOrEqual(t, whole.Pos, 1<<12)
	})
}
