package migrate

import (
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// accept makes the handler of a connection that another host or a client has made.
func (n *Node) accept(c transport.Conn) transport.Handler {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	s := &inbound{node: n, conn: c}
	n.inbound[s] = struct{}{}
	return s
}

// inbound is a connection that was made to this node. Its fields are used on the reading goroutine alone.
type inbound struct {
	node *Node
	conn transport.Conn
	host resolver.Host // who calls, if it is a host
	used map[string]*Service
	todo *Service // has something of ours to do, and waits for the next message of a burst

	asked *Service // what a client asked for last
	last  *Service // the service of the last message from a host

	intake intake // used by everyone

	source   *transport.BulkSource // the state that is fetched on this connection
	sourceID uint64
}

// Handle implements [transport.Handler].
func (c *inbound) Handle(conn transport.Conn, r *transport.Request) {
	if !r.More() {
		defer c.lend(conn)
	}
	switch r.Method {
	case wire.MethodMsg:
		c.handleMsg(r)
	case wire.MethodHello:
		r.Reply(c.handleHello(r))
	case wire.MethodOpen, wire.MethodDo, wire.MethodQuery, wire.MethodListen, wire.MethodLeave, wire.MethodReady, wire.MethodPark:
		c.handleClient(r)
	default:
		if id, ok := transport.IsBulk(r); ok {
			c.handleBulk(r, id)
			return
		}
		if r.IsCall() {
			r.Reply(nil, transport.Errorf(transport.CodeNoMethod, "migrate: no method %s", r.Method))
		}
	}
}

// post gives a service something to do: not before everything of a burst that is for it is there.
func (c *inbound) post(s *Service, it item) {
	if c.todo != s {
		c.work()
		c.todo = s
	}
	s.loop.Put(it)
}

func (c *inbound) work() {
	if s := c.todo; s != nil {
		c.todo = nil
		s.work(nil)
	}
}

// lend is the last thing that Handle does: work on the reading goroutine, whose place another one may take meanwhile.
func (c *inbound) lend(conn transport.Conn) {
	if s := c.todo; s != nil {
		c.todo = nil
		lender, _ := conn.(transport.Lender)
		s.work(lender)
	}
}

// Closed implements [transport.Handler].
func (c *inbound) Closed(_ transport.Conn, err error) {
	c.intake.close()
	c.work()
	n := c.node
	n.mu.Lock()
	delete(n.inbound, c)
	n.mu.Unlock()
	for _, s := range c.used {
		s.post(item{kind: itemGone, from: c})
	}
	if c.host.ID != "" {
		// Our own connection to that host tells whether it has died.
		n.links.Probe(c.host)
	}
}

func (c *inbound) handleHello(r *transport.Request) ([]byte, error) {
	var h wire.HostHello
	if err := transport.UnmarshalSmall(r.Params, &h); err != nil {
		return nil, transport.Errorf(transport.CodeBadMessage, "migrate: hello of a host: %v", err)
	}
	if h.Host.ID == "" || h.Host.Key != c.conn.Peer().Key {
		return nil, transport.Errorf(CodeForbidden, "migrate: host %q has not proved the key that it names", h.Host.ID)
	}
	c.host = h.Host
	return transport.Marshal(wire.HostHello{Host: c.node.self})
}

func (c *inbound) handleMsg(r *transport.Request) {
	name, msg, err := wire.UnmarshalMsgParams(r.Params)
	if err != nil || c.host.ID == "" {
		c.node.log.Warn("message from a host refused", "addr", c.conn.Peer().Addr, "err", err)
		c.conn.Close()
		return
	}
	s := c.last
	if s == nil || s.name != string(name) || s.over.Load() {
		if s = c.node.service(string(name)); s == nil {
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

// handleClient reads a client's request and gives it to the service's loop.
func (c *inbound) handleClient(r *transport.Request) {
	var (
		p    any
		name *string
	)
	q := &request{Request: r, from: c, size: len(r.Params)}
	latest := ""
	if c.asked != nil {
		latest = c.asked.name
	}
	switch r.Method {
	case wire.MethodOpen:
		v := new(wire.OpenParams)
		p, name = v, &v.Service
	case wire.MethodDo:
		if err := q.do.Unmarshal(r.Params, latest); err != nil {
			c.malformed(r, err)
			return
		}
		p, name = &q.do, &q.do.Service
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
	case wire.MethodPark:
		v := new(wire.ParkParams)
		p, name = v, &v.Service
	}
	if r.Method != wire.MethodDo {
		if err := transport.UnmarshalSmall(r.Params, p); err != nil {
			c.malformed(r, err)
			return
		}
	}
	s := c.asked
	if *name != latest {
		s = c.used[*name]
	}
	if s == nil || s.over.Load() {
		if s = c.node.service(*name); s == nil {
			r.Reply(nil, transport.Errorf(CodeNotActive, "migrate: host %s does not host service %s", c.node.self.ID, *name))
			return
		}
		put(&c.used, *name, s)
	}
	c.asked = s
	c.take(q)
	c.post(s, item{kind: itemClient, from: c, req: q, params: p})
}

func (c *inbound) malformed(r *transport.Request, err error) {
	r.Reply(nil, transport.Errorf(transport.CodeBadMessage, "migrate: %s: %v", r.Method, err))
}

// handleBulk serves a host that fetches a state.
func (c *inbound) handleBulk(r *transport.Request, id uint64) {
	n := c.node
	if c.source == nil || c.sourceID != id {
		n.mu.Lock()
		o := n.offers[id]
		n.mu.Unlock()
		// A connection fetches one state, and only the host that was offered it.
		if o == nil || c.source != nil || !o.to.Same(c.host) || o.to.Key != c.host.Key || !n.takeOffer(o, id) {
			r.Reply(nil, transport.Errorf(CodeForbidden, "migrate: host %s offers host %q no such snapshot", n.self.ID, c.host.ID))
			return
		}
		o.timer.Stop()
		if !n.spawn(func() { o.send(n.ctx) }) {
			o.snap.Release()
			return // the connection is about to be closed
		}
		c.source, c.sourceID = o.source, id
	}
	c.source.Handle(r)
}

// take lets a request in; its params were read.
func (c *inbound) take(q *request) {
	q.Params = nil
	c.enter(q.size)
}

// enter waits until there is room in the intake, or the connection has ended. What was let in before must not wait for what
// comes after it.
func (c *inbound) enter(size int) {
	if c.intake.enter(size) == nil {
		return
	}
	c.work()
	room := c.intake.enter(size)
	if room == nil {
		return
	}
	c.intake.held.Store(true)
	defer c.intake.held.Store(false)
	beat := time.NewTicker(heldBeat)
	defer beat.Stop()
	for room != nil {
		select {
		case <-room:
		case <-beat.C:
			if c.conn.Notify(wire.MethodHeld, nil) != nil {
				c.intake.close()
			}
		}
		room = c.intake.enter(size)
	}
}

// close ends the connection, also where its reading goroutine waits in enter.
func (c *inbound) close() {
	c.conn.Close()
	c.intake.close()
}

// eachService gives an event to all services.
func (n *Node) eachService(ev core.Event) {
	for _, s := range n.Services() {
		s.post(item{kind: itemEvent, ev: ev})
	}
}
