package msgpack

import (
	"bytes"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

func TestReader(t *testing.T) {
	long := strings.Repeat("l", 300)
	ints := []int64{0, 1, 127, 128, 255, 256, 65535, 65536, math.MaxInt32 + 1, math.MaxInt64,
		-1, -32, -33, -128, -129, -32768, -32769, math.MinInt32 - 1, math.MinInt64}
	data, err := transport.Marshal([]any{uint64(math.MaxUint64), "text", []byte("bin"), nil, long, []byte(long), ints,
		map[string]any{"a": []any{1}}, 7})
	require.NoError(t, err)
	v := NewReader(data)
	require.Equal(t, 9, v.Array())
	require.Equal(t, uint64(math.MaxUint64), v.Uint())
	require.Equal(t, "text", string(v.Bytes()))
	bin := v.Bytes()
	require.Equal(t, "bin", string(bin))
	require.Equal(t, len(bin), cap(bin))
	require.Empty(t, v.Bytes())
	require.Equal(t, long, string(v.Bytes()))
	require.Equal(t, long, string(v.Bytes()))
	for i := range v.Array() {
		require.Equal(t, ints[i], v.Int())
	}
	v.Skip()
	all := v
	require.ErrorIs(t, all.End(), transport.ErrBadMessage)
	require.Equal(t, uint64(7), v.Uint())
	require.NoError(t, v.Err())
	require.NoError(t, v.End())
	v.Skip()
	require.ErrorIs(t, v.Err(), transport.ErrBadMessage)
	require.Zero(t, v.Array())

	for name, take := range map[string]func(*Reader){
		"array": func(v *Reader) { v.Array() }, "uint": func(v *Reader) { v.Uint() }, "int": func(v *Reader) { v.Int() },
		"bytes": func(v *Reader) { v.Bytes() }, "skip": func(v *Reader) { v.Skip() },
	} {
		for _, bad := range []string{"", "\xdc\xff\xff", "\xdd\xff\xff\xff\xff\x00", "\xc4\x05abc", "\xcf\x00", "\xd3\x00",
			"\xc1"} {
			v := NewReader([]byte(bad))
			take(&v)
			require.ErrorIs(t, v.Err(), transport.ErrBadMessage, "%s of % x", name, bad)
		}
	}
	// A count above the number of bytes left is refused.
	v = NewReader([]byte("\xdd\x00\x10\x00\x00\x01\x02"))
	require.Zero(t, v.Array())
	require.Error(t, v.Err())
	v = NewReader([]byte("\xcf\xff\xff\xff\xff\xff\xff\xff\xff"))
	require.Zero(t, v.Int())
	require.Error(t, v.Err())
}

// The functions produce the bytes of the codec.
func TestAppend(t *testing.T) {
	var sizes []int
	for _, n := range []int{0, 1 << 4, 1 << 5, 1 << 8, 1 << 16} {
		sizes = append(sizes, max(n-1, 0), n, n+1)
	}
	same := func(v any, got []byte) {
		t.Helper()
		want, err := transport.Marshal(v)
		require.NoError(t, err)
		require.Equal(t, want[:min(len(want), 64)], got[:min(len(got), 64)])
		require.Equal(t, len(want), len(got))
	}
	for _, n := range sizes {
		list := make([]bool, n)
		got := AppendArray(nil, n)
		for range n {
			got = append(got, 0xc2)
		}
		same(list, got)
		same(strings.Repeat("s", n), AppendString(nil, strings.Repeat("s", n)))
		same(make([]byte, n), AppendBytes(nil, make([]byte, n)))
	}
	for shift := range 64 {
		for _, n := range []uint64{1<<shift - 1, 1 << shift, 1<<shift + 1} {
			same(n, AppendUint(nil, n))
			same(int64(n), AppendInt(nil, int64(n)))
			same(-int64(n), AppendInt(nil, -int64(n)))
		}
	}
	require.Equal(t, []byte("before\x92\x01\xa1s"), AppendString(AppendUint(AppendArray([]byte("before"), 2), 1), "s"))
}

func TestUnmarshalSmall(t *testing.T) {
	type large struct{ A, B, C, D, E, F, G, H [64]byte }
	for n, ok := range map[int]bool{255: true, 256: false, 0xff00: false} {
		b := append([]byte{0xdd, 0, 0, byte(n >> 8), byte(n)}, bytes.Repeat([]byte{0x80}, n)...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := UnmarshalSmall(b, new([]large))
		runtime.ReadMemStats(&after)
		if require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20), "%d", n); ok {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, transport.ErrBadMessage)
		}
	}
}
