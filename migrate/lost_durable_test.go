package migrate

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

// newDurableLoss is newDurable with a resolver that can lose records, and with hosts that keep their addresses.
func newDurableLoss(t *testing.T) (*durable, *forgetful) {
	d := newDurable(t)
	r := &forgetful{Memory: resolver.NewMemory(), generation: 7}
	d.res = r
	addrs := map[string]string{}
	d.edit = func(c *NodeConfig) {
		if addr := addrs[c.ID]; addr != "" {
			c.Listen = addr
		}
	}
	for _, id := range []string{"a", "b"} {
		n := d.start(id)
		addrs[id] = n.Self().Addr
		n.Close()
	}
	return d, r
}

// hostAgain calls Host until it succeeds, as a program does.
func (d *durable) hostAgain(ctx context.Context, n *Node) *Service {
	for {
		s, err := n.Host(ctx, "svc", newTally, Policy{})
		if err == nil {
			return s
		}
		require.NoError(d.t, ctx.Err(), "%v", err)
		time.Sleep(100 * time.Millisecond)
	}
}

// A host that has restarted, but does not host the service yet, does not say that it holds nothing: its directory may hold
// what only it has acknowledged.
func TestDurableNotHostedYet(t *testing.T) {
	d, r := newDurableLoss(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a, b, sa := d.pair(ctx)
	c := d.client()
	d.do(ctx, c, "1")
	loss := sa.Status().Record.Loss
	b.Close()
	d.do(ctx, c, "2") // only host a holds it
	a.Close()
	r.lose()
	a, b = d.start("a"), d.start("b")
	sb, err := b.Standby(ctx, "svc", newTally, Policy{})
	require.NoError(t, err)
	time.Sleep(2 * time.Second)
	require.Equal(t, Standby, sb.Status().Role)
	sa = d.hostAgain(ctx, a)
	d.do(ctx, c, "3")
	require.Equal(t, loss, sa.Status().Record.Loss)
}

// All hosts lose power, and the resolver its records. They call Host in any order, and find one another.
func TestDurablePowerCutRecordLost(t *testing.T) {
	d, r := newDurableLoss(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a, b, sa := d.pair(ctx)
	c := d.client()
	_, err := c.Do(ctx, []byte("x"))
	require.NoError(t, err)
	loss := sa.Status().Record.Loss
	a.Close()
	b.Close()
	r.lose()
	b = d.start("b")
	sb := d.hostAgain(ctx, b) // without host a, it must wait
	time.Sleep(2 * time.Second)
	require.Equal(t, Standby, sb.Status().Role)
	a = d.start("a")
	began := time.Now()
	d.hostAgain(ctx, a)
	reply, err := c.Do(ctx, []byte("y"))
	require.NoError(t, err)
	require.Equal(t, "2", string(reply))
	require.Less(t, time.Since(began), 5*time.Second)
	d.inSync(ctx, sb)
	require.Equal(t, loss, sb.Status().Record.Loss)
}

// A directory is replaced by an older copy of itself. While another member lives, it brings the host up to date. If the host
// takes over instead, nobody knows yet that its copy is old: see TestOldDirectory.
func TestDirectoryRolledBack(t *testing.T) {
	for name, alive := range map[string]bool{"another member lives": true, "no other member lives": false} {
		t.Run(name, func(t *testing.T) {
			d, _ := newDurableLoss(t)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			a, b, sa := d.pair(ctx)
			c := d.client()
			d.do(ctx, c, "1")
			b.Close()
			old := filepath.Join(t.TempDir(), "old")
			require.NoError(t, os.CopyFS(old, os.DirFS(d.dirs["b"])))
			b = d.start("b")
			d.host(b)
			d.do(ctx, c, "2")
			d.inSync(ctx, sa)
			d.do(ctx, c, "3")
			if !alive {
				a.Close()
			}
			b.Close()
			d.dirs["b"] = old
			sb := d.host(d.start("b"))
			if alive {
				d.do(ctx, c, "4")
				require.NoError(t, sb.wait(ctx, func(st Status) bool { return st.Role == Standby && st.Commit >= sa.Status().Commit }))
				return
			}
			require.NoError(t, sb.wait(ctx, func(st Status) bool { return st.Role == Active }))
			reply, err := d.client().Query(ctx, nil)
			require.NoError(t, err)
			require.Equal(t, "1", string(reply))
		})
	}
}

// A host's directory and the record are rolled back together, for example with the machine. What the host begins then is in
// a term that it has not used before.
func TestDirectoryAndRecordRolledBack(t *testing.T) {
	d, r := newDurableLoss(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a := d.start("a")
	d.host(a)
	d.do(ctx, d.client(), "1")
	a.Close()
	backup, version := filepath.Join(t.TempDir(), "backup"), r.version()
	require.NoError(t, os.CopyFS(backup, os.DirFS(d.dirs["a"])))
	terms := map[core.Term]bool{}
	for range 2 {
		r.goBack(version)
		d.dirs["a"] = filepath.Join(t.TempDir(), "a")
		require.NoError(t, os.CopyFS(d.dirs["a"], os.DirFS(backup)))
		a = d.start("a")
		s := d.host(a)
		require.NoError(t, s.wait(ctx, func(st Status) bool { return st.Role == Active }))
		d.do(ctx, d.client(), "2")
		terms[core.TermOf(s.Status().Record)] = true
		a.Close()
	}
	require.Len(t, terms, 2)
}

// version is the version of the record.
func (r *forgetful) version() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.record.Version
}
