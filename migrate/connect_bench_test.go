package migrate

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

// connectWidth is how many connect at a time.
const connectWidth = 64

// crowd runs n times f, some at a time, and reports how many a second that makes.
func crowd(b *testing.B, n int, f func(i int)) {
	used, began := cpuTime(), time.Now()
	var wg sync.WaitGroup
	for k := range connectWidth {
		wg.Go(func() {
			for i := k; i < n; i += connectWidth {
				f(i)
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(n)/time.Since(began).Seconds(), "clients/s")
	b.ReportMetric(float64(cpuTime()-used)/float64(n), "cpu-ns/client")
}

// benchClients is how many clients connect in one operation: both ends of each are in this process.
const benchClients = 2000

// BenchmarkConnect is many clients that look up a service, connect and open a session. The limit is a plain accept with
// one frame each way; with TLS also its handshake, in which both sides prove an Ed25519 key.
func BenchmarkConnect(b *testing.B) {
	for _, secure := range []bool{false, true} {
		b.Run(fmt.Sprintf("tls=%v/limit", secure), func(b *testing.B) {
			for range b.N {
				benchAccepts(b, secure)
			}
		})
		b.Run(fmt.Sprintf("tls=%v/roam", secure), func(b *testing.B) {
			res, _ := benchPair(b, secure, 1)
			for range b.N {
				tr := benchTCP(b, secure)
				clients := make([]*Client, benchClients)
				crowd(b, benchClients, func(i int) {
					c, err := Dial(b.Context(), "svc", ClientConfig{Resolver: res, Transport: tr})
					if err != nil {
						b.Error(err)
					}
					clients[i] = c
				})
				b.StopTimer()
				for _, c := range clients {
					c.Close()
				}
				b.StartTimer()
			}
		})
	}
}

func benchAccepts(b *testing.B, secure bool) {
	n := benchNet(b, secure)
	l, err := n.listen()
	require.NoError(b, err)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				io.Copy(c, c) // a frame comes back; then the other side closes
			})
		}
	})
	conns := make([]net.Conn, benchClients)
	crowd(b, benchClients, func(i int) {
		c, err := n.dial(l.Addr().String())
		if err != nil {
			b.Error(err)
			return
		}
		conns[i] = c
		buf := make([]byte, 64)
		c.Write(buf)
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Error(err)
		}
	})
	b.StopTimer()
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
	b.StartTimer()
}

// BenchmarkIdleClients is what a connected client that does nothing costs: its host and its own end together, as both are in
// this process.
func BenchmarkIdleClients(b *testing.B) {
	for _, secure := range []bool{false, true} {
		b.Run(fmt.Sprintf("tls=%v", secure), func(b *testing.B) {
			res := resolver.NewMemory()
			n, err := NewNode(NodeConfig{Resolver: res, Transport: benchTCP(b, secure), ID: "h", Listen: "127.0.0.1:0"})
			require.NoError(b, err)
			b.Cleanup(func() { n.Close() })
			_, err = n.Host(b.Context(), "svc", func() Migratable { return new(counter) }, Policy{Copies: 1})
			require.NoError(b, err)
			tr := benchTCP(b, secure)
			before, goroutines := memoryInUse(), runtime.NumGoroutine()
			for range b.N {
				c, err := Dial(b.Context(), "svc", ClientConfig{Resolver: res, Transport: tr})
				require.NoError(b, err)
				b.Cleanup(func() { c.Close() })
			}
			b.StopTimer()
			b.ReportMetric(float64(memoryInUse()-before)/float64(b.N), "both-B/client")
			b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/float64(b.N), "both-goroutines/client")
		})
	}
}
