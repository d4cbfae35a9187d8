package migrate

import (
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
		goroutines, conns := runtime.NumGoroutine(), w.net.Stats().Open
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
		t.Logf("%d goroutines and %d connections before, %d and %d with %d services more",
			goroutines, conns, runtime.NumGoroutine(), w.net.Stats().Open, n)
		require.LessOrEqual(t, runtime.NumGoroutine(), goroutines+4)
		require.Equal(t, conns, w.net.Stats().Open)
		require.Equal(t, Active, a.Status().Role)
	})
}

// A service that needs no standby and has no clients does next to nothing.
func TestIdleServiceSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		p := Policy{Standbys: NoStandbys}
		s := w.host("a", "svc", p)
		w.standby("b", "svc", p)
		c := w.dial("client", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), c, "x"))
		c.Close() // its session stays
		time.Sleep(time.Minute)
		// Whoever looks every minute sees each time for which an alarm is set that is not reset more often.
		alarms := map[time.Duration]bool{}
		for range 60 {
			s.mu.Lock()
			alarms[s.alarm] = true
			s.mu.Unlock()
			time.Sleep(time.Minute)
		}
		t.Logf("alarms: %v", alarms)
		require.LessOrEqual(t, len(alarms), 6, "a few looks at whether the session has expired")
	})
}

// BenchmarkIdleServices says what a service costs that does nothing, on its active host and on its standby together.
func BenchmarkIdleServices(b *testing.B) {
	for _, standbys := range []int{NoStandbys, 1} {
		b.Run(fmt.Sprintf("standbys=%d", max(standbys, 0)), func(b *testing.B) {
			net, res := transport.NewMemory(), resolver.NewMemory()
			var nodes [2]*Node
			for i := range nodes {
				n, err := NewNode(NodeConfig{
					Resolver: res, Transport: net.Host(fmt.Sprint("h", i)), ID: fmt.Sprint("h", i), Listen: ":1",
					Heartbeat: time.Second,
				})
				require.NoError(b, err)
				defer n.Close()
				nodes[i] = n
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			n := 0
			for b.Loop() {
				name := fmt.Sprint("s", n)
				n++
				_, err := nodes[0].Host(b.Context(), name, newTally, Policy{Standbys: standbys})
				require.NoError(b, err)
				s, err := nodes[1].Standby(b.Context(), name, newTally, Policy{Standbys: standbys})
				require.NoError(b, err)
				if standbys > 0 {
					require.NoError(b, s.wait(b.Context(), func(st Status) bool { return st.Role == Standby }))
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/service")
		})
	}
}
