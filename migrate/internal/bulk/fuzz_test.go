package bulk

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// A source handles any request, a receiver any answer.
func FuzzBulk(f *testing.F) {
	f.Add([]byte{0x92, 7, 0}, []byte{0x91, 7}, []byte{0x93, 1, 0, 0xc4, 0})
	f.Add([]byte{0x92, 7, 1}, []byte{0xc0}, []byte{0x94, 0, 0, 0xce, 0xd4, 0x9d, 0x1b, 0x9b, 0xc4, 3, 'a', 'b', 'c'})
	f.Fuzz(func(t *testing.T, first, second, answer []byte) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			src := NewSource(failing{})
			done := make(chan struct{})
			go func() { _, _ = src.Send(ctx); close(done) }()
			replies, asked := 0, 0
			for _, p := range [][]byte{first, second, first} {
				for _, method := range []string{MethodPull, MethodStop} {
					asked++
					r := transport.NewRequest(method, p, func([]byte, error) { replies++ })
					if _, ok := ID(r); ok || method == MethodPull {
						src.Handle(r)
					}
				}
			}
			<-done
			synctest.Wait()
			require.LessOrEqual(t, replies, asked)
			r := Receive(ctx, liar(answer), 7, 1<<20)
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
func (l liar) Peer() transport.Peer                                       { return transport.Peer{Addr: "y:1"} }
func (l liar) Close() error                                               { return nil }
