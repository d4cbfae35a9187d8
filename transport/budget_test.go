package transport

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A hostile client sends these bytes after its greeting, and reads nothing.
var hostile = map[string][]byte{
	"idle":    nil,
	"partial": beginning(1<<20 - 1024),
	"unread":  bytes.Repeat(appendCall(nil, 2, "large", nil), 100), // 6.4 MiB of replies
	"flood":   bytes.Repeat(appendNotify(nil, "note", body64), 10_000),
}

// beginning returns a message of n bytes without its last byte.
func beginning(n int) []byte {
	b := appendNotify(nil, "n", bin(n-10))
	return b[:len(b)-1]
}

func bin(n int) []byte {
	b := []byte{0xc6, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	return append(b, make([]byte, n)...)
}

// large replies 64 KiB to the method large, and echoes other calls.
var large = testHandler{handle: func(_ Conn, r *Request) {
	if r.Method == "large" {
		r.Reply(largeReply, nil)
	} else {
		r.Reply(r.Params, nil)
	}
}}

var largeReply = bin(64 << 10)

// besiege connects n hostile clients to addr, which send b. It returns when they have sent it or were cut.
func besiege(t testing.TB, addr string, plain bool, n int, b []byte) (conns []net.Conn) {
	cfg, _, err := tlsConfigs(NewIdentity(), nil)
	require.NoError(t, err)
	cfg.InsecureSkipVerify = true
	var wg sync.WaitGroup
	for range n {
		base, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		t.Cleanup(func() { base.Close() })
		require.NoError(t, base.(*net.TCPConn).SetReadBuffer(4096))
		conn := base
		if !plain {
			conn = tls.Client(base, cfg)
		}
		conns = append(conns, conn)
		wg.Go(func() {
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			if _, err := conn.Write(helloFrame); err != nil {
				return
			}
			conn.Read(make([]byte, 100))
			conn.Write(b)
		})
	}
	wg.Wait()
	return conns
}

// open returns the number of connections of t that have not ended.
func (t *TCP) open() (n int) {
	t.each(func(c *conn) {
		if !c.over.Load() {
			n++
		}
	})
	return n
}

func heap() int {
	runtime.GC()
	runtime.GC() // pools keep their buffers for one collection
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapInuse)
}

// Whatever 200 clients make a transport hold, it takes no more memory than its budget and a constant for each connection.
// Others are served meanwhile, and nothing is counted when all is over.
func TestBudget(t *testing.T) {
	const (
		clients = 200
		budget  = minBuffered // each client could have 320 KiB, more than a call of 50 KB takes
		each    = 96 << 10    // what a connection and its hostile client take besides
	)
	for _, plain := range []bool{true, false} {
		for kind, sent := range hostile {
			t.Run(kind+map[bool]string{true: "/plain", false: "/tls"}[plain], func(t *testing.T) {
				server := newTCP(t, TCPConfig{Open: true, InsecurePlaintext: plain, MaxBuffered: budget,
					PingEvery: time.Minute, messageTimeout: time.Minute})
				l, err := server.Listen("127.0.0.1:0", func(Conn) Handler { return large })
				require.NoError(t, err)
				honest, err := newTCP(t, TCPConfig{Open: true, InsecurePlaintext: plain}).Dial(t.Context(), Peer{Addr: l.Addr()}, nil)
				require.NoError(t, err)
				calls := func() {
					for _, size := range []int{10, 50_000} {
						_, err := honest.Call(t.Context(), "echo", bin(size))
						require.NoError(t, err)
					}
				}
				calls()
				before := heap()

				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					for {
						select {
						case <-stop:
							return
						default:
						}
						if _, err := honest.Call(t.Context(), "echo", bin(50_000)); err != nil {
							t.Errorf("a call beside them: %v", err)
							return
						}
					}
				}()
				conns := besiege(t, l.Addr(), plain, clients, sent)
				close(stop)
				<-stopped
				calls()
				b := server.lim.budget
				require.Eventually(t, func() bool { return b.used.Load() <= b.max }, 10*time.Second, time.Millisecond)
				took := 0
				require.Eventually(t, func() bool { // what has just been returned is garbage soon
					took = heap() - before
					return took < budget+clients*each
				}, 10*time.Second, 10*time.Millisecond, "more heap is used")
				used, open := b.used.Load(), server.open()
				t.Logf("%d of %d connections are open: %d KiB of the budget, %d KiB of heap", open, clients+1, used>>10, took>>10)
				if kind == "idle" || kind == "flood" {
					require.Equal(t, clients+1, open)
				} else {
					require.Less(t, open, clients)
				}
				if kind == "partial" { // those that do not read also exceed MaxPending
					require.Greater(t, used, b.max/2, "more was cut than necessary")
				}
				for _, c := range conns {
					c.Close()
				}
				calls()
				server.Close()
				require.Zero(t, b.used.Load())
			})
		}
	}
}

// The connection that takes most is cut, and the log names it. Others keep what they hold.
func TestBudgetCutsTheLargest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewMemory()
		var log bytes.Buffer
		a, err := n.HostWith("a", TCPConfig{Open: true, MaxBuffered: minPending, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		var mu sync.Mutex // guards closed
		closed := make(map[Conn]error)
		var last *conn
		_, err = a.Listen("a:1", func(c Conn) Handler {
			last = c.(*conn)
			return testHandler{handle: echo.handle, closed: func(c Conn, err error) {
				mu.Lock()
				defer mu.Unlock()
				closed[c] = err
			}}
		})
		require.NoError(t, err)
		defer a.Close()
		send := func(b []byte) (*conn, net.Conn) {
			raw, _, err := n.connect(t.Context(), n.Host("raw"), Peer{Addr: "a:1"})
			require.NoError(t, err)
			go raw.Write(append(bytes.Clone(helloFrame), b...))
			synctest.Wait()
			return last, raw
		}
		call := appendCall(nil, 2, "echo", bin(100_000))
		_, honest := send(call[:90_000])
		defer honest.Close()
		time.Sleep(3 * time.Second) // it takes little, but for long
		var most *conn
		for i := 0; len(closed) == 0; i++ {
			require.Less(t, i, 12)
			size := 450_000
			if i == 1 {
				size = 1_000_000
			}
			c, raw := send(beginning(size))
			defer raw.Close()
			if i == 1 {
				most = c
			}
		}
		require.Len(t, closed, 1)
		require.ErrorIs(t, closed[most], ErrSlowPeer)
		require.Contains(t, log.String(), "connection cut")
		require.Regexp(t, `held=10[0-9]{5} `, log.String())
		require.Contains(t, log.String(), "peer="+most.peer.Addr)

		go honest.Write(call[90_000:])
		reply := read(t, honest, 7+len(call)-10)
		require.NotEmpty(t, reply)
	})
}

// A notification that many connections queue takes memory once, until the last of them has sent it.
func TestBudgetCountsSharedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewMemory()
		a, err := n.HostWith("a", TCPConfig{Open: true, MaxBuffered: minPending})
		require.NoError(t, err)
		var conns []Conn
		_, err = a.Listen("a:1", func(c Conn) Handler { conns = append(conns, c); return testHandler{} })
		require.NoError(t, err)
		const clients = 50
		var raws []net.Conn
		for range clients {
			raw, _, err := n.connect(t.Context(), n.Host("raw"), Peer{Addr: "a:1"})
			require.NoError(t, err)
			go raw.Write(helloFrame)
			synctest.Wait()
			raws = append(raws, raw)
		}
		const size = 500_000
		for range 3 {
			conns[0].(Broadcaster).NotifyAll(conns, "n", bin(size))
		}
		synctest.Wait()
		used := a.lim.budget.used.Load()
		require.GreaterOrEqual(t, used, int64(2*size)) // the network may have taken one
		require.Less(t, used, int64(4*size))
		for i, c := range conns {
			require.False(t, c.(*conn).over.Load())
			raws[i].Close()
			synctest.Wait()
		}
		a.Close()
		require.Zero(t, a.lim.budget.used.Load())
	})
}
