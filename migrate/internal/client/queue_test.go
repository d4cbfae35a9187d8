package client

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

func queueOf(n int) (*cmdQueue, []*Call) {
	q, calls := &cmdQueue{next: 1, room: queueRoom{maxLen: n}}, make([]*Call, n)
	for i := range calls {
		calls[i] = &Call{done: make(chan struct{})}
		q.room.take(0)
		q.push(calls[i])
	}
	return q, calls
}

func TestQueueNumbers(t *testing.T) {
	q, calls := queueOf(4)
	require.Equal(t, uint64(1), q.low())
	require.Equal(t, calls[2:], q.after(2))
	require.Equal(t, calls, q.after(0))
	require.Empty(t, q.after(9))

	require.True(t, q.finish(calls[1], []byte("r"), nil))
	require.False(t, q.finish(calls[1], []byte("again"), nil))
	require.Equal(t, "r", string(calls[1].reply))
	require.Equal(t, uint64(1), q.low(), "the first has no reply yet")
	require.Equal(t, []*Call{calls[0], calls[2], calls[3]}, q.pending())
	require.True(t, q.finish(calls[0], nil, nil))
	require.Equal(t, uint64(3), q.low())
	require.Same(t, calls[2], q.oldest())
	require.Equal(t, calls[2:], q.after(0), "lower ones are over")

	q.end(io.EOF)
	require.Equal(t, io.EOF, calls[3].err)
	require.True(t, calls[3].ended)
	require.Nil(t, q.oldest())
	require.Equal(t, uint64(5), q.low())
}

func TestQueueWithdraw(t *testing.T) {
	q, calls := queueOf(5)
	q.finish(calls[0], nil, nil)
	calls[1].refused, calls[3].refused = io.EOF, io.ErrUnexpectedEOF
	require.True(t, q.hasRefused())
	require.Equal(t, []*Call{calls[1], calls[3]}, q.withdraw())
	require.Equal(t, 2, q.room.len)
	require.Equal(t, io.EOF, calls[1].err)
	require.False(t, q.hasRefused())
	require.Equal(t, uint64(2), calls[2].seq)
	require.Equal(t, uint64(3), calls[4].seq)
	next := &Call{done: make(chan struct{})}
	q.push(next)
	require.Equal(t, uint64(4), next.seq)
	require.Equal(t, uint64(2), q.low())
}

func TestQueueRoom(t *testing.T) {
	r := queueRoom{maxLen: 3, maxBytes: 10}
	require.True(t, r.take(4))
	require.True(t, r.take(4))
	require.False(t, r.take(4))
	big, small := r.wait(4), r.wait(1)
	require.False(t, r.take(1), "others wait")
	r.leave(big)
	require.True(t, small.granted, "what stood behind it fits")
	late := r.wait(1)
	r.free(4)
	require.True(t, late.granted)
	r.leave(late)
	r.free(1)
	r.free(4)
	r.waiting = nil
	require.Equal(t, queueRoom{maxLen: 3, maxBytes: 10}, r)
}

// The encoding by hand decodes as wire.DoParams, for every encoding of the lengths of a string and a body.
func TestCommandParams(t *testing.T) {
	for _, name := range []int{1, 31, 32, 255, 256} {
		for _, size := range []int{0, 1, 255, 256, 65535, 65536, wire.MaxCommand} {
			want := wire.DoParams{Service: strings.Repeat("n", name), Session: 1<<53 - 1, Seq: 300, Low: 7,
				Body: []byte(strings.Repeat("b", size))}
			c := &Client{queue: cmdQueue{prefix: commandPrefix(want.Service, want.Session)}}
			call := newCall(c, want.Body)
			call.seq = want.Seq
			call.number(len(c.queue.prefix), want.Low)
			var got wire.DoParams
			require.NoError(t, transport.Unmarshal(call.params, &got))
			require.Equal(t, want, got)
			require.Less(t, len(call.params), 1<<20-256, "a message has room for it")
		}
	}
	c := &Client{queue: cmdQueue{prefix: commandPrefix("x", 2)}}
	call := newCall(c, []byte("hi"))
	call.seq = 3
	call.number(len(c.queue.prefix), 1)
	require.Equal(t, "\x95\xa1x\xcf\x00\x00\x00\x00\x00\x00\x00\x02"+
		"\xcf\x00\x00\x00\x00\x00\x00\x00\x03"+
		"\xcf\x00\x00\x00\x00\x00\x00\x00\x01\xc4\x02hi",
		string(call.params))
}
