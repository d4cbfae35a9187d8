package bulk

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

var (
	buffers    = sync.Pool{New: func() any { return new([header + chunk]byte) }}
	errStopped = errors.New("the receiver stopped the transfer")
)

// Source is the sending side of a transfer to one receiver, which uses [Receive].
type Source struct {
	src   io.WriterTo
	pulls chan *transport.Request

	mu   sync.Mutex // guards the fields below
	next uint64     // number of the next pull
	stop chan struct{}
	over bool // stop is closed
	end  []byte
	err  error
}

// NewSource returns a source of the bytes that src writes. It does not call src before the receiver asks.
func NewSource(src io.WriterTo) *Source {
	return &Source{src: src, pulls: make(chan *transport.Request, 4*window), stop: make(chan struct{})}
}

// Handle processes a request of the receiver. It does not block, and may be called before and after Send.
func (s *Source) Handle(r *transport.Request) {
	if r.Method == MethodStop {
		s.finish(nil, errStopped)
		return
	}
	v := msgpack.NewReader(r.Params)
	count := v.Array()
	_, n := v.Uint(), v.Uint()
	if r.Method != MethodPull || !r.IsCall() || count < 2 || v.Err() != nil {
		r.Reply(nil, transport.Errorf(transport.CodeBadMessage, "migrate: malformed request %s", r.Method))
		return
	}
	s.mu.Lock()
	end, err, over := s.end, s.err, s.over
	if !over && n != s.next {
		err = transport.Errorf(transport.CodeBadMessage, "migrate: snapshot transfer: pull %d instead of pull %d", n, s.next)
	} else if !over {
		select {
		case s.pulls <- r:
			s.next++
			r = nil
		default:
			err = transport.Errorf(transport.CodeBadMessage, "migrate: snapshot transfer: more than %d pulls at a time", cap(s.pulls))
		}
	}
	s.mu.Unlock()
	if r != nil {
		r.Reply(end, err)
	}
}

// Closed ends the transfer when the receiver's connection has ended with err, so that Send returns.
func (s *Source) Closed(err error) { s.finish(nil, fmt.Errorf("connection ended: %w", err)) }

// finish sets the answer to all further pulls and answers those that wait. Only the first call has an effect.
func (s *Source) finish(end []byte, err error) {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	s.over, s.end, s.err = true, end, err
	close(s.stop)
	s.mu.Unlock()
	for { // Handle adds no more
		select {
		case r := <-s.pulls:
			r.Reply(end, err)
		default:
			return
		}
	}
}

// Send calls src.WriteTo and answers the receiver's calls with its output, on the calling goroutine. It returns the number
// of bytes sent. The error is the error of WriteTo, whose writer fails if ctx ends, the connection ends or the receiver
// stops the transfer. Call Send once.
func (s *Source) Send(ctx context.Context) (n int64, err error) {
	w := &writer{s: s, ctx: ctx, sum: newTotal()}
	if err = w.wait(); err == nil {
		if _, err = s.src.WriteTo(w); err == nil {
			err = w.err
		}
	}
	if err == nil && len(w.buf) > header {
		err = w.flush()
	}
	if err == nil {
		err = w.wait()
	}
	if w.buf != nil {
		buffers.Put((*[header + chunk]byte)(w.buf[:header+chunk]))
	}
	if err != nil {
		s.finish(nil, err)
		if w.pull != nil {
			w.pull.Reply(nil, err)
		}
		return int64(w.offset), err
	}
	end := binary.BigEndian.AppendUint64(append(make([]byte, 0, 64), 0x93, 1, 0xcf), w.offset)
	end = w.sum.Sum(append(end, 0xc4, sha256.Size))
	w.pull.Reply(end, nil)
	s.finish(end, nil)
	return int64(w.offset), nil
}

// writer splits the source's output into chunks.
type writer struct {
	s      *Source
	ctx    context.Context
	pull   *transport.Request // the call that the next chunk answers, or nil
	sum    total
	buf    []byte // header and data of the next chunk
	offset uint64 // bytes sent
	err    error  // the first error; it stays
}

// wait waits for a call to answer.
func (w *writer) wait() error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.pull != nil {
		return nil
	}
	select {
	case w.pull = <-w.s.pulls:
		return nil
	case <-w.s.stop:
		return w.s.err
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
}

// Write implements [io.Writer].
func (w *writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 && w.err == nil {
		if w.buf == nil {
			w.buf = buffers.Get().(*[header + chunk]byte)[:header]
		}
		k := min(len(p), cap(w.buf)-len(w.buf))
		w.buf = append(w.buf, p[:k]...)
		if len(w.buf) == cap(w.buf) {
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
func (w *writer) flush() error {
	data := w.buf[header:]
	crc := checksum(w.offset, data)
	w.sum.add(w.offset, crc, len(data))
	b := append(w.buf[:0], 0x94, 0, 0xcf)
	b = binary.BigEndian.AppendUint64(b, w.offset)
	b = binary.BigEndian.AppendUint32(append(b, 0xce), crc)
	binary.BigEndian.AppendUint32(append(b, 0xc6), uint32(len(data)))
	if err := w.wait(); err != nil {
		return err
	}
	w.pull.Reply(w.buf, nil)
	w.pull = nil
	w.offset += uint64(len(data))
	w.buf = w.buf[:header]
	return nil
}
