package transport

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What takes messages apart looks at no byte that is not there, and hands out nothing longer than what came.
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
		if a := parseBulk(nil, b, nil); a.err == nil {
			require.LessOrEqual(t, len(a.data), len(b))
			if a.buf != nil {
				putChunk(a.buf)
			}
		}
		v := ReadValues(b)
		n := v.Array()
		require.LessOrEqual(t, n, len(b))
		for range n {
			at := v
			if v.Uint(); v.Err() != nil {
				v = at
			}
			at = v
			if v.Int(); v.Err() != nil {
				v = at
			}
			at = v
			if p := v.Bytes(); v.Err() != nil {
				v = at
			} else {
				require.LessOrEqual(t, len(p), len(b))
			}
		}
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

// A source takes any request of its receiver's, a receiver any answer of its source's.
func FuzzBulk(f *testing.F) {
	f.Add([]byte{0x92, 7, 0}, []byte{0x91, 7}, []byte{0x93, 1, 0, 0xc4, 0})
	f.Add([]byte{0x92, 7, 1}, []byte{0xc0}, []byte{0x94, 0, 0, 0xce, 0xd4, 0x9d, 0x1b, 0x9b, 0xc4, 3, 'a', 'b', 'c'})
	f.Fuzz(func(t *testing.T, first, second, answer []byte) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			src := NewBulkSource(failing{})
			done := make(chan struct{})
			go func() { _, _ = src.Send(ctx); close(done) }()
			replies, asked := 0, 0
			for _, p := range [][]byte{first, second, first} {
				for _, method := range []string{MethodBulkPull, MethodBulkStop} {
					asked++
					r := NewRequest(method, p, func([]byte, error) { replies++ })
					if _, ok := IsBulk(r); ok || method == MethodBulkPull {
						src.Handle(r)
					}
				}
			}
			<-done
			synctest.Wait()
			require.LessOrEqual(t, replies, asked)
			r := ReceiveBulk(ctx, liar(answer), 7, 1<<20)
			n, err := io.Copy(io.Discard, r)
			require.Error(t, err)
			require.LessOrEqual(t, n, int64(1<<20))
			r.Close()
		})
	})
}

// liar is a connection on which every call has the same answer.
type liar []byte

func (l liar) Call(context.Context, string, []byte) ([]byte, error)       { return l, nil }
func (l liar) Go(_ string, _ []byte, done func(result []byte, err error)) { done(l, nil) }
func (l liar) Notify(string, []byte) error                                { return nil }
func (l liar) Peer() Peer                                                 { return Peer{Addr: "y:1"} }
func (l liar) Close() error                                               { return nil }
