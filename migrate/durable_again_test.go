package migrate

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wal"
)

// stallFS is the operating system's, and makes no file of some name until it may.
type stallFS struct {
	wal.OS
	suffix string
	stall  chan struct{}
}

func (f stallFS) Create(name string) (wal.File, error) {
	if strings.HasSuffix(name, f.suffix) {
		<-f.stall
	}
	return f.OS.Create(name)
}

// Host gives up while the disk is slow, the service halts, and Host is called again: what is still being written for the
// first call does no harm to what is acknowledged in the second, which waits for it, though not for ever.
func TestDurableHostAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		f := stallFS{suffix: "0002.log.tmp", stall: make(chan struct{})}
		dir := t.TempDir()
		start := func() {
			n, err := NewNode(NodeConfig{
				Resolver: w.res, Transport: w.transport("a"), ID: "a", Listen: "a:1", Logger: w.log, Dir: dir, fs: f,
			})
			require.NoError(t, err)
			w.nodes["a"] = n
		}
		host := func() (*Service, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			return w.nodes["a"].Host(ctx, "svc", newTally, Policy{Copies: 1})
		}
		start()
		_, err := host()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = host()
		require.ErrorContains(t, err, "given up")
		first := w.nodes["a"].service("svc")
		first.post(item{kind: itemFunc, fn: func() { panic("an invariant") }})
		time.Sleep(time.Second)
		require.Empty(t, w.nodes["a"].Services())

		began := time.Now()
		_, err = host()
		require.ErrorIs(t, err, ErrStore)
		require.ErrorContains(t, err, "service-svc is still in use")
		require.Equal(t, storeWait, time.Since(began))
		require.Empty(t, w.nodes["a"].Services())

		time.AfterFunc(storeWait/2, func() { close(f.stall) })
		_, err = host()
		require.NoError(t, err)
		c := w.dial("client", "svc", ClientConfig{})
		reply, err := c.Do(t.Context(), []byte("acknowledged"))
		require.NoError(t, err)
		require.Equal(t, "1", string(reply))

		w.nodes["a"].Close()
		start()
		_, err = host()
		require.NoError(t, err)
		reply, err = c.Query(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, "1", string(reply))
	})
}
