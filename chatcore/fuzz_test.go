package chatcore

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// FuzzEvent decodes arbitrary bytes as an event of the room.
func FuzzEvent(f *testing.F) {
	f.Add(event{Kind: KindMessage, From: "ann", Text: "hello", Time: 1e12}.encode())
	f.Add(event{Kind: KindJoined, From: "bob", Missing: 2}.encode())
	f.Add(event{Kind: KindJoined, From: "bob", Key: keyOf(1)}.encode())
	f.Add([]byte{0x95, 0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc0})
	f.Fuzz(func(t *testing.T, body []byte) {
		e := event{From: "somebody"}
		var texts strings.Builder
		if e.decode(body, &texts) != nil {
			return
		}
		require.LessOrEqual(t, len(e.From)+len(e.Text), len(body)+len("somebody"))
		var again event
		require.NoError(t, again.decode(e.encode(), &texts))
		require.Equal(t, e, again)
	})
}

// FuzzPrivate lets a client send arbitrary private messages: none is delivered under another name.
func FuzzPrivate(f *testing.F) {
	f.Add(mustMarshal(&privateParams{To: "bob", From: "ann", Text: "hi", ID: 1}), []byte{1})
	f.Add(mustMarshal(&privateParams{To: "bob", From: "BOB", Text: "\x1b[2J", ID: 1, Token: make([]byte, 16)}), []byte{})
	f.Add([]byte{0xc0}, []byte{0x95, 0xa3, 'b', 'o', 'b', 0xa3, 'a', 'n', 'n', 0xa1, 'x', 1, 0xc0})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
			ann, bob, mallory := enter(t, h, net, "ann"), enter(t, h, net, "bob"), enter(t, h, net, "mallory")
			msgs := read(bob)
			conn, err := net.Host("mallory").Dial(t.Context(), transport.Peer{Addr: bob.private.listener.Addr()}, nil)
			require.NoError(t, err)
			for _, p := range [][]byte{first, second, first} {
				for _, method := range []string{methodPrivate, methodHello} {
					conn.Go(method, p, func([]byte, error) {})
				}
				// Also with the right token, if the params can be decoded.
				var m privateParams
				if transport.Unmarshal(p, &m) == nil {
					_ = callOn(t, conn, m, true)
				}
			}
			synctest.Wait()
			for _, m := range msgs.take(KindJoined) {
				require.Equal(t, "mallory", m.From)
			}
			require.NoError(t, conn.Close())
			for _, c := range []*Client{ann, bob, mallory} {
				require.NoError(t, c.Close())
			}
		})
	})
}
