package serve

import (
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// Request is a client's request. It counts as in flight on its connection until it is answered, even if the client does not
// wait for an answer. It belongs to the connection's reading goroutine until [Clients.Handle] receives it.
type Request struct {
	*transport.Request
	Do wire.DoParams // the params of a command: most requests are commands

	conn *Conn
	size int
	done bool
}

// NewRequest returns a request that conn has received. It is not in flight yet; see [Conn.Enter].
func NewRequest(conn *Conn, r *transport.Request) *Request {
	return &Request{Request: r, conn: conn, size: len(r.Params)}
}

// Size returns the size of the params.
func (r *Request) Size() int { return r.size }

// Reply answers the request. It does nothing if the request is answered already.
func (r *Request) Reply(result []byte, err error) {
	if r.done {
		return
	}
	r.done = true
	r.Request.Reply(result, err)
	r.conn.Leave(r.size)
}
