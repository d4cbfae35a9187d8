package migrate

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An old copy of a host's directory starts alone and continues, since no host answers that knows better. When the other host
// returns with later entries, both report it, and the directory of that host keeps the copy that it gives up.
func TestOldDirectory(t *testing.T) {
	d := newDurable(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	a, b, _ := d.pair(ctx)
	write := func(c *Client, n int) (last string) {
		for range n {
			reply, err := c.Do(ctx, []byte("x"))
			require.NoError(t, err)
			last = string(reply)
		}
		return last
	}
	c := d.client()
	require.Equal(t, "10", write(c, 10))

	// The backup is made of a host that is down, and comes back.
	a.Close()
	old := filepath.Join(t.TempDir(), "backup")
	require.NoError(t, os.CopyFS(old, os.DirFS(d.dirs["a"])))
	sb := b.service("svc")
	require.NoError(t, sb.wait(ctx, func(st Status) bool { return st.Role == Active }))
	a = d.start("a")
	_, err := a.Standby(ctx, "svc", newTally, Policy{})
	require.NoError(t, err)
	d.inSync(ctx, sb)
	_, err = sb.Handoff(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, "30", write(c, 20))
	b.Close()
	a.Close()

	d.dirs["a"] = old
	failedA, failedB := make(chan error, 16), make(chan error, 16)
	reports := failedA
	d.edit = func(c *NodeConfig) {
		to := reports
		c.Hooks.Failed = func(_ string, err error) { to <- err }
	}
	a = d.start("a")
	sa, err := a.Standby(ctx, "svc", newTally, Policy{})
	require.NoError(t, err)
	require.NoError(t, sa.wait(ctx, func(st Status) bool { return st.Role == Active }))
	c2 := d.client()
	require.Equal(t, "15", write(c2, 5), "20 commands are missing, and nobody knows yet")

	reports = failedB
	b = d.start("b")
	_, err = b.Standby(ctx, "svc", newTally, Policy{})
	require.NoError(t, err)
	for host, failed := range map[string]chan error{"a": failedA, "b": failedB} {
		select {
		case err := <-failed:
			require.ErrorIs(t, err, ErrStateLost, "host %s", host)
			require.ErrorContains(t, err, "host b gives up its copy, which holds committed entries up to")
			require.ErrorContains(t, err, "the service continues on host a")
			if host == "b" {
				require.ErrorContains(t, err, filepath.Join(d.dirs["b"], "superseded-svc-"))
			}
		case <-ctx.Done():
			t.Fatalf("host %s reports nothing", host)
		}
	}
	d.inSync(ctx, sa)
	kept, err := filepath.Glob(filepath.Join(d.dirs["b"], "superseded-svc-*", "*.log"))
	require.NoError(t, err)
	require.NotEmpty(t, kept)

	// The kept copy can be brought back by a person.
	a.Close()
	b.Close()
	dir := filepath.Join(d.dirs["b"], "service-svc")
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.Rename(filepath.Dir(kept[0]), dir))
	b = d.start("b")
	sb = d.host(b)
	require.NoError(t, sb.wait(ctx, func(st Status) bool { return st.Role == Active }))
	require.Equal(t, "31", write(d.client(), 1))
}

// The resolver goes back to a record that names a host that was away and had been removed. If the hosts that know later
// commands are down, it takes over: nothing shows that the record is old. When they come back, both sides report what is
// missing, and the later commands are kept aside.
func TestRecordNamesHostThatWasAway(t *testing.T) {
	d, r := newDurableLoss(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	a, b, sa := d.pair(ctx)
	c := d.client()
	d.do(ctx, c, "1")
	version := sa.Status().Record.Version
	b.Close()
	require.NoError(t, sa.wait(ctx, func(st Status) bool { return len(st.Record.ISR) == 1 }))
	d.do(ctx, c, "2")
	a.Close()
	r.goBack(version)

	failedA, failedB := make(chan error, 16), make(chan error, 16)
	again, reports := d.edit, failedB
	d.edit = func(c *NodeConfig) {
		again(c)
		to := reports
		c.Hooks.Failed = func(_ string, err error) { to <- err }
	}
	b = d.start("b")
	sb := d.host(b)
	require.NoError(t, sb.wait(ctx, func(st Status) bool { return st.Role == Active }))
	d.do(ctx, d.client(), "2")

	reports = failedA
	a = d.start("a")
	_, err := a.Standby(ctx, "svc", newTally, Policy{})
	require.NoError(t, err)
	for host, failed := range map[string]chan error{"a": failedA, "b": failedB} {
		select {
		case err := <-failed:
			require.ErrorIs(t, err, ErrStateLost, host)
			require.ErrorContains(t, err, "host a")
		case <-ctx.Done():
			require.Fail(t, "not reported on host "+host)
		}
	}
	d.inSync(ctx, sb)
	kept, err := filepath.Glob(filepath.Join(d.dirs["a"], "superseded-*"))
	require.NoError(t, err)
	require.Len(t, kept, 1)
}
