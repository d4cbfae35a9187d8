//go:build unix

package main

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"
)

// meter counts reported acknowledgements.
type meter struct {
	mu      sync.Mutex // guards what follows
	buckets map[int64]int
	epoch   uint32 // highest epoch of an acknowledgement
	latest  int64
	trimmed int64
}

const bucket = int64(10 * time.Millisecond)

func newMeter() *meter { return &meter{buckets: make(map[int64]int)} }

func (m *meter) count(acks []ack) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range acks {
		a := &acks[i]
		if a.Seq == 0 {
			continue
		}
		m.buckets[a.Done/bucket]++
		m.epoch = max(m.epoch, a.Epoch)
		m.latest = max(m.latest, a.Done)
	}
	if now := m.latest / bucket; now-m.trimmed > 1000 {
		for b := range m.buckets {
			if b < now-1000 {
				delete(m.buckets, b)
			}
		}
		m.trimmed = now
	}
}

// rate returns the acknowledged commands a second in the last span, as far as reported.
func (m *meter) rate(span time.Duration) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	end := (time.Now().UnixNano() - int64(2*reportEvery)) / bucket
	n := int64(span) / bucket
	sum := 0
	for b := end - n; b < end; b++ {
		sum += m.buckets[b]
	}
	return float64(sum) / span.Seconds()
}

// last returns the time of the last acknowledgement.
func (m *meter) last() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.latest
}

func (m *meter) highest() uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.epoch
}

// fault is a fault that was caused.
type fault struct {
	Kind   string
	Target string
	At     int64         // Unix nanoseconds
	Lasted time.Duration // 0 if instantaneous
	Epoch  uint32        // highest acknowledged epoch before it
}

func (f *fault) String() string {
	s := f.Kind + " " + f.Target
	if f.Lasted > 0 {
		s += " for " + f.Lasted.Round(time.Millisecond).String()
	}
	return s
}

// spread is a distribution of durations.
type spread struct {
	N                           int
	Median, P90, P99, P999, Max time.Duration
}

func spreadOf(d []time.Duration) spread {
	if len(d) == 0 {
		return spread{}
	}
	d = slices.Sorted(slices.Values(d))
	at := func(q float64) time.Duration { return d[min(int(q*float64(len(d))), len(d)-1)] }
	return spread{len(d), at(.5), at(.9), at(.99), at(.999), d[len(d)-1]}
}

func (s spread) String() string {
	if s.N == 0 {
		return "none"
	}
	return fmt.Sprintf("n=%d median %s p90 %s p99 %s max %s", s.N, ms(s.Median), ms(s.P90), ms(s.P99), ms(s.Max))
}

func ms(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.2fms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.0fms", float64(d)/1e6)
}

// result is the summary of a run.
type result struct {
	Scenario string
	Seed     uint64
	Took     time.Duration
	Faults   map[string]int
	Commands int // in the log
	Sent     int // by the clients that were not killed
	Queries  int
	Gaps     int // reported to listeners
	// Silence is, by kind of fault, the longest time without an acknowledgement between the fault and the next one. New is
	// the time from the fault to the first acknowledgement of a later epoch, if there was one.
	Silence, New map[string]spread
	Latency      spread
	Handoffs     handoffResult
	ClientPause  map[string]spread
	InSync       time.Duration // from healing until all hosts are in sync
	Equal        time.Duration // from healing until all states are equal
	Replicas     int
	Closed       int // processes that ended without a leak
	Extra        []string
	Violations   []string
	Notes        map[string]int // errors at hosts that are no violations
	Load         string         // of the machine
}

type handoffResult struct {
	Done, Failed              int
	Pause, Won, Transfer, All spread
	Prepare, Join             spread
	FailedAfter               spread
	Errors                    map[string]int
}

// analyse computes the effects of the faults. It calls silent for longer times without an acknowledgement.
func (r *result) analyse(faults []fault, acks []ack, silent func(from, to int64)) {
	r.Faults = make(map[string]int)
	writes := make([]*ack, 0, len(acks))
	var latency []time.Duration
	for i := range acks {
		if acks[i].Seq != 0 {
			writes = append(writes, &acks[i])
			latency = append(latency, time.Duration(acks[i].Done-acks[i].Invoked))
		} else {
			r.Queries++
		}
	}
	slices.SortFunc(writes, func(a, b *ack) int { return cmp.Compare(a.Done, b.Done) })
	r.Latency = spreadOf(latency)
	for i := range len(writes) - 1 {
		if from, to := writes[i].Done, writes[i+1].Done; to-from > int64(100*time.Millisecond) {
			silent(from, to)
		}
	}
	slices.SortFunc(faults, func(a, b fault) int { return cmp.Compare(a.At, b.At) })
	silence, first := make(map[string][]time.Duration), make(map[string][]time.Duration)
	for i, f := range faults {
		r.Faults[f.Kind]++
		end := f.At + int64(f.Lasted) + int64(10*time.Second)
		if i+1 < len(faults) {
			end = min(end, faults[i+1].At)
		}
		j, _ := slices.BinarySearchFunc(writes, f.At, func(a *ack, t int64) int { return cmp.Compare(a.Done, t) })
		var longest, fresh int64
		for last := f.At; j < len(writes) && last < end; j++ {
			longest = max(longest, min(writes[j].Done, end)-last)
			if fresh == 0 && writes[j].Epoch > f.Epoch {
				fresh = writes[j].Done - f.At
			}
			last = writes[j].Done
		}
		silence[f.Kind] = append(silence[f.Kind], time.Duration(longest))
		if fresh > 0 {
			first[f.Kind] = append(first[f.Kind], time.Duration(fresh))
		}
	}
	r.Silence, r.New = spreads(silence), spreads(first)
}

func spreads(m map[string][]time.Duration) map[string]spread {
	s := make(map[string]spread)
	for k, d := range m {
		s[k] = spreadOf(d)
	}
	return s
}
