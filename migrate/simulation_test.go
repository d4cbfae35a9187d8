package migrate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/sim"
	"github.com/roam-go/roam/transport"
)

var (
	simSeeds = flag.Uint64("sim.seeds", 200, "TestSimulation: how many seeds")
	simFirst = flag.Uint64("sim.first", 1, "TestSimulation: the first of them")
	simStop  = flag.Int("sim.stop", 10, "TestSimulation: stop after so many have failed")
	simSeed  = flag.Uint64("sim.seed", 0, "TestSimulation: run this seed alone, and print its history with -v")
)

// TestSimulation runs the core of the protocol and the machine on simulated hosts, under faults. Any seed that fails is
// repeated by -sim.seed.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		var history bytes.Buffer
		stats, err := sim.Run(sim.Options{Seed: *simSeed, New: newSimMachine, Kept: simKept, Log: func(at time.Duration, line string) {
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
		failed []error
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
				stats, err := sim.Run(sim.Options{Seed: *simFirst + n, New: newSimMachine, Kept: simKept})
				mu.Lock()
				sum.Add(stats)
				if err != nil {
					failed = append(failed, err)
				}
				stop := len(failed) >= *simStop
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d seeds, %.0f a second: %v", *simSeeds, float64(*simSeeds)/time.Since(began).Seconds(), sum)
	for _, err := range failed {
		t.Error(err)
	}
}

// simMachine is the real machine, for the simulator.
type simMachine struct {
	m   *machine.Machine
	app *simApp
}

const simEventBytes = 4 << 10

// simKept is how many events a machine of [newSimMachine] still has: the last one, and those before it for which there is room.
func simKept(events [][]byte) (n int) {
	for room := simEventBytes; n < len(events); n++ {
		if room -= len(events[len(events)-1-n]) + eventOverhead; room < 0 && n > 0 {
			break
		}
	}
	return n
}

func newSimMachine() sim.Machine {
	app := new(simApp)
	return simMachine{machine.New("svc", adapter{app}, machine.Limits{EventBytes: simEventBytes}), app}
}

func (m simMachine) Apply(e core.Entry) sim.Applied {
	a := m.m.Apply(e)
	return simApplied(&a)
}

func simApplied(a *machine.Result) sim.Applied {
	r := sim.Applied{Index: a.Index, Duplicate: a.Duplicate}
	if a.Err != nil {
		r.Code = simCode(a.Err)
	} else if len(a.Reply) == 8 {
		r.Count = binary.BigEndian.Uint64(a.Reply)
	}
	return r
}

func simCode(err error) sim.Code {
	switch {
	case errors.Is(err, ErrSessionExpired):
		return sim.Expired
	case errors.Is(err, ErrOutOfOrder):
		return sim.OutOfOrder
	case errors.Is(err, ErrRetry):
		return sim.Retry
	}
	return sim.Other
}

func simAdmission(a machine.Admission) sim.Admission {
	switch a.Verdict {
	case machine.Append:
		return sim.Admission{Verdict: sim.Append}
	case machine.Pending:
		return sim.Admission{Verdict: sim.Pending}
	case machine.Replied:
		return sim.Admission{Verdict: sim.Replied, Reply: simApplied(&a.Reply)}
	}
	return sim.Admission{Verdict: sim.Refused, Code: simCode(a.Err)}
}

func (m simMachine) AdmitOpen(session uint64, resume bool) sim.Admission {
	return simAdmission(m.m.AdmitOpen(session, transport.Key{}, resume))
}

func (m simMachine) Admit(session, seq, low uint64) sim.Admission {
	return simAdmission(m.m.Admit(session, seq, low, transport.Key{}))
}

func (m simMachine) Ordered(e core.Entry)           { m.m.Ordered(e) }
func (m simMachine) ResetOrdered(tail []core.Entry) { m.m.ResetOrdered(tail) }

func (m simMachine) Capture() func() (sim.Machine, error) {
	snap, err := m.m.Snapshot()
	var stream bytes.Buffer
	if err == nil {
		_, err = snap.WriteTo(&stream)
		snap.Release()
	}
	return func() (sim.Machine, error) {
		if err != nil {
			return nil, err
		}
		app := new(simApp)
		r, err := machine.Restore("svc", adapter{app}, machine.Limits{EventBytes: simEventBytes}, bytes.NewReader(stream.Bytes()))
		return simMachine{r, app}, err
	}
}

func (m simMachine) Idle() []uint64 {
	var ids []uint64
	for id := range m.m.Idle(1<<63 - 1) {
		ids = append(ids, id)
	}
	return ids
}

func (m simMachine) Index() uint64 {
	index, _ := m.m.Applied()
	return index
}

func (m simMachine) Time() int64   { return m.m.LogTime() }
func (m simMachine) Hash() uint64  { return sim.Chain(m.m.Hash(), m.app.sum, nil) }
func (m simMachine) Count() uint64 { return m.app.count }
func (m simMachine) Sum() uint64   { return m.app.sum }

func (m simMachine) Events(from uint64) (uint64, [][]byte) {
	first, _, bodies, _ := m.m.Events(from, 1<<20, 1<<20)
	return first, bodies
}

// simApp counts commands and sums them up.
type simApp struct{ count, sum uint64 }

func (a *simApp) Apply(cmd Command) ([]byte, error) {
	a.count++
	a.sum = sim.Chain(a.sum, cmd.Session, cmd.Body)
	if sim.Emits(cmd.Seq) {
		cmd.Emit(cmd.Body)
	}
	return binary.BigEndian.AppendUint64(nil, a.count), nil
}

func (a *simApp) Snapshot() (Snapshot, error) {
	return &simSnapshot{binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, a.count), a.sum)}, nil
}

func (a *simApp) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil || len(b) != 16 {
		return fmt.Errorf("%d bytes: %w", len(b), err)
	}
	a.count, a.sum = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	return nil
}

type simSnapshot struct{ state []byte }

func (s *simSnapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s.state)
	return int64(n), err
}

func (s *simSnapshot) Release() {}
