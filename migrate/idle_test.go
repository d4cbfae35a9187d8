package migrate

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// A thousand services on two hosts cost what one costs, in goroutines and connections.
func TestIdleServicesShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.beat = time.Second // to save time
		w.node("a")
		w.node("b")
		a, _ := w.pair(Policy{})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		goroutines, _ := bubble()
		conns := w.net.Stats().Open
		const n = 1000
		var last *Service
		for i := range n {
			name := fmt.Sprintf("s%d", i)
			w.standby("b", name, Policy{})
			last = w.host("a", name, Policy{})
		}
		w.inSync(last, 2)
		for _, s := range w.nodes["a"].Services() {
			w.inSync(s, 2)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		// Those that just send a heartbeat don't count: a moment later they are gone.
		time.Sleep(time.Microsecond)
		synctest.Wait()
		now, stacks := bubble()
		t.Logf("%d goroutines and %d connections before, %d and %d with %d services more",
			goroutines, conns, now, w.net.Stats().Open, n)
		require.LessOrEqual(t, now, goroutines+4, "goroutines:\n%s", stacks)
		require.Equal(t, conns, w.net.Stats().Open)
		require.Equal(t, Active, a.Status().Role)
	})
}

// bubble returns how many goroutines the bubble has, and the stacks of all. runtime.NumGoroutine may count 33 too many: it
// does not see the memory of goroutines that have ended while the scheduler moves it from a processor's list to the common
// one.
func bubble() (n int, stacks []byte) {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	return bytes.Count(buf, []byte(", synctest bubble ")), buf
}

// A service that needs no standby and has no clients does next to nothing.
func TestIdleServiceSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		p := Policy{Copies: 1}
		s := w.host("a", "svc", p)
		w.standby("b", "svc", p)
		c := w.dial("client", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), c, "x"))
		c.Close() // its session stays
		time.Sleep(time.Minute)
		// Whoever looks every minute sees each time for which an alarm is set that is not reset more often.
		alarms := map[time.Duration]bool{}
		for range 60 {
			w.look(s, func() { alarms[s.alarm.at] = true })
			time.Sleep(time.Minute)
		}
		t.Logf("alarms: %v", alarms)
		require.LessOrEqual(t, len(alarms), 6, "a few looks at whether the session has expired")
	})
}

// BenchmarkIdleServiceMemory is what a service costs that nobody uses, on its active host.
func BenchmarkIdleServiceMemory(b *testing.B) {
	net, res := transport.NewMemory(), resolver.NewMemory()
	n, err := NewNode(NodeConfig{Resolver: res, Transport: net.Host("h"), ID: "h", Listen: ":1"})
	require.NoError(b, err)
	defer n.Close()
	before := memoryInUse()
	i := 0
	for b.Loop() {
		_, err := n.Host(b.Context(), fmt.Sprint("s", i), newTally, Policy{Copies: 1})
		require.NoError(b, err)
		i++
	}
	b.ReportMetric(float64(memoryInUse()-before)/float64(i), "B/service")
	b.ReportMetric(float64(runtime.NumGoroutine())/float64(i), "goroutines/service")
}

// memoryInUse is what lives on the heap, and the stacks.
func memoryInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools keep what they have for one round
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// BenchmarkIdleServices is what services that nobody uses cost two hosts and their resolver in a second, over TCP: an
// operation is a second. Those without a standby cost the announcement of their names alone.
func BenchmarkIdleServices(b *testing.B) {
	for _, bc := range []struct{ services, standbys int }{
		{1, 1}, {100, 1}, {1000, 1}, {1000, 0}, {10_000, 0}, {100_000, 0},
	} {
		b.Run(fmt.Sprintf("services=%d/standbys=%d", bc.services, bc.standbys), func(b *testing.B) {
			addr := benchNames(b, resolver.ServerConfig{Transport: benchTCP(b, false), MaxRecords: bc.services})
			var nodes [2]*Node
			for i := range nodes {
				res := benchResolver(b, benchTCP(b, false), addr)
				n, err := NewNode(NodeConfig{Resolver: res, Transport: benchTCP(b, false), ID: fmt.Sprint("h", i),
					Listen: "127.0.0.1:0"})
				require.NoError(b, err)
				b.Cleanup(func() { n.Close() })
				nodes[i] = n
			}
			before := memoryInUse()
			p := Policy{Copies: bc.standbys + 1}
			for i := range bc.services {
				name := fmt.Sprint("s", i)
				_, err := nodes[0].Host(b.Context(), name, newTally, p)
				require.NoError(b, err)
				if bc.standbys > 0 {
					s, err := nodes[1].Standby(b.Context(), name, newTally, p)
					require.NoError(b, err)
					if i%100 == 99 || i == bc.services-1 {
						require.NoError(b, s.wait(b.Context(), func(st Status) bool { return st.Role == Standby }))
					}
				}
			}
			time.Sleep(2 * time.Second)
			b.ResetTimer()
			began := cpuTime()
			for range b.N {
				time.Sleep(time.Second)
			}
			b.ReportMetric(float64((cpuTime()-began).Microseconds())/1e3/float64(b.N), "cpu-ms/op")
			b.ReportMetric(float64(memoryInUse()-before)/float64(bc.services), "all-B/service")
		})
	}
}
