package bulk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// Reader is the receiving side of a transfer. It is used by one goroutine at a time.
type Reader struct {
	ctx     context.Context
	conn    transport.Conn
	id      uint64
	limit   uint64
	answers chan answer // has room for all calls in flight
	pulls   uint64      // calls sent
	owed    int         // calls that may be sent; they are sent together
	sum     total
	offset  uint64 // bytes received and checked
	current answer // the chunk that is being read
	data    []byte // bytes of it that were not read
	taken   bool   // current is set, and its call is not replaced yet
	err     error  // returned by Read when data is empty
}

// answer is the answer to one call.
type answer struct {
	data   []byte
	buf    *[header + chunk]byte // from the pool, holds data; nil: data is not from the pool
	offset uint64                // of data; the total number of bytes with digest
	crc    uint64
	digest []byte // at the end
	err    error
}

// ErrTooLarge is wrapped by the error of a transfer of more bytes than its limit.
var ErrTooLarge = errors.New("too large")

// Receive begins to receive from the [Source] with the given id at the other end of c. The reader keeps up to 2 MiB in
// flight. A transfer of more than limit bytes fails with [ErrTooLarge], and the reader does not return more. Read returns
// io.EOF only if every chunk's checksum, the total length and the sum over all chunks were right; after any other error,
// discard the bytes returned before. Cancelling ctx ends the transfer, not the connection.
func Receive(ctx context.Context, c transport.Conn, id uint64, limit int64) *Reader {
	r := &Reader{ctx: ctx, conn: c, id: id, limit: uint64(max(limit, 0)), sum: newTotal(), answers: make(chan answer, window)}
	r.pull(window)
	return r
}

// pull sends n more calls. Their answers arrive in the channel.
func (r *Reader) pull(n int) {
	call := r.conn.Go
	borrower, borrows := r.conn.(transport.Borrower)
	if borrows {
		call = borrower.GoBorrow
	}
	for range n {
		params := msgpack.AppendUint(msgpack.AppendUint(msgpack.AppendArray(nil, 2), r.id), r.pulls)
		r.pulls++
		call(MethodPull, params, func(result []byte, err error) {
			a := parse(result, err)
			if borrows && a.err == nil && a.data != nil {
				a.buf = buffers.Get().(*[header + chunk]byte)
				a.data = a.buf[:copy(a.buf[:], a.data)]
			}
			r.answers <- a
		})
	}
}

// parse checks an answer.
func parse(b []byte, err error) (a answer) {
	if err != nil {
		return answer{err: err}
	}
	v := msgpack.NewReader(b)
	n, kind := v.Array(), v.Uint()
	a.offset = v.Uint()
	switch {
	case kind == 0 && n >= 4:
		a.crc, a.data = v.Uint(), v.Bytes()
	case kind == 1 && n >= 3:
		a.digest = bytes.Clone(v.Bytes()) // b may be borrowed
	}
	switch {
	case v.Err() != nil,
		a.data == nil && len(a.digest) != sha256.Size,
		a.data != nil && (len(a.data) == 0 || len(a.data) > chunk):
		a.err = transport.Errorf(transport.CodeBadMessage, "malformed answer to %s", MethodPull)
	case a.data != nil && uint64(checksum(a.offset, a.data)) != a.crc:
		a.err = transport.Errorf(transport.CodeBadMessage, "wrong checksum of %d bytes at offset %d", len(a.data), a.offset)
	}
	return a
}

// Read implements [io.Reader].
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(r.data) == 0 {
		if r.advance(); r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

// WriteTo implements [io.WriterTo], without copying. Like Read it succeeds only if all checks pass.
func (r *Reader) WriteTo(w io.Writer) (n int64, err error) {
	for {
		if len(r.data) == 0 {
			if r.advance(); r.err == io.EOF {
				return n, nil
			} else if r.err != nil {
				return n, r.err
			}
		}
		k, err := w.Write(r.data)
		n += int64(k)
		r.data = r.data[k:]
		if err != nil {
			return n, err
		}
	}
}

// advance waits for the next chunk, or sets err.
func (r *Reader) advance() {
	if r.err != nil {
		return
	}
	if r.taken {
		r.taken = false
		if buf := r.current.buf; buf != nil {
			buffers.Put(buf)
		}
		if r.owed++; r.owed == window/2 {
			r.pull(r.owed)
			r.owed = 0
		}
	}
	var a answer
	select {
	case a = <-r.answers:
	case <-r.ctx.Done():
		a.err = r.ctx.Err()
	}
	switch {
	case a.err != nil:
		r.fail(a.err)
	case a.offset != r.offset && a.digest != nil:
		r.fail(transport.Errorf(transport.CodeBadMessage, "%d bytes received, %d sent", r.offset, a.offset))
	case a.offset != r.offset:
		r.fail(transport.Errorf(transport.CodeBadMessage, "chunk of offset %d instead of %d", a.offset, r.offset))
	case a.digest != nil:
		if r.err = io.EOF; string(r.sum.Sum(nil)) != string(a.digest) {
			r.fail(transport.Errorf(transport.CodeBadMessage, "wrong sum of %d bytes", r.offset))
		}
	case uint64(len(a.data)) > r.limit-r.offset:
		r.fail(fmt.Errorf("%w: more than the %d bytes allowed", ErrTooLarge, r.limit))
	default:
		r.current, r.data, r.taken = a, a.data, true
		r.sum.add(r.offset, uint32(a.crc), len(a.data))
		r.offset += uint64(len(a.data))
	}
}

func (r *Reader) fail(err error) {
	r.err = fmt.Errorf("snapshot transfer from %s at byte %d: %w", r.conn.Peer().Addr, r.offset, err)
	r.stop()
}

// stop ends the transfer at the source. If the notification is lost, the source sees the connection end.
func (r *Reader) stop() {
	_ = r.conn.Notify(MethodStop, msgpack.AppendUint(msgpack.AppendArray(nil, 1), r.id))
}

// Close ends the transfer. Unless it was complete, the source's writer fails. The connection stays open.
func (r *Reader) Close() error {
	r.data = nil
	if r.err == nil {
		r.err = fmt.Errorf("snapshot transfer from %s: %w", r.conn.Peer().Addr, transport.ErrClosed)
		r.stop()
	}
	return nil
}
