package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/roam-go/roam/migrate/internal/bulk"
	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

const (
	// linkQueue and linkBytes bound the messages that wait for a connection: what is lost is sent again.
	linkQueue = 256
	linkBytes = 4 << 20
	// redials is how often a connection is tried again at once after it broke: if it is refused each time, the process
	// at the other end has died.
	redials    = 2
	redialWait = 20 * time.Millisecond
	linkIdle   = time.Minute
	// maxPatience is how many times NodeConfig.FailureTimeout a connection may take in the end; TCP, TLS and the greetings are four
	// round trips.
	maxPatience = 4
)

// link is this node's connection to another host. It is dialled when there is something to say, and given up when that fails
// or when the connection ends unused: who has something to say later makes a new one.
type link struct {
	node *Node
	to   resolver.Host

	mu      sync.Mutex // guards what follows
	conn    transport.Conn
	dialing bool
	closed  bool     // given up: nothing is sent any more
	queue   [][]byte // params of messages
	bytes   int      // of queue
	used    time.Time
}

// linkConn is the handler of a connection of a link: the host at the other end has nothing to say on it.
type linkConn struct {
	*link
	over bool // guarded by link.mu
}

// linkKey is a host at an address. Services differ about where a host is while not all have heard from it since it started
// again, so that the link of one must not take the place of another's.
type linkKey struct {
	hostKey
	addr string
}

func linkKeyOf(h resolver.Host) linkKey { return linkKey{keyOf(h), h.Addr} }

// linkTo returns the link to a host.
func (n *Node) linkTo(h resolver.Host) *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.links[linkKeyOf(h)]
	if l == nil {
		l = &link{node: n, to: h, closed: n.closed}
		n.links[linkKeyOf(h)] = l
	}
	return l
}

// send puts a message on its way, or drops it. params may be used again when it has returned.
func (l *link) send(params []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	if l.conn != nil {
		l.used = time.Now()
		switch err := l.conn.Notify(wire.MethodMsg, params); {
		case err == nil:
			return
		case errors.Is(err, transport.ErrBadMessage): // no connection would take it
			l.node.log.Error("message to host not sent", "to", l.to.ID, "size", len(params), "err", err)
			return
		}
	}
	if len(l.queue) < linkQueue && l.bytes+len(params) <= linkBytes {
		l.queue = append(l.queue, bytes.Clone(params))
		l.bytes += len(params)
	}
	l.dialLocked()
}

func (l *link) dialLocked() {
	if !l.dialing && !l.closed && l.conn == nil {
		l.dialing = true
		l.node.wg.Go(l.dial)
	}
}

// dial connects. When the address refuses connections several times within a moment, services are told that the process
// there is gone: a hint that saves waiting for its silence.
func (l *link) dial() {
	n := l.node
	refused, broken := 0, 0
	patience := n.cfg.FailureTimeout
	for {
		err := l.connect(patience)
		if err == nil {
			return
		}
		n.log.Debug("no connection to host", "to", l.to.ID, "addr", l.to.Addr, "err", err)
		late := false
		switch {
		case isGone(err):
			refused++
		case !wire.IsTimeout(err):
			// A process that is being killed still takes connections for a moment, and breaks them.
			broken++
		case patience < maxPatience*n.cfg.FailureTimeout:
			// The host may be far away; to begin anew is better where a packet was lost.
			late = true
			patience *= 2
		}
		again := late || refused+broken > 0 && refused < redials && broken <= redials
		if !again || n.ctx.Err() != nil {
			l.giveUp()
			if refused >= redials {
				n.eachService(func(s *Service) { s.post(item{kind: itemEvent, ev: core.PeerDown{Host: l.to}}) })
			}
			return
		}
		if late {
			continue
		}
		select {
		case <-n.ctx.Done():
		case <-time.After(redialWait):
		}
	}
}

// errOtherStart means that another process answers at a host's address.
var errOtherStart = errors.New("another start of the host answers")

// errBroken means that a connection ended before it was used.
var errBroken = errors.New("the connection ended at once")

func isGone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, errOtherStart)
}

func (l *link) connect(patience time.Duration) error {
	n := l.node
	ctx, cancel := context.WithTimeout(n.ctx, patience)
	defer cancel()
	h := &linkConn{link: l}
	conn, err := n.connect(ctx, l.to, h)
	if err != nil {
		return err
	}
	return l.connected(conn, h)
}

// connect dials a host and makes sure that it is the one.
func (n *Node) connect(ctx context.Context, to resolver.Host, h transport.Handler) (transport.Conn, error) {
	conn, err := n.cfg.Transport.Dial(ctx, transport.Peer{Addr: to.Addr, Key: to.Key}, h)
	if err != nil {
		return nil, err
	}
	params, err := transport.Marshal(wire.HostHello{Host: n.self})
	if err == nil {
		var (
			reply []byte
			hello wire.HostHello
		)
		if reply, err = conn.Call(ctx, wire.MethodHello, params); err == nil {
			if err = msgpack.UnmarshalSmall(reply, &hello); err == nil && !hello.Host.Same(to) {
				err = fmt.Errorf("at %s, instead of host %s: %w", to.Addr, to.ID, errOtherStart)
			}
		}
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// connected takes a connection into use, unless it is over already: then nobody would notice any more.
func (l *link) connected(conn transport.Conn, h *linkConn) error {
	l.mu.Lock()
	if h.over && !l.closed {
		l.mu.Unlock()
		return errBroken
	}
	l.dialing = false
	if l.closed {
		l.mu.Unlock()
		conn.Close()
		return nil
	}
	l.conn, l.used = conn, time.Now()
	queue := l.queue
	l.queue, l.bytes = nil, 0
	for _, params := range queue {
		conn.Notify(wire.MethodMsg, params)
	}
	l.mu.Unlock()
	l.node.eachService(func(s *Service) { s.post(item{kind: itemEvent, ev: core.PeerReset{Host: l.to}}) })
	return nil
}

// Handle implements [transport.Handler].
func (h *linkConn) Handle(_ transport.Conn, r *transport.Request) {
	if r.IsCall() {
		r.Reply(nil, transport.Errorf(transport.CodeNoMethod, "migrate: method %s is not served here", r.Method))
	}
}

// Closed implements [transport.Handler]. A connection that was in use is dialled again at once, which shows whether the
// host has died.
func (h *linkConn) Closed(c transport.Conn, err error) {
	l := h.link
	l.mu.Lock()
	h.over = true
	idle := false
	if l.conn == c {
		l.conn = nil
		if idle = time.Since(l.used) >= linkIdle; !idle {
			l.dialLocked()
		}
	}
	l.mu.Unlock()
	if idle {
		l.giveUp()
	}
}

// giveUp makes the node forget the link, and drops what waits for it.
func (l *link) giveUp() {
	n := l.node
	n.mu.Lock()
	if n.links[linkKeyOf(l.to)] == l {
		delete(n.links, linkKeyOf(l.to))
	}
	n.mu.Unlock()
	l.close()
}

func (l *link) close() {
	l.mu.Lock()
	l.closed, l.queue, l.bytes = true, nil, 0
	conn := l.conn
	l.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

func (n *Node) eachService(f func(*Service)) {
	for _, s := range n.Services() {
		f(s)
	}
}

// accept makes the handler of a connection that another host or a client has made.
func (n *Node) accept(c transport.Conn) transport.Handler {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	s := &session{node: n, conn: c}
	n.inbound[s] = struct{}{}
	return s
}

// session is a connection that was made to this node. Its fields are used on the reading goroutine alone.
type session struct {
	node *Node
	conn transport.Conn
	host resolver.Host // who calls, if it is a host
	used map[string]*Service
	todo *Service // has something of ours to do, and waits for the next message of a burst

	asked *Service // what a client asked for last
	last  *Service // the service of the last message from a host

	intake intake // used by everyone

	source   *bulk.Source // the state that is fetched on this connection
	sourceID uint64
}

// Handle implements [transport.Handler].
func (c *session) Handle(conn transport.Conn, r *transport.Request) {
	if !r.More {
		defer c.work()
	}
	switch r.Method {
	case wire.MethodMsg:
		c.handleMsg(r)
	case wire.MethodHello:
		r.Reply(c.handleHello(r))
	case wire.MethodOpen, wire.MethodDo, wire.MethodQuery, wire.MethodListen, wire.MethodLeave, wire.MethodReady, wire.MethodPark:
		c.handleClient(r)
	default:
		if id, ok := bulk.ID(r); ok {
			c.handleBulk(r, id)
			return
		}
		if r.IsCall() {
			r.Reply(nil, transport.Errorf(transport.CodeNoMethod, "migrate: no method %s", r.Method))
		}
	}
}

// post gives a service something to do: not before everything of a burst that is for it is there.
func (c *session) post(s *Service, it item) {
	if c.todo != s {
		c.work()
		c.todo = s
	}
	s.put(it)
}

func (c *session) work() {
	if s := c.todo; s != nil {
		c.todo = nil
		s.work()
	}
}

// Closed implements [transport.Handler].
func (c *session) Closed(_ transport.Conn, err error) {
	c.intake.close()
	if c.source != nil {
		c.source.Closed(err)
	}
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
		n.mu.Lock()
		l := n.links[linkKeyOf(c.host)]
		n.mu.Unlock()
		if l != nil {
			l.probe()
		}
	}
}

// probe finds out whether the host is still there.
func (l *link) probe() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dialLocked()
}

func (c *session) handleHello(r *transport.Request) ([]byte, error) {
	var h wire.HostHello
	if err := msgpack.UnmarshalSmall(r.Params, &h); err != nil {
		return nil, transport.Errorf(transport.CodeBadMessage, "migrate: hello of a host: %v", err)
	}
	if h.Host.ID == "" || h.Host.Key != c.conn.Peer().Key {
		return nil, transport.Errorf(CodeForbidden, "migrate: host %q has not proved the key that it names", h.Host.ID)
	}
	c.host = h.Host
	return transport.Marshal(wire.HostHello{Host: c.node.self})
}

func (c *session) handleMsg(r *transport.Request) {
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
