//go:build unix

package chatcore

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// The benchmark measures the fan-out of one participant's messages to all others. It is compared with a limit: a minimal
// program on package net, in which a few goroutines write the same blocks of messages to as many connections, and one
// goroutine per connection reads them as a four-byte length and a freshly allocated message. The limit has no log, no
// standby, no names and no sequence numbers, and reads in the goroutine that owns the connection.
const (
	benchText  = 128  // bytes of a message
	benchBlock = 256  // messages in a block
	benchAhead = 16   // blocks by which the publisher may lead the slowest subscriber
	benchSlack = 1024 // extra buffer of a subscriber, in messages
)

// pace limits a publisher to benchAhead blocks ahead of its slowest subscriber.
type pace struct {
	subscribers int64
	done        []atomic.Int64 // subscribers that have received the whole block
	tokens      chan struct{}
}

func newPace(subscribers, blocks int) *pace {
	p := &pace{subscribers: int64(subscribers), done: make([]atomic.Int64, blocks), tokens: make(chan struct{}, benchAhead)}
	for range benchAhead {
		p.tokens <- struct{}{}
	}
	return p
}

// got is called by each subscriber when it has received a block.
func (p *pace) got(block int) {
	if p.done[block].Add(1) == p.subscribers {
		p.tokens <- struct{}{}
	}
}

// finish waits until all subscribers have received everything.
func (p *pace) finish() {
	for range benchAhead {
		<-p.tokens
	}
}

// BenchmarkFanOut has one publisher send as fast as the subscribers receive. An operation is one message received by all.
func BenchmarkFanOut(b *testing.B) {
	for _, subscribers := range []int{100, 1000} {
		b.Run(fmt.Sprintf("subscribers=%d", subscribers), func(b *testing.B) {
			b.Run("limit", func(b *testing.B) { benchWriters(b, subscribers, nil) })
			b.Run("roam", func(b *testing.B) { benchChat(b, subscribers, false) })
			b.Run("limit-tls", func(b *testing.B) { benchWriters(b, subscribers, benchTLS(b)) })
			b.Run("roam-tls", func(b *testing.B) { benchChat(b, subscribers, true) })
		})
	}
}

// reportDeliveries reports deliveries and their CPU time, which depends less on the load of the machine.
func reportDeliveries(b *testing.B, messages, subscribers int, began time.Duration) {
	n := float64(messages) * float64(subscribers)
	b.ReportMetric(n/b.Elapsed().Seconds(), "deliveries/s")
	b.ReportMetric(float64((cpuTime()-began).Nanoseconds())/n, "cpu-ns/delivery")
}

// cpuTime returns the CPU time used by this process.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchTLS returns a configuration for both sides, with TLS 1.3 and an Ed25519 certificate as in package transport.
func benchTLS(b *testing.B) *tls.Config {
	pub, key, err := ed25519.GenerateKey(nil)
	require.NoError(b, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(nil, template, template, pub, key)
	require.NoError(b, err)
	return &tls.Config{
		Certificates:       []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}},
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true,
	}
}

// benchWriters measures the limit, over TLS if secure is not nil. All handshakes complete before the timer starts.
func benchWriters(b *testing.B, subscribers int, secure *tls.Config) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer l.Close()
	blocks := (b.N + benchBlock - 1) / benchBlock
	p := newPace(subscribers, blocks)
	var wg sync.WaitGroup
	conns := make([]net.Conn, subscribers)
	for i := range conns {
		wg.Go(func() {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Error(err)
				return
			}
			if secure != nil {
				c = tls.Client(c, secure)
			}
			defer c.Close()
			r := bufio.NewReaderSize(c, 64<<10)
			var last []byte
			for n := range blocks {
				for range benchBlock {
					head, err := r.Peek(4)
					if err != nil {
						b.Error(err)
						return
					}
					last = make([]byte, 4+binary.BigEndian.Uint32(head)) // a copy, as any receiver needs
					if _, err := io.ReadFull(r, last); err != nil {
						b.Error(err)
						return
					}
				}
				p.got(n)
			}
			runtime.KeepAlive(last)
		})
		conns[i], err = l.Accept()
		require.NoError(b, err)
		if secure != nil {
			c := tls.Server(conns[i], secure)
			require.NoError(b, c.Handshake())
			conns[i] = c
		}
		defer conns[i].Close()
	}
	block := make([]byte, benchBlock*(4+benchText))
	for i := 0; i < len(block); i += 4 + benchText {
		binary.BigEndian.PutUint32(block[i:], benchText)
	}
	writers := runtime.GOMAXPROCS(0)
	b.ResetTimer()
	began := cpuTime()
	turns := make([]chan struct{}, writers)
	for i := range turns {
		turns[i] = make(chan struct{}, benchAhead)
		wg.Go(func() {
			for range turns[i] {
				for j := i; j < len(conns); j += writers {
					if _, err := conns[j].Write(block); err != nil {
						b.Error(err)
						return
					}
				}
			}
		})
	}
	for range blocks {
		<-p.tokens
		for _, t := range turns {
			t <- struct{}{}
		}
	}
	for _, t := range turns {
		close(t)
	}
	p.finish()
	reportDeliveries(b, blocks*benchBlock, subscribers, began)
	wg.Wait()
}

// benchChat runs a room with a standby and all subscribers in this process, over TCP.
func benchChat(b *testing.B, subscribers int, secure bool) {
	tcp := func() *transport.TCP {
		t, err := transport.NewTCP(transport.TCPConfig{Open: true, InsecurePlaintext: !secure})
		require.NoError(b, err)
		b.Cleanup(func() { t.Close() })
		return t
	}
	factory, err := New(Config{MaxPerKey: subscribers + 1})
	require.NoError(b, err)
	res := resolver.NewMemory()
	var room *migrate.Service
	for i := range 2 {
		n, err := migrate.NewNode(migrate.NodeConfig{Resolver: res, Transport: tcp(), ID: fmt.Sprint("h", i),
			Listen: "127.0.0.1:0"})
		require.NoError(b, err)
		b.Cleanup(func() { n.Close() })
		s, err := n.Host(b.Context(), service, factory, migrate.Policy{})
		require.NoError(b, err)
		if i == 0 {
			room = s
		}
	}
	for len(room.Status().Record.ISR) < 2 {
		time.Sleep(10 * time.Millisecond)
	}
	join := func(name string, tr transport.Transport, buffer int) *Client {
		c, err := Join(b.Context(), service, ClientConfig{Name: name, Resolver: res, Transport: tr, Buffer: buffer})
		if err != nil {
			b.Error(err)
			return nil
		}
		b.Cleanup(func() { c.Close() })
		return c
	}
	blocks := (b.N + benchBlock - 1) / benchBlock
	p := newPace(subscribers, blocks)
	trs := [8]*transport.TCP{}
	for i := range trs {
		trs[i] = tcp()
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var wg sync.WaitGroup
	clients := make([]*Client, subscribers)
	var joining sync.WaitGroup
	const side = 50 // concurrent joins; each also receives the others' join events
	for k := range side {
		joining.Go(func() {
			for i := k; i < subscribers; i += side {
				clients[i] = join(fmt.Sprint("reader", i), trs[i%len(trs)], benchAhead*benchBlock+benchSlack+subscribers)
			}
		})
	}
	joining.Wait()
	for _, c := range clients {
		if c == nil {
			b.FailNow()
		}
		wg.Go(func() {
			n := 0
			for m, err := range c.Messages(ctx) {
				switch {
				case err != nil:
					if ctx.Err() == nil {
						b.Error(err)
					}
					return
				case m.Kind == KindGap:
					b.Error("messages were dropped: ", m.Lost)
					return
				case m.Kind == KindMessage:
					if n++; n%benchBlock == 0 {
						p.got(n/benchBlock - 1)
					}
				}
			}
		})
	}
	speaker := join("speaker", trs[0], 16)
	text := strings.Repeat("x", benchText)
	runtime.GC()
	b.ResetTimer()
	began := cpuTime()
	for range blocks {
		<-p.tokens
		for range benchBlock {
			if _, err := speaker.Send(ctx, text); err != nil {
				b.Fatal(err)
			}
		}
	}
	p.finish()
	reportDeliveries(b, blocks*benchBlock, subscribers, began)
	b.StopTimer()
	cancel()
	wg.Wait()
}
