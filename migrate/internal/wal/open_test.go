package wal

import (
	"context"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
)

// stallFS delays the creation of files with certain names.
type stallFS struct {
	*memFS
	suffix string
	stall  chan struct{}
}

func (f stallFS) Create(name string) (File, error) {
	if strings.HasSuffix(name, f.suffix) {
		<-f.stall
	}
	return f.memFS.Create(name)
}

// A closed store has a write or a snapshot in progress on a slow disk. The store must not open again before that has ended,
// or the old data would replace data acknowledged since.
func TestOpenWaitsForTheStoreBefore(t *testing.T) {
	begin := core.Save{Seq: 1, Rebase: true, State: core.State{Meta: core.Meta{Copy: true, Term: core.Term{Epoch: 1}}}}
	for suffix, work := range map[string]func(*subject){
		"0002.log.tmp": func(s *subject) { s.Save(begin) },
		".tmp":         func(s *subject) { s.Snapshot(core.State{}, bytesSource{[]byte("state"), new(int)}) },
	} {
		t.Run(suffix, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fsys := stallFS{memFS: newMemFS(), suffix: "none"}
				d, err := OpenDir(fsys, "dir", owner, "")
				require.NoError(t, err)
				defer d.Close()
				old, err := openIn(t.Context(), d, 0)
				require.NoError(t, err)
				stall := make(chan struct{})
				old.fs = stallFS{memFS: fsys.memFS, suffix: suffix, stall: stall}
				work(old)
				synctest.Wait()
				old.Close()

				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err = openIn(ctx, d, 0)
				require.ErrorContains(t, err, "dir/service-svc is still in use")
				require.Equal(t, time.Second, time.Since(began))

				time.AfterFunc(time.Minute, func() { close(stall) })
				s, err := openIn(t.Context(), d, 0)
				require.NoError(t, err)
				require.Equal(t, time.Second+time.Minute, time.Since(began))
				s.Save(begin)
				e := core.Entry{Kind: core.Command, Index: 1, Epoch: 1, Session: 1, Seq: 1, Body: []byte("acknowledged")}
				s.Save(core.Save{Seq: 2, State: core.State{Meta: begin.Meta, Entries: []core.Entry{e}}})
				synctest.Wait()
				stable, _ := s.told()
				require.EqualValues(t, 2, stable)
				s.Close()
				s, err = openIn(t.Context(), d, 0)
				require.NoError(t, err)
				require.Len(t, s.rec.State.Entries, 1)
				s.Close()
				require.Empty(t, d.stores)
			})
		})
	}
}

// If an operation fails during Open, no file stays open, and the store opens once nothing fails.
func TestOpenFailsWithoutLeftovers(t *testing.T) {
	built, _, _, _ := build(t)
	for name, from := range map[string]*memFS{"new": newMemFS(), "built": built} {
		for at := 1; ; at++ {
			fsys := from.clone()
			d, err := OpenDir(fsys, "dir", owner, "")
			require.NoError(t, err)
			n := 0
			fsys.fail = func(string, string) error {
				if n++; n == at {
					return syscall.EIO
				}
				return nil
			}
			s, err := openIn(t.Context(), d, 0)
			if err == nil {
				s.Close()
				require.Greater(t, at, 5, name)
				break
			}
			require.ErrorIs(t, err, syscall.EIO)
			require.Zero(t, fsys.handles, "%s, failure %d", name, at)
			s, err = openIn(t.Context(), d, 0)
			require.NoError(t, err)
			require.Equal(t, 1, fsys.handles)
			s.Close()
			require.Zero(t, fsys.handles)
		}
	}
}

// The node and the store close during a request for a goroutine. Wait must return although the goroutine never runs.
func TestWaitWithoutGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, newMemFS(), 0)
		var waiting sync.WaitGroup
		asked, released := 0, 0
		s.o.Go = func(func()) bool {
			if asked++; asked == 2 {
				s.Close()
				waiting.Go(s.Wait)
				synctest.Wait()
			}
			return false
		}
		s.Snapshot(core.State{}, bytesSource{nil, &released})
		waiting.Wait()
		require.Equal(t, 2, asked)
		require.Equal(t, 1, released)
		s.Snapshot(core.State{}, bytesSource{nil, &released})
		require.Equal(t, 2, released)
	})
}
