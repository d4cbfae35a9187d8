package transport

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
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

// streamConn is a connection from which everything there is can be read at once.
type streamConn struct {
	net.Conn
	r io.Reader
}

func (c streamConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// Frames are given away whole, wherever in the buffer they came, and what came with them stays.
func TestGiveAway(t *testing.T) {
	var stream []byte
	var want [][]byte
	rnd := rand.NewChaCha8([32]byte{1})
	for i := range 50 {
		size := []int{bulkChunk, bulkChunk, 1, 100_000, 90_000, bulkChunk - 1, bulkChunk, 300_000, 1000}[i%9]
		body := appendBinHeader(nil, size)
		body = append(body, make([]byte, size)...)
		rnd.Read(body[len(body)-size:])
		want = append(want, appendReply(nil, uint64(i), body))
		stream = append(stream, want[i]...)
	}
	c := &conn{nc: streamConn{r: bytes.NewReader(stream)}, lim: new(limits)}
	c.rd.limit = 1 << 20
	var given [][]byte
	own := 0
	for range want {
		frame, err := c.next()
		require.NoError(t, err)
		buf := c.rd.giveAway(frame)
		if &buf[0] == &frame[0] {
			own++
		}
		given = append(given, buf)
	}
	for i := range want {
		require.True(t, bytes.Equal(want[i], given[i][:len(want[i])]), "frame %d", i)
	}
	require.NotZero(t, own)
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

// What a source may answer by mistake, or by malice, never passes for a whole transfer.
func TestBulkDistrustsTheSource(t *testing.T) {
	data := []byte("some bytes")
	chunk := func(offset uint64, crc uint32, data []byte) []byte {
		b := AppendUint(AppendUint([]byte{0x94, 0}, offset), uint64(crc))
		return append(appendBinHeader(b, len(data)), data...)
	}
	good := chunk(0, bulkSum(0, data), data)
	end := func(total int, digest [32]byte) []byte {
		return append(appendBinHeader(AppendUint([]byte{0x93, 1}, uint64(total)), len(digest)), digest[:]...)
	}
	n := len(data)
	sum := func(offset uint64, data []byte) (d [32]byte) {
		t := newBulkTotal()
		t.add(offset, bulkSum(offset, data), len(data))
		copy(d[:], t.Sum(nil))
		return d
	}
	for name, c := range map[string]struct {
		answers [][]byte
		want    string
	}{
		"good":             {[][]byte{good, end(n, sum(0, data))}, ""},
		"empty":            {[][]byte{end(0, sha256.Sum256(nil))}, ""},
		"checksum":         {[][]byte{chunk(0, 1, data)}, "wrong checksum of 10 bytes at offset 0"},
		"offset in crc":    {[][]byte{good, chunk(10, bulkSum(0, data), data)}, "wrong checksum of 10 bytes at offset 10"},
		"again":            {[][]byte{good, good}, "chunk of offset 0 where 10 is next"},
		"gap":              {[][]byte{good, chunk(11, bulkSum(11, data), data)}, "chunk of offset 11 where 10 is next"},
		"early end":        {[][]byte{good, end(20, sum(0, data))}, "10 bytes received, 20 sent"},
		"late end":         {[][]byte{good, end(5, sum(0, data))}, "10 bytes received, 5 sent"},
		"another hash":     {[][]byte{good, end(n, sha256.Sum256(nil))}, "wrong sum of 10 bytes"},
		"other data":       {[][]byte{good, end(n, sum(0, []byte("same bytes")))}, "wrong sum of 10 bytes"},
		"empty chunk":      {[][]byte{chunk(0, bulkSum(0, nil), nil)}, "malformed"},
		"large chunk":      {[][]byte{chunk(0, bulkSum(0, make([]byte, bulkChunk+1)), make([]byte, bulkChunk+1))}, "malformed"},
		"too much":         {[][]byte{good, chunk(10, bulkSum(10, make([]byte, 91)), make([]byte, 91))}, "more than the 100 bytes allowed"},
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
				conn := memPair(t, NewMemory(), testHandler{handle: func(_ Conn, r *Request) {
					switch {
					case r.Method == MethodBulkPull && pulls < len(c.answers) && c.answers[pulls] != nil:
						r.Reply(c.answers[pulls], nil)
						pulls++
					case r.Method == MethodBulkPull:
						r.Reply(nil, ErrNoMethod)
					}
				}})
				r := ReceiveBulk(t.Context(), conn, 7, 100)
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
func TestBulkDistrustsTheReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := NewBulkSource(&endless{})
		c := memPair(t, NewMemory(), testHandler{handle: func(_ Conn, r *Request) { src.Handle(r) }})
		for _, p := range [][]byte{nil, {0x91, 7}, {0x92, 7, 0xc0}, {0x92, 7, 1}, {7}} {
			_, err := c.Call(t.Context(), MethodBulkPull, p)
			require.ErrorIs(t, err, ErrBadMessage, "% x", p)
		}
		require.NoError(t, c.Notify(MethodBulkPull, []byte{0x92, 7, 0})) // nobody would wait for the chunk
		_, err := c.Call(t.Context(), "roam.bulk.other", []byte{0x92, 7, 0})
		require.ErrorIs(t, err, ErrBadMessage)
		answers := make(chan error, 100)
		for i := range 100 {
			c.Go(MethodBulkPull, []byte{0x92, 7, byte(i)}, func(_ []byte, err error) { answers <- err })
		}
		synctest.Wait()
		require.Len(t, answers, 100-4*bulkWindow) // those beyond what may wait
		for range 100 - 4*bulkWindow {
			require.ErrorIs(t, <-answers, ErrBadMessage)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = src.Send(ctx)
		require.Error(t, err)
		for range 4 * bulkWindow {
			<-answers
		}
	})
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
