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
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

var benchState = flag.Int("benchstate", 256, "benchmarks of moves: MiB of the large state")

// BenchmarkMoveToFreshHost copies a state to a process that holds none, under 1,000 commands a second, and moves there. The
// limit is the plain copy: the same pages over a socket into new ones, beside as many frames that the source answers. The
// two take turns, and each time all processes are new: memory that a process has used before is much faster.
func BenchmarkMoveToFreshHost(b *testing.B) {
	for _, secure := range []bool{false, true} {
		b.Run(fmt.Sprintf("state=%dMiB/tls=%v", *benchState, secure), func(b *testing.B) {
			var limit, roam []copied
			for range b.N {
				limit = append(limit, plainCopy(b, *benchState, secure))
				roam = append(roam, freshMove(b, *benchState, secure))
			}
			reportCopies(b, "limit-", limit)
			reportCopies(b, "", roam)
			took := func(c copied) float64 { return float64(c.took) }
			b.ReportMetric(100*medianOf(limit, took)/medianOf(roam, took), "%of-limit")
			b.ReportMetric(medianOf(roam, func(c copied) float64 { return float64(c.pause.Microseconds()) }), "pause-µs")
		})
	}
}

// copied is what one copy has cost.
type copied struct {
	mib                  int
	took, pause, longest time.Duration // longest wait of a command meanwhile
	memory, cpu          [2]float64    // of the source and the target: the most memory in MiB, seconds of the processors
}

// watch calls f, which copies mib from one process to another one, and fills in what it has cost them.
func (c *copied) watch(w *waits, mib int, hosts [2]*process, f func()) {
	c.mib = mib
	for i, p := range hosts {
		c.cpu[i] = -p.number("cpu")
	}
	w.take()
	f()
	_, _, _, c.longest = w.take()
	for i, p := range hosts {
		c.cpu[i] = (c.cpu[i] + p.number("cpu")) / 1e9
		c.memory[i] = p.number("peak") / 1024
	}
}

func medianOf[T any](all []T, f func(T) float64) float64 {
	var vs []float64
	for _, v := range all {
		vs = append(vs, f(v))
	}
	slices.Sort(vs)
	return vs[len(vs)/2]
}

func reportCopies(b *testing.B, prefix string, all []copied) {
	report := func(unit string, f func(c copied) float64) { b.ReportMetric(medianOf(all, f), prefix+unit) }
	report("MiB/s", func(c copied) float64 { return float64(c.mib) / c.took.Seconds() })
	report("wait-max-ms", func(c copied) float64 { return float64(c.longest.Microseconds()) / 1e3 })
	for i, name := range []string{"source-", "target-"} {
		report(name+"x", func(c copied) float64 { return c.memory[i] / float64(c.mib) })
		report(name+"cpu-s", func(c copied) float64 { return c.cpu[i] })
	}
}

func plainCopy(b *testing.B, mib int, secure bool) (res copied) {
	hosts := [2]*process{startHost(b, "a", "127.0.0.1:1", secure), startHost(b, "b", "127.0.0.1:1", secure)}
	defer hosts[0].stop()
	defer hosts[1].stop()
	addr := hosts[0].do(fmt.Sprint("serve ", mib))
	c, err := dialCopy(addr, secure, 'e')
	require.NoError(b, err)
	defer c.Close()
	var w waits
	defer steadily(&w, func(x uint64) func() {
		c.Write(binary.BigEndian.AppendUint64([]byte{0, 0, 0, 8}, x))
		return func() { io.ReadFull(c, make([]byte, 12)) }
	})()
	res.watch(&w, mib, hosts, func() { res.took = time.Duration(hosts[1].number("fetch " + addr)) })
	return res
}

func freshMove(b *testing.B, mib int, secure bool) (out copied) {
	tr := benchTCP(b, secure)
	server, err := resolver.NewServer(resolver.ServerConfig{Transport: tr})
	require.NoError(b, err)
	defer server.Close()
	dns, err := server.Listen("127.0.0.1:0")
	require.NoError(b, err)
	res, err := resolver.NewClient(resolver.ClientConfig{Transport: tr, Server: transport.Peer{Addr: dns}})
	require.NoError(b, err)
	defer res.Close()
	hosts := [2]*process{startHost(b, "a", dns, secure), startHost(b, "b", dns, secure)}
	defer hosts[0].stop()
	defer hosts[1].stop()
	hosts[0].do(fmt.Sprint("host ", mib))
	hosts[1].do("standby")
	c, err := Dial(b.Context(), "svc", ClientConfig{Resolver: res, Transport: tr})
	require.NoError(b, err)
	defer c.Close()
	var w waits
	defer steadily(&w, func(x uint64) func() {
		call, err := c.Go(binary.BigEndian.AppendUint64(nil, x))
		if err != nil {
			b.Error(err)
			return func() {}
		}
		return func() { <-call.Done() }
	})()
	out.watch(&w, mib, hosts, func() {
		var rep Report
		began := time.Now()
		line := hosts[0].do("handoff b")
		out.took = time.Since(began)
		require.NoError(b, json.Unmarshal([]byte(line), &rep))
		out.pause = rep.Pause
	})
	return out
}

// steadily calls start 1,000 times a second until stop is called; what it returns waits for the answer, whose lateness is
// noted. It returns when that has gone on for a second.
func steadily(w *waits, start func(x uint64) (wait func())) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	calls := make(chan func(), 4096)
	var wg sync.WaitGroup
	wg.Go(func() {
		for f := range calls {
			f()
		}
	})
	wg.Go(func() {
		defer close(calls)
		for x, due := uint64(1), time.Now(); ctx.Err() == nil; due = due.Add(time.Millisecond) {
			time.Sleep(time.Until(due))
			x = x*6364136223846793005 + 1442695040888963407
			wait, began := start(x), due // what was late because the machine was busy has waited, too
			calls <- func() { wait(); w.add(time.Since(began)) }
		}
	})
	time.Sleep(time.Second)
	return func() { cancel(); wg.Wait() }
}

// serveCopy holds pages for whoever connects: after a "c" they are copied to him, after an "e" each frame is answered.
func serveCopy(mib string, secure bool) (addr string, err error) {
	n, err := strconv.Atoi(mib)
	if err != nil {
		return "", err
	}
	p := newPaged(n)
	here, err := newLimitNet(secure)
	if err != nil {
		return "", err
	}
	l, err := here.listen() // until the process ends
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

// dialCopy connects to serveCopy.
func dialCopy(addr string, secure bool, what byte) (net.Conn, error) {
	n, err := newLimitNet(secure)
	if err != nil {
		return nil, err
	}
	c, err := n.dial(addr)
	if err != nil {
		return nil, err
	}
	_, err = c.Write([]byte{what})
	return c, err
}

// fetchCopy copies the pages from addr and says how long that took, in nanoseconds.
func fetchCopy(addr string, secure bool) (string, error) {
	began := time.Now()
	c, err := dialCopy(addr, secure, 'c')
	if err != nil {
		return "", err
	}
	defer c.Close()
	p := new(paged)
	err = p.Restore(bufio.NewReaderSize(c, 256<<10))
	return strconv.FormatInt(int64(time.Since(began)), 10), err
}
