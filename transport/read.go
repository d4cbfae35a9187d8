package transport

import (
	"errors"
	"sync"
	"time"

	"github.com/roam-go/roam/transport/internal/mp"
)

const (
	readSmall   = 1 << 10  // buffer of an idle connection
	readLarge   = 64 << 10 // buffer of a busy one
	readFirst   = 4 << 10  // largest first message, from an unknown peer
	readDrain   = 64 << 10 // bytes read from a refused peer, so that it gets the answer
	spareReads  = 64       // small reads before the buffer shrinks
	methods     = 64       // method names kept, to save an allocation for each message
	smallParams = 64       // largest params allocated together with their request
	smallCall   = 120      // the same for a call
	burstLen    = 4        // small notifications of a burst that share an allocation
)

// reader is the receiving half of a conn. It belongs to the reading goroutine.
type reader struct {
	buf     []byte // buf[r:w] was read but not handled
	r, w    int
	limit   int // the size limit of a message
	scan    mp.Scanner
	begun   bool      // scan is inside a message
	whole   bool      // msg is the next message and not handled yet
	bad     error     // why the next bytes are not a message
	msg     message   // the last complete message
	full    bool      // the last read filled the buffer
	spare   int       // consecutive reads that filled less than a quarter of the buffer
	waiting time.Time // when the last bytes arrived
	started time.Time // when the first bytes of an incomplete message arrived, or zero
	armed   time.Time // the read deadline
	pinged  bool
	last    string // the method of the last message
	names   map[string]string
	burst   *[burstLen]smallRequest // the last one
	used    int                     // how many of burst are in use
}

var largeBuffers = sync.Pool{New: func() any { return new([readLarge]byte) }}

// resize changes the size of the buffer and keeps its content.
func (rd *reader) resize(n int) {
	var buf []byte
	switch {
	case n == readLarge:
		buf = largeBuffers.Get().(*[readLarge]byte)[:]
	case n > readLarge && n <= chunkHuge:
		buf = hugeChunks.Get().(*[chunkHuge]byte)[:]
	default:
		buf = make([]byte, n)
	}
	w := copy(buf, rd.buf[rd.r:rd.w])
	rd.release()
	rd.buf, rd.r, rd.w = buf, 0, w
}

func (rd *reader) release() {
	switch len(rd.buf) {
	case readLarge:
		largeBuffers.Put((*[readLarge]byte)(rd.buf))
	case chunkHuge:
		hugeChunks.Put((*[chunkHuge]byte)(rd.buf))
	}
	rd.buf = nil
}

// next returns the next complete frame, which is valid until the next call. rd.msg describes it until next or more is
// called.
func (c *conn) next() ([]byte, error) {
	rd := &c.rd
	for !rd.ahead() {
		if rd.bad != nil {
			return nil, rd.bad
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
	if !rd.started.IsZero() {
		rd.started = time.Time{}
		c.held.partial.Store(false)
	}
	rd.begun, rd.whole = false, false
	frame := rd.buf[rd.r : rd.r+rd.scan.Pos]
	rd.r += rd.scan.Pos
	return frame, nil
}

// ahead reports whether the next message is complete in the buffer. Then rd.msg describes it. If it is invalid, rd.bad is
// set.
func (rd *reader) ahead() bool {
	if rd.whole || rd.w == rd.r || rd.bad != nil {
		return rd.whole
	}
	if !rd.begun {
		if err := checkFirst(rd.buf[rd.r]); err != nil {
			rd.bad = err
			return false
		}
		rd.scan.Reset(rd.limit, mp.MaxDepth+1)
		rd.begun = true
	}
	whole, err := rd.scan.Scan(rd.buf[rd.r:rd.w])
	switch {
	case err == mp.ErrTooLong:
		rd.bad = Errorf(CodeBadMessage, "transport: message of more than %d bytes", rd.limit)
	case err != nil:
		rd.bad = Errorf(CodeBadMessage, "transport: message with %v", err)
	case whole:
		if err := rd.msg.parse(rd.buf[rd.r : rd.r+rd.scan.Pos]); err != nil {
			rd.bad = err
			return false
		}
		rd.whole = true
	}
	return rd.whole
}

// checkFirst returns an error if b cannot begin a message.
func checkFirst(b byte) error {
	switch {
	case b == 0x93, b == 0x94, b == 0xdc, b == 0xdd:
		return nil
	case b == 0xc0:
		return Errorf(CodeBadMessage, "transport: nil instead of a message")
	case mp.IsExt(b):
		return Errorf(CodeBadMessage, "transport: extension type 0x%02x instead of a message", b)
	case b&0xf0 == 0x90:
		return Errorf(CodeBadMessage, "transport: message is an array of %d values", b&0x0f)
	}
	return Errorf(CodeBadMessage, "transport: message begins with 0x%02x, which is no array", b)
}

// fill reads at least one byte.
func (c *conn) fill() error {
	rd := &c.rd
	switch size, have := len(rd.buf), rd.w-rd.r; {
	case size == 0:
		rd.resize(readSmall)
	case rd.full && size < readLarge && !c.lim.budget.tight(): // there may be much more to read
		rd.resize(min(4*size, readLarge))
	case have == 0 && size > readSmall && c.lim.budget.tight():
		rd.resize(readSmall)
	case have == 0 && size > readSmall && rd.spare >= spareReads:
		rd.spare = 0
		rd.resize(max(min(size/4, readLarge), readSmall))
	case have > size/2 && rd.w == size:
		// The buffer grows with the bytes that have arrived, not with the announced size.
		rd.resize(min(max(2*size, min(rd.scan.Pos, 8*size)), max(rd.limit, readLarge)))
	case rd.r > 0 && have < size/8 || rd.w == size: // room for a large read is worth a small copy
		copy(rd.buf, rd.buf[rd.r:rd.w])
		rd.r, rd.w = 0, have
	}
	now := time.Now()
	rd.waiting, rd.pinged, rd.burst = now, false, nil
	if rd.w > rd.r && rd.started.IsZero() {
		rd.started = now
		c.unfinished(now)
	}
	if c.owner != nil { // else the handshake is not over, and it limits the buffer
		c.holdRead()
	}
	for {
		n, err := c.nc.Read(rd.buf[rd.w:])
		c.flushSealed()
		if n > 0 {
			rd.w += n
			rd.full = rd.w == len(rd.buf)
			if rd.spare++; n > len(rd.buf)/4 {
				rd.spare = 0
			}
			return nil
		}
		switch {
		case err == nil:
		case c.over.Load() || !isTimeout(err) || rd.armed.IsZero():
			return c.readError(err, rd.w > rd.r)
		default:
			if err := c.tick(time.Now()); err != nil {
				return err
			}
		}
	}
}

// tick is called when the read deadline has passed. It pings a silent peer, and returns an error if it stays silent.
func (c *conn) tick(now time.Time) error {
	rd := &c.rd
	// The goroutine should wake at armed. If it wakes much later, and not because of the handler, the process was suspended,
	// and data of the peer may have arrived meanwhile.
	due := rd.armed
	if due.Before(rd.waiting) {
		due = rd.waiting
	}
	if late := now.Sub(due); late > c.lim.pingEvery/2 {
		rd.waiting = rd.waiting.Add(late)
		if !rd.started.IsZero() {
			rd.started = rd.started.Add(late)
		}
	}
	quiet := now.Sub(rd.waiting)
	switch {
	case !rd.started.IsZero() && now.Sub(rd.started) >= c.lim.message:
		return Errorf(CodeTimeout, "transport: %s has not completed a message within %v", c.peer.Addr, c.lim.message)
	case quiet >= 3*c.lim.pingEvery:
		return Errorf(CodeTimeout, "transport: %s has been silent for %v", c.peer.Addr, quiet.Round(time.Millisecond))
	case quiet >= c.lim.pingEvery && !rd.pinged:
		rd.pinged = true
		if rd.r == rd.w && len(rd.buf) > readSmall {
			rd.r, rd.w = 0, 0
			rd.resize(readSmall)
			c.holdRead()
		}
		c.Go(methodPing, nil, func([]byte, error) {})
	}
	c.arm(now)
	return nil
}

// arm sets the read deadline to the next time at which tick may have to act.
func (c *conn) arm(now time.Time) {
	rd := &c.rd
	at := rd.waiting.Add(c.lim.pingEvery)
	if rd.pinged {
		at = rd.waiting.Add(3 * c.lim.pingEvery)
	}
	if !rd.started.IsZero() {
		at = earlier(at, rd.started.Add(c.lim.message))
	} else {
		at = earlier(at, now.Add(c.lim.message)) // so the start of a message need not set it
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		rd.armed = at
		c.nc.SetReadDeadline(at)
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// run is the reading goroutine after the greeting. first is the first frame of a peer that did not greet, or nil. It returns
// false if another goroutine has taken its place.
func (c *conn) run(first []byte) bool {
	c.rd.limit = c.lim.maxMessage
	now := time.Now()
	c.rd.waiting = now
	c.arm(now)
	if first != nil && !c.dispatch(first) {
		return false
	}
	var err error
	for err == nil && !c.over.Load() {
		var frame []byte
		if frame, err = c.next(); err == nil && !c.over.Load() && !c.dispatch(frame) {
			return false
		}
	}
	if err == nil {
		err = ErrClosed // end has set the reason
	}
	if errors.Is(err, ErrBadMessage) {
		c.lim.log.Warn("connection ended by a bad message", "peer", c.peer.Addr, "error", err)
	}
	c.finish(err)
	return true
}

// more reports whether the next message has arrived and is for the handler.
func (c *conn) more() bool {
	rd := &c.rd
	if !rd.ahead() || rd.msg.kind == kindReply {
		return false
	}
	method := rd.msg.method.of(rd.buf[rd.r:])
	return string(method) != methodPing && string(method) != methodHello
}

// dispatch handles one frame, which rd.msg describes. It returns false if another goroutine reads on.
func (c *conn) dispatch(frame []byte) bool {
	m := &c.rd.msg
	switch m.kind {
	case kindReply:
		c.mu.Lock()
		p, ok := c.calls.take(m.id)
		c.mu.Unlock()
		switch {
		case !ok: // the call was cancelled
		case m.failed():
			p.complete(nil, parseError(m.fault.of(frame)))
		case p.borrowed:
			p.done(m.body.of(frame), nil)
		default:
			p.complete(clone(m.body.of(frame)), nil)
		}
	case kindNotify:
		if c.handler != nil {
			return c.handle(c.request(frame))
		}
	case kindCall:
		switch method := m.method.of(frame); {
		case string(method) == methodPing:
			c.reply(m.id, nil, nil)
		case string(method) == methodHello:
			c.reply(m.id, nil, Errorf(CodeBadMessage, "transport: %s is not the first message", methodHello))
		case c.handler == nil:
			c.reply(m.id, nil, Errorf(CodeNoMethod, "transport: no method %q here", method))
		default:
			return c.handle(c.request(frame))
		}
	}
	return true
}

// request returns the request of a frame, which rd.msg describes.
func (c *conn) request(frame []byte) *Request {
	rd := &c.rd
	m := &rd.msg
	name, body, kind, id := rd.intern(m.method.of(frame)), m.body.of(frame), m.kind, m.id
	more := c.more()
	var r *Request
	switch {
	case kind == kindCall:
		r = newCall(c, id, body)
	case len(body) > smallParams:
		r = &Request{Params: clone(body)}
	default:
		r = rd.small(more).with(body)
	}
	r.Method, r.More = name, more
	return r
}

// small returns a small request. In a burst it is part of a larger allocation.
func (rd *reader) small(more bool) *smallRequest {
	if rd.burst == nil || rd.used == burstLen {
		if !more {
			return new(smallRequest)
		}
		rd.burst, rd.used = new([burstLen]smallRequest), 0
	}
	rd.used++
	return &rd.burst[rd.used-1]
}

// smallRequest is a request and its params.
type smallRequest struct {
	Request
	params [smallParams]byte
}

// with sets the params.
func (s *smallRequest) with(params []byte) *Request {
	n := len(params)
	s.Params = s.params[:n:n]
	copy(s.Params, params)
	return &s.Request
}

// newCall returns the request of a call.
func newCall(c *conn, id uint64, params []byte) *Request {
	if n := len(params); n <= smallCall {
		s := new(struct {
			Request
			call
			params [smallCall]byte
		})
		s.call.conn, s.call.id, s.Request.call, s.Params = c, id, &s.call, s.params[:n:n]
		copy(s.Params, params)
		return &s.Request
	}
	s := new(struct {
		Request
		call
	})
	s.call.conn, s.call.id, s.Request.call, s.Params = c, id, &s.call, clone(params)
	return &s.Request
}

func clone(b []byte) []byte {
	d := make([]byte, len(b))
	copy(d, b)
	return d
}

// intern returns a method's name as a string, without an allocation for frequent names.
func (rd *reader) intern(b []byte) string {
	if string(b) == rd.last {
		return rd.last
	}
	s, ok := rd.names[string(b)]
	if !ok {
		s = string(b)
		if rd.names == nil {
			rd.names = make(map[string]string)
		}
		if len(rd.names) < methods {
			rd.names[s] = s
		}
	}
	rd.last = s
	return s
}
