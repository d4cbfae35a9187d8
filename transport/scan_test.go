package transport

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// nested is an array in an array and so on.
func nested(n int) []byte { return append(bytes.Repeat([]byte{0x91}, n-1), 0x90) }

func TestScannerByteByByte(t *testing.T) {
	big, err := Marshal(map[string]any{"a": []any{1, -1, 1 << 40, 3.5, float32(2), nil, true, "text", make([]byte, 300)},
		"b": string(make([]byte, 70_000)), "c": make([]int, 20)})
	require.NoError(t, err)
	for _, b := range [][]byte{big, {0}, {0xc0}, {0x90}, {0x80}, nested(16), {0xa0}, {0xc4, 0}, {0xd4, 1, 2}, {0xc7, 1, 5, 5}} {
		var s scanner
		s.reset(1<<20, maxDepth)
		for i := range b {
			done, err := s.scan(b[:i])
			require.NoError(t, err)
			require.False(t, done)
		}
		done, err := s.scan(append(b[:len(b):len(b)], 0xc1)) // what follows does not matter
		require.NoError(t, err)
		require.True(t, done)
		require.Equal(t, len(b), s.pos)
	}
}

// Who sends byte by byte costs no more than who sends at once: to begin anew at each byte would take a minute here.
func TestScannerIsLinear(t *testing.T) {
	const n = 1 << 18
	b := append([]byte{0xdd, 0, n >> 16, 0, 0}, make([]byte, n)...)
	var s scanner
	s.reset(len(b), maxDepth)
	start := time.Now()
	for i := range len(b) + 1 {
		done, err := s.scan(b[:i])
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
		{[]byte{0xc6, 0xff, 0xff, 0xff, 0xff}, errTooLong},
		{[]byte{0xdb, 0x00, 0x01, 0x00, 0x00}, errTooLong},
		{[]byte{0xc9, 0xff, 0xff, 0xff, 0xff, 1}, errTooLong},
		{[]byte{0xdd, 0xff, 0xff, 0xff, 0xff}, errTooLong},
		{[]byte{0xdf, 0xff, 0xff, 0xff, 0xff}, errTooLong},
		{[]byte{0xdc, 0xff, 0xff}, errTooLong},
		{append([]byte{0x92, 0xda, 0x7f, 0xff}, make([]byte, 0x8000)...), errTooLong}, // the second value has no room
	} {
		var s scanner
		s.reset(0x7fff+4, maxDepth)
		_, err := s.scan(c.in)
		require.Equal(t, c.want, err, "% .10x", c.in)
	}
}

// seeds are bytes that a scanner may stumble over.
var seeds = [][]byte{
	{0x94, 0, 1, 0xa1, 'a', 0x90}, {0x93, 2, 0xa1, 'a', 0x90}, {0x94, 1, 1, 0xc0, 0xc0}, {0x94, 1, 1, 0x81, 0xa4, 'c', 'o', 'd', 'e', 2, 0xc0},
	{0xc6, 0x40, 0, 0, 0}, {0xdd, 0xff, 0xff, 0xff, 0xff}, {0xdf, 0xff, 0xff, 0xff, 0xff}, {0xc1}, {0xc0}, {}, {0xd9}, {0xda, 1},
	{0xd4, 1, 2}, {0xc9, 0, 0, 0, 1, 5, 5}, {0x82, 0xa1, 'a', 1, 0xa1, 'a', 2},
	bytes.Repeat([]byte{0x91}, 40), bytes.Repeat([]byte{0x81, 0x80}, 20), bytes.Repeat([]byte{0x80}, 64), nested(16), nested(17),
}

// However the bytes are cut, the scanner finds the same end or the same fault, within the bytes that there are.
func FuzzScanner(f *testing.F) {
	for _, s := range seeds {
		f.Add(s, uint8(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		var whole, cut scanner
		whole.reset(1<<12, maxDepth)
		cut.reset(1<<12, maxDepth)
		done, err := whole.scan(b)
		var done2 bool
		var err2 error
		for n := 0; !done2 && err2 == nil; n += int(step) + 1 {
			n = min(n, len(b))
			if done2, err2 = cut.scan(b[:n]); n == len(b) {
				break
			}
		}
		require.Equal(t, done, done2)
		require.Equal(t, err, err2)
		require.Equal(t, whole.pos, cut.pos)
		if done {
			require.LessOrEqual(t, whole.pos, len(b))
			if m := new(message); m.parse(b[:whole.pos]) == nil && m.failed() {
				parseError(m.fault.of(b))
			}
		}
		require.LessOrEqual(t, whole.pos, 1<<12)
	})
}
