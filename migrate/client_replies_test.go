package migrate

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/machine"
)

// echoes is a tally whose reply to a command is the command, padded to a size.
type echoes struct {
	tally
	size int
}

func (e *echoes) Apply(cmd Command) ([]byte, error) {
	e.Seen = append(e.Seen, string(cmd.Body))
	reply := make([]byte, e.size)
	copy(reply, cmd.Body)
	return reply, nil
}

// echoing returns a world with one host, on which "svc" has replies of that size.
func echoing(t *testing.T, size int, lim machine.Limits) (*world, *Service) {
	w := newWorld(t, "a")
	w.nodes["a"].limits = lim
	s, err := w.nodes["a"].Host(t.Context(), "svc", func() Migratable { return &echoes{size: size} }, Policy{Copies: 1})
	require.NoError(t, err)
	return w, s
}

func mustGo(t *testing.T, c *Client, command string) *Call {
	t.Helper()
	call, err := c.Go([]byte(command))
	require.NoError(t, err)
	return call
}

// goMany sends n commands at once and returns their calls, and adds them to sent.
func goMany(t *testing.T, c *Client, name string, n int, sent *[]string) (calls []*Call) {
	for i := range n {
		command := fmt.Sprint(name, i+1)
		calls = append(calls, mustGo(t, c, command))
		*sent = append(*sent, command)
	}
	return calls
}

// A command whose reply is lost, and dropped by the host before the client asks again, fails with ErrReplyGone. Later
// commands keep their numbers and get their own replies.
func TestReplyGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 100
		w, s := echoing(t, size, machine.Limits{ReplyBytes: 10 * (size + replyOverhead)})
		defer w.close()
		c, other := w.dial("c", "svc", ClientConfig{}), w.dial("o", "svc", ClientConfig{})
		var sent []string
		w.net.Block("a", "c")
		lost := goMany(t, c, "lost", 3, &sent)
		time.Sleep(100 * time.Millisecond)
		for _, call := range goMany(t, other, "other", 10, &sent) {
			_, err := call.Reply(t.Context())
			require.NoError(t, err)
		}
		w.net.HealAll()
		w.net.Cut("a", "c")
		for i, call := range lost {
			_, err := call.Reply(t.Context())
			require.ErrorIs(t, err, ErrReplyGone, "command %d", i+1)
		}
		for _, name := range []string{"p", "q"} {
			from := len(sent)
			for i, call := range goMany(t, c, name, 4, &sent) {
				reply, err := call.Reply(t.Context())
				require.NoError(t, err)
				require.Contains(t, string(reply), sent[from+i])
			}
		}
		require.Equal(t, sent, appOf(s).(*echoes).Seen)
	})
}

// Replies arrive although together they exceed what a transport buffers for a peer that is slow to read.
func TestLargeRepliesArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := echoing(t, 1_000_000, machine.Limits{})
		defer w.close()
		c := w.dial("c", "svc", ClientConfig{})
		w.net.Throttle("a", "c", 10_000_000)
		var sent []string
		calls := goMany(t, c, "x", 7, &sent)
		for i := range 7 {
			calls = append(calls, goMany(t, c, fmt.Sprint("y", i, "-"), 1, &sent)...)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			reply, err := calls[i].Reply(ctx)
			cancel()
			require.NoError(t, err)
			require.Equal(t, sent[i], string(bytes.TrimRight(reply, "\x00")))
		}
		require.NoError(t, c.Flush(t.Context()))
		require.Equal(t, sent, appOf(s).(*echoes).Seen)
		require.Less(t, c.Stats().Reconnects, uint64(4), "not cut off again, once the client knows how large replies are")
	})
}
