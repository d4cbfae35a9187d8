package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The pauses of a planned move, in round trips: virtual time makes them exact. The resolver is as far away as all else. A
// command takes two round trips in any case, from the client to the active host and from there to a standby. How much
// longer the slowest one takes depends on the moment at which the move meets it, so that all moments are tried.
func TestPauseInRoundTrips(t *testing.T) {
	const (
		trip = 20 * time.Millisecond
		step = trip / 16
	)
	for _, tc := range []struct {
		name   string
		target string
		exact  bool // all moments are met; a join that comes first makes the client keep step with it
	}{{"host in sync", "b", true}, {"latent host", "c", false}} {
		t.Run(tc.name, func(t *testing.T) {
			var worstGap, worstMove time.Duration
			for offset := time.Duration(0); offset < 2*trip; offset += step {
				synctest.Test(t, func(t *testing.T) {
					gap, move := measurePause(t, trip, tc.target, offset)
					worstGap, worstMove = max(worstGap, gap), max(worstMove, move)
				})
			}
			// At worst the command reached the target just after it had won. Half a trip after winning the target's word is
			// with the client, after a whole one the command is there again, after two and a half its reply.
			t.Logf("worst of all moments: gap %s longer than usual, Move.Pause %s", worstGap, worstMove)
			require.LessOrEqual(t, worstGap, 3*trip/2, "longest gap between two replies, minus the usual one")
			// This one includes the two trips that any command takes.
			require.LessOrEqual(t, worstMove, 3*trip, "Move.Pause")
			if tc.exact {
				require.Greater(t, worstGap, 3*trip/2-2*step)
				require.Greater(t, worstMove, 3*trip-2*step)
			}
		})
	}
}

// measurePause moves a service whose client writes without a break, and returns the longest gap beyond the usual, and what
// the client said of the move.
func measurePause(t *testing.T, trip time.Duration, target string, offset time.Duration) (gap, pause time.Duration) {
	w := newWorld(t)
	defer w.close()
	w.net.SetDelay(trip / 2)
	w.remoteResolver()
	for _, name := range []string{"a", "b", "c"} {
		w.node(name)
	}
	a, _ := w.pair(Policy{})
	w.standby("c", "svc", Policy{})
	var moves []Move
	c := w.dial("client", "svc", ClientConfig{OnMove: func(m Move) { moves = append(moves, m) }})
	wr := w.write(c)
	time.Sleep(time.Second)
	wr.resetGap()
	time.Sleep(time.Second)
	usual := wr.longest()
	require.Equal(t, 2*trip, usual)
	time.Sleep(offset)
	rep, err := a.Handoff(t.Context(), target)
	require.NoError(t, err)
	time.Sleep(time.Second)
	gap = wr.longest() - usual
	require.Equal(t, trip, rep.Pause, "from winning the record to serving: the others acknowledge the new epoch")
	require.Equal(t, 1, rep.Ready, "clients that were connected ahead")
	require.Len(t, moves, 1)
	w.check(c)
	return gap, moves[0].Pause
}
