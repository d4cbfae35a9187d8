package serve

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// notices is a connection that records the methods of its notices and fails after a number of them.
type notices struct {
	transport.Conn
	methods []string
	max     int
}

func (n *notices) Notify(method string, _ []byte) error {
	n.methods = append(n.methods, method)
	if len(n.methods) == n.max {
		return errors.New("broken")
	}
	return nil
}

func TestIntakeLimits(t *testing.T) {
	t.Run("calls", func(t *testing.T) {
		var c Conn
		for range MaxCalls {
			require.True(t, c.TryEnter(1))
		}
		require.False(t, c.TryEnter(1))
		c.Leave(1)
		require.True(t, c.TryEnter(1))
		calls, bytes := c.InFlight()
		require.Equal(t, MaxCalls, calls)
		require.Equal(t, MaxCalls, bytes)
	})
	t.Run("bytes", func(t *testing.T) {
		var c Conn
		require.True(t, c.TryEnter(MaxBytes+1), "a message over the limit enters alone")
		require.False(t, c.TryEnter(0))
		c.Leave(MaxBytes + 1)
		require.True(t, c.TryEnter(MaxBytes-1))
		require.False(t, c.TryEnter(2))
		require.True(t, c.TryEnter(1))
	})
	t.Run("known host", func(t *testing.T) {
		var c Conn
		c.SetKnown()
		for range knownFactor * MaxCalls {
			require.True(t, c.TryEnter(1))
		}
		require.False(t, c.TryEnter(1))
	})
	t.Run("closed", func(t *testing.T) {
		var c Conn
		c.Ended()
		for range 2 * MaxCalls {
			require.True(t, c.TryEnter(MaxBytes))
		}
	})
}

// A reading goroutine waits for room, and informs the peer every second that it does.
func TestEnterWaits(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(c *Conn)
		max  int // notices until one fails
		want time.Duration
	}{
		{"an answer makes room", func(c *Conn) { c.Leave(MaxBytes) }, 0, 3500 * time.Millisecond},
		{"the connection ends", (*Conn).Ended, 0, 3500 * time.Millisecond},
		{"the peer can't be informed", func(*Conn) {}, 2, 2 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &notices{max: tc.max}
				c := &Conn{Conn: n}
				c.Enter(MaxBytes)
				began := time.Now()
				time.AfterFunc(3500*time.Millisecond, func() {
					if tc.max == 0 {
						require.True(t, c.blocked.Load())
					}
					tc.end(c)
				})
				c.Enter(1)
				require.Equal(t, tc.want, time.Since(began))
				require.False(t, c.blocked.Load())
				require.Len(t, n.methods, int(tc.want/time.Second))
				require.Equal(t, wire.MethodHeld, n.methods[0])
				time.Sleep(5 * time.Second)
			})
		})
	}
}

// A request is in flight until its first answer; later ones are dropped.
func TestReplyOnce(t *testing.T) {
	var c Conn
	var answers []string
	r := NewRequest(&c, transport.NewRequest(wire.MethodQuery, make([]byte, 10), func(b []byte, _ error) {
		answers = append(answers, string(b))
	}))
	require.True(t, c.TryEnter(r.Size()))
	r.Reply([]byte("first"), nil)
	r.Reply([]byte("second"), nil)
	require.Equal(t, []string{"first"}, answers)
	calls, bytes := c.InFlight()
	require.Zero(t, calls)
	require.Zero(t, bytes)
}
