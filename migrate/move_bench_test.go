package migrate

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

var benchState = flag.Int("benchstate", 256, "benchmarks of moves: MiB of the large state")

// The limits beside these benchmarks are made with net alone: servers by hand that answer frames of 4 bytes length and 8 of
// body, pages that go over a socket as they are.

// serveCopy holds pages for whoever connects: after a "c" they are copied to him, after an "e" each frame is answered.
func serveCopy(mib string) (addr string, err error) {
	n, err := strconv.Atoi(mib)
	if err != nil {
		return "", err
	}
	p := newPaged(n)
	l, err := net.Listen("tcp", "127.0.0.1:0") // until the process ends
	if err != nil {
		return "", err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 12)
				if _, err := io.ReadFull(c, buf[:1]); err != nil {
					return
				}
				if buf[0] == 'c' {
					w := bufio.NewWriterSize(c, 256<<10)
					if _, err := pagedSnapshot(p.pages).WriteTo(w); err == nil {
						w.Flush()
					}
					return
				}
				for {
					if _, err := io.ReadFull(c, buf); err != nil {
						return
					}
					if _, err := c.Write(buf); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String(), nil
}

// fetchCopy copies the pages from addr and says how long that took, in nanoseconds.
func fetchCopy(addr string) (string, error) {
	began := time.Now()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := c.Write([]byte("c")); err != nil {
		return "", err
	}
	p := new(paged)
	err = p.Restore(bufio.NewReaderSize(c, 256<<10))
	return strconv.FormatInt(int64(time.Since(began)), 10), err
}

// steadily calls start 1,000 times a second until ctx ends; what it returns waits for the answer, whose lateness is noted.
func steadily(ctx context.Context, w *waits, start func(x uint64) (wait func())) {
	calls := make(chan func(), 4096)
	var wg sync.WaitGroup
	wg.Go(func() {
		for f := range calls {
			f()
		}
	})
	for x, due := uint64(1), time.Now(); ctx.Err() == nil; due = due.Add(time.Millisecond) {
		time.Sleep(time.Until(due))
		x = x*6364136223846793005 + 1442695040888963407
		wait, began := start(x), due
		calls <- func() { wait(); w.add(time.Since(began)) }
	}
	close(calls)
	wg.Wait()
}

func reportCopies(b *testing.B, mib int, took time.Duration, w *waits) {
	_, p50, _, longest := w.take()
	b.ReportMetric(float64(mib)*float64(b.N)/took.Seconds(), "MiB/s")
	b.ReportMetric(float64(p50.Microseconds()), "wait-p50-µs")
	b.ReportMetric(float64(longest.Microseconds())/1e3, "wait-max-ms")
}

// BenchmarkMoveToFreshHost copies a state to a process that holds none, under 1,000 commands a second, and moves there. Beside
// it the plain copy: the same pages over a socket into new ones, beside as many frames that the source answers.
func BenchmarkMoveToFreshHost(b *testing.B) {
	mib := *benchState
	b.Run(fmt.Sprintf("state=%dMiB/limit", mib), func(b *testing.B) {
		source, target := startHost(b, "a", "127.0.0.1:1"), startHost(b, "b", "127.0.0.1:1")
		addr := source.do(fmt.Sprint("serve ", mib))
		c, err := net.Dial("tcp", addr)
		require.NoError(b, err)
		defer c.Close()
		_, err = c.Write([]byte("e"))
		require.NoError(b, err)
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		var w waits
		var wg sync.WaitGroup
		wg.Go(func() {
			steadily(ctx, &w, func(x uint64) func() {
				c.Write(binary.BigEndian.AppendUint64([]byte{0, 0, 0, 8}, x))
				return func() { io.ReadFull(c, make([]byte, 12)) }
			})
		})
		time.Sleep(time.Second)
		w.take()
		took := time.Duration(0)
		b.ResetTimer()
		for i := range b.N {
			ns, err := strconv.Atoi(target.do("fetch " + addr))
			require.NoError(b, err)
			if took += time.Duration(ns); i == 0 {
				reportPeaks(b, mib, source, target)
			}
		}
		reportCopies(b, mib, took, &w)
		b.StopTimer()
		cancel()
		wg.Wait()
	})
	b.Run(fmt.Sprintf("state=%dMiB/roam", mib), func(b *testing.B) {
		tr := benchTCP(b, false)
		server, err := resolver.NewServer(resolver.ServerConfig{Transport: tr})
		require.NoError(b, err)
		defer server.Close()
		dns, err := server.Listen("127.0.0.1:0")
		require.NoError(b, err)
		res, err := resolver.NewClient(resolver.ClientConfig{Transport: tr, Server: transport.Peer{Addr: dns}})
		require.NoError(b, err)
		defer res.Close()
		hosts := [2]*process{startHost(b, "a", dns), startHost(b, "b", dns)}
		hosts[0].do(fmt.Sprint("host ", mib))
		hosts[1].do("standby")
		c, err := Dial(b.Context(), "svc", ClientConfig{Resolver: res, Transport: tr})
		require.NoError(b, err)
		defer c.Close()
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		var w waits
		var wg sync.WaitGroup
		wg.Go(func() {
			steadily(ctx, &w, func(x uint64) func() {
				call, err := c.Go(binary.BigEndian.AppendUint64(nil, x))
				if err != nil {
					b.Error(err)
					return func() {}
				}
				return func() { <-call.Done() }
			})
		})
		time.Sleep(time.Second)
		w.take()
		took := time.Duration(0)
		b.ResetTimer()
		for i := range b.N {
			var rep Report
			began := time.Now()
			out := hosts[i%2].do("handoff " + [2]string{"b", "a"}[i%2])
			took += time.Since(began)
			require.NoError(b, json.Unmarshal([]byte(out), &rep))
			b.ReportMetric(float64(rep.Pause.Microseconds()), "pause-µs")
			b.StopTimer()
			if i == 0 {
				reportPeaks(b, mib, hosts[0], hosts[1])
			}
			time.Sleep(200 * time.Millisecond) // until the old host has let go of its copy
			b.StartTimer()
		}
		reportCopies(b, mib, took, &w)
		b.StopTimer()
		cancel()
		wg.Wait()
	})
}

// reportPeaks reports the most memory that each process has had until after the first copy, in terms of the state.
func reportPeaks(b *testing.B, mib int, source, target *process) {
	for name, p := range map[string]*process{"source": source, "target": target} {
		kib, _ := strconv.Atoi(p.do("peak"))
		b.ReportMetric(float64(kib)/1024/float64(mib), name+"-x")
	}
}
