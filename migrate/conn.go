package migrate

import (
	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/serve"
	"github.com/roam-go/roam/migrate/internal/transfer"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// accept returns the handler of a connection that another host or a client has opened, or nil if the node is closed.
func (n *Node) accept(c transport.Conn) transport.Handler {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	s := &inbound{node: n, conn: serve.Conn{Conn: c}}
	n.inbound[s] = struct{}{}
	return s
}

// acceptMessages returns the handler of messages that a host sends on this node's own connection to it, or nil if the node is
// closed.
func (n *Node) acceptMessages(from resolver.Host, c transport.Conn) transport.Handler {
	if h, ok := n.accept(c).(*inbound); ok {
		h.host = from
		return h
	}
	return nil
}

// inbound is a connection that another host or a client has opened. Only the reading goroutine uses its fields, except conn.
type inbound struct {
	node *Node
	conn serve.Conn
	host resolver.Host // the calling host; zero for a client
	used map[string]*Service
	todo *Service // has queued items of this connection; its loop starts at the end of the burst

	asked *Service // the service of the client's last request
	last  *Service // the service of the host's last message

	upload transfer.Upload // of the snapshot that the host fetches on this connection
}

// Handle implements [transport.Handler].
func (c *inbound) Handle(conn transport.Conn, r *transport.Request) {
	more := r.More
	switch r.Method {
	case wire.MethodMsg:
		c.handleMsg(r)
	case wire.MethodHello:
		r.Reply(c.handleHello(r))
	case wire.MethodLink:
		if c.host.ID != "" {
			c.node.links.Arrived(c.host, conn)
		}
	case wire.MethodAsk:
		c.handleAsk(r)
	case wire.MethodOpen, wire.MethodDo, wire.MethodQuery, wire.MethodListen, wire.MethodLeave, wire.MethodReady,
		wire.MethodUnready, wire.MethodPark:
		c.handleClient(r)
	default:
		if !c.node.offers.Handle(&c.upload, c.host, r) && r.IsCall() {
			r.Reply(nil, transport.Errorf(transport.CodeNoMethod, "migrate: no method %s", r.Method))
		}
	}
	if !more {
		c.lend(conn)
	}
}

// post queues an item for a service. Its loop starts when the burst, or its part for this service, has been read.
func (c *inbound) post(s *Service, it item) {
	if c.todo != s {
		c.work()
		c.todo = s
	}
	s.loop.Put(it)
}

// work starts the loop of the service in todo.
func (c *inbound) work() {
	if s := c.todo; s != nil {
		c.todo = nil
		s.work(nil)
	}
}

// lend ends Handle: it works on the reading goroutine, while another goroutine may read in its place.
func (c *inbound) lend(conn transport.Conn) {
	if s := c.todo; s != nil {
		c.todo = nil
		lender, _ := conn.(transport.Lender)
		s.work(lender)
	}
}

// Closed implements [transport.Handler].
func (c *inbound) Closed(conn transport.Conn, err error) {
	c.conn.Ended()
	c.upload.Closed(err)
	c.work()
	n := c.node
	n.mu.Lock()
	delete(n.inbound, c)
	n.mu.Unlock()
	for _, s := range c.used {
		s.post(item{kind: itemGone, from: c})
	}
	if c.host.ID != "" {
		// This node's own connection to that host shows whether it has died.
		n.links.Left(c.host, conn)
		n.links.Probe(c.host)
	}
}

// handleHello answers the introduction of a host, which must have proved the key that it names.
func (c *inbound) handleHello(r *transport.Request) ([]byte, error) {
	var h wire.HostHello
	if err := msgpack.UnmarshalSmall(r.Params, &h); err != nil {
		return nil, transport.Errorf(transport.CodeBadMessage, "migrate: hello of a host: %v", err)
	}
	if c.conn.Peer().Role == transport.RoleGuest {
		return nil, transport.Errorf(transport.CodeNotMember,
			"migrate: host %.100q has the pass of a guest, which may not host services", h.Host.ID)
	}
	if h.Host.ID == "" || h.Host.Key != c.conn.Peer().Key {
		return nil, transport.Errorf(CodeForbidden, "migrate: host %q has not proved the key that it names", h.Host.ID)
	}
	c.host = h.Host
	return transport.Marshal(wire.HostHello{Host: c.node.self})
}

// handleMsg queues a host's message for the service's loop.
func (c *inbound) handleMsg(r *transport.Request) {
	name, msg, err := wire.UnmarshalMsgParams(r.Params)
	if err != nil || c.host.ID == "" {
		c.node.log.Warn("message from a host refused", "addr", c.conn.Peer().Addr, "err", err)
		c.conn.Close()
		return
	}
	s := c.last
	if s == nil || s.name != string(name) || s.board.ended() {
		if s = c.node.service(string(name)); s == nil {
			return
		}
		if !c.conn.Peer().May(transport.RoleHost, s.name) {
			c.node.log.Warn("message from a host refused: its pass does not include the service", "service", s.name,
				"from", c.host.ID)
			c.conn.Close()
			return
		}
		c.last = s
	}
	m, err := core.ReadMsg(msg)
	if err != nil || m.From.ID != c.host.ID || m.From.Incarnation != c.host.Incarnation {
		c.node.log.Warn("message from a host refused", "service", s.name, "from", c.host.ID, "err", err)
		c.conn.Close()
		return
	}
	m.From = c.host
	c.enter(len(msg))
	c.post(s, item{kind: itemEvent, from: c, size: len(msg), ev: core.Recv{Msg: m}})
}

// handleClient decodes a client's request and queues it for the service's loop.
func (c *inbound) handleClient(r *transport.Request) {
	var (
		p    any
		name *string
	)
	q := serve.NewRequest(&c.conn, r)
	latest := ""
	if c.asked != nil {
		latest = c.asked.name
	}
	switch r.Method {
	case wire.MethodOpen:
		v := new(wire.OpenParams)
		p, name = v, &v.Service
	case wire.MethodDo:
		if err := q.Do.Unmarshal(r.Params, latest); err != nil {
			c.malformed(r, err)
			return
		}
		p, name = &q.Do, &q.Do.Service
	case wire.MethodQuery:
		v := new(wire.QueryParams)
		p, name = v, &v.Service
	case wire.MethodListen:
		v := new(wire.ListenParams)
		p, name = v, &v.Service
	case wire.MethodLeave:
		v := new(wire.LeaveParams)
		p, name = v, &v.Service
	case wire.MethodReady:
		v := new(wire.ReadyParams)
		p, name = v, &v.Service
	case wire.MethodUnready:
		v := new(wire.UnreadyParams)
		p, name = v, &v.Service
	case wire.MethodPark:
		v := new(wire.ParkParams)
		p, name = v, &v.Service
	}
	if r.Method != wire.MethodDo {
		if err := msgpack.UnmarshalSmall(r.Params, p); err != nil {
			c.malformed(r, err)
			return
		}
	}
	s := c.asked
	if *name != latest {
		s = c.used[*name]
	}
	if s == nil || s.board.ended() {
		if s = c.node.service(*name); s == nil {
			r.Reply(nil, transport.Errorf(CodeNotActive, "migrate: host %s does not host service %s", c.node.self.ID, *name))
			return
		}
		if !c.conn.Peer().May(transport.RoleGuest, s.name) {
			r.Reply(nil, transport.Errorf(transport.CodeNotMember,
				"migrate: the pass of this client does not include service %s", s.name))
			return
		}
		if c.used == nil {
			c.used = make(map[string]*Service)
		}
		c.used[*name] = s
	}
	c.asked = s
	c.take(q)
	c.post(s, item{kind: itemClient, req: q, params: p})
}

// malformed refuses a request whose params cannot be decoded.
func (c *inbound) malformed(r *transport.Request, err error) {
	r.Reply(nil, transport.Errorf(transport.CodeBadMessage, "migrate: %s: %v", r.Method, err))
}

// take admits a request and drops its encoded params.
func (c *inbound) take(q *serve.Request) {
	q.Params = nil
	c.enter(q.Size())
}

// enter waits until the intake has room or the connection has ended. Before it waits, it starts the loop, so that admitted
// items do not wait as well.
func (c *inbound) enter(size int) {
	if !c.conn.TryEnter(size) {
		c.work()
		c.conn.Enter(size)
	}
}

// eachService queues an event for all services.
func (n *Node) eachService(ev core.Event) {
	for _, s := range n.Services() {
		s.post(item{kind: itemEvent, ev: ev})
	}
}
