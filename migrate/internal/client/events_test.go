package client

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// read collects n events from a client.
func read(t *testing.T, c *Client, from uint64, n int) []Event {
	t.Helper()
	var got []Event
	for ev, err := range c.Events(t.Context(), from) {
		require.NoError(t, err)
		if got = append(got, ev); len(got) == n {
			break
		}
	}
	return got
}

func names(from, to int) (s []string) {
	for i := from; i <= to; i++ {
		s = append(s, fmt.Sprintf("e%d", i))
	}
	return s
}

func requireEvents(t *testing.T, got []Event, first uint64) {
	t.Helper()
	for i, ev := range got {
		seq := first + uint64(i)
		require.Equal(t, seq, ev.Seq)
		require.Equal(t, fmt.Sprintf("e%d", seq), string(ev.Body))
		require.Zero(t, ev.Gap)
	}
}

func TestEvents(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		w.publish(names(1, 5)...)
		requireEvents(t, read(t, c, 1, 5), 1)
		requireEvents(t, read(t, c, 3, 3), 3)

		// 0 asks for the events to come, those of this client's own commands included.
		time.AfterFunc(time.Second, func() { c.Go([]byte("emit")) })
		requireEvents(t, read(t, c, 0, 1), 6)
	})
}

// More is true for each event but the last one available.
func TestEventsMore(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		w.publish(names(1, 5)...)
		time.AfterFunc(time.Second, func() { w.publish("e6") })
		got := read(t, c, 1, 6)
		for i, ev := range got {
			require.Equal(t, i < 4, ev.More, i)
		}
	})
}

func TestEventsEnd(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		w.publish("e1")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var last error
		n := 0
		for _, err := range c.Events(ctx, 1) {
			if last = err; err == nil {
				n++
				for _, err := range c.Events(ctx, 1) {
					require.ErrorIs(t, err, wire.ErrExists, "one at a time")
				}
				cancel()
			}
		}
		require.ErrorIs(t, last, context.Canceled)
		require.Equal(t, 1, n)

		time.AfterFunc(time.Second, func() { c.Close() })
		for _, last = range c.Events(t.Context(), 2) {
		}
		require.ErrorIs(t, last, transport.ErrClosed)
		for _, last = range c.Events(t.Context(), 2) {
			n++
		}
		require.ErrorIs(t, last, transport.ErrClosed)
		require.Equal(t, 2, n)
	})
}

// The stream survives moves, planned and unplanned, and broken connections: each event arrives once, in order.
func TestEventsResume(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		w.net.SetDelay(2 * time.Millisecond)
		c := w.dial()
		defer c.Close()
		go func() {
			for i := 1; i <= 1000; i++ {
				w.publish(fmt.Sprintf("e%d", i))
				time.Sleep(time.Millisecond)
				switch {
				case i%200 == 0:
					w.prepare(ab[i/200%2^1], ab[i/200%2], 0)
				case i%200 == 100 && i > 200:
					w.serve(ab[i/200%2], i%400 < 200)
				case i%130 == 0:
					w.net.Cut("client0", "a")
					w.net.Cut("client0", "b")
				}
			}
		}()
		requireEvents(t, read(t, c, 1, 1000), 1)
	})
}

func TestEventsGap(t *testing.T) {
	inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
		c := w.dial()
		defer c.Close()
		w.publish(names(1, 10)...)
		w.mu.Lock()
		w.kept = 7
		w.mu.Unlock()
		got := read(t, c, 3, 4)
		require.Equal(t, uint64(7), got[0].Seq)
		require.Equal(t, uint64(3), got[0].Gap)
		require.Zero(t, got[1].Gap)

		// The host skips events of a slow reader.
		w.mu.Lock()
		time.AfterFunc(time.Second, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.hosts["a"].notifyAll(wire.MethodEvents, &wire.EventsParams{Service: testService, Epoch: 1, First: 15,
				Times: []int64{0}, Bodies: [][]byte{nil}})
		})
		w.mu.Unlock()
		got = read(t, c, 11, 1)
		require.Equal(t, uint64(15), got[0].Seq)
		require.Equal(t, uint64(11), got[0].Gap)
	})
}

// events returns a received batch of n events from first on.
func events(t *testing.T, first uint64, n int) *eventBatch {
	t.Helper()
	data, err := transport.Marshal(wire.EventsParams{First: first, Times: make([]int64, n), Bodies: make([][]byte, n)})
	require.NoError(t, err)
	b, err := unmarshalEvents(data)
	require.NoError(t, err)
	return &b
}

func TestEventsTrimmed(t *testing.T) {
	f := eventFeed{open: true, live: true, next: 5, wake: make(chan struct{}, 1)}
	f.take(events(t, 2, 5))
	require.Equal(t, uint64(7), f.next)
	require.Equal(t, 2, f.n)
	require.Equal(t, uint64(5), f.buf[0].first)
	f.take(events(t, 2, 5))
	require.Equal(t, 2, f.n)
	require.Len(t, f.buf, 1)
}

func TestEventFeedListen(t *testing.T) {
	f := eventFeed{wake: make(chan struct{}, 1)}
	_, _, want := f.listen()
	require.False(t, want, "nobody reads")
	f.open = true
	_, first, want := f.listen()
	require.True(t, want)
	from, second, _ := f.listen()
	require.Zero(t, from)
	f.begun(first, 5)
	require.False(t, f.live, "the answer to an earlier one")
	f.take(events(t, 9, 1))
	require.Empty(t, f.buf, "sent for an earlier one")
	f.begun(second, 7)
	f.take(events(t, 9, 1))
	require.Equal(t, uint64(7), f.buf[0].gap)
	from, third, _ := f.listen()
	require.Equal(t, uint64(10), from)
	f.take(events(t, 12, 1))
	require.Len(t, f.buf, 1)
	f.begun(third, 10)
	require.Equal(t, uint64(10), f.next)
}

// A reader that is slower than the service until the client's buffer is full misses no event that the host keeps. The buffer
// stays bounded.
func TestEventsSlowReader(t *testing.T) {
	for name, size := range map[string]int{"many": 10, "large": 50 << 10} {
		n := 10_000
		if name == "large" {
			n = 400
		}
		t.Run(name, func(t *testing.T) {
			inWorld(t, ab, func(t *testing.T, w *fakeWorld) {
				c := w.dial()
				defer c.Close()
				go func() {
					for i := range n {
						w.publish(fmt.Sprintf("%*d", size, i+1))
						if i%(n/100) == 0 {
							time.Sleep(time.Millisecond)
						}
					}
				}()
				next := uint64(1)
				for ev, err := range c.Events(t.Context(), 1) {
					require.NoError(t, err)
					require.Equal(t, next, ev.Seq)
					require.Zero(t, ev.Gap)
					if next%(uint64(n/10)) == 1 {
						time.Sleep(time.Second)
						c.mu.Lock()
						require.LessOrEqual(t, c.feed.n, feedLen)
						require.LessOrEqual(t, c.feed.bytes, feedBytes+size)
						c.mu.Unlock()
					}
					if next++; next > uint64(n) {
						break
					}
				}
				synctest.Wait()
				require.Greater(t, w.count("a", wire.MethodListen), 1)
			})
		})
	}
}
