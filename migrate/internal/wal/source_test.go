package wal

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
)

// ownSource writes n bytes; end maps the error of that to its result.
type ownSource struct {
	n        int
	end      func(error) error
	released *int
}

func (o ownSource) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(make([]byte, o.n))
	return int64(n), o.end(err)
}
func (o ownSource) Release() { *o.released++ }

func tempsOf(t *testing.T, fsys *memFS) (temps []string) {
	names, err := fsys.ReadDir("dir/service-svc")
	require.NoError(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, ".tmp") {
			temps = append(temps, name)
		}
	}
	return temps
}

// A service cannot write its state. Its store continues with a longer log and tries again when that has grown.
func TestSourceFails(t *testing.T) {
	own := errors.New("the service's own")
	for _, size := range []int{0, 1 << 20} { // within the buffer, and beyond it
		fsys := newMemFS()
		s := mustOpen(t, fsys, 300)
		c := newScript(1, core.State{})
		tried, released := 0, 0
		for range 100 {
			s.Save(c.next(t))
			s.wg.Wait()
			if !s.Due() {
				continue
			}
			if tried++; tried == 4 {
				c.checkpoint(s, &released)
			} else {
				st := snapshotOf(c.state)
				st.Trim(st.Commit)
				s.Snapshot(st, ownSource{size, func(err error) error { require.NoError(t, err); return own }, &released})
			}
			s.wg.Wait()
			require.False(t, s.Due())
			require.Equal(t, tried, released)
			require.Empty(t, tempsOf(t, fsys))
			require.Equal(t, 1, fsys.handles)
			if tried != 4 {
				require.ErrorIs(t, s.nocopy, own)
			}
		}
		require.Greater(t, tried, 6)
		require.Less(t, tried, 30)
		stable, failed := s.told()
		require.NoError(t, failed)
		require.EqualValues(t, 100, stable)
		names, err := fsys.ReadDir("dir/service-svc")
		require.NoError(t, err)
		require.Contains(t, names, "0000000000000005.snap")
		require.NotContains(t, names, "0000000000000004.log")
		s.Close()
		s = mustOpen(t, fsys, 300)
		require.True(t, same(s.rec.State, c.state))
		require.NotZero(t, s.rec.State.Base.Index)
		checkCopy(t, s.rec)
		s.Close()
	}
}

// The disk fails while a service writes its state. That is an error of the disk, whatever error the service returns.
func TestDiskFailsUnderSource(t *testing.T) {
	for name, end := range map[string]func(error) error{
		"returned":   func(err error) error { return err },
		"replaced":   func(err error) error { require.Error(t, err); return errors.New("something went wrong") },
		"overlooked": func(error) error { return nil },
	} {
		fsys := newMemFS()
		s := mustOpen(t, fsys, 0)
		fsys.fail = func(op, name string) error {
			if op == "write" && strings.Contains(name, "copy-") {
				return syscall.EIO
			}
			return nil
		}
		released := 0
		s.Snapshot(core.State{}, ownSource{1 << 20, end, &released})
		s.wg.Wait()
		_, failed := s.told()
		require.ErrorIs(t, failed, syscall.EIO, name)
		require.NoError(t, s.nocopy, name)
		require.Equal(t, 1, released)
		require.Empty(t, tempsOf(t, fsys))
		s.Close()
		require.Zero(t, fsys.handles)
	}
}

// After a failed capture the next one waits until the log has grown by the same amount again.
func TestLater(t *testing.T) {
	s := mustOpen(t, newMemFS(), 300)
	c := newScript(1, core.State{})
	var at []uint64
	for range 100 {
		s.Save(c.next(t))
		s.wg.Wait()
		if s.Due() {
			at = append(at, c.seq)
			s.Postpone()
			require.False(t, s.Due())
		}
	}
	require.Greater(t, len(at), 6)
	require.Less(t, len(at), 30, "at %d", at)
	s.Close()
}
