package chatcore

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// arrives waits until a message arrives, and returns while its reply is still in flight.
func arrives(r *reader) string {
	for {
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if list := r.take(KindJoined); len(list) > 0 {
			return texts(list)
		}
	}
}

// The connection breaks between the message and its reply. Resending on a new connection finds out that the message had
// arrived; if no new connection can be made, the outcome is unknown.
func TestPrivateReplyLost(t *testing.T) {
	for _, tc := range []struct {
		what  string
		first bool // whether it is the first message on its connection
		cut   func(net *transport.Memory)
		want  error
	}{
		{"on a new connection", true, func(net *transport.Memory) { net.Cut("ann", "bob") }, nil},
		{"on an existing connection", false, func(net *transport.Memory) { net.Cut("ann", "bob") }, nil},
		{"on a new connection, reconnect fails", true, func(net *transport.Memory) { net.Crash("bob") }, ErrPeerLost},
		{"on an existing connection, reconnect fails", false, func(net *transport.Memory) { net.Crash("bob") }, ErrPeerLost},
	} {
		t.Run(tc.what, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
				ann, bob := enter(t, h, net, "ann"), enter(t, h, net, "bob")
				msgs := read(bob)
				if !tc.first {
					require.NoError(t, ann.Private(t.Context(), "bob", "before"))
					arrives(msgs)
				}
				net.SetDelay(10 * time.Millisecond)
				done := make(chan error, 1)
				go func() { done <- ann.Private(t.Context(), "bob", "hi") }()
				require.Equal(t, "private ann hi\n", arrives(msgs))
				tc.cut(net)
				err := <-done
				require.ErrorIs(t, err, tc.want)
				if tc.want != nil {
					require.ErrorContains(t, err, `"bob" may have received the message`)
				}
				require.Empty(t, msgs.take(), "once")
				require.NoError(t, ann.Close())
				require.NoError(t, bob.Close())
				time.Sleep(time.Minute) // drain messages in flight
			})
		})
	}
}

// The sender keeps at most maxInFlight messages in flight per connection. A message whose context has ended still counts as
// in flight.
func TestConcurrentPrivateMessages(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob := enter(t, h, net, "ann"), enter(t, h, net, "bob")
		msgs := read(bob)
		require.NoError(t, ann.Private(t.Context(), "bob", "first"))
		net.SetDelay(10 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		for range 2 * maxInFlight {
			go func() { assert.ErrorIs(t, ann.Private(ctx, "bob", "impatient"), context.DeadlineExceeded) }()
		}
		synctest.Wait()
		for range 5 * maxInFlight {
			go func() { assert.NoError(t, ann.Private(t.Context(), "bob", "patient")) }()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, msgs.take(KindJoined), 1+maxInFlight+5*maxInFlight)
		require.NoError(t, ann.Close())
		require.NoError(t, bob.Close())
		time.Sleep(time.Minute) // drain messages in flight
	})
}
