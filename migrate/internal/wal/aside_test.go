package wal

import (
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
