package cli

import (
	"strings"
	"sync"
	"time"

	"github.com/roam-go/roam/transport"
)

// onePort is a transport on which the host and the chat's client of a process share a listener, so that a firewall needs to let
// one port through. A connection belongs to the one whose method its first message calls.
type onePort struct {
	transport.Transport

	mu   sync.Mutex         // guards the fields below
	real transport.Listener // nil without a shared listener
	open map[user]accept
}

// user is who listens on the port.
type user string

const (
	asHost   user = "roam."
	asClient user = "chat."
)

type accept = func(transport.Conn) transport.Handler

// firstMessage limits the time until a connection must have a message.
const firstMessage = 10 * time.Second

// as returns the transport of one of the users.
func (o *onePort) as(u user) transport.Transport { return &sharing{o, u} }

// sharing is a onePort for one user.
type sharing struct {
	*onePort
	user user
}

// Listen implements [transport.Transport]. If the other user listens already, addr is ignored.
func (s *sharing) Listen(addr string, a accept) (transport.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.real == nil {
		l, err := s.Transport.Listen(addr, s.accept)
		if err != nil {
			return nil, err
		}
		s.real, s.open = l, make(map[user]accept)
	}
	s.open[s.user] = a
	return &share{s: s, real: s.real}, nil
}

// share is the part of a user in a listener.
type share struct {
	s    *sharing
	real transport.Listener
	once sync.Once
}

func (l *share) Addr() string { return l.real.Addr() }

// Close closes the listener when both users have closed it.
func (l *share) Close() (err error) {
	l.once.Do(func() {
		o := l.s.onePort
		o.mu.Lock()
		delete(o.open, l.s.user)
		last := len(o.open) == 0
		if last {
			o.real = nil
		}
		o.mu.Unlock()
		if last {
			err = l.real.Close()
		}
	})
	return err
}

// accept is called for each connection, before its first message.
func (o *onePort) accept(c transport.Conn) transport.Handler {
	return &undecided{port: o, late: time.AfterFunc(firstMessage, func() { c.Close() })}
}

// handlerFor returns the handler of a connection that begins with a method, or nil to refuse it.
func (o *onePort) handlerFor(c transport.Conn, method string) transport.Handler {
	u := asHost
	if strings.HasPrefix(method, string(asClient)) {
		u = asClient
	}
	o.mu.Lock()
	a := o.open[u]
	o.mu.Unlock()
	if a == nil {
		return nil
	}
	return a(c)
}

// undecided is the handler of a connection, which passes everything on to the one that its first message selects.
type undecided struct {
	port    *onePort
	late    *time.Timer
	handler transport.Handler // nil before the first message; belongs to the connection's reader
	refused bool
}

// Handle implements [transport.Handler].
func (u *undecided) Handle(c transport.Conn, r *transport.Request) {
	if u.handler == nil && !u.refused {
		u.late.Stop()
		u.handler = u.port.handlerFor(c, r.Method)
		u.refused = u.handler == nil
	}
	if u.refused {
		r.Reply(nil, transport.ErrClosed)
		c.Close()
		return
	}
	u.handler.Handle(c, r)
}

// Closed implements [transport.Handler].
func (u *undecided) Closed(c transport.Conn, err error) {
	u.late.Stop()
	if u.handler != nil {
		u.handler.Closed(c, err)
	}
}
