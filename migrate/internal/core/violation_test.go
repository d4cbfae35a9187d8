package core

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A broken invariant stops the core: it returns nothing of what it had decided, and does nothing any more.
func TestViolationStops(t *testing.T) {
	for name, broken := range map[string]func(c *Core, now time.Duration){
		"Step":    func(c *Core, now time.Duration) { c.Step(now, Persisted{Seq: 7}) },
		"Propose": func(c *Core, now time.Duration) { c.Propose(now-1, Entry{Kind: Command}) },
		"Tail": func(c *Core, _ time.Duration) {
			c.Ready()
			c.Applied(time.Second, 1)
			c.log.trim(1)
			require.Empty(t, c.Tail(1))
			require.NoError(t, c.Err())
			require.Nil(t, c.Tail(0), "entry 1 is no longer there")
		},
		"Ready": func(c *Core, _ time.Duration) {
			c.active.peers = []*peer{{host: storedB, stage: streaming, sendDue: true, next: 99}}
			require.Zero(t, c.Ready())
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(storedA, Config{Name: "svc"})
			now := time.Second
			c.Step(now, Create{})
			rec := c.Ready().CAS.Next
			rec.Version = 1
			c.Step(now, CASDone{Nonce: rec.Nonce, Record: rec, Outcome: CASOK})
			require.Equal(t, Serving, c.Role())
			c.Step(now, CheckRecord{}) // Ready would return Get
			require.NoError(t, c.Err())
			broken(c, now)
			err := c.Err()
			require.ErrorAs(t, err, new(Violation))
			require.Zero(t, c.Ready())
			require.Zero(t, c.Deadline())
			last := c.Last()
			c.Step(now, Read{ID: 1})
			_, ok := c.Propose(now, Entry{Kind: Command})
			require.False(t, ok)
			require.Equal(t, last, c.Last())
			require.Zero(t, c.Ready())
			require.Equal(t, err, c.Err())
		})
	}
}

// A panic that is no broken invariant passes through.
func TestOtherPanicPasses(t *testing.T) {
	c := New(storedA, Config{Name: "svc"})
	c.active.peers = []*peer{nil}
	require.Panics(t, func() { c.Step(0, PeerReset{Host: storedB}) })
	require.NoError(t, c.Err())
}
