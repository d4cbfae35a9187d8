package machine

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// The stream of a snapshot is a header, the tables of the machine, then the output of the service's Snapshot to the end.
// Numbers are uvarints; bytes are a length followed by the data:
//
//	"roam", format (2), service (bytes)
//	index, epoch, log time, hash
//	number of sessions, and for each, the least recently used first:
//		id, key (32 bytes), log time of last use, for how long the client is away (ms; not in format 1), number of the first cached reply, number of replies, and for each:
//			index, epoch, 0 and the reply (bytes), or the error's code, message and data (bytes)
//	number of the first event kept, number of events, and for each: log time, body (bytes)
//
// It has no checksum; the carrier adds one.
const (
	snapshotMagic  = "roam"
	snapshotFormat = 2
	// maxSeq bounds the numbers of commands in a snapshot, so that the next ones do not overflow.
	maxSeq = 1 << 62
)

var snapshotWriters = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 64<<10) }}

// Capture is a machine at one point in time. WriteTo may run on another goroutine while the machine applies entries.
type Capture struct {
	service      string
	index, epoch uint64
	time         int64
	sum          uint64
	count        int // of sessions
	sessions     sessionTable
	events       eventLog
	app          Snapshot
	onPanic      func(method string, value any, stack []byte)
}

// Snapshot captures the machine: the service by its own Snapshot, the tables by copying them without the bytes of replies
// and events, which never change. It belongs to the applier, so that both are of the same index; it does not lock the
// tables.
func (m *Machine) Snapshot() (*Capture, error) {
	var app Snapshot
	if err := protectPanic("Snapshot", m.OnPanic, func() (err error) { app, err = m.app.Snapshot(); return err }); err != nil {
		return nil, fmt.Errorf("migrate: %s: snapshot: %w", m.service, err)
	}
	if app == nil {
		return nil, fmt.Errorf("migrate: %s: snapshot: the service returned none", m.service)
	}
	return &Capture{
		service: m.service,
		index:   m.index, epoch: m.epoch, time: m.time, sum: m.sum,
		count: m.sessions.len(), sessions: m.sessions.capture(), events: m.events.capture(),
		app: app, onPanic: m.OnPanic,
	}, nil
}

// Release releases the service's snapshot. It must be called exactly once, after WriteTo or instead of it.
func (s *Capture) Release() {
	_ = protectPanic("Release", s.onPanic, func() error { s.app.Release(); return nil })
}

// WriteTo writes the stream; it buffers only a small part of it.
func (s *Capture) WriteTo(w io.Writer) (int64, error) {
	c := &countingWriter{w: w}
	if err := s.write(c); err != nil {
		return c.n, fmt.Errorf("migrate: %s: snapshot: %w", s.service, err)
	}
	return c.n, nil
}

func (s *Capture) write(w io.Writer) error {
	buf := snapshotWriters.Get().(*bufio.Writer)
	buf.Reset(w)
	defer func() {
		buf.Reset(nil)
		snapshotWriters.Put(buf)
	}()
	e := &snapshotWriter{w: buf}
	e.w.WriteString(snapshotMagic)
	e.uint(snapshotFormat)
	e.bytes([]byte(s.service))
	e.uint(s.index)
	e.uint(s.epoch)
	e.uint(uint64(s.time))
	e.uint(s.sum)
	e.uint(uint64(s.count))
	for v := range s.sessions.byUse() {
		e.uint(v.id)
		e.w.Write(v.key[:])
		e.uint(uint64(v.used))
		e.uint(uint64(v.away))
		e.uint(v.first)
		e.uint(uint64(len(v.ring)))
		for _, r := range v.ring {
			e.uint(r.index)
			e.uint(r.epoch)
			if r.err == nil {
				e.uint(0)
				e.bytes(r.body)
				continue
			}
			e.uint(uint64(r.err.Code))
			e.bytes([]byte(r.err.Message))
			e.bytes(r.err.Data)
		}
	}
	e.uint(s.events.first)
	e.uint(s.events.next - s.events.first)
	for ev := range s.events.all {
		e.uint(uint64(ev.time))
		e.bytes(ev.body)
	}
	if err := e.w.Flush(); err != nil { // a bufio.Writer keeps its first error
		return err
	}
	// Release the tables now: the service's part may take long.
	s.sessions, s.events = sessionTable{}, eventLog{}
	return protectPanic("WriteTo", s.onPanic, func() error { _, err := s.app.WriteTo(w); return err })
}

// Restore reads a machine that [Capture.WriteTo] wrote. r must end with an error other than io.EOF unless the stream is
// known to be complete. app is new; after an error it must be dropped.
//
// Restore never allocates more than the limits allow, whatever the stream contains.
func Restore(service string, app App, lim Limits, r io.Reader) (*Machine, error) {
	m := New(service, app, lim)
	src := &eofReader{r: r}
	d := &snapshotReader{r: bufio.NewReaderSize(src, 16<<10)} // not from a pool: the service gets a part of its buffer
	err := m.restoreTables(d)
	if err == nil {
		err = m.restoreService(d.r, src)
	}
	if err != nil {
		return nil, fmt.Errorf("migrate: %s: restore: %w", service, err)
	}
	return m, nil
}

func (m *Machine) restoreTables(d *snapshotReader) error {
	var magic [len(snapshotMagic)]byte
	d.full("magic", magic[:])
	if d.err == nil && string(magic[:]) != snapshotMagic {
		return errors.New("magic: not a snapshot")
	}
	format := d.uint("format")
	if d.err == nil && (format == 0 || format > snapshotFormat) {
		return fmt.Errorf("format: %d is unknown", format)
	}
	if name := d.bytes("service", max(len(m.service), 256)); d.err == nil && string(name) != m.service {
		return fmt.Errorf("service: the snapshot is of %q", name)
	}
	m.index, m.epoch, m.time = d.uint("index"), d.uint("epoch"), int64(d.uint("log time"))
	m.sum = d.uint("hash")
	m.keepSum()
	for range d.count("number of sessions", uint64(m.lim.Sessions)) {
		if m.restoreSession(d, format); d.err != nil {
			return d.err
		}
	}
	m.events.first = d.uint("first event")
	n := d.uint("number of events")
	m.events.next = m.events.first
	if d.err == nil && (m.events.first == 0 || m.events.first+n < n) {
		return fmt.Errorf("first event: %d with %d events", m.events.first, n)
	}
	for range n {
		at, body := d.uint("event time"), d.bytes("event", m.lim.MaxReply)
		if d.err != nil {
			break
		}
		m.events.push(int64(at), body)
	}
	return d.err
}

func (m *Machine) restoreSession(d *snapshotReader, format uint64) {
	var key transport.Key
	id := d.uint("session")
	d.full("session key", key[:])
	used := d.uint("session's last use")
	var away uint64
	if format > 1 {
		away = d.count("session's time away", maxAway)
	}
	first := d.uint("first reply of session")
	n := d.count("number of replies", uint64(m.lim.RepliesPerSession))
	switch {
	case d.err != nil:
		return
	case id == 0 || m.sessions.get(id) != nil:
		d.err = fmt.Errorf("session: %d occurs twice or is 0", id)
		return
	case first == 0 || first > maxSeq:
		d.err = fmt.Errorf("first reply of session %d: %d", id, first)
		return
	}
	s := m.sessions.open(id, key, int64(used))
	s.first, s.away = first, int64(away)
	for range n {
		r := cachedReply{index: d.uint("index of reply"), epoch: d.uint("epoch of reply")}
		if code := d.count("code of reply", 1<<32-1); code == 0 {
			r.body = d.bytes("reply", m.lim.MaxReply)
		} else {
			r.err = &transport.Error{
				Code:    transport.Code(code),
				Message: string(d.bytes("message of error", m.lim.MaxReply)),
				Data:    d.bytes("data of error", m.lim.MaxReply),
			}
		}
		if d.err != nil {
			return
		}
		bytes := m.sessions.bytes + r.size()
		if m.sessions.add(s, r); m.sessions.bytes != bytes {
			d.err = fmt.Errorf("replies of session %d: over the limit", id)
			return
		}
	}
}

// restoreService passes the rest of the stream to the service, and checks that it read all of it.
func (m *Machine) restoreService(buf *bufio.Reader, src *eofReader) error {
	head, _ := buf.Peek(buf.Buffered())
	r := io.MultiReader(bytes.NewReader(head), src)
	if err := protectPanic("Restore", m.OnPanic, func() error { return m.app.Restore(r) }); err != nil {
		return err
	}
	if src.err != nil {
		return src.err // the service may have ignored it
	}
	switch _, err := io.ReadFull(r, make([]byte, 1)); {
	case err == nil:
		return errors.New("the service did not read to the end")
	case err != io.EOF:
		return err
	}
	return nil
}

// protectPanic calls the service where its error stays on this host, and turns a panic into an error.
func protectPanic(method string, onPanic func(string, any, []byte), f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = transport.Errorf(wire.CodePanic, "%s panicked: %v", method, v)
			if onPanic != nil {
				onPanic(method, v, debug.Stack())
			}
		}
	}()
	return f()
}

// eofReader remembers an error other than io.EOF.
type eofReader struct {
	r   io.Reader
	err error
}

func (r *eofReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

type snapshotWriter struct {
	w   *bufio.Writer
	tmp [binary.MaxVarintLen64]byte
}

func (e *snapshotWriter) uint(v uint64) { e.w.Write(e.tmp[:binary.PutUvarint(e.tmp[:], v)]) }

func (e *snapshotWriter) bytes(b []byte) {
	e.uint(uint64(len(b)))
	e.w.Write(b)
}

// snapshotReader reads fields until the first error; later fields are zero, and err names the field that failed.
type snapshotReader struct {
	r   *bufio.Reader
	err error
}

func (d *snapshotReader) fail(field string, err error) {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	d.err = fmt.Errorf("%s: %w", field, err)
}

func (d *snapshotReader) uint(field string) uint64 {
	if d.err != nil {
		return 0
	}
	v, err := binary.ReadUvarint(d.r)
	if err != nil {
		d.fail(field, err)
		return 0
	}
	return v
}

// count reads a number of at most limit.
func (d *snapshotReader) count(field string, limit uint64) uint64 {
	v := d.uint(field)
	if v > limit {
		d.err = fmt.Errorf("%s: %d is over the limit of %d", field, v, limit)
		return 0
	}
	return v
}

func (d *snapshotReader) full(field string, b []byte) {
	if d.err != nil {
		return
	}
	if _, err := io.ReadFull(d.r, b); err != nil {
		d.fail(field, err)
	}
}

// bytes reads at most limit bytes; it returns nil for an empty field.
func (d *snapshotReader) bytes(field string, limit int) []byte {
	n := d.count(field, uint64(limit))
	if n == 0 {
		return nil
	}
	b := make([]byte, n)
	d.full(field, b)
	return b
}
