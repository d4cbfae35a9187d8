package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// bulkServer answers bulk transfers of one source.
func bulkServer(src *BulkSource) Handler {
	return testHandler{handle: func(_ Conn, r *Request) {
		if id, ok := IsBulk(r); ok && id == 7 {
			src.Handle(r)
			return
		}
		r.Reply(nil, ErrNoMethod)
	}}
}

func TestBulk(t *testing.T) {
	for _, size := range []int{0, 1, bulkChunk - 1, bulkChunk, bulkChunk + 1, 5<<20 + 3} {
		synctest.Test(t, func(t *testing.T) {
			data := make([]byte, size)
			rand.NewChaCha8([32]byte{1}).Read(data)
			src := NewBulkSource(bytes.NewReader(data))
			c := memPair(t, NewMemory(), bulkServer(src))
			sent := make(chan error, 1)
			go func() {
				n, err := src.Send(t.Context())
				if n != int64(size) {
					err = errors.New("wrong count")
				}
				sent <- err
			}()
			r := ReceiveBulk(t.Context(), c, 7, int64(size))
			got, err := io.ReadAll(r)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got))
			require.NoError(t, <-sent)
			require.NoError(t, r.Close())
			_, err = r.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
		})
	}
}

// endless writes until its writer fails.
type endless struct{ n int64 }

func (e *endless) WriteTo(w io.Writer) (int64, error) {
	buf := make([]byte, 10_000)
	for {
		n, err := w.Write(buf)
		e.n += int64(n)
		if err != nil {
			return e.n, err
		}
	}
}

func TestBulkStops(t *testing.T) {
	run := func(name string, limit int64, end func(n *Memory, r *BulkReader, cancel func()), wantRead, wantSend string) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := NewBulkSource(&endless{})
				n := NewMemory()
				c := memPair(t, n, bulkServer(src))
				sent := make(chan error, 1)
				go func() { _, err := src.Send(t.Context()); sent <- err }()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r := ReceiveBulk(ctx, c, 7, limit)
				_, err := io.ReadFull(r, make([]byte, 1<<20))
				require.NoError(t, err)
				end(n, r, cancel)
				_, err = io.Copy(io.Discard, r)
				require.ErrorContains(t, err, wantRead)
				require.ErrorContains(t, <-sent, wantSend)
			})
		})
	}
	run("limit", 2<<20, func(*Memory, *BulkReader, func()) {}, "more than the 2097152 bytes allowed", "wants no more")
	run("cancel", 1<<40, func(_ *Memory, _ *BulkReader, cancel func()) { cancel() }, "context canceled", "wants no more")
	run("close", 1<<40, func(_ *Memory, r *BulkReader, _ func()) { r.Close() }, "closed", "wants no more")
	run("cut", 1<<40, func(n *Memory, _ *BulkReader, _ func()) { n.Cut("a", "b") }, "reset", "reset")
	run("crash", 1<<40, func(n *Memory, _ *BulkReader, _ func()) { n.Crash("b") }, "reset", "reset")
	run("silent", 1<<40, func(n *Memory, _ *BulkReader, _ func()) { n.Partition("a", "b") }, "bulk transfer from a:1", "")
	run("flip", 1<<40, func(n *Memory, _ *BulkReader, _ func()) { n.FlipAfter("a", "b", 3<<20) }, "wrong checksum", "wants no more")
}

type failing struct{}

func (failing) WriteTo(w io.Writer) (int64, error) {
	w.Write(make([]byte, 1000))
	return 1000, errors.New("the disk is full")
}

func TestBulkSourceFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := NewBulkSource(failing{})
		c := memPair(t, NewMemory(), bulkServer(src))
		go src.Send(t.Context())
		_, err := io.ReadAll(ReceiveBulk(t.Context(), c, 7, 1<<20))
		require.ErrorContains(t, err, "the disk is full")
	})
}

func BenchmarkBulk(b *testing.B) {
	for _, plain := range []bool{true, false} {
		b.Run(map[bool]string{true: "plain", false: "tls"}[plain], func(b *testing.B) {
			data := make([]byte, 256<<20)
			src := NewBulkSource(nil)
			c := benchPair(b, plain, testHandler{handle: func(_ Conn, r *Request) { src.Handle(r) }})
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				src = NewBulkSource(bytes.NewReader(data))
				go src.Send(b.Context())
				n, err := io.Copy(io.Discard, ReceiveBulk(b.Context(), c, 7, 1<<40))
				if n != int64(len(data)) || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}
