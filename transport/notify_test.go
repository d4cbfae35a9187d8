package transport

import (
	"bytes"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// collector records the notifications that it receives.
type collector struct {
	mu   sync.Mutex
	all  []string
	more []bool
	news chan struct{}
}

func (c *collector) Handle(_ Conn, r *Request) {
	c.mu.Lock()
	c.all = append(c.all, r.Method+" "+string(r.Params))
	c.more = append(c.more, r.More)
	c.mu.Unlock()
	c.news <- struct{}{}
}

func (c *collector) Closed(Conn, error) {}

func TestNotifyAll(t *testing.T) {
	for _, plain := range []bool{true, false} {
		var got []*collector
		server := newTCP(t, TCPConfig{Open: true, InsecurePlaintext: plain})
		l, err := server.Listen("127.0.0.1:0", func(Conn) Handler { return &collector{news: make(chan struct{}, 1000)} })
		require.NoError(t, err)
		client := newTCP(t, TCPConfig{Open: true, InsecurePlaintext: plain})
		var conns []Conn
		for range 5 {
			c := &collector{news: make(chan struct{}, 1000)}
			got = append(got, c)
		}
		l2, err := server.Listen("127.0.0.1:0", func() func(Conn) Handler {
			n := 0
			return func(Conn) Handler { n++; return got[n-1] }
		}())
		require.NoError(t, err)
		for range got {
			c, err := client.Dial(t.Context(), Peer{Addr: l2.Addr()}, nil)
			require.NoError(t, err)
			conns = append(conns, c)
		}
		closed, err := client.Dial(t.Context(), Peer{Addr: l.Addr()}, nil)
		require.NoError(t, err)
		closed.Close()
		conns = append(conns, closed)
		// Small and large ones, and what is sent on one connection alone, arrive in the order in which they were sent.
		var want []string
		send := func(n int) {
			params, err := Marshal(bytes.Repeat([]byte{byte(n)}, n))
			require.NoError(t, err)
			conns[0].(Broadcaster).NotifyAll(conns, "all", params)
			want = append(want, "all "+string(params))
			clear(params) // the caller may use it again
			for _, c := range conns[:len(got)] {
				require.NoError(t, c.Notify("one", nil))
			}
			want = append(want, "one \x90")
		}
		sizes := []int{1, shareFrom, 100, 3 * chunkLarge, 5, chunkSmall, chunkLarge, chunkHuge}
		for i := range 8 {
			for k := range 12 { // sizes of frames that could be taken for those of a pool
				send(sizes[i] - k%min(12, sizes[i]))
			}
			for _, c := range got {
				for range 2 * 12 {
					<-c.news
				}
			}
		}
		conns[0].(Broadcaster).NotifyAll(conns, "", []byte{1})       // no method
		conns[0].(Broadcaster).NotifyAll(conns, "bad", []byte{0xc1}) // no value
		for i, c := range got {
			require.True(t, slices.Equal(want, c.all), "connection %d", i)
		}
	}
}

// What several connections send must not be given to a pool by the one that is first done with it.
func TestSharedIsNotPooled(t *testing.T) {
	for _, pooled := range []int{chunkSmall, chunkLarge, chunkHuge} {
		for n := pooled - 16; n <= pooled+16; n++ {
			require.GreaterOrEqual(t, cap(newShared(n)), n)
			require.NotEqual(t, pooled, cap(newShared(n)))
		}
	}
}

// More announces a message that has arrived already, but not one that the engine answers itself.
func TestMore(t *testing.T) {
	c := &conn{lim: &limits{maxMessage: 1 << 20}}
	c.rd.limit = 1 << 20
	for name, tt := range map[string]struct {
		next []byte
		want bool
	}{
		"nothing":    {nil, false},
		"part":       {appendNotify(nil, "m", nil)[:3], false},
		"note":       {appendNotify(nil, "m", nil), true},
		"call":       {appendCall(nil, 1, "m", nil), true},
		"ping":       {appendCall(nil, 1, methodPing, nil), false},
		"hello":      {appendCall(nil, 1, methodHello, nil), false},
		"reply":      {appendReply(nil, 1, nil), false},
		"no message": {[]byte{0xc0}, false},
	} {
		c.rd = reader{limit: 1 << 20}
		c.rd.buf = append(appendNotify(nil, "first", nil), tt.next...)
		c.rd.w = len(c.rd.buf)
		_, err := c.next()
		require.NoError(t, err)
		require.Equal(t, tt.want, c.more(), name)
	}
}
