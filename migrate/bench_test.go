package migrate

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

type counter struct{ n uint64 }

func (c *counter) Apply(Command) ([]byte, error) {
	c.n++
	return binary.BigEndian.AppendUint64(nil, c.n), nil
}
func (c *counter) Snapshot() (Snapshot, error) {
	return bytesSnapshot(binary.BigEndian.AppendUint64(nil, c.n)), nil
}
func (c *counter) Restore(r io.Reader) error {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	c.n = binary.BigEndian.Uint64(b[:])
	_, err := io.Copy(io.Discard, r)
	return err
}

// benchPair is a service on two hosts over TCP; secure chooses TLS.
func benchPair(b *testing.B, secure bool, standbys int) (res resolver.Resolver, active *Service) {
	res = resolver.NewMemory()
	for i := range standbys + 1 {
		n, err := NewNode(NodeConfig{Resolver: res, Transport: benchTCP(b, secure), ID: fmt.Sprint("h", i), Listen: "127.0.0.1:0"})
		require.NoError(b, err)
		b.Cleanup(func() { n.Close() })
		p := Policy{Copies: standbys + 1}
		s, err := n.Host(b.Context(), "svc", func() Migratable { return new(counter) }, p)
		require.NoError(b, err)
		if i == 0 {
			active = s
		}
	}
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Second)
	defer cancel()
	require.NoError(b, active.wait(ctx, func(st Status) bool { return len(st.Record.ISR) == standbys+1 }))
	return res, active
}

func benchTCP(b *testing.B, secure bool) *transport.TCP {
	tr, err := transport.NewTCP(transport.TCPConfig{Open: true, InsecurePlaintext: !secure})
	require.NoError(b, err)
	b.Cleanup(func() { tr.Close() })
	return tr
}

func benchClient(b *testing.B, res resolver.Resolver, secure bool, size int) func() {
	c, err := Dial(b.Context(), "svc", ClientConfig{Resolver: res, Transport: benchTCP(b, secure)})
	require.NoError(b, err)
	b.Cleanup(func() { c.Close() })
	body := make([]byte, size)
	return func() {
		if _, err := c.Do(b.Context(), body); err != nil {
			b.Error(err)
		}
	}
}

// latencies runs f one at a time and reports the median.
func latencies(b *testing.B, f func()) {
	var all []time.Duration
	used, n := cpuTime(), 0
	defer func() { b.ReportMetric(float64(cpuTime()-used)/float64(n), "cpu-ns/op") }()
	for ; b.Loop(); n++ {
		t := time.Now()
		f()
		all = append(all, time.Since(t))
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(all[len(all)*99/100].Nanoseconds()), "p99-ns")
}

// BenchmarkCommand is one command at a time: to a service with a standby, so that it crosses the network twice. All are in
// one process here, see [BenchmarkCommandProcesses]. The limit is the same two round trips by hand, in the same shape; the
// bare one has nobody but this one client to serve.
func BenchmarkCommand(b *testing.B) {
	for _, tls := range []bool{false, true} {
		n := benchNet(b, tls)
		b.Run(fmt.Sprintf("tls=%v/limit=bare", tls), func(b *testing.B) {
			latencies(b, bareClient(b, n, rawLimit(b, n, rawLimit(b, n, "", false), true)))
		})
		b.Run(fmt.Sprintf("tls=%v/limit", tls), func(b *testing.B) {
			latencies(b, sharedClient(b, n, rawLimit(b, n, rawLimit(b, n, "", false), false), 64))
		})
		b.Run(fmt.Sprintf("tls=%v/roam", tls), func(b *testing.B) {
			res, _ := benchPair(b, tls, 1)
			latencies(b, benchClient(b, res, tls, 64))
		})
	}
}

// BenchmarkCommandSize is one command of many sizes at a time, to a service with a standby. Its limit is the way there and
// back twice, as in [BenchmarkCommand].
func BenchmarkCommandSize(b *testing.B) {
	n := benchNet(b, false)
	for _, size := range []int{16, 256, 4 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("bytes=%d/limit", size), func(b *testing.B) {
			latencies(b, sharedClient(b, n, rawLimit(b, n, rawLimit(b, n, "", false), false), size))
		})
		b.Run(fmt.Sprintf("bytes=%d/roam", size), func(b *testing.B) {
			res, _ := benchPair(b, false, 1)
			latencies(b, benchClient(b, res, false, size))
		})
	}
}

// BenchmarkCommands is 64 sessions on 64 connections, each with one command at a time.
func BenchmarkCommands(b *testing.B) {
	for _, tls := range []bool{false, true} {
		b.Run(fmt.Sprintf("tls=%v/limit", tls), func(b *testing.B) {
			n := benchNet(b, tls)
			addr := rawLimit(b, n, "", false)
			inSessions(b, func() func() { return bareClient(b, n, addr) })
		})
		for _, standbys := range []int{0, 1, 2, 3} {
			b.Run(fmt.Sprintf("tls=%v/roam/standbys=%d", tls, standbys), func(b *testing.B) {
				res, _ := benchPair(b, tls, standbys)
				inSessions(b, func() func() { return benchClient(b, res, tls, 64) })
			})
		}
	}
}

// BenchmarkCommandDurable is a command that is forced to the disk of two hosts before it is acknowledged; beside it what
// two disks take for the same bytes, one after the other, as both directories are on one disk here, and once.
func BenchmarkCommandDurable(b *testing.B) {
	force := func(b *testing.B) func() {
		f, err := os.Create(filepath.Join(b.TempDir(), "log"))
		require.NoError(b, err)
		b.Cleanup(func() { f.Close() })
		body := make([]byte, 128)
		return func() {
			if _, err := f.Write(body); err != nil {
				b.Error(err)
			}
			if err := f.Sync(); err != nil {
				b.Error(err)
			}
		}
	}
	b.Run("limit/once", func(b *testing.B) { latencies(b, force(b)) })
	b.Run("limit/two", func(b *testing.B) {
		f, g := force(b), force(b)
		latencies(b, func() {
			var wg sync.WaitGroup
			wg.Go(f)
			g()
			wg.Wait()
		})
	})
	for _, durable := range []bool{false, true} {
		b.Run(fmt.Sprintf("roam/dir=%v", durable), func(b *testing.B) {
			res := resolver.NewMemory()
			var active *Service
			for i := range 2 {
				cfg := NodeConfig{Resolver: res, Transport: benchTCP(b, false), ID: fmt.Sprint("h", i), Listen: "127.0.0.1:0"}
				if durable {
					cfg.Dir = b.TempDir()
				}
				n, err := NewNode(cfg)
				require.NoError(b, err)
				b.Cleanup(func() { n.Close() })
				s, err := n.Host(b.Context(), "svc", func() Migratable { return new(counter) }, Policy{})
				require.NoError(b, err)
				if i == 0 {
					active = s
				}
			}
			require.NoError(b, active.wait(b.Context(), func(st Status) bool { return len(st.Record.ISR) == 2 }))
			b.Run("one", func(b *testing.B) { latencies(b, benchClient(b, res, false, 64)) })
			b.Run("64", func(b *testing.B) {
				inSessions(b, func() func() { return benchClient(b, res, false, 64) })
			})
		})
	}
}
