package outside_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
)

// counter counts its commands. Its snapshot takes several chunks.
type counter struct{ n uint64 }

func newCounter() migrate.Migratable { return new(counter) }

func (c *counter) Apply(cmd migrate.Command) ([]byte, error) {
	c.n++
	cmd.Emit(cmd.Body)
	return fmt.Append(nil, c.n), nil
}

func (c *counter) Snapshot() (migrate.Snapshot, error) { return snapshot(c.n), nil }

func (c *counter) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err == nil && len(b) != snapshotSize {
		err = fmt.Errorf("a snapshot of %d bytes", len(b))
	}
	if err == nil {
		c.n = binary.BigEndian.Uint64(b)
	}
	return err
}

const snapshotSize = 5 << 20

type snapshot uint64

func (s snapshot) WriteTo(w io.Writer) (int64, error) {
	b := make([]byte, snapshotSize)
	binary.BigEndian.PutUint64(b, uint64(s))
	return io.Copy(w, bytes.NewReader(b))
}

func (snapshot) Release() {}

// A service moves, and its clients go with it, over a transport and a resolver that this module does not know.
func TestService(t *testing.T) {
	res := newResolver()
	node := func(id string) *migrate.Node {
		n, err := migrate.NewNode(migrate.NodeConfig{
			Resolver: res, Transport: newTransport(t), ID: id, Listen: "127.0.0.1:0",
			FailureTimeout: 5 * time.Second, // the machine may be busy
		})
		require.NoError(t, err)
		t.Cleanup(func() { n.Close() })
		return n
	}
	a, b := node("a"), node("b")
	onA, err := a.Host(t.Context(), "count", newCounter, migrate.Policy{})
	require.NoError(t, err)
	onB, err := b.Standby(t.Context(), "count", newCounter, migrate.Policy{})
	require.NoError(t, err)

	require.Eventually(t, func() bool {
		hosts, err := res.Hosts(t.Context(), "count")
		return err == nil && len(hosts) == 2
	}, 10*time.Second, time.Millisecond, "both hosts are present")

	c, err := migrate.Dial(t.Context(), "count", migrate.ClientConfig{Resolver: res, Transport: newTransport(t)})
	require.NoError(t, err)
	defer c.Close()
	events := make(chan int)
	go func() {
		defer close(events)
		n := 0
		for ev, err := range c.Events(t.Context(), 1) {
			if err != nil || ev.Gap > 0 {
				return
			}
			if n++; n == 30 {
				events <- n
				return
			}
		}
	}()
	count := 0
	do := func() {
		for range 10 {
			count++
			reply, err := c.Do(t.Context(), []byte("count"))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(count), string(reply))
		}
	}
	do()
	report, err := onA.Handoff(t.Context(), "b")
	require.NoError(t, err)
	require.Equal(t, "b", report.To.ID)
	do()
	require.Equal(t, "b", c.Where().ID)
	_, err = onB.Handoff(t.Context(), "a")
	require.NoError(t, err)
	do()
	require.Equal(t, "a", c.Where().ID)
	require.Equal(t, 30, <-events)
}
