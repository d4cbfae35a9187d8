package migrate

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

func queueOf(n int) (*cmdQueue, []*Call) {
	q, calls := &cmdQueue{next: 1}, make([]*Call, n)
	for i := range calls {
		calls[i] = &Call{done: make(chan struct{})}
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
	calls[1].held, calls[3].held = io.EOF, io.ErrUnexpectedEOF
	require.True(t, q.held())
	var ended []*Call
	q.withdraw(func(c *Call) { ended = append(ended, c) })
	require.Equal(t, []*Call{calls[1], calls[3]}, ended)
	require.Equal(t, io.EOF, calls[1].err)
	require.False(t, q.held())
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
	require.Equal(t, queueRoom{maxLen: 3, maxBytes: 10}, queueRoom{maxLen: r.maxLen, maxBytes: r.maxBytes, len: r.len, bytes: r.bytes})
}

// What is written by hand reads as wire.DoParams, for every form of a string's and a body's length.
func TestCommandParams(t *testing.T) {
	for _, name := range []int{1, 31, 32, 255, 256} {
		for _, size := range []int{0, 1, 255, 256, 65535, 65536, MaxCommand} {
			want := wire.DoParams{Service: strings.Repeat("n", name), Session: 1<<53 - 1, Seq: 300, Low: 7, Body: []byte(strings.Repeat("b", size))}
			c := &Client{prefix: commandPrefix(want.Service, want.Session)}
			call := newCall(c, want.Body)
			call.seq = want.Seq
			call.number(len(c.prefix), want.Low)
			var got wire.DoParams
			require.NoError(t, transport.Unmarshal(call.params, &got))
			require.Equal(t, want, got)
			require.Less(t, len(call.params), 1<<20-256, "a message has room for it")
		}
	}
	c := &Client{prefix: commandPrefix("x", 2)}
	call := newCall(c, []byte("hi"))
	call.seq = 3
	call.number(len(c.prefix), 1)
	require.Equal(t, "\x95\xa1x\xcf\x00\x00\x00\x00\x00\x00\x00\x02\xcf\x00\x00\x00\x00\x00\x00\x00\x03\xcf\x00\x00\x00\x00\x00\x00\x00\x01\xc4\x02hi",
		string(call.params))
}

func TestJudgeCommand(t *testing.T) {
	encode := func(v any) []byte {
		b, err := transport.Marshal(v)
		require.NoError(t, err)
		return b
	}
	remote := func(code transport.Code, data []byte) error {
		return &transport.Error{Code: code, Message: "m", Data: data, Remote: true}
	}
	placed := encode(&wire.AppliedData{Index: 9, Data: []byte{0x01}})
	record := encode(&resolver.Record{Name: "x", Epoch: 3})
	for name, tc := range map[string]struct {
		result []byte
		err    error
		want   fate
		index  uint64
	}{
		"reply":                {result: encode(&wire.DoResult{Index: 4, Reply: []byte("r")}), want: fateReplied, index: 4},
		"garbage":              {result: []byte{0xc1}, want: fateRetry},
		"service's error":      {err: remote(1234, placed), want: fateReplied, index: 9},
		"the same, odd code":   {err: remote(CodeNotActive, placed), want: fateReplied, index: 9},
		"not active":           {err: remote(CodeNotActive, record), want: fateNotActive},
		"no place in the log":  {err: remote(CodeApplication, encode(&wire.AppliedData{})), want: fateNotActive},
		"retry":                {err: remote(CodeRetry, nil), want: fateRetry},
		"out of order":         {err: remote(CodeOutOfOrder, nil), want: fateRetry},
		"too large":            {err: remote(CodeTooLarge, nil), want: fateRefused},
		"reply too large":      {err: remote(CodeTooLarge, placed), want: fateReplied, index: 9},
		"reply gone":           {err: remote(CodeReplyGone, nil), want: fateReplied},
		"expired":              {err: remote(CodeSessionExpired, nil), want: fateEnded},
		"forbidden":            {err: remote(CodeForbidden, nil), want: fateEnded},
		"state lost":           {err: remote(CodeStateLost, nil), want: fateEnded},
		"unknown":              {err: remote(transport.CodeUnknown, nil), want: fateNotActive},
		"connection ended":     {err: io.EOF, want: fateBroken},
		"expired, said by us":  {err: ErrSessionExpired, want: fateBroken},
		"transport closed":     {err: transport.ErrClosed, want: fateBroken},
		"wrapped remote error": {err: errors.Join(remote(CodeRetry, nil)), want: fateRetry},
	} {
		t.Run(name, func(t *testing.T) {
			a := judgeCommand(tc.result, tc.err)
			require.Equal(t, tc.want, a.fate)
			require.Equal(t, tc.index, a.index)
			if tc.index == 9 {
				e, ok := errors.AsType[*transport.Error](a.err)
				require.True(t, ok)
				require.Equal(t, []byte{0x01}, e.Data, "the service's own")
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	for n, limit := range []time.Duration{5, 20, 40, 80, 160, 320, 640, 1280, 2000, 2000} {
		for range 100 {
			d := backoff(n)
			require.GreaterOrEqual(t, d, time.Duration(0))
			require.Less(t, d, limit*time.Millisecond)
		}
	}
	require.Less(t, backoff(1<<30), maxBackoff)
}

func TestNewSession(t *testing.T) {
	for range 1000 {
		s := wire.RandomID()
		require.NotZero(t, s)
		require.Less(t, s, uint64(1)<<53)
	}
}
