package msgpack

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A Reader never returns more than the data contains.
func FuzzReader(f *testing.F) {
	f.Add([]byte{0x94, 0, 0, 0xce, 0xd4, 0x9d, 0x1b, 0x9b, 0xc4, 3, 'a', 'b', 'c'})
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(b)
		n := r.Array()
		require.LessOrEqual(t, n, len(b))
		for range n {
			at := r
			if r.Uint(); r.Err() != nil {
				r = at
			}
			at = r
			if r.Int(); r.Err() != nil {
				r = at
			}
			at = r
			if p := r.Bytes(); r.Err() != nil {
				r = at
			} else {
				require.LessOrEqual(t, len(p), len(b))
			}
		}
	})
}
