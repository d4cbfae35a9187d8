package migrate

import (
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const hoardSize = 64 << 20

// hoard is a service that holds much, and says when it is garbage.
type hoard struct{ data []byte }

func (h *hoard) Apply(cmd Command) ([]byte, error) {
	h.data = make([]byte, hoardSize)
	return nil, nil
}
func (h *hoard) Snapshot() (Snapshot, error) { return bytesSnapshot(h.data), nil }
func (h *hoard) Restore(r io.Reader) error {
	var err error
	h.data, err = io.ReadAll(r)
	return err
}

// A host that has no part in a service any more holds nothing of its state.
func TestStateReleased(t *testing.T) {
	for _, tc := range []struct {
		name   string
		copies int
		hosts  []string
	}{{"one", 1, []string{"a", "b"}}, {"trimmed", 2, []string{"a", "b", "c"}}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tc.hosts...)
				defer w.close()
				var made, freed atomic.Int32
				fresh := func() Migratable {
					h := new(hoard)
					made.Add(1)
					runtime.AddCleanup(h, func(*atomic.Int32) { freed.Add(1) }, &made)
					return h
				}
				p := Policy{Copies: tc.copies}
				for _, name := range tc.hosts {
					_, err := w.nodes[name].Host(t.Context(), "svc", fresh, p)
					require.NoError(t, err)
				}
				w.inSync(w.active("svc"), tc.copies)
				c := w.dial("client", "svc", ClientConfig{})
				_, err := c.Do(t.Context(), nil)
				require.NoError(t, err)
				for _, to := range tc.hosts[1:] {
					if _, err := w.active("svc").Handoff(t.Context(), to); err != nil {
						require.ErrorIs(t, err, ErrNoTarget) // it is there already
					}
					time.Sleep(10 * time.Second) // a removed host keeps its copy for a moment
				}
				heap := func() uint64 {
					var m runtime.MemStats
					runtime.GC()
					runtime.ReadMemStats(&m)
					return m.HeapAlloc
				}
				for range 100 {
					if heap(); made.Load()-freed.Load() <= int32(tc.copies) {
						break
					}
					synctest.Wait()
					time.Sleep(time.Second)
				}
				require.Equal(t, int32(tc.copies), made.Load()-freed.Load(), "of %d instances", made.Load())
				require.Less(t, heap(), uint64(tc.copies)*hoardSize+hoardSize/2)
			})
		})
	}
}
