package bulk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// handler is a handler made of functions.
type handler struct {
	handle func(*transport.Request)
	closed func(error)
}

func (h handler) Handle(_ transport.Conn, r *transport.Request) { h.handle(r) }
func (h handler) Closed(_ transport.Conn, err error) {
	if h.closed != nil {
		h.closed(err)
	}
}

// server answers the requests of transfer 7 from src.
func server(src *Source) transport.Handler {
	return handler{closed: src.Closed, handle: func(r *transport.Request) {
		if id, ok := ID(r); ok && id == 7 {
			src.Handle(r)
			return
		}
		r.Reply(nil, transport.ErrNoMethod)
	}}
}

// memPair connects host b to host a, which has the handler.
func memPair(t *testing.T, n *transport.Memory, h transport.Handler) transport.Conn {
	t.Cleanup(func() { n.Host("a").Close(); n.Host("b").Close() })
	l, err := n.Host("a").Listen("a:1", func(transport.Conn) transport.Handler { return h })
	require.NoError(t, err)
	c, err := n.Host("b").Dial(t.Context(), transport.Peer{Addr: l.Addr(), Key: n.Host("a").Key()}, nil)
	require.NoError(t, err)
	return c
}

func TestTransfer(t *testing.T) {
	for _, size := range []int{0, 1, chunk - 1, chunk, chunk + 1, 5<<20 + 3} {
		synctest.Test(t, func(t *testing.T) {
			data := make([]byte, size)
			rand.NewChaCha8([32]byte{1}).Read(data)
			src := NewSource(bytes.NewReader(data))
			c := memPair(t, transport.NewMemory(), server(src))
			sent := make(chan error, 1)
			go func() {
				n, err := src.Send(t.Context())
				if n != int64(size) {
					err = errors.New("wrong count")
				}
				sent <- err
			}()
			r := Receive(t.Context(), c, 7, int64(size))
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

func TestStops(t *testing.T) {
	run := func(name string, limit int64, end func(n *transport.Memory, r *Reader, cancel func()), wantRead, wantSend string) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := NewSource(&endless{})
				n := transport.NewMemory()
				c := memPair(t, n, server(src))
				sent := make(chan error, 1)
				go func() { _, err := src.Send(t.Context()); sent <- err }()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r := Receive(ctx, c, 7, limit)
				_, err := io.ReadFull(r, make([]byte, 1<<20))
				require.NoError(t, err)
				end(n, r, cancel)
				_, err = io.Copy(io.Discard, r)
				require.ErrorContains(t, err, wantRead)
				require.ErrorContains(t, <-sent, wantSend)
			})
		})
	}
	run("limit", 2<<20, func(*transport.Memory, *Reader, func()) {}, "more than the 2097152 bytes allowed",
		"stopped the transfer")
	run("cancel", 1<<40, func(_ *transport.Memory, _ *Reader, cancel func()) { cancel() }, "context canceled",
		"stopped the transfer")
	run("close", 1<<40, func(_ *transport.Memory, r *Reader, _ func()) { r.Close() }, "closed", "stopped the transfer")
	run("cut", 1<<40, func(n *transport.Memory, _ *Reader, _ func()) { n.Cut("a", "b") }, "reset", "reset")
	run("crash", 1<<40, func(n *transport.Memory, _ *Reader, _ func()) { n.Crash("b") }, "reset", "reset")
	run("silent", 1<<40, func(n *transport.Memory, _ *Reader, _ func()) { n.Partition("a", "b") }, "snapshot transfer from a:1",
		"")
	run("flip", 1<<40, func(n *transport.Memory, _ *Reader, _ func()) { n.FlipAfter("a", "b", 3<<20) }, "wrong checksum",
		"stopped the transfer")
}

// What a source may answer by mistake, or by malice, never passes for a whole transfer.
func TestDistrustsTheSource(t *testing.T) {
	data := []byte("some bytes")
	aChunk := func(offset uint64, crc uint32, data []byte) []byte {
		b := msgpack.AppendUint(msgpack.AppendUint([]byte{0x94, 0}, offset), uint64(crc))
		return msgpack.AppendBytes(b, data)
	}
	good := aChunk(0, checksum(0, data), data)
	end := func(total int, digest [32]byte) []byte {
		return msgpack.AppendBytes(msgpack.AppendUint([]byte{0x93, 1}, uint64(total)), digest[:])
	}
	n := len(data)
	sum := func(offset uint64, data []byte) (d [32]byte) {
		t := newTotal()
		t.add(offset, checksum(offset, data), len(data))
		copy(d[:], t.Sum(nil))
		return d
	}
	for name, c := range map[string]struct {
		answers [][]byte
		want    string
	}{
		"good":          {[][]byte{good, end(n, sum(0, data))}, ""},
		"empty":         {[][]byte{end(0, sha256.Sum256(nil))}, ""},
		"checksum":      {[][]byte{aChunk(0, 1, data)}, "wrong checksum of 10 bytes at offset 0"},
		"offset in crc": {[][]byte{good, aChunk(10, checksum(0, data), data)}, "wrong checksum of 10 bytes at offset 10"},
		"again":         {[][]byte{good, good}, "chunk of offset 0 instead of 10"},
		"gap":           {[][]byte{good, aChunk(11, checksum(11, data), data)}, "chunk of offset 11 instead of 10"},
		"early end":     {[][]byte{good, end(20, sum(0, data))}, "10 bytes received, 20 sent"},
		"late end":      {[][]byte{good, end(5, sum(0, data))}, "10 bytes received, 5 sent"},
		"another hash":  {[][]byte{good, end(n, sha256.Sum256(nil))}, "wrong sum of 10 bytes"},
		"other data":    {[][]byte{good, end(n, sum(0, []byte("same bytes")))}, "wrong sum of 10 bytes"},
		"empty chunk":   {[][]byte{aChunk(0, checksum(0, nil), nil)}, "malformed"},
		"large chunk":   {[][]byte{aChunk(0, checksum(0, make([]byte, chunk+1)), make([]byte, chunk+1))}, "malformed"},
		"too much": {[][]byte{good, aChunk(10, checksum(10, make([]byte, 91)), make([]byte, 91))},
			"more than the 100 bytes allowed"},
		"no array":         {[][]byte{{1}}, "malformed"},
		"short array":      {[][]byte{{0x92, 1, 0}}, "malformed"},
		"unknown kind":     {[][]byte{{0x94, 2, 0, 0, 0xc4, 1, 1}}, "malformed"},
		"no data":          {[][]byte{{0x94, 0, 0, 0, 0xc0}}, "malformed"},
		"short digest":     {[][]byte{{0x93, 1, 0, 0xc4, 1, 1}}, "malformed"},
		"error":            {[][]byte{nil}, "no such method"},
		"error after data": {[][]byte{good, nil}, "no such method"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pulls := 0
				conn := memPair(t, transport.NewMemory(), handler{handle: func(r *transport.Request) {
					switch {
					case r.Method == MethodPull && pulls < len(c.answers) && c.answers[pulls] != nil:
						r.Reply(c.answers[pulls], nil)
						pulls++
					case r.Method == MethodPull:
						r.Reply(nil, transport.ErrNoMethod)
					}
				}})
				r := Receive(t.Context(), conn, 7, 100)
				got, err := io.ReadAll(r)
				if c.want == "" {
					require.NoError(t, err)
					require.Equal(t, r.offset, uint64(len(got)))
					return
				}
				require.ErrorContains(t, err, c.want)
				_, again := r.Read(make([]byte, 1))
				require.Equal(t, err, again)
			})
		})
	}
}

// The receiver is not trusted either.
func TestDistrustsTheReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := NewSource(&endless{})
		c := memPair(t, transport.NewMemory(), handler{handle: func(r *transport.Request) { src.Handle(r) }})
		for _, p := range [][]byte{nil, {0x91, 7}, {0x92, 7, 0xc0}, {0x92, 7, 1}, {7}} {
			_, err := c.Call(t.Context(), MethodPull, p)
			require.ErrorIs(t, err, transport.ErrBadMessage, "% x", p)
		}
		require.NoError(t, c.Notify(MethodPull, []byte{0x92, 7, 0})) // nobody would wait for the chunk
		_, err := c.Call(t.Context(), "roam.bulk.other", []byte{0x92, 7, 0})
		require.ErrorIs(t, err, transport.ErrBadMessage)
		answers := make(chan error, 100)
		for i := range 100 {
			c.Go(MethodPull, []byte{0x92, 7, byte(i)}, func(_ []byte, err error) { answers <- err })
		}
		synctest.Wait()
		require.Len(t, answers, 100-4*window) // those beyond what may wait
		for range 100 - 4*window {
			require.ErrorIs(t, <-answers, transport.ErrBadMessage)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = src.Send(ctx)
		require.Error(t, err)
		for range 4 * window {
			<-answers
		}
	})
}

type failing struct{}

func (failing) WriteTo(w io.Writer) (int64, error) {
	w.Write(make([]byte, 1000))
	return 1000, errors.New("the disk is full")
}

func TestSourceFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := NewSource(failing{})
		c := memPair(t, transport.NewMemory(), server(src))
		go src.Send(t.Context())
		_, err := io.ReadAll(Receive(t.Context(), c, 7, 1<<20))
		require.ErrorContains(t, err, "the disk is full")
	})
}

func BenchmarkBulk(b *testing.B) {
	for _, plain := range []bool{true, false} {
		b.Run(map[bool]string{true: "plain", false: "tls"}[plain], func(b *testing.B) {
			data := make([]byte, 256<<20)
			src := NewSource(nil)
			tr, err := transport.NewTCP(transport.TCPConfig{Open: true, InsecurePlaintext: plain})
			require.NoError(b, err)
			defer tr.Close()
			l, err := tr.Listen("127.0.0.1:0", func(transport.Conn) transport.Handler {
				return handler{handle: func(r *transport.Request) { src.Handle(r) }}
			})
			require.NoError(b, err)
			c, err := tr.Dial(b.Context(), transport.Peer{Addr: l.Addr()}, nil)
			require.NoError(b, err)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				src = NewSource(bytes.NewReader(data))
				go src.Send(b.Context())
				n, err := io.Copy(io.Discard, Receive(b.Context(), c, 7, 1<<40))
				if n != int64(len(data)) || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}
