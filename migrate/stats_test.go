package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// doAll executes commands one after the other.
func doAll(t *testing.T, c *Client, cmds ...string) {
	t.Helper()
	for _, cmd := range cmds {
		_, err := c.Do(t.Context(), []byte(cmd))
		require.NoError(t, err)
	}
	synctest.Wait()
}

func TestStatsOfHandoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		a, b := w.pair(Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		w.read(c)
		doAll(t, c, "x", "yy")
		_, err := c.Query(t.Context(), nil)
		require.NoError(t, err)
		time.Sleep(time.Second)

		st := a.Stats()
		require.Equal(t, uint64(2), st.Ordered)
		require.Equal(t, a.Status().Commit, st.Applied)
		require.Equal(t, uint64(2), st.Answered)
		require.Zero(t, st.Repeated+st.Refused+st.Resent+st.HandoffsIn+st.Failovers+st.Removals)
		require.Equal(t, uint64(1), st.Queries)
		require.Equal(t, uint64(2), st.Events)
		require.Equal(t, uint64(2), st.EventsPushed)
		require.Greater(t, st.EventBytesPushed, uint64(len("xyy")))
		require.Equal(t, uint64(1), st.Joins)
		require.Equal(t, []int{1, 1, int(st.Applied)}, []int{st.Sessions, st.Clients, st.LogEntries})
		require.Equal(t, len("xyy")+2*eventOverhead, st.EventBytes)
		require.Equal(t, len("2")+replyOverhead, st.ReplyBytes, "the client has told that it has the first reply")
		require.Greater(t, st.ActiveFor, time.Second)
		require.Zero(t, st.SuspendedFor)
		require.Len(t, st.Standbys, 1)
		require.Equal(t, StandbyStats{Host: "b", Silent: st.Standbys[0].Silent}, st.Standbys[0])
		require.LessOrEqual(t, st.Standbys[0].Silent, 100*time.Millisecond)
		require.Equal(t, uint64(1), st.SnapshotsSent)
		require.NotZero(t, st.SnapshotBytesSent)
		bst := b.Stats()
		require.Equal(t, uint64(1), bst.SnapshotsReceived)
		require.Equal(t, st.SnapshotBytesSent, bst.SnapshotBytesReceived)
		require.Equal(t, uint64(2), bst.Events)
		require.Zero(t, bst.Ordered+bst.Answered+bst.EventsPushed+bst.HandoffsIn+bst.Failovers)
		require.Zero(t, bst.ActiveFor)

		w.standby("c", "svc", Policy{})
		time.Sleep(time.Second) // it announces itself
		w.net.Isolate("c")
		_, err = a.Handoff(t.Context(), "c")
		require.ErrorIs(t, err, ErrTransferFailed)
		synctest.Wait()
		require.Equal(t, uint64(1), a.Stats().HandoffsFailed)
		_, err = a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		doAll(t, c, "z")
		_, err = w.raw("x", a, 7).do(1, "lost its way")
		require.ErrorIs(t, err, ErrNotActive)
		_, err = w.raw("x", b, 7).do(1, "without a session")
		require.ErrorIs(t, err, ErrSessionExpired)
		synctest.Wait()
		st, bst = a.Stats(), b.Stats()
		require.Equal(t, uint64(1), st.HandoffsOut)
		require.Equal(t, uint64(1), st.HandoffsFailed)
		require.Equal(t, []uint64{1, 1}, []uint64{st.Refused, bst.Refused})
		require.Zero(t, st.ActiveFor)
		require.Empty(t, st.Standbys)
		require.Equal(t, uint64(1), bst.HandoffsIn)
		require.Zero(t, bst.Failovers)
		require.Equal(t, uint64(1), bst.Ordered)
		require.NotZero(t, bst.ActiveFor)
		require.Len(t, bst.Standbys, 1)
		require.Equal(t, ClientStats{Sent: 3, Acknowledged: 3, Moves: 1, Events: 3}, c.Stats())

		w.nodes["b"].Close()
		time.Sleep(time.Minute)
		bst = b.Stats()
		require.Equal(t, uint64(1), bst.Ordered, "counters outlive the node")
		require.Zero(t, bst.ActiveFor)
		require.Empty(t, bst.Standbys)
	})
}

func TestStatsOfFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		_, b := w.pair(Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		doAll(t, c, "x")
		call := mustGo(t, c, "y")
		require.Equal(t, ClientStats{Sent: 2, Acknowledged: 1, QueueLen: 1, QueueBytes: 1}, c.Stats())
		synctest.Wait() // it is on its way
		w.crash("a")
		_, err := call.Reply(t.Context())
		require.NoError(t, err)
		synctest.Wait()
		st := b.Stats()
		require.Equal(t, uint64(1), st.Failovers)
		require.Zero(t, st.HandoffsIn)
		require.Equal(t, ClientStats{Sent: 2, Resent: 1, Acknowledged: 2, Moves: 1, UnplannedMoves: 1}, c.Stats())

		w.standby("c", "svc", Policy{})
		w.inSync(b, 2)
		w.net.Isolate("c")
		w.inSync(b, 1)
		synctest.Wait()
		st = b.Stats()
		require.Equal(t, []uint64{1, 1}, []uint64{st.Joins, st.Removals})
	})
}

// What is lost between the client and the host, and between hosts, is sent again and counted at both ends.
func TestStatsOfResend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, _ := w.pair(Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		doAll(t, c, "x")
		call := mustGo(t, c, "y")
		time.Sleep(1500 * time.Microsecond) // it is ordered, and on its way to b
		w.net.Cut("client", "a")
		w.net.Cut("a", "b")
		_, err := call.Reply(t.Context())
		require.NoError(t, err)
		synctest.Wait()
		st := a.Stats()
		require.Equal(t, uint64(2), st.Ordered)
		require.Equal(t, uint64(1), st.Repeated)
		require.Equal(t, uint64(1), st.Resent)
		require.Equal(t, uint64(2), st.Answered, "nobody waits for the first answer any more")
		require.Equal(t, ClientStats{Sent: 2, Resent: 1, Acknowledged: 2, Reconnects: 1}, c.Stats())
	})
}

func TestStatsOfGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		w.pair(Policy{EventBytes: 3 * (1 + eventOverhead)})
		c := w.dial("client", "svc", ClientConfig{})
		doAll(t, c, "1", "2", "3", "4", "5")
		var got []Event
		for ev, err := range c.Events(t.Context(), 1) {
			require.NoError(t, err)
			if got = append(got, ev); len(got) == 3 {
				break
			}
		}
		require.Equal(t, []uint64{1, 3}, []uint64{got[0].Gap, got[0].Seq})
		st := c.Stats()
		require.Equal(t, []uint64{3, 1, 2}, []uint64{st.Events, st.Gaps, st.EventsLost})
	})
}

func TestStatsOfSuspension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.remoteResolver()
		w.node("a")
		w.node("b")
		a, _ := w.pair(Policy{MinInSync: 2})
		c := w.dial("client", "svc", ClientConfig{})
		doAll(t, c, "x")
		w.net.Isolate("b")
		call := mustGo(t, c, "y")
		time.Sleep(3 * time.Second)
		st := a.Stats()
		require.InDelta(t, 2500*time.Millisecond, st.SuspendedFor, float64(200*time.Millisecond))
		require.Len(t, st.Standbys, 1)
		require.Equal(t, uint64(1), st.Standbys[0].Lag)
		require.InDelta(t, 3*time.Second, st.Standbys[0].Silent, float64(200*time.Millisecond))
		w.net.HealAll()
		_, err := call.Reply(t.Context())
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Zero(t, a.Stats().SuspendedFor)
		w.net.Isolate("b")
		time.Sleep(time.Second)
		require.NotZero(t, a.Stats().SuspendedFor)
		w.nodes["a"].Close()
		require.Zero(t, a.Stats().SuspendedFor)
	})
}
