package migrate

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// Call is a command on its way.
type Call struct {
	c      *Client
	seq    uint64
	params []byte // wire.DoParams; Seq and Low are filled in at each sending
	size   int    // of the command
	since  time.Time
	sent   bool        // at least once
	held   error       // refused for good without a place in the log; see cmdQueue.withdraw
	ended  bool        // by an error that ended the client
	going  atomic.Bool // Conn.Go is being called for the first time

	done  chan struct{}
	reply []byte
	err   error
}

// Done is closed when the reply is there, or the client has ended.
func (c *Call) Done() <-chan struct{} { return c.done }

// Reply waits for and returns the reply. When ctx ends first, the call goes on.
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

// cmdQueue holds a session's commands in the order of their numbers, from the oldest that has no reply yet. It decides
// what is sent next and what is over; it does no I/O.
type cmdQueue struct {
	calls []*Call // numbered without a gap; those with a reply stay until they are the first
	spare []*Call // where calls began, to begin there again when it is empty
	next  uint64  // the number of the next command
}

// push gives call its number.
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

// low is the lowest number whose reply is still wanted.
func (q *cmdQueue) low() uint64 { return q.next - uint64(len(q.calls)) }

// oldest is the first command without a reply; nil if there is none.
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

// pending returns a copy of all that have no reply.
func (q *cmdQueue) pending() []*Call {
	return slices.DeleteFunc(slices.Clone(q.calls), func(c *Call) bool { return c.finished() })
}

func (c *Call) finished() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// finish ends a command with its reply; false if it had one.
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
	return true
}

// held reports whether a command was refused for good without a place in the log.
func (q *cmdQueue) held() bool {
	return slices.ContainsFunc(q.calls, func(c *Call) bool { return c.held != nil && !c.finished() })
}

// withdraw ends the commands that were refused for good without a place in the log, and gives their numbers to those
// behind them, as the service waits for them. It must not be called while the fate of a command behind one of them is
// open, or that command could be executed under both numbers. It
// calls ended for each.
func (q *cmdQueue) withdraw(ended func(*Call)) {
	low := q.low()
	kept := q.calls[:0]
	for _, call := range q.calls {
		if call.held != nil && !call.finished() {
			call.err = call.held
			close(call.done)
			ended(call)
			continue
		}
		call.seq = low + uint64(len(kept))
		kept = append(kept, call)
	}
	clear(q.calls[len(kept):])
	q.calls, q.next = kept, low+uint64(len(kept))
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

// queueRoom counts what is in a client's queue, and lets those wait who find it full, first come first served.
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

// take makes room for a command unless there is none or others wait.
func (r *queueRoom) take(size int) bool {
	if len(r.waiting) > 0 || !r.fits(size) {
		return false
	}
	r.len++
	r.bytes += size
	return true
}

func (r *queueRoom) fits(size int) bool { return r.len < r.maxLen && r.bytes+size <= r.maxBytes }

func (r *queueRoom) wait(size int) *roomWaiter {
	w := &roomWaiter{size: size, ready: make(chan struct{})}
	r.waiting = append(r.waiting, w)
	return w
}

// free gives a command's room back.
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

// leave gives up waiting, or the room that was granted meanwhile.
func (r *queueRoom) leave(w *roomWaiter) {
	if w.granted {
		r.free(w.size)
		return
	}
	if i := slices.Index(r.waiting, w); i >= 0 {
		r.waiting = slices.Delete(r.waiting, i, i+1)
	}
	r.grant() // it may have been the one that did not fit
}

// commandPrefix begins the params of every command of a session: all of wire.DoParams up to Body, with Seq and Low as integers
// of fixed width at its end, so that a command is encoded once, however often it is sent.
func commandPrefix(service string, session uint64) []byte {
	b := msgpack.AppendString(msgpack.AppendArray(nil, 5), service)
	b = binary.BigEndian.AppendUint64(append(b, 0xcf), session)
	b = binary.BigEndian.AppendUint64(append(b, 0xcf), 0)
	return binary.BigEndian.AppendUint64(append(b, 0xcf), 0)
}

// smallCall is a call and its params, in 256 bytes.
type smallCall struct {
	Call
	params [104]byte
}

func newCall(c *Client, command []byte) *Call {
	var (
		call *Call
		p    []byte
	)
	if n := len(c.prefix) + 5 + len(command); n <= len(smallCall{}.params) {
		s := new(smallCall)
		call, p = &s.Call, s.params[:0]
	} else {
		call, p = new(Call), make([]byte, 0, n)
	}
	p = append(p, c.prefix...)
	p = msgpack.AppendBytes(p, command)
	*call = Call{c: c, params: p, size: len(command), since: time.Now(), done: make(chan struct{})}
	return call
}

// number fills Seq and Low into the params of a command of which prefix is the beginning.
func (c *Call) number(prefix int, low uint64) {
	binary.BigEndian.PutUint64(c.params[prefix-17:], c.seq)
	binary.BigEndian.PutUint64(c.params[prefix-8:], low)
}

// fate is what an answer means for the command or query that got it.
type fate int

const (
	fateReplied   fate = iota // over: the service's own reply or error
	fateBroken                // the connection has ended, and will say so itself
	fateRetry                 // the same host may take it later
	fateNotActive             // another host has to be found
	fateRefused               // it alone is refused, and has no place in the log
	fateEnded                 // the session is over
)

// answer is a host's answer to a command.
type answer struct {
	fate  fate
	reply []byte
	err   error // for fateReplied the service's own
	index uint64
	data  []byte // of the error
}

// judgeCommand says what an answer means for a command. Only a place in the log, the code that stands for one that is
// forgotten, or one of the four codes that can't be followed by one, ends a command: after anything else it may still be
// executed, and is sent again.
func judgeCommand(result []byte, err error) answer {
	if err == nil {
		res, err := wire.UnmarshalDoResult(result)
		if err != nil {
			return answer{fate: fateRetry, err: err}
		}
		return answer{fate: fateReplied, reply: res.Reply, index: res.Index}
	}
	e, ok := errors.AsType[*transport.Error](err)
	if !ok || !e.Remote {
		return answer{fate: fateBroken, err: err}
	}
	var placed wire.AppliedData
	if len(e.Data) > 0 && e.Data[0] == 0x94 && transport.Unmarshal(e.Data, &placed) == nil && placed.Index > 0 {
		own := &transport.Error{Code: e.Code, Message: e.Message, Data: placed.Data, Remote: true}
		return answer{fate: fateReplied, err: own, index: placed.Index}
	}
	a := answer{fate: judgeCode(e.Code), err: err, data: e.Data}
	switch e.Code {
	case CodeTooLarge:
		a.fate = fateRefused
	case CodeReplyGone:
		a.fate = fateReplied // its number is used
	}
	return a
}

// judgeCode says what a host's refusal of any call means.
func judgeCode(code transport.Code) fate {
	switch code {
	case CodeSessionExpired, CodeForbidden, CodeStateLost:
		return fateEnded
	case CodeRetry, CodeOutOfOrder, CodeQueueFull:
		return fateRetry
	default:
		return fateNotActive
	}
}
