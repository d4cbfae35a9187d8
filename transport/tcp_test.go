package transport

import (
	"testing"

	"github.com/stretchr/testify/require"
)

type testHandler struct {
	handle func(Conn, *Request)
	closed func(Conn, error)
}

func (h testHandler) Handle(c Conn, r *Request) {
	if h.handle != nil {
		h.handle(c, r)
	}
}
func (h testHandler) Closed(c Conn, err error) {
	if h.closed != nil {
		h.closed(c, err)
	}
}

var echo = testHandler{handle: func(_ Conn, r *Request) { r.Reply(r.Params, nil) }}

func newTCP(t testing.TB, cfg TCPConfig) *TCP {
	tr, err := NewTCP(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { tr.Close() })
	return tr
}

func TestTCPEcho(t *testing.T) {
	for _, plain := range []bool{true, false} {
		a, b := newTCP(t, TCPConfig{InsecurePlaintext: plain}), newTCP(t, TCPConfig{InsecurePlaintext: plain})
		l, err := a.Listen("127.0.0.1:0", func(c Conn) Handler { return echo })
		require.NoError(t, err)
		c, err := b.Dial(t.Context(), Peer{Addr: l.Addr(), Key: a.Key()}, nil)
		require.NoError(t, err)
		p, _ := Marshal([]any{1, "x"})
		for range 10 {
			got, err := c.Call(t.Context(), "echo", p)
			require.NoError(t, err)
			require.Equal(t, p, got)
		}
		require.NoError(t, c.Close())
	}
}
