package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

var owner = Owner{ID: "host-a", Inc: 7}

// subject is a store under test and its reports.
type subject struct {
	*Store
	rec Recovered

	mu     sync.Mutex
	stable uint64
	failed error
	nocopy error
	wg     sync.WaitGroup
}

func openStore(fsys FS, grow int64) (*subject, error) {
	d, err := OpenDir(fsys, "dir", owner, "")
	if err != nil {
		return nil, err
	}
	defer d.Close() // tests open it again while a crashed one still exists
	return openIn(context.Background(), d, grow)
}

func openIn(ctx context.Context, d *Dir, grow int64) (s *subject, err error) {
	s = new(subject)
	s.Store, s.rec, err = d.Open(ctx, Options{
		Service: "svc", Grow: grow,
		Stable: func(seq uint64) { s.mu.Lock(); defer s.mu.Unlock(); s.stable = max(s.stable, seq) },
		Failed: func(err error) { s.mu.Lock(); defer s.mu.Unlock(); s.failed = err },
		NoCopy: func(err error) { s.mu.Lock(); defer s.mu.Unlock(); s.nocopy = err },
		Go:     func(f func()) bool { s.wg.Go(f); return true },
	})
	return s, err
}

func mustOpen(t *testing.T, fsys FS, grow int64) *subject {
	t.Helper()
	s, err := openStore(fsys, grow)
	require.NoError(t, err)
	return s
}

func (s *subject) told() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stable, s.failed
}

// script makes changes like a core, and tracks the expected content of the store after each.
type script struct {
	rng    *rand.Rand
	seq    uint64
	state  core.State   // after the last Save
	states []core.State // after each Save, by Seq; the first is the initial one
}

func newScript(seed uint64, from core.State) *script {
	c := &script{rng: rand.New(rand.NewPCG(seed, 1)), state: from}
	c.states = []core.State{snapshotOf(from)}
	return c
}

func snapshotOf(s core.State) core.State {
	s.Entries = slices.Clone(s.Entries)
	return s
}

func (c *script) next(t require.TestingT) core.Save {
	c.seq++
	v := core.Save{Seq: c.seq, State: core.State{Meta: c.state.Meta, Commit: c.state.Commit, Matched: c.state.Matched}}
	last := c.state.Last()
	v.Base.Index = last
	v.Copy = true
	if c.rng.IntN(8) == 0 {
		v.Term.Epoch++
		v.Matched = 0
		if n := last - c.state.Commit; n > 0 {
			v.Base.Index = last - c.rng.Uint64N(n+1)
		}
	}
	v.Base.Epoch, _ = c.state.At(v.Base.Index)
	for i := range uint64(c.rng.IntN(4)) {
		body := make([]byte, c.rng.IntN(40))
		for k := range body {
			body[k] = byte(c.rng.Uint32())
		}
		v.Entries = append(v.Entries, core.Entry{Index: v.Base.Index + i + 1, Epoch: v.Term.Epoch, Kind: core.Command, Session: 5,
			Seq: i, Time: 1_700_000_000_000, Body: body})
	}
	end := v.Base.Index + uint64(len(v.Entries))
	v.Commit = min(max(c.state.Commit, end-min(end, c.rng.Uint64N(6))), end)
	v.Matched = min(v.Matched, end)
	require.NoError(t, c.state.Apply(v))
	c.states = append(c.states, snapshotOf(c.state))
	return v
}

// same checks that a store recovered the state want, perhaps with a later Base.
func same(got, want core.State) bool {
	if got.Meta != want.Meta || got.Last() != want.Last() || got.Commit < want.Commit || got.Base.Index < want.Base.Index {
		return false
	}
	for i := got.Base.Index; i <= got.Last(); i++ {
		a, _ := got.At(i)
		b, ok := want.At(i)
		if !ok || a != b {
			return false
		}
	}
	for _, e := range got.Entries {
		if w := want.Entries[e.Index-want.Base.Index-1]; !bytes.Equal(e.Body, w.Body) || e.Kind != w.Kind {
			return false
		}
	}
	return true
}

// bytesSource is a captured state.
type bytesSource struct {
	data     []byte
	released *int
}

func (b bytesSource) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b.data)
	return int64(n), err
}
func (b bytesSource) Release() { *b.released++ }

// checkpoint takes a snapshot of the state at the last committed entry.
func (c *script) checkpoint(s *subject, released *int) {
	st := snapshotOf(c.state)
	st.Trim(st.Commit)
	s.Snapshot(st, bytesSource{fmt.Appendf(nil, "state at %d of epoch %d", st.Base.Index, st.Base.Epoch), released})
}

func checkCopy(t require.TestingT, r Recovered) {
	if r.State.Base.Index == 0 {
		require.Nil(t, r.Copy)
		return
	}
	b, err := io.ReadAll(r.Copy)
	require.NoError(t, err)
	r.Copy.Close()
	require.Equal(t, fmt.Sprintf("state at %d of epoch %d", r.State.Base.Index, r.State.Base.Epoch), string(b))
}

// A store crashes at random moments, with random parts of the unsynced data, and is opened again. It must hold all saves
// that it has reported, and any later ones in order.
func TestCrashes(t *testing.T) {
	for seed := range uint64(300) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 2))
			fsys := newMemFS()
			s := mustOpen(t, fsys, 500)
			released, taken := 0, 0
			c := newScript(seed, core.State{})
			for range 6 {
				fsys.mu.Lock()
				fsys.hold = make(chan struct{})
				hold := fsys.hold
				fsys.mu.Unlock()
				for range rng.IntN(40) {
					switch rng.IntN(12) {
					case 0:
						if s.Due() {
							c.checkpoint(s, &released)
							taken++
						}
					case 1, 2, 3:
						select {
						case hold <- struct{}{}:
						default:
						}
					case 4:
						copied, err := s.Fetch(t.Context())
						require.NoError(t, err)
						c.seq++
						i := c.state.Last() + 10
						v := core.Save{Seq: c.seq, Rebase: true, State: core.State{Meta: c.state.Meta, Commit: i,
							Base: core.Place{Index: i, Epoch: 1 + c.state.Term.Epoch}}}
						v.Term.Epoch++
						fmt.Fprintf(copied, "state at %d of epoch %d", i, v.Base.Epoch)
						if rng.IntN(4) == 0 { // the core did not want it
							copied.Discard()
							c.seq--
							break
						}
						require.NoError(t, s.Keep(copied))
						require.NoError(t, c.state.Apply(v))
						c.states = append(c.states, snapshotOf(c.state))
						s.Save(v)
					default:
						s.Save(c.next(t))
					}
					if rng.IntN(3) == 0 {
						synctest.Wait()
					}
				}
				synctest.Wait()
				stable, failed := s.told()
				require.NoError(t, failed)
				crashed := fsys.crash(func(_ string, synced, size int) int { return synced + rng.IntN(size-synced+1) })
				s.Close()
				fsys.mu.Lock()
				fsys.hold = nil
				fsys.mu.Unlock()
				close(hold)
				s.wg.Wait()
				fsys = crashed
				s = mustOpen(t, fsys, 500)
				checkCopy(t, s.rec)
				at := slices.IndexFunc(c.states[stable:], func(st core.State) bool { return same(s.rec.State, st) })
				require.GreaterOrEqual(t, at, 0, "seed %d: the store holds %+v, %d..%d, after %d of %d changes, which is %+v", seed,
					s.rec.State.Meta, s.rec.State.Base.Index, s.rec.State.Last(), stable, c.seq, c.states[stable].Meta)
				c.seq = 0
				c.state = snapshotOf(s.rec.State)
				c.states = []core.State{snapshotOf(c.state)}
			}
			s.Close()
			s.wg.Wait()
			require.Equal(t, taken, released)
		})
	}
}

// build makes a store whose content is all on the disk. It returns the content and the length of the last log before the
// last change.
func build(t *testing.T) (fsys *memFS, before, after core.State, sealed int) {
	fsys = newMemFS()
	s := mustOpen(t, fsys, 300)
	c := newScript(1, core.State{})
	released := 0
	for i := range 24 {
		s.Save(c.next(t))
		s.wg.Wait()
		if i == 12 {
			c.checkpoint(s, &released)
			s.wg.Wait()
		}
	}
	before = snapshotOf(c.state)
	name := s.logName(s.number)
	sealed = len(fsys.files[name].data)
	v := c.next(t)
	for len(v.Entries) == 0 {
		v = c.next(t)
	}
	c.state = snapshotOf(before)
	v.Seq, v.Base.Index, v.Meta, v.Rebase = 100, before.Last(), before.Meta, false
	v.Base.Epoch, _ = before.At(before.Last())
	for i := range v.Entries {
		v.Entries[i].Index = before.Last() + uint64(i) + 1
	}
	v.Commit, v.Matched = before.Commit, 0
	require.NoError(t, c.state.Apply(v))
	s.Save(v)
	s.wg.Wait()
	s.Close()
	fsys.SyncDir("dir/service-svc") // so that removals are permanent
	return fsys, before, snapshotOf(c.state), sealed
}

// However much of the last write is there, the store opens with everything before it.
func TestTornTail(t *testing.T) {
	fsys, before, after, sealed := build(t)
	names, _ := fsys.ReadDir("dir/service-svc")
	require.Equal(t, []string{"0000000000000002.log", "0000000000000002.snap"}, names)
	name := "dir/service-svc/0000000000000002.log"
	size := len(fsys.files[name].data)
	for n := sealed; n <= size; n++ {
		for _, junk := range []int{0, 1, 100} { // arbitrary bytes after it
			torn := fsys.clone()
			f := torn.files[name]
			f.data = append(f.data[:n:n], bytes.Repeat([]byte{0}, junk)...)
			s := mustOpen(t, torn, 300)
			want := before
			if n == size {
				want = after
			}
			require.True(t, same(s.rec.State, want), "%d of %d bytes, %d of junk", n, size, junk)
			checkCopy(t, s.rec)
			// It continues from there.
			s.Save(core.Save{Seq: 1, State: core.State{Meta: want.Meta, Commit: want.Commit,
				Base: core.Place{Index: want.Last(), Epoch: want.Entries[len(want.Entries)-1].Epoch}}})
			s.wg.Wait()
			s.Close()
			again := mustOpen(t, torn, 300)
			require.Zero(t, again.rec.Cut)
			require.True(t, same(again.rec.State, want))
			again.Close()
		}
	}
	// A log without a complete first frame is damaged, not torn.
	for n := range sealed {
		torn := fsys.clone()
		torn.files[name].data = torn.files[name].data[:n]
		s, err := openStore(torn, 300)
		if err == nil {
			_, err = io.ReadAll(s.rec.Copy)
			require.NoError(t, err)
			require.Less(t, s.rec.State.Last(), after.Last()+1)
			s.Close()
		} else {
			require.ErrorContains(t, err, name)
		}
	}
}

// With any bit of any file flipped, the store does not open; if it is in the last write, it opens with everything before.
func TestBitFlips(t *testing.T) {
	fsys, before, after, sealed := build(t)
	for _, name := range []string{"dir/service-svc/0000000000000002.log", "dir/service-svc/0000000000000002.snap", "dir/host"} {
		for i := range fsys.files[name].data {
			for _, bit := range []byte{1, 128} {
				flipped := fsys.clone()
				flipped.files[name].data[i] ^= bit
				s, err := openStore(flipped, 300)
				if err == nil && s.rec.Copy != nil {
					if _, cerr := io.ReadAll(s.rec.Copy); cerr != nil {
						err = cerr
					}
				}
				if strings.HasSuffix(name, ".log") && i >= sealed {
					require.NoError(t, err)
					require.True(t, same(s.rec.State, before) && !same(s.rec.State, after))
					continue
				}
				require.Error(t, err, "byte %d of %s", i, name)
				require.ErrorContains(t, err, name)
			}
		}
	}
	for _, name := range []string{"0000000000000002.log", "0000000000000002.snap"} {
		gone := fsys.clone()
		delete(gone.files, "dir/service-svc/"+name)
		_, err := openStore(gone, 300)
		require.ErrorContains(t, err, "missing", name)
	}
	gone := fsys.clone()
	delete(gone.files, "dir/host")
	_, err := openStore(gone, 300)
	require.ErrorContains(t, err, "but not the file")
}

// After an error the store reports no further saves, even if the disk recovers. The next Open finds what is there.
func TestDiskErrors(t *testing.T) {
	for _, op := range []string{"write", "sync", "rename", "syncdir", "create"} {
		for _, cause := range []error{syscall.ENOSPC, syscall.EIO, errShort} {
			if errors.Is(cause, errShort) && op != "write" {
				continue
			}
			for after := range 60 {
				fsys := newMemFS()
				s := mustOpen(t, fsys, 300)
				c := newScript(uint64(after), core.State{})
				n, released, taken := 0, 0, 0
				fsys.fail = func(what, name string) error {
					if what == op {
						if n++; n == after {
							return cause
						}
					}
					return nil
				}
				for range 30 {
					s.Save(c.next(t))
					s.wg.Wait()
					if s.Due() {
						c.checkpoint(s, &released)
						taken++
						s.wg.Wait()
					}
				}
				stable, failed := s.told()
				require.Equal(t, taken, released)
				if failed != nil {
					if !errors.Is(cause, errShort) {
						require.ErrorIs(t, failed, cause)
					}
					s.Save(c.next(t))
					s.wg.Wait()
					again, _ := s.told()
					require.Equal(t, stable, again)
				} else {
					require.Equal(t, c.seq, stable)
				}
				s.Close()
				s = mustOpen(t, fsys.crash(func(_ string, synced, _ int) int { return synced }), 300)
				checkCopy(t, s.rec)
				at := slices.IndexFunc(c.states[stable:], func(st core.State) bool { return same(s.rec.State, st) })
				require.GreaterOrEqual(t, at, 0, "%s %d fails with %v", op, after, cause)
			}
		}
	}
}

// Saves that come while the disk is busy share the next write.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newMemFS()
		s := mustOpen(t, fsys, 1<<20)
		c := newScript(1, core.State{})
		fsys.hold = make(chan struct{})
		before := fsys.syncs
		s.Save(c.next(t))
		synctest.Wait()
		for range 100 {
			s.Save(c.next(t))
		}
		synctest.Wait()
		stable, _ := s.told()
		require.Zero(t, stable)
		fsys.hold <- struct{}{}
		synctest.Wait()
		stable, _ = s.told()
		require.EqualValues(t, 1, stable)
		fsys.hold <- struct{}{}
		synctest.Wait()
		stable, _ = s.told()
		require.EqualValues(t, 101, stable)
		require.Equal(t, 2, fsys.syncs-before)
		s.Close()
	})
}

// refusingFS is a file system that refuses locks.
type refusingFS struct {
	FS
	err error
}

func (f refusingFS) Lock(name string) (io.Closer, error) {
	return nil, &os.PathError{Op: "open", Path: name, Err: f.err}
}

// A lock keeps others out until it is closed, also within a process, and the file stays.
func TestLockFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	first, err := lockFile(name)
	require.NoError(t, err)
	_, err = lockFile(name)
	require.ErrorIs(t, err, errLocked)
	require.NoError(t, first.Close())
	again, err := lockFile(name)
	require.NoError(t, err)
	require.NoError(t, again.Close())
	_, err = lockFile(filepath.Join(name, "x"))
	require.Error(t, err)
	require.NotErrorIs(t, err, errLocked)
}

func TestDirBelongsToOne(t *testing.T) {
	fsys := newMemFS()
	d, err := OpenDir(fsys, "dir", owner, "host-a")
	require.NoError(t, err)
	_, err = OpenDir(fsys, "dir", owner, "host-a")
	require.ErrorContains(t, err, "in use by another node")
	require.NoError(t, d.Close())
	d, err = OpenDir(fsys, "dir", Owner{ID: "host-b", Inc: 9}, "")
	require.NoError(t, err)
	require.Equal(t, owner, d.Owner, "it stays what it is")
	require.NoError(t, d.Close())
	_, err = OpenDir(fsys, "dir", Owner{ID: "host-b", Inc: 9}, "host-b")
	require.ErrorContains(t, err, "belongs to host host-a, not to host host-b")
	other := owner
	other.Key[0] = 1
	_, err = OpenDir(fsys, "dir", other, "")
	require.ErrorContains(t, err, "not with key")

	// A directory that cannot be written is not in use.
	for _, cause := range []error{syscall.EACCES, syscall.EROFS} {
		_, err = OpenDir(refusingFS{fsys, cause}, "dir", owner, "host-a")
		require.ErrorContains(t, err, "dir can't be written by this process")
		require.ErrorIs(t, err, cause)
		require.NotContains(t, err.Error(), "in use")
	}
	_, err = OpenDir(refusingFS{fsys, syscall.ENOLCK}, "dir", owner, "host-a")
	require.ErrorContains(t, err, "cannot lock dir: ")

	// The store of another host is refused.
	fsys, _, _, _ = build(t)
	d, err = OpenDir(fsys, "dir", owner, "")
	require.NoError(t, err)
	d.Inc = 8
	_, _, err = d.Open(t.Context(), Options{Service: "svc"})
	require.ErrorContains(t, err, "does not belong to host")
}

func TestDirLongID(t *testing.T) {
	for _, n := range []int{resolver.MaxHostID, resolver.MaxHostID + 1, 256} {
		fsys := newMemFS()
		o := Owner{ID: strings.Repeat("x", n), Inc: 1}
		for range 2 { // the second time from the disk
			d, err := OpenDir(fsys, "dir", o, o.ID)
			if n > resolver.MaxHostID {
				require.ErrorContains(t, err, "over the limit of 128")
				require.Empty(t, fsys.files)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, o, d.Owner)
			require.NoError(t, d.Close())
		}
	}
}

func TestEscape(t *testing.T) {
	require.Equal(t, "service-chat.example-1", escape("chat.example-1"))
	require.Equal(t, "service-%41%2f..%2fb", escape("A/../b"))
	long, other := strings.Repeat("ä", 126), strings.Repeat("ä", 125)+"Ä"
	require.Less(t, len(escape(long)), 250)
	require.NotEqual(t, escape(long), escape(other))
}

// A removed store that still discards a fetched copy does not disturb its successor.
func TestRemovedStoreLetsGoOfItsCopies(t *testing.T) {
	for name, end := range map[string]func(*Store, *Copy) error{
		"discarded": func(_ *Store, c *Copy) error { c.Discard(); return nil },
		"kept":      func(s *Store, c *Copy) error { return s.Keep(c) },
	} {
		t.Run(name, func(t *testing.T) {
			fsys := newMemFS()
			old := mustOpen(t, fsys, 0)
			late, err := old.Fetch(t.Context())
			require.NoError(t, err)
			old.Close()
			require.NoError(t, old.Remove())
			s := mustOpen(t, fsys, 0)
			c, err := s.Fetch(t.Context())
			require.NoError(t, err)
			_, err = io.WriteString(c, "state at 5 of epoch 1")
			require.NoError(t, err)
			require.NoError(t, end(old.Store, late))
			require.NoError(t, s.Keep(c))
			s.Save(core.Save{Seq: 1, Rebase: true, State: core.State{Meta: core.Meta{Term: core.Term{Epoch: 1}, Copy: true},
				Commit: 5, Base: core.Place{Index: 5, Epoch: 1}}})
			s.wg.Wait()
			_, err = s.told()
			require.NoError(t, err)
			s.Close()
			s = mustOpen(t, fsys, 0)
			checkCopy(t, s.rec)
			s.Close()
		})
	}
}

// A full disk, on systems where the test can make one.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := mountTmpfs(dir, "size=256k"); err != nil {
		t.Skip(err)
	}
	defer unmount(dir)
	d, err := OpenDir(OS{}, filepath.Join(dir, "node"), owner, "")
	require.NoError(t, err)
	defer d.Close()
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		stable uint64
		failed error
	)
	o := Options{
		Service: "svc",
		Stable:  func(seq uint64) { mu.Lock(); defer mu.Unlock(); stable = max(stable, seq) },
		Failed:  func(err error) { mu.Lock(); defer mu.Unlock(); failed = err },
		Go:      func(f func()) bool { wg.Go(f); return true },
	}
	s, _, err := d.Open(t.Context(), o)
	require.NoError(t, err)
	var states []uint64
	last := uint64(0)
	for seq := uint64(1); seq < 100; seq++ {
		e := core.Entry{Index: last + 1, Epoch: 1, Kind: core.Command, Body: make([]byte, 10_000)}
		epoch := uint64(1)
		if last == 0 {
			epoch = 0
		}
		s.Save(core.Save{Seq: seq, State: core.State{Meta: core.Meta{Term: core.Term{Epoch: 1}, Copy: true},
			Base: core.Place{Index: last, Epoch: epoch}, Entries: []core.Entry{e}}})
		wg.Wait()
		last++
		states = append(states, last)
	}
	require.ErrorIs(t, failed, syscall.ENOSPC)
	require.Less(t, stable, uint64(30))
	s.Close()
	// With room again it opens, and holds what it has reported.
	require.NoError(t, mountTmpfs(dir, "remount,size=2m"))
	_, rec, err := d.Open(t.Context(), o)
	require.NoError(t, err)
	require.GreaterOrEqual(t, rec.State.Last(), states[stable-1])
}

func FuzzLog(f *testing.F) {
	t := new(testing.T)
	fsys, _, _, sealed := build(t)
	data := fsys.files["dir/service-svc/0000000000000002.log"].data
	f.Add(data)
	f.Add(data[:sealed])
	f.Add(data[:len(logMagic)+saltSize+frameHead])
	f.Add([]byte(logMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		var st core.State
		read := func(b []byte) (int, error) {
			st = core.State{}
			_, good, err := readLog(b, func(h header) error { return st.Apply(core.Save{Rebase: true, State: h.state}) },
				func(v core.State) error { return st.Apply(core.Save{State: v}) })
			return good, err
		}
		good, err := read(data)
		if good > len(data) {
			t.Fatalf("%d of %d bytes are good", good, len(data))
		}
		if err != nil {
			return
		}
		// The valid part can be read on its own.
		first := st
		if again, err := read(data[:good]); err != nil || again != good || !same(st, first) {
			t.Fatalf("%d bytes, then %d, %v", good, again, err)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add(appendState(nil, &core.State{}))
	f.Add(appendState(nil, &core.State{
		Meta:   core.Meta{Term: core.Term{Loss: 1, Epoch: 5}, Copy: true, Counted: true, Invitation: 3, Gen: 9},
		Commit: 7, Matched: 8,
		Base: core.Place{Index: 7, Epoch: 4}, Entries: []core.Entry{{Index: 8, Epoch: 5, Kind: core.Command, Body: []byte("x")}},
	}))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, rest, err := readState(data)
		if err != nil {
			return
		}
		again, _, err := readState(append(appendState(nil, &s), rest...))
		if err != nil || again.Meta != s.Meta || again.Base != s.Base || len(again.Entries) != len(s.Entries) {
			t.Fatalf("%+v, then %+v, %v", s, again, err)
		}
	})
}
