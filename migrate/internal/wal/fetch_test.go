package wal

import (
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
)

// A cancelled fetch is slow to reach the disk. Its copy must not replace the later one, which the log continues from.
func TestCopyOfEarlierFetch(t *testing.T) {
	for name, order := range map[string][]int{"kept after the later": {1, 0}, "kept before the later": {0, 1}} {
		t.Run(name, func(t *testing.T) {
			fsys := newMemFS()
			s := mustOpen(t, fsys, 0)
			ctx, cancel := context.WithCancel(t.Context())
			var copies []*Copy
			for _, content := range []string{"state at 10 of epoch 1", "state at 20 of epoch 1"} {
				c, err := s.Fetch(ctx)
				require.NoError(t, err)
				_, err = io.WriteString(c, content)
				require.NoError(t, err)
				copies = append(copies, c)
			}
			for _, i := range order {
				if err := s.Keep(copies[i]); i == 0 {
					require.ErrorContains(t, err, "a later copy has begun")
				} else {
					require.NoError(t, err)
				}
			}
			cancel()
			_, err := s.Fetch(ctx)
			require.ErrorIs(t, err, context.Canceled, "it would be the latest")
			require.Len(t, tempsOf(t, fsys), 1)
			require.Equal(t, 1, fsys.handles)
			s.Save(core.Save{Seq: 1, Rebase: true, State: core.State{Meta: core.Meta{Term: core.Term{Epoch: 1}, Copy: true},
				Commit: 20, Base: core.Place{Index: 20, Epoch: 1}}})
			s.wg.Wait()
			s.Close()
			s = mustOpen(t, fsys, 0)
			checkCopy(t, s.rec)
			s.Close()
		})
	}
}
