package machine

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEventLogFrom(t *testing.T) {
	l := newEventLog(10 * (2 + eventOverhead))
	first, times, bodies, next := l.from(0, 10, 10)
	require.Equal(t, []any{uint64(1), 0, 0, uint64(1)}, []any{first, len(times), len(bodies), next})
	for i := range 15 {
		l.push(int64(i+1), fmt.Appendf(nil, "%02d", i+1))
	}
	for _, tt := range []struct {
		from                uint64
		maxEvents, maxBytes int
		first, next         uint64
	}{
		{0, 10, 100, 16, 16},  // only those to come
		{16, 10, 100, 16, 16}, // all seen
		{99, 10, 100, 16, 16}, // beyond the end
		{15, 10, 100, 15, 16},
		{1, 10, 100, 6, 16}, // a gap
		{5, 10, 100, 6, 16},
		{6, 10, 100, 6, 16},
		{7, 3, 100, 7, 10},
		{7, 10, 5, 7, 9},
		{7, 10, 1, 7, 8}, // at least one
		{7, 0, 0, 7, 8},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			first, times, bodies, next := l.from(tt.from, tt.maxEvents, tt.maxBytes)
			require.Equal(t, tt.first, first)
			require.Equal(t, tt.next, next)
			require.Len(t, times, int(next-first))
			require.Len(t, bodies, int(next-first))
			for i := range times {
				require.EqualValues(t, int(first)+i, times[i])
				require.Equal(t, fmt.Sprintf("%02d", int(first)+i), string(bodies[i]))
			}
		})
	}
}

func TestEventLogKeepsTheLast(t *testing.T) {
	l := newEventLog(100)
	l.push(1, make([]byte, 50))
	l.push(2, make([]byte, 5_000))
	first, _, bodies, next := l.from(1, 10, 10)
	require.EqualValues(t, 2, first)
	require.EqualValues(t, 3, next)
	require.Len(t, bodies[0], 5_000)
	l.push(3, nil)
	require.EqualValues(t, 3, l.first)
	require.Equal(t, eventOverhead, l.bytes)
}

// TestEventLogModel compares the log with a plain slice, and captures with the log at their time, under random use.
func TestEventLogModel(t *testing.T) {
	r := newRand(2)
	l := newEventLog(300_000)
	var all []string
	type captured struct {
		log         eventLog
		first, next uint64
	}
	var caps []captured
	for i := range 4_000 {
		n := r.IntN(200)
		if r.IntN(200) == 0 {
			n = r.IntN(100_000)
		}
		body := make([]byte, n)
		copy(body, fmt.Sprint(i))
		l.push(int64(i), body)
		all = append(all, string(body))
		require.LessOrEqual(t, l.bytes, l.limit)
		if i%100 == 0 {
			caps = append(caps, captured{l.capture(), l.first, l.next})
		}
		seq := r.Uint64N(l.next + 2)
		first, _, bodies, next := l.from(seq, 1+r.IntN(600), r.IntN(200_000))
		require.EqualValues(t, len(bodies), next-first)
		for k, b := range bodies {
			require.Equal(t, all[first-1+uint64(k)], string(b))
		}
	}
	for _, c := range caps {
		seq := c.first
		for e := range c.log.all {
			require.EqualValues(t, seq-1, e.time)
			require.Equal(t, all[seq-1], string(e.body))
			seq++
		}
		require.Equal(t, c.next, seq)
	}
}

// TestEventLogReturnsMemory: dropped events do not stay in memory because a slice was once long.
func TestEventLogReturnsMemory(t *testing.T) {
	l := newEventLog(1 << 20)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 2_000 {
		l.push(0, make([]byte, 64<<10))
	}
	for range 200_000 {
		l.push(0, nil)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(4<<20))
	require.LessOrEqual(t, cap(l.chunks), 1024)
	runtime.KeepAlive(&l)

	l = newEventLog(16 << 20)
	for range 40 {
		l.push(0, make([]byte, 1<<20))
	}
	for range 40 {
		front, size := &l.chunks[0], cap(l.chunks)
		l.push(0, make([]byte, 1<<20))
		if cap(l.chunks) == size-1 { // the same array, one place further on
			require.Zero(t, len(front.events), "a chunk left behind in the array holds events")
		}
	}
}
