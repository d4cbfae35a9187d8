package migrate

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wal"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

var loneSeeds = flag.Int("lone.seeds", 30, "TestResetAlone: `number` of seeds")

// mortalFS is a file system that a killed process cannot change any more. It does not wait for the disk.
type mortalFS struct {
	wal.OS
	dead atomic.Bool
}

var errKilled = errors.New("the process was killed")

type mortalFile struct {
	wal.File
	fs *mortalFS
}

func (f mortalFile) Write(b []byte) (int, error) {
	if f.fs.dead.Load() {
		return 0, errKilled
	}
	return f.File.Write(b)
}

func (f mortalFile) Sync() error { return f.fs.err() }

func (m *mortalFS) err() error {
	if m.dead.Load() {
		return errKilled
	}
	return nil
}

func (m *mortalFS) file(f wal.File, err error) (wal.File, error) {
	if err != nil {
		return nil, err
	}
	return mortalFile{f, m}, nil
}

func (m *mortalFS) Create(name string) (wal.File, error) {
	if err := m.err(); err != nil {
		return nil, err
	}
	return m.file(m.OS.Create(name))
}

func (m *mortalFS) Append(name string) (wal.File, error) {
	if err := m.err(); err != nil {
		return nil, err
	}
	return m.file(m.OS.Append(name))
}

func (m *mortalFS) Rename(from, to string) error {
	if err := m.err(); err != nil {
		return err
	}
	return m.OS.Rename(from, to)
}

func (m *mortalFS) Remove(name string) error {
	if err := m.err(); err != nil {
		return err
	}
	return m.OS.Remove(name)
}

func (m *mortalFS) RemoveAll(dir string) error {
	if err := m.err(); err != nil {
		return err
	}
	return m.OS.RemoveAll(dir)
}

func (m *mortalFS) SyncDir(string) error { return m.err() }

// loneRun is a run of TestResetAlone: the hosts a and b, with or without directories.
type loneRun struct {
	*lossRow
	rnd  *rand.Rand
	dirs map[string]string // nil: none
	fs   map[string]*mortalFS
}

func (l *loneRun) start(name string) *Node {
	cfg := NodeConfig{
		Resolver: l.resolver(name), Transport: l.transport(name), ID: name, Listen: name + ":1", Logger: l.log,
		Hooks: Hooks{Changed: func(st Status) { l.changed(name, st) }},
	}
	if l.dirs != nil {
		l.fs[name] = new(mortalFS)
		cfg.Dir, cfg.fs, cfg.grow = l.dirs[name], l.fs[name], 2<<10 // many snapshots
	}
	n, err := NewNode(cfg)
	require.NoError(l.t, err)
	l.nodes[name] = n
	return n
}

func (l *loneRun) kill(name string) {
	if fs := l.fs[name]; fs != nil {
		fs.dead.Store(true)
	}
	l.crash(name)
}

// between returns a random time. Messages take a millisecond, so that it falls between any two steps of a command.
func (l *loneRun) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(l.rnd.Int64N(int64(hi-lo)))
}

// One of two members of the in-sync set dies at a random moment under load, and the resolver loses the record or goes back.
// The other one is reset: the standby, the active host, or either of them after it has restarted with its directory. It
// keeps all that was acknowledged, whatever it knew to be committed.
func TestResetAlone(t *testing.T) {
	top := t.TempDir()
	kinds := map[string]int{}
	for seed := range *loneSeeds {
		if t.Failed() {
			break
		}
		synctest.Test(t, func(t *testing.T) {
			dir := filepath.Join(top, fmt.Sprint(seed))
			defer os.RemoveAll(dir)
			l := &loneRun{
				lossRow: newLossRow(t), rnd: rand.New(rand.NewPCG(uint64(seed), 1)), fs: map[string]*mortalFS{},
			}
			defer l.close()
			kinds[l.run(dir)]++
			if t.Failed() {
				t.Logf("seed %d", seed)
			}
		})
	}
	t.Log(kinds)
}

// run is one run. It returns what it did.
func (l *loneRun) run(dir string) (kind string) {
	t := l.t
	if l.rnd.IntN(2) == 0 {
		l.dirs = map[string]string{"a": filepath.Join(dir, "a"), "b": filepath.Join(dir, "b")}
		kind = "directory, "
	}
	for _, name := range []string{"a", "b"} {
		l.crash(name) // of newLossRow
		l.start(name)
	}
	a, _ := l.pair(Policy{})
	for range 1 + l.rnd.IntN(3) {
		l.write(l.dial("client", "svc", ClientConfig{})).slow(l.between(0, 3*time.Millisecond))
	}
	time.Sleep(l.between(time.Millisecond, 400*time.Millisecond))
	if l.rnd.IntN(3) == 0 {
		_, err := a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		time.Sleep(l.between(0, 100*time.Millisecond))
	}
	active := l.active("svc").node.self.ID
	other := map[string]string{"a": "b", "b": "a"}[active]
	lone, dead := other, active
	if l.rnd.IntN(3) == 0 {
		lone, dead = active, other
	}
	kind += map[bool]string{true: "active host", false: "standby"}[lone == active]
	spoil := l.first.lose
	if l.rnd.IntN(3) == 0 {
		spoil = func() { l.first.goBack(1) }
	}
	lossFirst := l.rnd.IntN(2) == 0
	if lossFirst {
		spoil()
		time.Sleep(l.between(0, 20*time.Millisecond))
	}
	l.kill(dead)
	if !lossFirst {
		time.Sleep(l.between(0, 20*time.Millisecond))
		spoil()
	}
	restart := l.dirs != nil && l.rnd.IntN(2) == 0
	if restart {
		kind += " restarted"
		time.Sleep(l.between(0, 20*time.Millisecond))
		l.kill(lone)
		time.Sleep(l.between(0, 2*time.Second))
		l.start(lone)
		if l.rnd.IntN(2) == 0 {
			kind += ", which hosts the service"
			_, err := l.nodes[lone].Standby(t.Context(), "svc", newTally, Policy{})
			require.NoError(t, err)
		}
	}
	time.Sleep(5 * time.Second)
	s := l.nodes[lone].service("svc")
	before := l.services()
	if s != nil && s.Status().Role == Active && !s.Status().Suspended {
		return kind + ": continued" // by the record as it went back
	}
	_, err := l.nodes[lone].Reset(t.Context(), "svc", newTally, Policy{})
	if l.dirs != nil && errors.Is(err, ErrExists) { // the old record names this host alone, so that Host comes first
		kind += ", after Host"
		require.ErrorContains(t, err, "itself holds the state")
		l.host(lone, "svc", Policy{})
		time.Sleep(5 * time.Second)
		require.Equal(t, Standby, l.nodes[lone].service("svc").Status().Role)
		_, err = l.nodes[lone].Reset(t.Context(), "svc", newTally, Policy{})
	}
	require.NoError(t, err, kind)
	s = l.nodes[lone].service("svc")
	l.role(s, Active)
	time.Sleep(10 * time.Millisecond)
	require.Equal(t, before+1, l.services())
	l.kept(0)
	c := l.dial("client", "svc", ClientConfig{})
	for i := range 10 {
		require.NoError(t, l.do(t.Context(), c, fmt.Sprintf("after-%d", i)))
	}
	l.kept(10)
	return kind
}

// restricted is a resolver that lets nobody restore a record.
type restricted struct{ *redirected }

func (r restricted) CompareAndSwap(ctx context.Context, expect uint64, next resolver.Record) (resolver.Record, error) {
	if next.Epoch >= resolver.RestoreStep {
		return resolver.Record{}, transport.Errorf(resolver.CodeRefused, "no right to reset")
	}
	return r.redirected.CompareAndSwap(ctx, expect, next)
}

// The resolver does not let a host restore a record. The host reports that once.
func TestRestoreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLossRow(t)
		defer w.close()
		view, strict := w.resolverOf, true
		w.resolverOf = func(host string) resolver.Resolver {
			if r := view(host).(*redirected); strict {
				return restricted{r}
			}
			return view(host)
		}
		w.crash("a")
		f := new(failures)
		w.hooks.Failed = f.failed
		w.node("a")
		strict = false
		a, b := w.pair(Policy{})
		w.first.lose()
		time.Sleep(time.Minute)
		errs := f.take()
		require.Len(t, errs, 2)
		require.ErrorIs(t, errs[0], resolver.ErrAmnesia)
		require.ErrorIs(t, errs[1], resolver.ErrRefused)
		require.ErrorContains(t, errs[1], "service svc: host a cannot restore the record")
		require.Equal(t, Active, a.Status().Role)
		require.Equal(t, Standby, b.Status().Role)
	})
}
