package transport

import (
	"context"
	"sync/atomic"
)

// Transport opens connections to other processes and accepts theirs. It is safe for concurrent use.
//
// Implementations pass the suite in package transporttest.
type Transport interface {
	// Dial connects to a peer and agrees on a protocol version with it. Where to.Key is not zero, a peer that does not
	// prove that key is refused with [ErrWrongKey]. h receives what the peer sends; a nil h answers every call with
	// [ErrNoMethod]. An error that wraps syscall.ECONNREFUSED says that the host answers and nothing listens there: package
	// migrate takes it as a sign that the process is gone. Cancelling ctx after Dial has returned does not touch the connection.
	Dial(ctx context.Context, to Peer, h Handler) (Conn, error)

	// Listen accepts connections at addr until the listener is closed. For each one accept is called once, before
	// anything of it is handled, and returns the handler for it; nil refuses the connection.
	Listen(addr string, accept func(Conn) Handler) (Listener, error)

	// Key is the public key that this side proves to its peers: zero if it proves none.
	Key() Key
}

// Listener accepts connections for a [Transport].
type Listener interface {
	// Addr is the address at which peers reach the listener, with the port that was really bound.
	Addr() string

	// Close stops accepting. It does not wait for accept, from which it may be called: a call for a peer that was being
	// greeted can still be under way, or just about to begin, when Close has returned. Connections accepted stay open. It
	// is safe to call twice and from many goroutines.
	Close() error
}

// Conn is one connection. All methods are safe for concurrent use, and none waits for the network except Call.
//
// What is sent on one Conn arrives in the order of the Go, Call and Notify calls that sent it, each message whole or not
// at all. Params and results are each one MessagePack value ([Marshal] makes them); the bytes passed in may be reused
// when the method has returned, and the bytes received belong to the receiver. Nil params stand for the empty array,
// a nil result for MessagePack's nil.
type Conn interface {
	// Call sends a call and waits for its reply. An error that the peer answered is an [*Error] with Remote set. When ctx
	// ends first, Call returns its error and drops the reply that may still come; the connection lives on.
	Call(ctx context.Context, method string, params []byte) ([]byte, error)

	// Go sends a call and returns at once. done is called exactly once, with the reply or with the error that ended the
	// connection: on the reading goroutine (so it must not block), or before Go returns if the call could not be sent.
	// Calls on one connection may be answered in any order.
	Go(method string, params []byte, done func(result []byte, err error))

	// Notify sends a notification and returns at once. A nil error means only that it was put on its way.
	//
	// A peer that does not read fills the buffer of messages waiting to be sent; when that passes its limit, the
	// connection is closed with [ErrSlowPeer]: no sender ever waits for a slow reader.
	Notify(method string, params []byte) error

	// Peer is the other side: its address and the key it proved, zero if none.
	Peer() Peer

	// Close ends the connection; messages accepted for sending before are still sent if the peer takes them promptly
	// (within a second). Pending calls end with [ErrClosed]. Close does not wait for the handler, may be called from it,
	// and is safe to call twice and from many goroutines.
	Close() error
}

// Broadcaster is an optional interface of a [Conn]. A sender of one notification to many connections uses it, if the first
// Conn implements it, to have the notification encoded once and held in memory once.
type Broadcaster interface {
	// NotifyAll is like Notify on each of conns, which may belong to other transports. It skips those on which it cannot
	// send: their handlers learn why they ended.
	NotifyAll(conns []Conn, method string, params []byte)
}

// Borrower is an optional interface of a [Conn]. A caller that copies large results into a buffer of its own uses it, if the
// Conn implements it, to save an allocation for each result.
type Borrower interface {
	// GoBorrow is like Go, except that result is valid only until done returns.
	GoBorrow(method string, params []byte, done func(result []byte, err error))
}

// Handler receives what the peer sends on one connection. Both methods are called on the connection's reading goroutine:
// Handle in the order in which messages arrived, then Closed once. While Handle runs nothing further is read, which is
// how a receiver slows its peer down; a handler that has to wait for something else starts a goroutine and replies later.
type Handler interface {
	Handle(c Conn, r *Request)

	// Closed is told why the connection ended: [ErrClosed] when this side closed it, io.EOF when the peer did.
	Closed(c Conn, err error)
}

// Peer says where a process listens and which key it must prove; a zero Key accepts any.
type Peer struct {
	// Addr is the address of a listener, as [Listener].Addr gives it.
	Addr string
	// Key is what the process proves.
	Key Key
}

// Request is a call or a notification that has arrived.
type Request struct {
	// Method is the name of what is called.
	Method string
	// Params is one MessagePack value, by convention an array. It belongs to the receiver.
	Params []byte
	// More is set by the transport if the peer's next message has already arrived: Handle is called again right after this
	// call, with that message, or Closed is. A handler can postpone work that is cheaper for several messages together.
	// A transport that never sets it is correct.
	More bool

	call *call // nil for a notification
}

// call is what answers a request.
type call struct {
	conn     *conn // on which it arrived, without a closure for its answer
	id       uint64
	reply    func(result []byte, err error) // without a conn: set by NewRequest
	answered atomic.Bool
}

// NewRequest makes a request for a [Handler], as an implementation of [Transport] or a test of a handler needs it. A nil
// reply makes it a notification. However often the handler calls Reply, reply is called at most once; it must not keep result.
func NewRequest(method string, params []byte, reply func(result []byte, err error)) *Request {
	r := &Request{Method: method, Params: params}
	if reply != nil {
		r.call = &call{reply: reply}
	}
	return r
}

// IsCall reports whether the peer waits for a reply.
func (r *Request) IsCall() bool { return r.call != nil }

// Reply answers a call; for a notification it does nothing. It may be called from any goroutine, also after Handle has
// returned, and must be called exactly once: a further reply is dropped. It never blocks, and the bytes of result may be
// used again when it has returned. An error that is, or wraps, an [*Error] arrives at the caller with its code, message and
// data; any other arrives with code [CodeUnknown].
func (r *Request) Reply(result []byte, err error) {
	c := r.call
	if c == nil || c.answered.Swap(true) {
		return
	}
	if c.conn != nil {
		c.conn.reply(c.id, result, err)
	} else {
		c.reply(result, err)
	}
}
