package transport

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Each benchmark of the engine is compared with the same work by hand on a plain socket, the limit: frames of four bytes of
// length, eight of id, and the body.

var body64 = func() []byte {
	b, _ := Marshal(make([]byte, 62))
	return b
}()

func benchPair(b *testing.B, plain bool, h Handler) Conn {
	a := newTCP(b, TCPConfig{Open: true, InsecurePlaintext: plain})
	l, err := a.Listen("127.0.0.1:0", func(Conn) Handler { return h })
	require.NoError(b, err)
	c, err := newTCP(b, TCPConfig{Open: true, InsecurePlaintext: plain}).Dial(b.Context(), Peer{Addr: l.Addr()}, nil)
	require.NoError(b, err)
	return c
}

func BenchmarkCall(b *testing.B) {
	for _, plain := range []bool{true, false} {
		b.Run(map[bool]string{true: "plain", false: "tls"}[plain], func(b *testing.B) {
			c := benchPair(b, plain, echo)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Call(b.Context(), "echo", body64); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for _, plain := range []bool{true, false} {
		b.Run(limitName("limit", plain), func(b *testing.B) {
			c := limitEcho(b, plain)
			buf := make([]byte, 12+64)
			binary.BigEndian.PutUint32(buf, 64)
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
		// With a goroutine that reads for all callers, as it takes for more than one.
		b.Run(limitName("limit-shared", plain), func(b *testing.B) {
			c := newLimitClient(limitEcho(b, plain))
			for b.Loop() {
				if err := c.call(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func limitName(name string, plain bool) string {
	if !plain {
		name += "-tls"
	}
	return name
}

func BenchmarkCall64(b *testing.B) {
	const callers = 64
	spread := func(b *testing.B, call func() error) {
		b.ReportAllocs()
		b.ResetTimer()
		start := time.Now()
		var wg sync.WaitGroup
		for i := range callers {
			n := b.N / callers
			if i < b.N%callers {
				n++
			}
			wg.Go(func() {
				for range n {
					if err := call(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "calls/s")
	}
	for _, plain := range []bool{true, false} {
		b.Run(map[bool]string{true: "plain", false: "tls"}[plain], func(b *testing.B) {
			c := benchPair(b, plain, echo)
			spread(b, func() error { _, err := c.Call(b.Context(), "echo", body64); return err })
		})
	}
	for _, plain := range []bool{true, false} {
		b.Run(limitName("limit", plain), func(b *testing.B) {
			spread(b, newLimitClient(limitEcho(b, plain)).call)
		})
	}
}

// BenchmarkBesideHostile measures calls while 200 hostile clients hold what they can. MiB is what they hold of the budget.
func BenchmarkBesideHostile(b *testing.B) {
	for _, kind := range []string{"none", "idle", "partial", "unread", "flood"} {
		b.Run(kind, func(b *testing.B) {
			server := newTCP(b, TCPConfig{Open: true})
			l, err := server.Listen("127.0.0.1:0", func(Conn) Handler { return large })
			require.NoError(b, err)
			c, err := newTCP(b, TCPConfig{Open: true}).Dial(b.Context(), Peer{Addr: l.Addr()}, nil)
			require.NoError(b, err)
			var conns []net.Conn
			if kind != "none" {
				conns = besiege(b, l.Addr(), false, 200, hostile[kind])
			}
			took := make([]time.Duration, 0, 1<<16)
			for b.Loop() {
				start := time.Now()
				if _, err := c.Call(b.Context(), "echo", body64); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
			b.ReportMetric(float64(server.lim.budget.used.Load())/(1<<20), "MiB")
			for _, c := range conns {
				c.Close()
			}
		})
	}
}

func BenchmarkNotify(b *testing.B) {
	const window = 8192 // notifications between two calls, which wait for the receiver
	for _, plain := range []bool{true, false} {
		b.Run(map[bool]string{true: "plain", false: "tls"}[plain], func(b *testing.B) {
			c := benchPair(b, plain, echo)
			b.ReportAllocs()
			b.ResetTimer()
			start := time.Now()
			marks := make(chan struct{}, 4)
			for i := range b.N {
				if i%window == 0 {
					marks <- struct{}{}
					c.Go("echo", nil, func([]byte, error) { <-marks })
				}
				if err := c.Notify("note", body64); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := c.Call(b.Context(), "echo", nil); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "notifications/s")
		})
	}
	for _, plain := range []bool{true, false} {
		b.Run(limitName("limit", plain), func(b *testing.B) { limitNotify(b, plain) })
	}
}

func limitNotify(b *testing.B, plain bool) {
	c := limitEcho(b, plain)
	w := bufio.NewWriterSize(c, 64<<10)
	msg := make([]byte, 12+64)
	binary.BigEndian.PutUint32(msg, 64)
	b.ResetTimer()
	start := time.Now()
	for i := range b.N {
		copy(msg[4:], "\xff\xff\xff\xff\xff\xff\xff\xff")
		if i == b.N-1 {
			copy(msg[4:], "\x00\x00\x00\x00\x00\x00\x00\x00")
		}
		if _, err := w.Write(msg); err != nil {
			b.Fatal(err)
		}
	}
	w.Flush()
	if _, err := io.ReadFull(c, msg); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "notifications/s")
}

// limitHandler receives the frames that want no answer.
type limitHandler interface{ handle(frame []byte) }

type limitCounter struct{ n int }

func (c *limitCounter) handle([]byte) { c.n++ }

// limitEcho is a server by hand: it answers all frames but those with id -1, in one write for all it has read.
func limitEcho(b *testing.B, plain bool) net.Conn {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	client, server, err := tlsConfigs(NewIdentity(), nil)
	require.NoError(b, err)
	var h limitHandler = new(limitCounter)
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if !plain {
			c = tls.Server(c, server)
		}
		defer c.Close()
		r := bufio.NewReaderSize(c, 64<<10)
		var out []byte
		for {
			head, err := r.Peek(12)
			if err != nil {
				return
			}
			n := 12 + int(binary.BigEndian.Uint32(head))
			id := binary.BigEndian.Uint64(head[4:])
			frame := make([]byte, n) // a copy of its own, as any receiver needs
			if _, err := io.ReadFull(r, frame); err != nil {
				return
			}
			if id != 1<<64-1 {
				out = append(out, frame...)
			} else {
				h.handle(frame)
			}
			if r.Buffered() < 12 && len(out) > 0 {
				if _, err := c.Write(out); err != nil {
					return
				}
				out = out[:0]
			}
		}
	})
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(b, err)
	if !plain {
		c = tls.Client(c, client)
	}
	b.Cleanup(func() { c.Close(); l.Close(); wg.Wait() })
	return c
}

// limitClient is a client by hand whose senders write for one another.
type limitClient struct {
	c        net.Conn
	mu       sync.Mutex
	id       uint64
	calls    map[uint64]chan []byte
	out, old []byte
	flushing bool
}

func newLimitClient(c net.Conn) *limitClient {
	l := &limitClient{c: c, calls: make(map[uint64]chan []byte)}
	go func() { // ends when the connection is closed
		r := bufio.NewReaderSize(c, 64<<10)
		for {
			head, err := r.Peek(12)
			if err != nil {
				return
			}
			frame := make([]byte, 12+int(binary.BigEndian.Uint32(head)))
			if _, err := io.ReadFull(r, frame); err != nil {
				return
			}
			id := binary.BigEndian.Uint64(frame[4:])
			l.mu.Lock()
			ch := l.calls[id]
			delete(l.calls, id)
			l.mu.Unlock()
			ch <- frame
		}
	}()
	return l
}

func (l *limitClient) call() error {
	ch := make(chan []byte, 1)
	l.mu.Lock()
	l.id++
	l.calls[l.id] = ch
	l.out = binary.BigEndian.AppendUint32(l.out, uint32(len(body64)))
	l.out = binary.BigEndian.AppendUint64(l.out, l.id)
	l.out = append(l.out, body64...)
	if l.flushing {
		l.mu.Unlock()
		<-ch
		return nil
	}
	l.flushing = true
	for len(l.out) > 0 {
		b := l.out
		l.out, l.old = l.old[:0], nil
		l.mu.Unlock()
		if _, err := l.c.Write(b); err != nil {
			return err
		}
		l.mu.Lock()
		l.old = b
	}
	l.flushing = false
	l.mu.Unlock()
	<-ch
	return nil
}

// BenchmarkDial measures a connection: dial, greeting and close. In a realm a side also verifies the pass of the other, the
// first time it sees it.
func BenchmarkDial(b *testing.B) {
	realm := NewRealm()
	configs := []struct {
		name  string
		cfg   TCPConfig
		known bool // every connection is between the same two processes
	}{
		{"plain", TCPConfig{InsecurePlaintext: true}, true},
		{"open", TCPConfig{Open: true}, true},
		{"realm", TCPConfig{Realm: realm}, true},
		{"open/new", TCPConfig{Open: true}, false},
		{"realm/new", TCPConfig{Realm: realm}, false},
	}
	for _, c := range configs {
		b.Run(c.name, func(b *testing.B) {
			l, err := newTCP(b, c.cfg).Listen("127.0.0.1:0", func(Conn) Handler { return echo })
			require.NoError(b, err)
			dialer := newTCP(b, c.cfg)
			b.ReportAllocs()
			for b.Loop() {
				d := dialer
				if !c.known {
					b.StopTimer()
					d, err = NewTCP(c.cfg)
					require.NoError(b, err)
					b.StartTimer()
				}
				conn, err := d.Dial(b.Context(), Peer{Addr: l.Addr()}, nil)
				if err != nil {
					b.Fatal(err)
				}
				conn.Close()
				if !c.known {
					b.StopTimer()
					d.Close()
					b.StartTimer()
				}
			}
		})
	}
}
