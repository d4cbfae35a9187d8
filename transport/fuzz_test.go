package transport

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The parsers read no byte beyond the input, and return nothing longer than it.
func FuzzParts(f *testing.F) {
	f.Add(appendCall(nil, 7, "roam.do", []byte{0x91, 1}))
	f.Add(appendNotify(nil, "roam.events", nil))
	f.Add(appendReply(nil, 7, []byte{0xc0}))
	f.Add(appendErrorReply(nil, 7, Errorf(CodeNoMethod, "no method"), 100))
	f.Add(appendErrorReply(nil, 7, &Error{Code: 17, Message: "m", Data: []byte("data")}, 100))
	f.Add(appendHello(nil, 1, 2))
	f.Add(appendWelcome(nil, 1))
	f.Add([]byte{0x94, 0, 0, 0xce, 0xd4, 0x9d, 0x1b, 0x9b, 0xc4, 3, 'a', 'b', 'c'})
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if checkValue(b) == nil {
			if m := new(message); m.parse(b) == nil {
				require.LessOrEqual(t, len(m.method.of(b)), maxMethod)
				require.LessOrEqual(t, len(m.body.of(b))+len(m.method.of(b))+len(m.fault.of(b)), len(b))
				if m.failed() {
					e := parseError(m.fault.of(b))
					require.LessOrEqual(t, len(e.Message), maxErrorText)
					require.NotZero(t, e.Code)
				}
			}
		}
		parseError(b)
		_, _ = takeVersions(b, 1)
		_, _ = takeVersions(b, 2)
	})
}

// A dialler takes any answer to its greeting, or returns an error in time.
func FuzzAnswerToHello(f *testing.F) {
	f.Add(appendReply(nil, 1, appendWelcome(nil, 1)))
	f.Add(append(appendReply(nil, 1, appendWelcome(nil, 1)), appendCall(nil, 1, "x", nil)...))
	f.Add(appendErrorReply(nil, 1, Errorf(CodeNoMethod, "what?"), 100))
	f.Add(appendReply(nil, 2, nil))
	f.Add([]byte{0x94, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			_ = dialRaw(t, func(c *memConn) { _, _ = c.Write(b) })
			require.LessOrEqual(t, time.Since(began), 2*time.Second)
		})
	})
}
