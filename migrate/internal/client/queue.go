package client

import (
	"context"
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/transport/msgpack"
)

// Call is a command under way.
type Call struct {
	c        *Client
	seq      uint64
	params   []byte // wire.DoParams; Seq and Low are filled in at each sending
	size     int    // of the command
	queuedAt time.Time
	sent     bool        // at least once
	refused  error       // refused for good, without a place in the log; see cmdQueue.withdraw
	ended    bool        // by the error that ended the client
	sending  atomic.Bool // Conn.Go is running for the first time

	done  chan struct{}
	reply []byte
	err   error
}

// Done returns a channel that is closed when the call has a reply or the client has ended.
func (c *Call) Done() <-chan struct{} { return c.done }

// Reply waits for the reply. If ctx ends first, the call continues.
func (c *Call) Reply(ctx context.Context) ([]byte, error) {
	select {
	case <-c.done:
		return c.reply, c.err
	default:
	}
	select {
	case <-c.done:
		return c.reply, c.err
	case <-ctx.Done():
		c.c.mu.Lock()
		defer c.c.mu.Unlock()
		return nil, c.c.explain(ctx.Err())
	}
}

func (c *Call) finished() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// cmdQueue holds a session's commands in the order of their numbers, from the oldest without a reply on, and the room that
// they take. It decides what to send next; it does no I/O. Client.mu guards it.
type cmdQueue struct {
	prefix []byte  // how the params of every command begin
	calls  []*Call // numbered without a gap; a call with a reply stays until it is the first
	spare  []*Call // the array that calls began in, reused once calls is empty
	next   uint64  // number of the next command
	room   queueRoom

	lastIndex uint64 // highest place in the log that a reply named
	// replySize is the expected size of a reply in bytes: the recent maximum. It is sendWindow after a connection was lost
	// before any reply arrived.
	replySize int64
}

// push numbers a call, for which there must be room, and appends it.
func (q *cmdQueue) push(call *Call) {
	call.seq = q.next
	q.next++
	if len(q.calls) == 0 {
		q.calls = append(q.spare[:0], call)
		q.spare = q.calls
		return
	}
	q.calls = append(q.calls, call)
}

// low returns the lowest number whose reply is still wanted.
func (q *cmdQueue) low() uint64 { return q.next - uint64(len(q.calls)) }

// oldest returns the first command without a reply, or nil.
func (q *cmdQueue) oldest() *Call {
	if len(q.calls) == 0 {
		return nil
	}
	return q.calls[0]
}

// after returns the commands with a higher number than seq.
func (q *cmdQueue) after(seq uint64) []*Call {
	return q.calls[min(max(seq+1, q.low())-q.low(), uint64(len(q.calls))):]
}

// pending returns a copy of the commands without a reply.
func (q *cmdQueue) pending() []*Call {
	return slices.DeleteFunc(slices.Clone(q.calls), func(c *Call) bool { return c.finished() })
}

// restart prepares for sending everything to another host, which may judge refused commands differently. It returns how many
// commands were sent before.
func (q *cmdQueue) restart() (resent int) {
	for _, call := range q.calls {
		call.refused = nil
		if call.sent && !call.finished() {
			resent++
		}
	}
	return resent
}

// finish ends a command with its reply and frees its room. It returns false if the command had a reply already.
func (q *cmdQueue) finish(call *Call, reply []byte, err error) bool {
	if call.finished() {
		return false
	}
	call.reply, call.err = reply, err
	close(call.done)
	n := 0
	for n < len(q.calls) && q.calls[n].finished() {
		q.calls[n] = nil
		n++
	}
	q.calls = q.calls[n:]
	q.room.free(call.size)
	return true
}

// hasRefused reports whether a command was refused for good without a place in the log.
func (q *cmdQueue) hasRefused() bool {
	return slices.ContainsFunc(q.calls, func(c *Call) bool { return c.refused != nil && !c.finished() })
}

// withdraw ends the commands that were refused for good without a place in the log, and renumbers the ones behind them,
// since the service waits for these numbers. It must not be called while a command behind a refused one may still be
// executed: it could be executed under both numbers. It returns the commands that it ended.
func (q *cmdQueue) withdraw() (ended []*Call) {
	low := q.low()
	kept := q.calls[:0]
	for _, call := range q.calls {
		if call.refused != nil && !call.finished() {
			call.err = call.refused
			close(call.done)
			q.room.free(call.size)
			ended = append(ended, call)
			continue
		}
		call.seq = low + uint64(len(kept))
		kept = append(kept, call)
	}
	clear(q.calls[len(kept):])
	q.calls, q.next = kept, low+uint64(len(kept))
	return ended
}

// end ends all commands with the error that ended the client.
func (q *cmdQueue) end(err error) {
	for _, call := range q.calls {
		if !call.finished() {
			call.ended = true
			call.err = err
			close(call.done)
		}
	}
	q.calls = nil
}

// queueRoom counts the commands in the queue and their bytes. Commands that find it full wait, first come, first served.
type queueRoom struct {
	maxLen, maxBytes int
	len, bytes       int
	waiting          []*roomWaiter
}

type roomWaiter struct {
	size    int
	granted bool
	ready   chan struct{} // closed when granted
}

// take reserves room for a command. It returns false if there is none, or if others wait.
func (r *queueRoom) take(size int) bool {
	if len(r.waiting) > 0 || !r.fits(size) {
		return false
	}
	r.len++
	r.bytes += size
	return true
}

func (r *queueRoom) fits(size int) bool { return r.len < r.maxLen && r.bytes+size <= r.maxBytes }

// wait queues for room.
func (r *queueRoom) wait(size int) *roomWaiter {
	w := &roomWaiter{size: size, ready: make(chan struct{})}
	r.waiting = append(r.waiting, w)
	return w
}

// free returns a command's room.
func (r *queueRoom) free(size int) {
	r.len--
	r.bytes -= size
	r.grant()
}

func (r *queueRoom) grant() {
	for len(r.waiting) > 0 && r.fits(r.waiting[0].size) {
		w := r.waiting[0]
		r.waiting[0] = nil
		r.waiting = r.waiting[1:]
		r.len++
		r.bytes += w.size
		w.granted = true
		close(w.ready)
	}
}

// leave stops waiting, and returns the room if it was granted meanwhile.
func (r *queueRoom) leave(w *roomWaiter) {
	if w.granted {
		r.free(w.size)
		return
	}
	if i := slices.Index(r.waiting, w); i >= 0 {
		r.waiting = slices.Delete(r.waiting, i, i+1)
	}
	r.grant() // w may have been the one that did not fit
}

// commandPrefix encodes the beginning of the params of every command of a session: all of wire.DoParams up to Body. Seq and
// Low at its end are integers of fixed width, so that a command is encoded once, however often it is sent.
func commandPrefix(service string, session uint64) []byte {
	b := msgpack.AppendString(msgpack.AppendArray(nil, 5), service)
	b = binary.BigEndian.AppendUint64(append(b, 0xcf), session)
	b = binary.BigEndian.AppendUint64(append(b, 0xcf), 0)
	return binary.BigEndian.AppendUint64(append(b, 0xcf), 0)
}

// smallCall is a call with its params, in 256 bytes.
type smallCall struct {
	Call
	params [104]byte
}

// newCall encodes a command.
func newCall(c *Client, command []byte) *Call {
	var (
		call   *Call
		p      []byte
		prefix = c.queue.prefix
	)
	if n := len(prefix) + 5 + len(command); n <= len(smallCall{}.params) {
		s := new(smallCall)
		call, p = &s.Call, s.params[:0]
	} else {
		call, p = new(Call), make([]byte, 0, n)
	}
	p = append(p, prefix...)
	p = msgpack.AppendBytes(p, command)
	*call = Call{c: c, params: p, size: len(command), queuedAt: time.Now(), done: make(chan struct{})}
	return call
}

// number writes Seq and Low into the params of a command, which begin with a prefix of that length.
func (c *Call) number(prefix int, low uint64) {
	binary.BigEndian.PutUint64(c.params[prefix-17:], c.seq)
	binary.BigEndian.PutUint64(c.params[prefix-8:], low)
}
