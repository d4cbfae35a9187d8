package transport

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
)

// Transport opens connections to other processes and accepts theirs. It is safe for concurrent use.
//
// Implementations pass the suite of package transporttest.
type Transport interface {
	// Dial connects to a peer and agrees on a protocol version with it. If to.Key is not zero and the peer does not prove
	// that key, Dial returns [ErrWrongKey], and [ErrNotMember] if it is not a member of the same [Realm] with at least the
	// role to.Role. h receives what the peer sends; with a nil h every call is answered with
	// [ErrNoMethod]. The returned Conn is the one that h gets. If the host answers but nothing listens at the address, the
	// error wraps syscall.ECONNREFUSED: package migrate takes it as a sign that the process has ended. Cancelling ctx after
	// Dial has returned does not affect the connection.
	Dial(ctx context.Context, to Peer, h Handler) (Conn, error)

	// Listen accepts connections at addr until the listener is closed. It calls accept once for each connection, before it
	// handles a message of it. accept returns the handler of the connection, or nil to refuse it.
	Listen(addr string, accept func(Conn) Handler) (Listener, error)

	// Key returns the public key that this side proves to its peers, zero if it proves none.
	Key() Key
}

// Listener accepts connections for a [Transport].
type Listener interface {
	// Addr returns the address at which peers reach the listener, with the port that is actually in use.
	Addr() string

	// Close stops accepting. Accepted connections stay open. Close does not wait for accept, which may call it: a call of
	// accept for a peer whose greeting was in progress can still run, or even begin, after Close has returned. Close is safe
	// to call several times and from several goroutines.
	Close() error
}

// Conn is a connection. All methods are safe for concurrent use, and only Call waits for the network.
//
// Messages arrive in the order of the Go, Call and Notify calls that sent them, each whole or not at all. Params and results
// are one MessagePack value each, as made by [Marshal]. The caller may reuse the bytes that it passed when the method has
// returned; received bytes belong to the receiver. Nil params are sent as the empty array, a nil result as MessagePack's
// nil.
//
// A Conn carries messages of up to 1 MiB, envelope included, and holds at least 4 MiB that wait to be sent.
type Conn interface {
	// Call sends a call and waits for its reply. An error that the peer replied is an [*Error] with Remote set. If ctx ends
	// first, Call returns its error and drops a later reply; the connection stays open.
	Call(ctx context.Context, method string, params []byte) ([]byte, error)

	// Go sends a call and returns at once. It calls done exactly once, with the reply or the error that ended the
	// connection: on the reading goroutine, so done must not block, or before Go returns if the call cannot be sent. Replies
	// on one connection arrive in any order.
	Go(method string, params []byte, done func(result []byte, err error))

	// Notify sends a notification and returns at once. A nil error means only that the notification was queued.
	//
	// No sender waits for a slow reader: if the messages that wait to be sent exceed a limit, the connection is closed with
	// [ErrSlowPeer].
	Notify(method string, params []byte) error

	// Peer returns the address of the other side and what it proved: its key, zero if none, and its role in the realm.
	Peer() Peer

	// Close ends the connection. Messages queued before are still sent if the peer reads them within a second. Pending calls
	// end with [ErrClosed]. Close does not wait for the handler, which may call it, and is safe to call several times and from
	// several goroutines.
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
// Handle in the order in which the messages arrived, then Closed once. Nothing is read while Handle runs, which slows the
// peer down. A handler that has to wait for something starts a goroutine and replies later.
type Handler interface {
	// Handle receives a call or a notification.
	Handle(c Conn, r *Request)

	// Closed receives the reason for the end of the connection: [ErrClosed] if this side closed it, io.EOF if the peer did.
	Closed(c Conn, err error)
}

// Peer is a process: where it is, and what it has proved or must prove.
//
// As an argument of Dial it says what the process must prove: Key, unless it is zero, and at least the role Role, unless the
// transport has no [Realm]. As a result of [Conn].Peer it says what the process has proved.
type Peer struct {
	// Addr is the address of a listener, as returned by [Listener].Addr.
	Addr string
	// Key is the public key of the process.
	Key Key
	// Role is the role of the process, [RoleOpen] if the transport has no realm.
	Role Role
	// Services has the names of the services to which the pass of the process is limited, in order and separated by spaces.
	// It is empty if the pass is not limited. Dial ignores it.
	Services string
}

// May reports whether the peer has at least the role, and a pass that includes the service. A peer of a transport without a
// realm may do everything.
func (p Peer) May(role Role, service string) bool {
	if p.Role == RoleOpen {
		return true
	}
	return p.Role >= role && (p.Services == "" || slices.Contains(strings.Split(p.Services, " "), service))
}

// Request is a call or a notification that has arrived.
type Request struct {
	// Method is the method's name.
	Method string
	// Params is one MessagePack value, by convention an array. It belongs to the receiver.
	Params []byte
	// More is set by the transport if the peer's next message has already arrived: Handle is called again right after this
	// call, with that message, or Closed is. A handler can postpone work that is cheaper for several messages together.
	// A transport that never sets it is correct.
	More bool

	call *call // nil for a notification
}

// call sends the reply to a request.
type call struct {
	conn     *conn // the connection of the request, which saves a closure for the reply
	id       uint64
	reply    func(result []byte, err error) // used if conn is nil: set by NewRequest
	answered atomic.Bool
}

// NewRequest returns a request for a [Handler]. Implementations of [Transport] and tests of handlers need it. A nil reply
// makes it a notification. reply is called at most once, however often the handler calls Reply; it must not keep result.
func NewRequest(method string, params []byte, reply func(result []byte, err error)) *Request {
	r := &Request{Method: method, Params: params}
	if reply != nil {
		r.call = &call{reply: reply}
	}
	return r
}

// IsCall reports whether the request is a call, which needs a reply.
func (r *Request) IsCall() bool { return r.call != nil }

// Reply answers a call. It must be called exactly once; further replies are dropped. It may be called from any goroutine,
// also after Handle has returned. It does not block, and the caller may reuse the bytes of result afterwards. An error that
// is or wraps an [*Error] arrives with its code, message and data, any other error with [CodeUnknown]. For a notification
// Reply does nothing.
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
