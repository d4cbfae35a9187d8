package transport

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport/internal/mp"
)

// The bytes on the wire are a promise to other languages and later versions.
func TestGoldenBytes(t *testing.T) {
	for _, g := range []struct {
		name string
		got  []byte
		want string
	}{
		{"call", appendCall(nil, 5, "add", []byte{0x92, 1, 2}), "94 00 05 a3616464 92 01 02"},
		{"call without params", appendCall(nil, 200, "x", nil), "94 00 ccc8 a178 90"},
		{"notification", appendNotify(nil, "add", []byte{0x91, 0xc3}), "93 02 a3616464 91 c3"},
		{"reply", appendReply(nil, 1<<31-1, []byte{0x2a}), "94 01 ce7fffffff c0 2a"},
		{"reply of nil", appendReply(nil, 300, nil), "94 01 cd012c c0 c0"},
		{"error", appendErrorReply(nil, 7, Errorf(2, "no"), 100), "94 01 07 82 a4636f6465 02 a76d657373616765 a26e6f c0"},
		{"error with data", appendErrorReply(nil, 7, &Error{Code: 1000, Message: "no", Data: []byte{1, 2}}, 100),
			"94 01 07 83 a4636f6465 cd03e8 a76d657373616765 a26e6f a464617461 c4020102 c0"},
		{"error without code", appendErrorReply(nil, 7, errors.New("no"), 100),
			"94 01 07 82 a4636f6465 01 a76d657373616765 a26e6f c0"},
		{"hello", appendCall(nil, 1, methodHello, appendHello(nil, 1, 1)), "94 00 01 aa726f616d2e68656c6c6f 93 01 01 90"},
		{"welcome", appendReply(nil, 1, appendWelcome(nil, 1)), "94 01 01 c0 92 01 90"},
	} {
		require.Equal(t, strings.ReplaceAll(g.want, " ", ""), hex.EncodeToString(g.got), g.name)
		var s mp.Scanner
		s.Reset(1<<20, mp.MaxDepth+1)
		done, err := s.Scan(g.got)
		require.NoError(t, err, g.name)
		require.True(t, done && s.Pos == len(g.got), g.name)
		err = new(message).parse(g.got)
		require.NoError(t, err, g.name)
	}
}

func TestParse(t *testing.T) {
	long := append(mp.AppendString([]byte{0x93, 2}, strings.Repeat("m", 256)), 0x90)
	for _, c := range []struct{ in, want string }{
		{"93 02 a161 90", ""},
		{"dc0003 d002 d90161 90", ""},                    // wide forms of everything
		{"dd00000004 00 cf0000000000000005 a161 80", ""}, // params may be a map
		{"94 01 d105dc a16f 01", ""},                     // error is a string
		{"90", "array of 0 values"},
		{"92 02 a161", "array of 2 values"},
		{"95 00 01 a161 90 90", "type 0 is an array of 5"},
		{"93 00 01 a161", "type 0 is an array of 3"},
		{"94 02 a161 90 90", "type 2 is an array of 4"},
		{"93 03 a161 90", "unknown type 3"},
		{"93 ff a161 90", "type is not a number"},
		{"93 a161 a161 90", "type is not a number"},
		{"94 00 a161 a161 90", "id is not a number"},
		{"94 00 ff a161 90", "id is not a number"},
		{"94 00 cf0020000000000000 a161 90", "id is not a number below 2^53"},
		{"93 02 90 90", "method is not a string"},
		{"93 02 c40161 90", "method is not a string"},
		{hex.EncodeToString(long), "method is not a string of at most 255 bytes"},
		{"93 02 a161 c0", "nil or an extension"},
		{"93 02 a161 d40100", "nil or an extension"},
		{"94 00 01 a161 c7000a", "nil or an extension"},
		{"94 01 01 c0 d40100", "result is an extension"},
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(c.in, " ", ""))
		require.NoError(t, err)
		var s mp.Scanner
		s.Reset(1<<20, mp.MaxDepth+1)
		done, err := s.Scan(b)
		require.NoError(t, err, c.in)
		require.True(t, done && s.Pos == len(b), c.in)
		err = new(message).parse(b)
		if c.want == "" {
			require.NoError(t, err, c.in)
			continue
		}
		require.ErrorIs(t, err, ErrBadMessage, c.in)
		require.ErrorContains(t, err, c.want, c.in)
	}
}

func TestParseError(t *testing.T) {
	for _, c := range []struct {
		in   any
		want Error
	}{
		{"plain text", Error{Code: CodeUnknown, Message: "plain text"}},
		{[]any{1, "in an array"}, Error{Code: CodeUnknown, Message: "in an array"}},
		{map[string]any{"code": 7, "message": "m", "data": []byte{1}, "other": []int{1}},
			Error{Code: 7, Message: "m", Data: []byte{1}}},
		{map[string]any{"code": -1, "message": 5, "data": "x"},
			Error{Code: CodeUnknown, Message: "peer answered error 1 without a text"}},
		{map[string]any{"code": 9}, Error{Code: 9, Message: "peer answered error 9 without a text"}},
		{true, Error{Code: CodeUnknown, Message: "peer answered error 1 without a text"}},
		{12, Error{Code: CodeUnknown, Message: "peer answered error 1 without a text"}},
	} {
		b, err := Marshal(c.in)
		require.NoError(t, err)
		c.want.Remote = true
		require.Equal(t, &c.want, parseError(b), "%v", c.in)
	}
	require.NotEmpty(t, parseError(nil).Message)
}

func TestErrorReplyIsBounded(t *testing.T) {
	long := strings.Repeat("ä", 1<<20)
	for _, c := range []struct {
		message    string
		data, most int
		text, kept int // bytes
	}{
		{long, 1000, 1 << 20, maxErrorText, 1000},
		{long, 1000, 1 << 12, maxErrorText, 0},
		{long, 1, 225, 224, 1},
		{"why", 222, 225, 3, 222},
		{"why", 223, 225, 3, 0},
	} {
		b := appendErrorReply(nil, 1, &Error{Message: c.message, Data: make([]byte, c.data)}, c.most)
		require.Less(t, len(b), c.most+100)
		var m message
		require.NoError(t, m.parse(b))
		e := parseError(m.fault.of(b))
		require.Len(t, e.Message, c.text)
		require.Len(t, e.Data, c.kept)
	}
}

// An error that is longer than a message may be does not end the connection.
func TestLongError(t *testing.T) {
	m := NewMemory()
	cfg := TCPConfig{Open: true, maxMessage: 512}
	a, err := m.HostWith("a", cfg)
	require.NoError(t, err)
	defer a.Close()
	b, err := m.HostWith("b", cfg)
	require.NoError(t, err)
	defer b.Close()
	l, err := a.Listen(":0", func(Conn) Handler {
		return testHandler{handle: func(_ Conn, r *Request) { r.Reply(nil, errors.New(strings.Repeat("x", 3000))) }}
	})
	require.NoError(t, err)
	c, err := b.Dial(t.Context(), Peer{Addr: l.Addr()}, nil)
	require.NoError(t, err)
	for range 2 {
		_, err = c.Call(t.Context(), "m", nil)
		require.ErrorContains(t, err, "xxx")
	}
}

func TestError(t *testing.T) {
	err := fmt.Errorf("outer: %w", Errorf(CodeTimeout, "x %d", 1))
	require.ErrorIs(t, err, ErrTimeout)
	require.NotErrorIs(t, err, ErrClosed)
	require.Equal(t, CodeTimeout, CodeOf(err))
	require.Equal(t, CodeUnknown, CodeOf(errors.New("x")))
	require.Zero(t, CodeOf(nil))
	require.EqualError(t, err, "outer: x 1")
}
