package migrate

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// unwilling is a service that fails to capture its state, or to write it, as long as it is told to.
type unwilling struct {
	tally
	capture, write atomic.Bool
	tried          atomic.Int32
}

var errUnwilling = errors.New("not now")

func (u *unwilling) Snapshot() (Snapshot, error) {
	u.tried.Add(1)
	if u.capture.Load() {
		return nil, errUnwilling
	}
	s, err := u.tally.Snapshot()
	return unwillingSnapshot{s, u.write.Load()}, err
}

type unwillingSnapshot struct {
	Snapshot
	fails bool
}

func (s unwillingSnapshot) WriteTo(w io.Writer) (int64, error) {
	if s.fails {
		return 0, errUnwilling
	}
	return s.Snapshot.WriteTo(w)
}

// A service that does not give away its state keeps its log: it goes on, says so whenever the log has grown by as much
// again, and nothing is lost.
func TestDurableSnapshotFails(t *testing.T) {
	for name, fail := range map[string]func(*unwilling) *atomic.Bool{
		"Snapshot": func(u *unwilling) *atomic.Bool { return &u.capture },
		"WriteTo":  func(u *unwilling) *atomic.Bool { return &u.write },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			d := newDurable(t)
			d.edit = func(c *NodeConfig) { c.grow = 4 << 10 }
			n := d.start("a")
			u := new(unwilling)
			fail(u).Store(true)
			s, err := n.Host(ctx, "svc", func() Migratable { return u }, Policy{Copies: 1})
			require.NoError(t, err)
			c, done := d.client(), 0
			more := func(n int) {
				for range n {
					done++
					reply, err := c.Do(ctx, make([]byte, 1000))
					require.NoError(t, err)
					require.Equal(t, strconv.Itoa(done), string(reply))
				}
			}
			files := func(pattern string) []string {
				names, err := filepath.Glob(filepath.Join(d.dirs["a"], "service-svc", pattern))
				require.NoError(t, err)
				return names
			}
			more(40)
			tried := u.tried.Load()
			require.Greater(t, tried, int32(2))
			require.Less(t, tried, int32(14), "every four commands or so")
			err = <-d.fail
			require.ErrorIs(t, err, errUnwilling)
			require.ErrorContains(t, err, "migrate: service svc: no snapshot for the disk of host a: ")
			require.Equal(t, Active, s.Status().Role)
			require.Empty(t, files("*.snap"))

			n.Close()
			require.Empty(t, files("copy-*"))
			n = d.start("a")
			_, err = n.Host(ctx, "svc", newTally, Policy{Copies: 1})
			require.NoError(t, err)
			more(1)
			for len(files("*.snap")) == 0 {
				more(1)
			}
		})
	}
}
