package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// good returns a tally in which two clients sent three messages each and received all.
func good(t *testing.T) *tally {
	y := newTally([]string{"a", "b"})
	require.NoError(t, y.add("a", report{Sent: 3, Seen: []string{"a#1", "b#1", "a#2"}}))
	require.NoError(t, y.add("a", report{Sent: 3, Acked: []int{1, 2, 3}, Seen: []string{"a#3", "b#2", "b#3"}}))
	require.NoError(t, y.add("b", report{Sent: 3, Acked: []int{1, 2, 3}, Seen: []string{"a#1", "b#1", "a#2", "a#3", "b#2",
		"b#3"}}))
	return y
}

func TestTallyClean(t *testing.T) {
	y := good(t)
	require.Equal(t, result{Sent: 6, Acknowledged: 6, Delivered: 12}, y.all())
	require.True(t, y.all().clean())
	require.Equal(t, result{Sent: 3, Acknowledged: 3, Delivered: 6}, y.client(0))
}

func TestTallyDetectsErrors(t *testing.T) {
	for _, tc := range []struct {
		name string
		seen []string // by a; b has sent 4 messages, all acknowledged
		want result
	}{
		{"no error", []string{"b#1", "b#2", "b#3", "b#4"}, result{Delivered: 4}},
		{"a loss", []string{"b#1", "b#2", "b#4"}, result{Delivered: 3, Lost: 1}},
		{"a loss at the end", []string{"b#1", "b#2", "b#3"}, result{Delivered: 3, Lost: 1}},
		{"a duplicate", []string{"b#1", "b#2", "b#2", "b#3", "b#4"}, result{Delivered: 4, Duplicated: 1}},
		{"a late duplicate", []string{"b#1", "b#2", "b#3", "b#4", "b#1"}, result{Delivered: 4, Duplicated: 1}},
		{"a reorder", []string{"b#1", "b#3", "b#2", "b#4"}, result{Delivered: 4, Reordered: 1}},
		{"all errors", []string{"b#3", "b#2", "b#2"}, result{Delivered: 2, Lost: 2, Duplicated: 1, Reordered: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			y := newTally([]string{"a", "b"})
			require.NoError(t, y.add("b", report{Sent: 4, Acked: []int{1, 2, 3}}))
			require.NoError(t, y.add("a", report{Seen: tc.seen}))
			require.NoError(t, y.add("b", report{Sent: 4, Acked: []int{4}})) // acknowledgements may be reported after the message
			got := y.client(0)
			require.Equal(t, tc.want, got)
			require.Equal(t, tc.want == result{Delivered: 4}, got.clean())
			require.Equal(t, tc.want.Reordered, y.all().Reordered)
			require.Equal(t, tc.want.Duplicated, y.all().Duplicated)
			require.Equal(t, tc.want.Lost+4, y.all().Lost, "b has received nothing")
		})
	}
}

func TestTallyUnacknowledged(t *testing.T) {
	y := good(t)
	require.NoError(t, y.add("a", report{Sent: 5, Seen: []string{"a#4"}})) // b did not receive 4, and no client received 5
	require.True(t, y.all().clean())
	require.Equal(t, 8, y.all().Sent)
	require.Equal(t, 6, y.all().Acknowledged)
}

func TestTallyUnknownTexts(t *testing.T) {
	for _, s := range []string{"c#1", "a", "a#", "a#0", "a#-1", "a#x", ""} {
		y := good(t)
		require.NoError(t, y.add("a", report{Seen: []string{s}}))
		require.False(t, y.all().clean(), "%q", s)
	}
	require.Error(t, good(t).add("c", report{}))
}

func TestTallyMoves(t *testing.T) {
	y := good(t)
	moved := func(client string, epoch uint64, planned bool, pause time.Duration) {
		require.NoError(t, y.add(client, report{Moved: &moveReport{Epoch: epoch, Planned: planned, Pause: pause}}))
	}
	moved("a", 2, true, time.Millisecond)
	moved("b", 2, false, 2*time.Millisecond) // its connection broke before the notice
	moved("a", 3, false, 100*time.Millisecond)
	moved("b", 3, false, 80*time.Millisecond)
	moved("a", 4, true, 3*time.Millisecond)
	r := y.all()
	require.Equal(t, 2, r.Moves)
	require.Equal(t, 1, r.Failovers)
	require.Equal(t, pauses{Median: 3, Longest: 100}, r.Pause)
	require.Contains(t, y.table(), "2 moves and 1 failover; pause: median 3.0 ms, longest 100.0 ms")
	require.Equal(t, pauses{Median: 1.5, Longest: 2}, summary([]time.Duration{2 * time.Millisecond, time.Millisecond}))
	require.Zero(t, summary(nil))
}

func TestTexts(t *testing.T) {
	client, n, ok := parseText(text("client-1", 17))
	require.Equal(t, "client-1", client)
	require.Equal(t, 17, n)
	require.True(t, ok)
}
