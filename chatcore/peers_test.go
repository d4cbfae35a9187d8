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

// arrives waits until somebody has been told something, while the answer to it is still on its way.
func arrives(r *reader) string {
	for {
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if list := r.take(KindJoined); len(list) > 0 {
			return texts(list)
		}
	}
}

// The connection breaks between the message and its answer. The same message on a new one finds out that it had arrived;
// where there is no new one, nobody knows.
func TestPrivateAnswerIsLost(t *testing.T) {
	for _, tc := range []struct {
		what  string
		first bool // it is the first message on its connection
		cut   func(net *transport.Memory)
		want  error
	}{
		{"on a new connection", true, func(net *transport.Memory) { net.Cut("ann", "bob") }, nil},
		{"on a connection from earlier", false, func(net *transport.Memory) { net.Cut("ann", "bob") }, nil},
		{"on a new connection, and no other can be made", true, func(net *transport.Memory) { net.Crash("bob") }, ErrPeerLost},
		{"on one from earlier, and no other can be made", false, func(net *transport.Memory) { net.Crash("bob") }, ErrPeerLost},
	} {
		t.Run(tc.what, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
				ann, bob := enter(t, h, net, "ann"), enter(t, h, net, "bob")
				told := read(bob)
				if !tc.first {
					require.NoError(t, ann.Private(t.Context(), "bob", "before"))
					arrives(told)
				}
				net.SetDelay(10 * time.Millisecond)
				done := make(chan error, 1)
				go func() { done <- ann.Private(t.Context(), "bob", "hi") }()
				require.Equal(t, "private ann hi\n", arrives(told))
				tc.cut(net)
				err := <-done
				require.ErrorIs(t, err, tc.want)
				if tc.want != nil {
					require.ErrorContains(t, err, `"bob" may have got the message`)
				}
				require.Empty(t, told.take(), "once")
				require.NoError(t, ann.Close())
				require.NoError(t, bob.Close())
				time.Sleep(time.Minute) // for what is on its way still
			})
		})
	}
}

// However many somebody says at once, the other side is not asked to take more than it does; one that is no longer waited
// for is under way still.
func TestManyPrivateMessagesAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob := enter(t, h, net, "ann"), enter(t, h, net, "bob")
		told := read(bob)
		require.NoError(t, ann.Private(t.Context(), "bob", "first"))
		net.SetDelay(10 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		for range 2 * maxUnanswered {
			go func() { assert.ErrorIs(t, ann.Private(ctx, "bob", "impatient"), context.DeadlineExceeded) }()
		}
		synctest.Wait()
		for range 5 * maxUnanswered {
			go func() { assert.NoError(t, ann.Private(t.Context(), "bob", "patient")) }()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, told.take(KindJoined), 1+maxUnanswered+5*maxUnanswered)
		require.NoError(t, ann.Close())
		require.NoError(t, bob.Close())
		time.Sleep(time.Minute) // for what is on its way still
	})
}
