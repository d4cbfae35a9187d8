package transport

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strings"
	"sync"
)

// Methods of a bulk transfer. The receiver calls pull with [id, n], n counting its calls from 0, several at a time; the
// answers are, in order, [0, offset, crc, data] and at the end [1, total, sum]. crc is the CRC-32C (Castagnoli) of the
// offset as 8 bytes, big-endian, and the data; sum is the SHA-256 of what each chunk comes to: offset and length as 8 bytes
// each, then that crc as 4, all big-endian. So each chunk is checked beyond what TCP does, and their sequence too, at a
// fraction of the cost of a cryptographic hash of everything: whoever could change data on purpose could as well change the
// hash; against that there is TLS. stop is a notification with [id]: the receiver wants no more.
const (
	MethodBulkPull = "roam.bulk.pull"
	MethodBulkStop = "roam.bulk.stop"
)

const (
	bulkHeader = wideReply + 21 // bytes before the data of a chunk, whose numbers are written at full width
	bulkChunk  = 256 << 10      // bytes of data in a chunk, at most
	bulkBuffer = bulkHeader + bulkChunk
	bulkWindow = 8 // calls in flight: 2 MiB
)

var (
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
	bulkBuffers = sync.Pool{New: func() any { return new([bulkBuffer]byte) }}
	errStopped  = errors.New("the receiver wants no more")
)

func bulkSum(offset uint64, data []byte) uint32 {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], offset)
	return crc32.Update(crc32.Update(0, castagnoli, b[:]), castagnoli, data)
}

// bulkTotal is what both sides know of the chunks so far.
type bulkTotal struct{ hash.Hash }

func newBulkTotal() bulkTotal { return bulkTotal{sha256.New()} }

func (t bulkTotal) add(offset uint64, crc uint32, n int) {
	var b [20]byte
	binary.BigEndian.PutUint64(b[:], offset)
	binary.BigEndian.PutUint64(b[8:], uint64(n))
	binary.BigEndian.PutUint32(b[16:], crc)
	t.Write(b[:])
}

// IsBulk reports whether a request belongs to a bulk transfer. A handler hands it to [BulkSource.Handle] of the source
// whose id it is; it answers a call for an id that it does not know with an error.
func IsBulk(r *Request) (id uint64, ok bool) {
	if !strings.HasPrefix(r.Method, "roam.bulk.") {
		return 0, false
	}
	_, b, ok := takeArray(r.Params)
	if ok {
		id, _, ok = takeUint(b)
	}
	return id, ok
}

// BulkSource is the sending side of a bulk transfer: of one stream of bytes, of any length, to one receiver, which uses
// [ReceiveBulk]. A bulk transfer should have a connection of its own, so that no other message waits behind it.
type BulkSource struct {
	src   io.WriterTo
	pulls chan *Request

	mu   sync.Mutex // guards what follows
	next uint64     // number of the next pull
	stop chan struct{}
	over bool // stop is closed
	end  []byte
	err  error
}

// NewBulkSource prepares to send what src writes. Nothing is written before the receiver asks for it.
func NewBulkSource(src io.WriterTo) *BulkSource {
	return &BulkSource{src: src, pulls: make(chan *Request, 4*bulkWindow), stop: make(chan struct{})}
}

// Handle takes a request of the receiver's. It does not block, and may be called before Send and after it.
func (s *BulkSource) Handle(r *Request) {
	if r.Method == MethodBulkStop {
		s.finish(nil, errStopped)
		return
	}
	count, b, ok := takeArray(r.Params)
	ok = ok && count >= 2
	if ok {
		_, b, ok = takeUint(b)
	}
	n := uint64(0)
	if ok {
		n, _, ok = takeUint(b)
	}
	if r.Method != MethodBulkPull || !r.IsCall() || !ok {
		r.Reply(nil, Errorf(CodeBadMessage, "transport: bad request %s", r.Method))
		return
	}
	s.mu.Lock()
	end, err, over := s.end, s.err, s.over
	if !over && n != s.next {
		err = Errorf(CodeBadMessage, "transport: bulk: pull %d where %d is next", n, s.next)
	} else if !over {
		select {
		case s.pulls <- r:
			s.next++
			r = nil
		default:
			err = Errorf(CodeBadMessage, "transport: bulk: more than %d pulls at a time", cap(s.pulls))
		}
	}
	s.mu.Unlock()
	if r != nil {
		r.Reply(end, err)
	}
}

// finish decides what pulls are answered from now on, and answers those that wait. The first decision holds.
func (s *BulkSource) finish(end []byte, err error) {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	s.over, s.end, s.err = true, end, err
	close(s.stop)
	s.mu.Unlock()
	for { // Handle puts no more in
		select {
		case r := <-s.pulls:
			r.Reply(end, err)
		default:
			return
		}
	}
}

// Send has src write and answers the receiver, on the calling goroutine, as fast as the receiver asks. It returns the number
// of bytes sent, when the end is on its way to the receiver, or with an error: src's own, or the reason for which its
// writer failed, that is ctx's error, the end of the connection, or that the receiver wants no more.
//
// Where the connection is not one of this package's transports, only ctx tells that it has ended. Send is called once.
func (s *BulkSource) Send(ctx context.Context) (n int64, err error) {
	w := &bulkWriter{s: s, ctx: ctx, sum: newBulkTotal()}
	if err = w.wait(); err == nil {
		if _, err = s.src.WriteTo(w); err == nil {
			err = w.err
		}
	}
	if err == nil && w.fill > 0 {
		err = w.flush()
	}
	if err == nil {
		err = w.wait()
	}
	putChunk(w.buf)
	if err != nil {
		s.finish(nil, err)
		if w.pull != nil {
			w.pull.Reply(nil, err)
		}
		return int64(w.offset), err
	}
	end := binary.BigEndian.AppendUint64(append(make([]byte, 0, 64), 0x93, 1, 0xcf), w.offset)
	end = w.sum.Sum(appendBinHeader(end, sha256.Size))
	w.pull.Reply(end, nil)
	s.finish(end, nil)
	return int64(w.offset), nil
}

// bulkWriter cuts into chunks what the source writes.
type bulkWriter struct {
	s      *BulkSource
	ctx    context.Context
	pull   *Request // the call that the next chunk answers, if it is there
	conn   *conn    // where the calls come from, if it is one of this package's
	sum    bulkTotal
	buf    []byte // header and data of the chunk that is being filled
	fill   int    // bytes of data in it
	size   int    // bytes of data that a chunk has
	offset uint64 // bytes sent before
	err    error  // the first one, which stays
}

// wait waits until there is a call to answer.
func (w *bulkWriter) wait() error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.pull != nil {
		return nil
	}
	var ended <-chan struct{}
	if w.conn != nil {
		ended = w.conn.ended
	}
	select {
	case w.pull = <-w.s.pulls:
	case <-w.s.stop:
		return w.s.err
	case <-ended:
		return w.conn.callErr
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
	if w.size == 0 {
		w.size = 64 << 10
		if w.conn = w.pull.call.conn; w.conn != nil {
			lim := w.conn.lim
			w.size = min(bulkChunk, lim.maxMessage-bulkHeader, lim.maxPending/(2*bulkWindow))
		}
	}
	return nil
}

func (w *bulkWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 && w.err == nil {
		if w.buf == nil {
			w.buf = bulkBuffers.Get().(*[bulkBuffer]byte)[:]
		}
		k := copy(w.buf[bulkHeader+w.fill:bulkHeader+w.size], p)
		w.fill += k
		if w.fill == w.size {
			if w.err = w.flush(); w.err != nil {
				break
			}
		}
		n += k
		p = p[k:]
	}
	return n, w.err
}

// flush sends the chunk as the answer to the next call.
func (w *bulkWriter) flush() error {
	frame := w.buf[:bulkHeader+w.fill]
	data := frame[bulkHeader:]
	crc := bulkSum(w.offset, data)
	w.sum.add(w.offset, crc, len(data))
	b := append(frame[:wideReply], 0x94, 0, 0xcf)
	b = binary.BigEndian.AppendUint64(b, w.offset)
	b = binary.BigEndian.AppendUint32(append(b, 0xce), crc)
	binary.BigEndian.AppendUint32(append(b, 0xc6), uint32(len(data)))
	if err := w.wait(); err != nil {
		return err
	}
	if c := w.pull.call; c.conn == nil {
		w.pull.Reply(frame[wideReply:], nil)
	} else if !c.answered.Swap(true) {
		c.conn.replyOwned(c.id, frame)
		w.buf = nil
	}
	w.offset += uint64(w.fill)
	w.fill, w.pull = 0, nil
	return nil
}

// BulkReader is the receiving side of a bulk transfer. It is used by one goroutine at a time.
type BulkReader struct {
	ctx     context.Context
	conn    Conn
	id      uint64
	limit   uint64
	answers chan bulkAnswer // has room for all calls in flight
	pulls   uint64          // calls made
	owed    int             // calls that may be made: they are made together
	sum     bulkTotal
	offset  uint64 // bytes received and checked
	buf     []byte // the chunk being read, to be given back
	data    []byte // what of it was not read
	err     error  // what Read returns when data is empty
}

// bulkAnswer is the answer to one call.
type bulkAnswer struct {
	buf    []byte // holds data, and is given back to the pool
	data   []byte
	offset uint64
	crc    uint32
	digest []byte // at the end: offset is the total
	err    error
}

// ReceiveBulk begins to receive what the [BulkSource] with the given id, at the other end of c, sends. The reader keeps up
// to 2 MiB in flight. A transfer of more than limit bytes is refused. Read returns io.EOF only when every chunk's checksum,
// the total length and the sum of all chunks were right, and any other error else; bytes that it returned before are
// not to be used then. Cancelling ctx ends the transfer, not the connection.
func ReceiveBulk(ctx context.Context, c Conn, id uint64, limit int64) *BulkReader {
	b := &BulkReader{ctx: ctx, conn: c, id: id, limit: uint64(max(limit, 0)), sum: newBulkTotal(),
		answers: make(chan bulkAnswer, bulkWindow)}
	b.pull(bulkWindow)
	return b
}

// pull makes n more calls, whose answers end up in the channel.
func (b *BulkReader) pull(n int) {
	c, ours := b.conn.(*conn)
	if ours {
		c.mu.Lock() // all in one piece
		if ours = c.err == nil; !ours {
			c.mu.Unlock()
		}
	}
	for range n {
		params := AppendUint(AppendUint([]byte{0x92}, b.id), b.pulls)
		b.pulls++
		if ours {
			c.addCall(MethodBulkPull, params, pending{keep: b.answered})
		} else {
			b.conn.Go(MethodBulkPull, params, func(result []byte, err error) { b.answered(nil, result, err) })
		}
	}
	if ours {
		c.kick(usual)
	}
}

func (b *BulkReader) answered(buf, result []byte, err error) {
	b.answers <- parseBulk(buf, result, err)
}

// parseBulk checks an answer, which is in buf.
func parseBulk(buf, b []byte, err error) (a bulkAnswer) {
	defer func() {
		if a.data == nil {
			putChunk(buf)
		}
	}()
	if err != nil {
		return bulkAnswer{err: err}
	}
	a.err = Errorf(CodeBadMessage, "transport: bulk: malformed answer to %s", MethodBulkPull)
	n, b, ok := takeArray(b)
	if !ok || n < 3 {
		return a
	}
	kind, b, ok := takeUint(b)
	if !ok {
		return a
	}
	if a.offset, b, ok = takeUint(b); !ok {
		return a
	}
	if kind == 1 {
		if digest, _, ok := takeBin(b); ok && len(digest) == sha256.Size {
			a.digest, a.err = clone(digest), nil
		}
		return a
	}
	crc, b, ok := takeUint(b)
	if kind != 0 || n < 4 || !ok {
		return a
	}
	data, _, ok := takeBin(b)
	if !ok || len(data) == 0 || len(data) > bulkChunk {
		return a
	}
	if uint64(bulkSum(a.offset, data)) != crc {
		a.err = Errorf(CodeBadMessage, "transport: bulk: wrong checksum of %d bytes at offset %d", len(data), a.offset)
		return a
	}
	a.buf, a.data, a.crc, a.err = buf, data, uint32(crc), nil
	return a
}

// Read implements [io.Reader].
func (b *BulkReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(b.data) == 0 {
		if b.advance(); b.err != nil {
			return 0, b.err
		}
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}

// WriteTo implements [io.WriterTo], without a copy in between. Like Read it succeeds only if everything was right.
func (b *BulkReader) WriteTo(w io.Writer) (n int64, err error) {
	for {
		if len(b.data) == 0 {
			if b.advance(); b.err == io.EOF {
				return n, nil
			} else if b.err != nil {
				return n, b.err
			}
		}
		k, err := w.Write(b.data)
		n += int64(k)
		b.data = b.data[k:]
		if err != nil {
			return n, err
		}
	}
}

// advance waits for the next chunk, or sets err.
func (b *BulkReader) advance() {
	if b.err != nil {
		return
	}
	if b.buf != nil {
		putChunk(b.buf)
		b.buf = nil
		if b.owed++; b.owed == bulkWindow/2 {
			b.pull(b.owed)
			b.owed = 0
		}
	}
	var a bulkAnswer
	select {
	case a = <-b.answers:
	case <-b.ctx.Done():
		a.err = b.ctx.Err()
	}
	switch {
	case a.err != nil:
		b.fail(a.err)
	case a.offset != b.offset && a.digest != nil:
		b.fail(Errorf(CodeBadMessage, "transport: bulk: %d bytes received, %d sent", b.offset, a.offset))
	case a.offset != b.offset:
		b.fail(Errorf(CodeBadMessage, "transport: bulk: chunk of offset %d where %d is next", a.offset, b.offset))
	case a.digest != nil:
		if b.err = io.EOF; string(b.sum.Sum(nil)) != string(a.digest) {
			b.fail(Errorf(CodeBadMessage, "transport: bulk: wrong sum of %d bytes", b.offset))
		}
	case uint64(len(a.data)) > b.limit-b.offset:
		b.fail(Errorf(CodeBadMessage, "transport: bulk: more than the %d bytes allowed", b.limit))
	default:
		b.buf, b.data = a.buf, a.data
		b.sum.add(b.offset, a.crc, len(a.data))
		b.offset += uint64(len(a.data))
	}
}

func (b *BulkReader) fail(err error) {
	b.err = fmt.Errorf("transport: bulk transfer from %s at byte %d: %w", b.conn.Peer().Addr, b.offset, err)
	b.stop()
}

// stop tells the source that no more is wanted; if that does not reach it, it sees the connection end.
func (b *BulkReader) stop() {
	_ = b.conn.Notify(MethodBulkStop, AppendUint([]byte{0x91}, b.id))
}

// Close ends the transfer: unless it was complete, the source's writer fails. The connection stays.
func (b *BulkReader) Close() error {
	b.data = nil
	if b.err == nil {
		b.err = fmt.Errorf("transport: bulk transfer from %s: %w", b.conn.Peer().Addr, ErrClosed)
		b.stop()
	}
	return nil
}
