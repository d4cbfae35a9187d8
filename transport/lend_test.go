package transport

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stuckHandler does not return from the first message until the test releases it.
type stuckHandler struct {
	turn  chan uint64
	leave chan struct{}
	left  chan bool // whether the call could still be released after it was
	got   chan string
}

func (h *stuckHandler) Handle(c Conn, r *Request) {
	if r.Method == "stuck" {
		turn := c.(Lender).Turn()
		h.turn <- turn
		<-h.leave
		h.left <- c.(Lender).Release(turn)
		return
	}
	h.got <- r.Method
}

func (h *stuckHandler) Closed(Conn, error) { close(h.got) }

func TestReleaseOfTheReader(t *testing.T) {
	for name, pair := range map[string]func(t *testing.T) (a, b Transport, addr string){
		"memory": func(t *testing.T) (Transport, Transport, string) {
			n := NewMemory()
			return n.Host("a"), n.Host("b"), "b:1"
		},
		"tcp": func(t *testing.T) (Transport, Transport, string) {
			a, err := NewTCP(TCPConfig{Open: true})
			require.NoError(t, err)
			b, err := NewTCP(TCPConfig{Open: true})
			require.NoError(t, err)
			t.Cleanup(func() { a.Close(); b.Close() })
			return a, b, "127.0.0.1:0"
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, addr := pair(t)
			h := &stuckHandler{make(chan uint64, 1), make(chan struct{}), make(chan bool, 1), make(chan string, 100)}
			accepted := make(chan Conn, 1)
			l, err := b.Listen(addr, func(c Conn) Handler { accepted <- c; return h })
			require.NoError(t, err)
			defer l.Close()
			c, err := a.Dial(t.Context(), Peer{Addr: l.Addr()}, nil)
			require.NoError(t, err)
			require.NoError(t, c.Notify("stuck", nil))
			turn := <-h.turn
			for i := range 50 {
				require.NoError(t, c.Notify(fmt.Sprint("m", i), nil))
			}
			select {
			case m := <-h.got:
				t.Fatalf("%s was handled while an earlier message was", m)
			case <-time.After(20 * time.Millisecond):
			}
			lender := (<-accepted).(Lender)
			require.False(t, lender.Release(turn+2), "a call that has not begun")
			require.True(t, lender.Release(turn))
			require.False(t, lender.Release(turn), "it was released before")
			for i := range 50 {
				require.Equal(t, fmt.Sprint("m", i), <-h.got)
			}
			close(h.leave)
			require.False(t, <-h.left)
			require.NoError(t, c.Notify("after", nil))
			require.Equal(t, "after", <-h.got)
			require.NoError(t, c.Close())
			_, open := <-h.got
			require.False(t, open, "Closed is called once, by the goroutine that reads")
			if c, ok := b.(interface{ Close() error }); ok {
				require.NoError(t, c.Close())
			}
		})
	}
}
