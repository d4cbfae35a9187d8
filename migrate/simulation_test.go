package migrate

import (
	"bytes"
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/sim"
)

var (
	simSeeds = flag.Uint64("sim.seeds", 200, "TestSimulation: how many seeds")
	simFirst = flag.Uint64("sim.first", 1, "TestSimulation: the first of them")
	simStop  = flag.Int("sim.stop", 10, "TestSimulation: stop after so many have failed")
	simLost  = flag.Bool("sim.amnesia", false, "TestSimulation: the resolver loses its records in all runs")
	simSeed  = flag.Uint64("sim.seed", 0, "TestSimulation: run this seed alone, and print its history with -v")
)

// TestSimulation runs the protocol, its driver and the machine on simulated hosts, under faults. Any seed that fails is
// repeated by -sim.seed.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		var history bytes.Buffer
		stats, err := sim.Run(sim.Options{Seed: *simSeed, Amnesia: *simLost, Log: func(at time.Duration, line string) {
			fmt.Fprintf(&history, "%14v  %s\n", at, line)
		}})
		if testing.Verbose() {
			t.Logf("the history of seed %d:\n%s", *simSeed, history.String())
		}
		t.Log(stats)
		require.NoError(t, err)
		return
	}
	var (
		mu     sync.Mutex
		sum    sim.Stats
		failed int
		next   atomic.Uint64
		wg     sync.WaitGroup
	)
	began := time.Now()
	defer debug.SetGCPercent(debug.SetGCPercent(1600)) // a seed leaves much behind, and little lives
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				n := next.Add(1) - 1
				if n >= *simSeeds {
					return
				}
				stats, err := sim.Run(sim.Options{Seed: *simFirst + n, Amnesia: *simLost})
				mu.Lock()
				sum.Add(stats)
				if err != nil {
					t.Error(err)
					failed++
				}
				stop := failed >= *simStop
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d seeds, %.0f a second: %v", *simSeeds, float64(*simSeeds)/time.Since(began).Seconds(), sum)
}
