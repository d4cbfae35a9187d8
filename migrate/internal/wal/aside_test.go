package wal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
)

// Content that another copy has superseded is moved to a directory of its own, from which it opens again.
func TestAside(t *testing.T) {
	path := t.TempDir()
	d, err := OpenDir(OS{}, path, owner, "")
	require.NoError(t, err)
	stable := make(chan uint64, 8)
	opt := Options{
		Service: "svc", Stable: func(seq uint64) { stable <- seq }, Failed: func(err error) { t.Error(err) },
		Go: func(f func()) bool { go f(); return true },
	}
	s, _, err := d.Open(t.Context(), opt)
	require.NoError(t, err)
	save := func(v core.Save) {
		s.Save(v)
		for <-stable < v.Seq {
		}
	}
	held := core.State{
		Meta: core.Meta{Term: core.Term{Epoch: 1}, Copy: true, Record: "r1"}, Commit: 1,
		Entries: []core.Entry{{Index: 1, Epoch: 1, Kind: core.Command, Session: 1, Seq: 1, Body: []byte("x")}},
	}
	save(core.Save{Seq: 1, Rebase: true, State: held})
	save(core.Save{Seq: 2, Rebase: true, Aside: true, State: core.State{Meta: core.Meta{Term: core.Term{Epoch: 2055}, Record: "r2"}}})
	s.Close()
	s.Wait()

	kept, err := filepath.Glob(s.Aside())
	require.NoError(t, err)
	require.Len(t, kept, 1)
	s, rec, err := d.Open(t.Context(), opt)
	require.NoError(t, err)
	require.False(t, rec.State.Copy)
	require.Equal(t, "r2", rec.State.Record)
	s.Close()
	s.Wait()

	dir := d.Service("svc")
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.Rename(kept[0], dir))
	s, rec, err = d.Open(t.Context(), opt)
	require.NoError(t, err)
	require.Equal(t, held, rec.State)
	s.Close()
	s.Wait()
	require.NoError(t, d.Close())
}

// Content that is put aside does not mix with what was put aside before the host left the service and came back: the logs
// then have the same numbers again.
func TestAsideTwice(t *testing.T) {
	path := t.TempDir()
	d, err := OpenDir(OS{}, path, owner, "")
	require.NoError(t, err)
	var s *Store
	for _, body := range []string{"x", "y"} {
		stable := make(chan uint64, 8)
		s, _, err = d.Open(t.Context(), Options{
			Service: "svc", Stable: func(seq uint64) { stable <- seq }, Failed: func(err error) { t.Error(err) },
			Go: func(f func()) bool { go f(); return true },
		})
		require.NoError(t, err)
		save := func(v core.Save) {
			s.Save(v)
			for <-stable < v.Seq {
			}
		}
		save(core.Save{Seq: 1, Rebase: true, State: core.State{
			Meta: core.Meta{Term: core.Term{Epoch: 1}, Copy: true, Record: "r1"}, Commit: 1,
			Entries: []core.Entry{{Index: 1, Epoch: 1, Kind: core.Command, Session: 1, Seq: 1, Body: []byte(body)}},
		}})
		save(core.Save{Seq: 2, Rebase: true, Aside: true, State: core.State{Meta: core.Meta{Term: core.Term{Epoch: 2055}, Record: "r2"}}})
		s.Close()
		require.NoError(t, s.Remove())
	}
	kept, err := filepath.Glob(s.Aside())
	require.NoError(t, err)
	require.Len(t, kept, 2)
	require.NoError(t, d.Close())
}

// dying is the file system of a process that is killed after some changes of it.
type dying struct {
	OS
	left int
}

var errKilled = errors.New("killed")

func (d *dying) change(f func() error) error {
	if d.left--; d.left < 0 {
		return errKilled
	}
	return f()
}

func (d *dying) MkdirAll(dir string) error {
	return d.change(func() error { return d.OS.MkdirAll(dir) })
}
func (d *dying) Rename(from, to string) error {
	return d.change(func() error { return d.OS.Rename(from, to) })
}
func (d *dying) Remove(name string) error { return d.change(func() error { return d.OS.Remove(name) }) }
func (d *dying) SyncDir(dir string) error { return d.change(func() error { return d.OS.SyncDir(dir) }) }
func (d *dying) Create(name string) (f File, err error) {
	err = d.change(func() error { f, err = d.OS.Create(name); return err })
	return f, err
}

func (d *dying) Append(name string) (f File, err error) {
	err = d.change(func() error { f, err = d.OS.Append(name); return err })
	return f, err
}

// A host that is killed while it puts content aside still has it after the next start: in its place, or aside.
func TestAsideWhileKilled(t *testing.T) {
	held := core.State{
		Meta: core.Meta{Term: core.Term{Epoch: 1}, Copy: true, Record: "r1"}, Commit: 1,
		Entries: []core.Entry{{Index: 1, Epoch: 1, Kind: core.Command, Session: 1, Seq: 1, Body: []byte("x")}},
	}
	options := func(stable chan<- error) Options {
		return Options{
			Service: "svc", Stable: func(uint64) { stable <- nil }, Failed: func(err error) { stable <- err },
			Go: func(f func()) bool { go f(); return true },
		}
	}
	inPlace, aside := 0, 0
	for changes, done := 0, false; !done; changes++ {
		path := t.TempDir()
		stable := make(chan error, 8)
		fsys := &dying{left: 1 << 30}
		d, err := OpenDir(fsys, path, owner, "")
		require.NoError(t, err)
		s, _, err := d.Open(t.Context(), options(stable))
		require.NoError(t, err)
		s.Save(core.Save{Seq: 1, Rebase: true, State: held})
		require.NoError(t, <-stable)
		fsys.left = changes
		s.Save(core.Save{Seq: 2, Rebase: true, Aside: true, State: core.State{Meta: core.Meta{Term: core.Term{Epoch: 2055}, Record: "r2"}}})
		done = <-stable == nil
		fsys.left = 1 << 30
		s.Close()
		s.Wait()
		require.NoError(t, d.Close())

		d, err = OpenDir(OS{}, path, owner, "")
		require.NoError(t, err)
		s, rec, err := d.Open(t.Context(), options(stable))
		require.NoError(t, err, "%d changes", changes)
		s.Close()
		s.Wait()
		if rec.State.Record == "r1" {
			require.Equal(t, held, rec.State, "%d changes", changes)
			inPlace++
			require.NoError(t, d.Close())
			continue
		}
		require.Equal(t, "r2", rec.State.Record)
		kept, err := filepath.Glob(s.Aside())
		require.NoError(t, err)
		require.Len(t, kept, 1, "%d changes", changes)
		require.NoError(t, os.RemoveAll(d.Service("svc")))
		require.NoError(t, os.Rename(kept[0], d.Service("svc")))
		s, rec, err = d.Open(t.Context(), options(stable))
		require.NoError(t, err, "%d changes", changes)
		require.Equal(t, held, rec.State, "%d changes", changes)
		s.Close()
		s.Wait()
		aside++
		require.NoError(t, d.Close())
	}
	require.Greater(t, inPlace, 1)
	require.Greater(t, aside, 1)
}
