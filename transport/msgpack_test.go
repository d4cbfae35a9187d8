package transport

import (
	"bytes"
	"math"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport/internal/mp"
)

type sample struct {
	_struct bool `codec:",toarray"` //lint:ignore U1000 the codec reads the tag

	ID    uint64
	Name  string
	Body  []byte
	Nums  []int64
	Inner *sample
	M     map[string]int
	F     float64
	K     Key
}

func TestMarshal(t *testing.T) {
	in := sample{ID: 1 << 52, Name: "näme", Body: []byte{0, 1}, Nums: []int64{-1, math.MaxInt64}, F: 1.5, K: Key{31: 1},
		Inner: &sample{Name: "inner"}, M: map[string]int{"a": -5}}
	b, err := Marshal(&in)
	require.NoError(t, err)
	var out sample
	require.NoError(t, Unmarshal(b, &out))
	require.Equal(t, in, out)

	// Nothing decoded may point into the bytes it came from.
	clear(b)
	require.Equal(t, in, out)
}

func TestMarshalIsPlainMessagePack(t *testing.T) {
	for _, c := range []struct {
		in   any
		want []byte
	}{
		{nil, []byte{0xc0}},
		{[]byte{1}, []byte{0xc4, 1, 1}}, // bin
		{"a", []byte{0xa1, 'a'}},
		{string(make([]byte, 40)), append([]byte{0xd9, 40}, make([]byte, 40)...)}, // str 8
		{200, []byte{0xcc, 200}},
		{-1, []byte{0xff}},
		{[]string(nil), []byte{0xc0}},
		{[]string{}, []byte{0x90}},
		{[]any{1, "a"}, []byte{0x92, 1, 0xa1, 'a'}},
		{struct{ A int }{1}, []byte{0x81, 0xa1, 'A', 1}},
	} {
		b, err := Marshal(c.in)
		require.NoError(t, err)
		require.Equal(t, c.want, b, "%v", c.in)
	}
	_, err := Marshal(1i)
	require.ErrorContains(t, err, "complex128")
	b, err := Marshal(1) // after an error others still work
	require.NoError(t, err)
	require.Equal(t, []byte{1}, b)
}

func TestUnmarshalRefuses(t *testing.T) {
	many, err := Marshal(make([]bool, mp.MaxElements))
	require.NoError(t, err)
	for name, b := range map[string][]byte{
		"empty":            {},
		"nil":              {0xc0},
		"trailing":         {1, 2},
		"two values":       {0x90, 0x90},
		"cut":              {0x92, 1},
		"cut string":       {0xa5, 'a'},
		"bin of 4 GiB":     {0xc6, 0xff, 0xff, 0xff, 0xff},
		"array of 4 G":     {0xdd, 0xff, 0xff, 0xff, 0xff},
		"map of 4 G":       {0xdf, 0xff, 0xff, 0xff, 0xff},
		"never used":       {0xc1},
		"too deep":         nested(17),
		"too many":         many,
		"ext":              {0xd4, 1, 1},
		"ext inside":       {0x91, 0xd6, 0xff, 0, 0, 0, 0},
		"deep and endless": bytes.Repeat([]byte{0x91}, 1<<20),
	} {
		var v any
		require.ErrorIs(t, Unmarshal(b, &v), ErrBadMessage, name)
		require.Nil(t, v, name)
	}
	var n int
	require.ErrorIs(t, Unmarshal([]byte{0xa1, 'a'}, &n), ErrBadMessage)
	var tm time.Time
	require.Error(t, Unmarshal([]byte{0xd6, 0xff, 0, 0, 0, 0}, &tm))
	require.NoError(t, Unmarshal([]byte{5}, &n)) // after an error others still work
	require.Equal(t, 5, n)
	var deep any
	require.NoError(t, Unmarshal(nested(16), &deep))
}

// The count of values bounds the memory that a decoder allocates for a message: of strings, 1 MiB and the growth to it.
func TestUnmarshalMemory(t *testing.T) {
	b := append([]byte{0xdd, 0, 0, 0xff, 0}, bytes.Repeat([]byte{0xc0}, 0xff00)...)
	for _, v := range []any{new([]string), new([][]byte), new([]int64), new(sample)} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_ = Unmarshal(b, v)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16<<20), "%T", v)
	}
}

func TestMarshalConcurrently(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				b, err := Marshal([]int{i, j})
				var got []int
				if err != nil || Unmarshal(b, &got) != nil || got[0] != i || got[1] != j {
					t.Errorf("%v %v %v", got, i, j)
				}
				var bad int
				_ = Unmarshal(b, &bad)
			}
		})
	}
	wg.Wait()
}

func FuzzUnmarshal(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	b, _ := Marshal(sample{Name: "a", Inner: &sample{}})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var s sample
		if Unmarshal(b, &s) == nil {
			again, err := Marshal(&s)
			require.NoError(t, err)
			var s2 sample
			require.NoError(t, Unmarshal(again, &s2))
		}
		var v any
		if Unmarshal(b, &v) == nil {
			_, err := Marshal(v)
			require.NoError(t, err)
		}
	})
}
