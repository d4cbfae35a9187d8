package resolver

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// What a client sends costs the server no more than twice its bytes, or where lists of names are announced, what the names
// take.
func TestServerDecoderBombs(t *testing.T) {
	inBubble(t, ServerConfig{}, func(t *testing.T, w *world) {
		conn := w.dial("a")
		ss := w.server.accept(conn).(*session)
		defer ss.Closed(conn, nil)
		record := append([]byte{0x97, 0xa1, 'x', 1, 1, 0, 1, 0xc0}, 0xdc, 0xff, 0)
		for name, c := range map[string]struct {
			method string
			head   []byte
			most   int
		}{
			"members of a record":   {methodCAS, append([]byte{0x92, 0}, record...), 256 << 10},
			"values after the last": {methodGet, []byte{0xdc, 0xff, 0}, 256 << 10},
			"names of services":     {methodAnnounce, []byte{0x95, 0xc0, 0, 0xc0, 0, 0xdc, 0xff, 0}, 16 << 20},
		} {
			for _, fill := range []byte{0xc0, 0x80, 0x90, 0xa0} {
				params := append(bytes.Clone(c.head), bytes.Repeat([]byte{fill}, 0xff00)...)
				var got error
				r := transport.NewRequest(c.method, params, func(_ []byte, err error) { got = err })
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				ss.Handle(conn, r)
				runtime.ReadMemStats(&after)
				require.ErrorIs(t, got, ErrInvalid, "%s, %#x", name, fill)
				require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(c.most), "%s, %#x", name, fill)
			}
		}
	})
}
