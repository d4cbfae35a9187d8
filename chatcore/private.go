package chatcore

import (
	"bytes"
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/transport"
)

// The methods between clients; see doc.go.
const (
	methodHello   = "chat.hello"
	methodPrivate = "chat.private"
)

// privateParams is a private message.
type privateParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	To    string
	From  string
	Text  string
	ID    uint64 // random, below 2^53; unchanged when the message is resent
	Token []byte // the answer to methodHello on this connection
}

const (
	maxPrivate    = 64 << 10 // bytes of text
	maxInbound    = 64       // inbound connections
	maxInFlight   = 4        // private messages in flight per connection
	maxLookups    = 1024     // cached answers of the room
	maxDelivered  = 1024     // message ids kept for duplicate detection
	lookupTimeout = 500 * time.Millisecond
	verifyTimeout = 10 * time.Second
)

// private sends and receives a Client's private messages. It uses the room only to look up other participants.
type private struct {
	c        *Client
	listener transport.Listener // nil if not listening
	joined   chan struct{}      // closed once the client has joined

	mu        sync.Mutex // guards the fields below; never held during calls of the transport or the room
	closed    bool
	inbound   map[transport.Conn]*inboundConn
	links     map[transport.Peer]*link
	idleTimer *time.Timer                        // closes idle links; nil if there are none
	lookups   fifoCache[string, participantInfo] // the room's answers, by nameID
	pins      pins                               // first key of each nameID
	delivered fifoCache[messageID, struct{}]     // delivered messages

	gaps atomic.Uint64 // gaps in the events that recheckKeys has not handled
}

// messageID identifies a private message.
type messageID struct {
	from string // nameID
	id   uint64
}

func newPrivate(c *Client) *private {
	return &private{
		c:         c,
		joined:    make(chan struct{}),
		inbound:   make(map[transport.Conn]*inboundConn),
		links:     make(map[transport.Peer]*link),
		lookups:   fifoCache[string, participantInfo]{limit: maxLookups},
		pins:      newPins(),
		delivered: fifoCache[messageID, struct{}]{limit: maxDelivered},
	}
}

// listen starts the listener and returns the address to advertise. If the address depends on the route to the room, listen
// waits until the room has a host.
func (p *private) listen(ctx context.Context) (addr string, err error) {
	cfg := p.c.cfg
	if cfg.Listen == "" {
		return "", nil
	}
	if err := p.requireKeys(); err != nil {
		return "", err
	}
	if p.listener, err = cfg.Transport.Listen(cfg.Listen, p.accept); err != nil {
		return "", err
	}
	if cfg.Advertise != "" {
		return cfg.Advertise, nil
	}
	for {
		if host := p.c.session.Where(); host.Addr != "" {
			return transport.AdvertiseAddr(p.listener.Addr(), host.Addr)
		}
		// The room is moving. A query returns once it has a host.
		if _, err := p.c.session.Query(ctx, mustMarshal(&query{Op: queryWho, Limit: 1})); err != nil {
			return "", err
		}
	}
}

// requireKeys rejects private messages over a transport that cannot authenticate them, unless InsecurePrivate is set.
func (p *private) requireKeys() error {
	if p.c.cfg.Transport.Key().IsZero() && !p.c.cfg.InsecurePrivate {
		return transport.Errorf(CodeUnverified, "chat: the transport proves no keys, so private messages cannot be "+
			"authenticated: use a transport with keys, or set ClientConfig.InsecurePrivate")
	}
	return nil
}

// open starts delivery. It is called once the client has joined.
func (p *private) open() { close(p.joined) }

// close closes the listener and all connections. It can be called several times.
func (p *private) close() {
	p.mu.Lock()
	p.closed = true
	if p.idleTimer != nil {
		p.idleTimer.Stop()
	}
	var conns []transport.Conn
	for conn := range p.inbound {
		conns = append(conns, conn)
	}
	for _, l := range p.links {
		if l.conn != nil {
			conns = append(conns, l.conn)
		}
	}
	p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// start runs f on a goroutine that Close waits for. It reports false after close.
func (p *private) start(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.c.wg.Go(f)
	return true
}

// lookup queries the room for a participant. If the room does not answer, for instance because it is moving, lookup returns
// the last answer.
func (p *private) lookup(ctx context.Context, name string) (participantInfo, error) {
	id := nameID(name)
	p.mu.Lock()
	last, known := p.lookups.get(id)
	p.mu.Unlock()
	asking := ctx
	if known {
		var cancel context.CancelFunc
		asking, cancel = context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
	}
	who, err := p.ask(asking, name)
	switch {
	case err == nil:
		p.mu.Lock()
		p.lookups.put(id, who)
		p.mu.Unlock()
		p.noteKey(who.Name, who.participant().Key)
		return who, nil
	case known && ctx.Err() == nil && !isRoomError(err) && strings.EqualFold(last.Name, name):
		p.c.cfg.Logger.Info("chat: room does not answer; using its last answer", "service", p.c.service, "name", name, "err", err)
		return last, nil
	default:
		return participantInfo{}, err
	}
}

// isRoomError reports whether err is an answer of the room, as opposed to a failure to reach it.
func isRoomError(err error) bool {
	code := transport.CodeOf(err)
	return 300 <= code && code < 400
}

func (p *private) ask(ctx context.Context, name string) (participantInfo, error) {
	var who participantInfo
	answer, err := p.c.session.Query(ctx, mustMarshal(&query{Op: queryFind, Name: name}))
	if err != nil {
		return who, err
	}
	if err := transport.Unmarshal(answer, &who); err != nil {
		return who, err
	}
	if n := len(who.Key); n != 0 && n != len(transport.Key{}) {
		return who, transport.Errorf(transport.CodeBadMessage, "chat: the key of %q has %d bytes", name, n)
	}
	return who, nil
}

// Forget removes the pinned key of a name, and with it the marks [Message.NewKey] and [Participant.NewKey]. The next private
// message to or from the name pins the key that the room has for it then.
func (c *Client) Forget(name string) {
	id := nameID(name)
	c.private.mu.Lock()
	defer c.private.mu.Unlock()
	c.private.pins.forget(id)
	c.private.lookups.remove(id)
}

// inboundConn is a connection from another client.
type inboundConn struct {
	p     *private
	token []byte // required in every message, so that messages cannot be replayed from another connection

	// Guarded by p.mu.
	inFlight int
	used     time.Time
}

func (p *private) accept(conn transport.Conn) transport.Handler {
	c := &inboundConn{p: p, token: make([]byte, 16), used: time.Now()}
	rand.Read(c.token) // never fails
	var oldest transport.Conn
	p.mu.Lock()
	if !p.closed && len(p.inbound) >= maxInbound {
		for other, o := range p.inbound {
			if o.inFlight == 0 && (oldest == nil || o.used.Before(p.inbound[oldest].used)) {
				oldest = other
			}
		}
	}
	refuse := p.closed || len(p.inbound) >= maxInbound && oldest == nil
	if !refuse {
		delete(p.inbound, oldest)
		p.inbound[conn] = c
	}
	p.mu.Unlock()
	if refuse {
		return nil
	}
	if oldest != nil {
		_ = oldest.Close()
	}
	return c
}

func (c *inboundConn) Closed(conn transport.Conn, _ error) {
	c.p.mu.Lock()
	delete(c.p.inbound, conn)
	c.p.mu.Unlock()
}

func (c *inboundConn) Handle(conn transport.Conn, r *transport.Request) {
	switch {
	case !r.IsCall():
	case r.Method == methodHello:
		r.Reply(transport.Marshal([]any{c.token}))
	case r.Method == methodPrivate:
		c.handlePrivate(conn, r)
	default:
		r.Reply(nil, transport.ErrNoMethod)
	}
}

// handlePrivate answers on another goroutine, because it may have to query the room.
func (c *inboundConn) handlePrivate(conn transport.Conn, r *transport.Request) {
	p := c.p
	p.mu.Lock()
	busy := c.inFlight == maxInFlight
	if !busy {
		c.inFlight++
		c.used = time.Now()
	}
	p.mu.Unlock()
	if busy {
		r.Reply(nil, transport.Errorf(CodePeerRefused, "chat: too many private messages at once"))
		return
	}
	if !p.start(func() {
		ctx, cancel := context.WithTimeout(p.c.ctx, verifyTimeout)
		defer cancel()
		err := p.receive(ctx, r.Params, c.token, conn.Peer())
		if err != nil {
			p.c.cfg.Logger.Warn("chat: private message rejected", "service", p.c.service, "addr", conn.Peer().Addr, "err", err)
		}
		p.mu.Lock()
		c.inFlight--
		p.mu.Unlock()
		r.Reply(nil, err)
	}) {
		r.Reply(nil, transport.ErrClosed)
	}
}

// receive validates a private message and delivers it. The sender's name must belong to the key of the connection.
func (p *private) receive(ctx context.Context, params, token []byte, from transport.Peer) error {
	var m privateParams
	if err := transport.Unmarshal(params, &m); err != nil {
		return transport.Errorf(CodeBadCommand, "chat: not a private message: want [to, from, text, id, token]")
	}
	select {
	case <-p.joined:
	case <-ctx.Done():
		return transport.Errorf(CodePeerRefused, "chat: not in the room yet")
	}
	self := p.c.name
	if !strings.EqualFold(m.To, self) {
		return transport.Errorf(CodeNoSuchName, "chat: this is %q, not the receiver of the message", self)
	}
	if !bytes.Equal(m.Token, token) {
		return transport.Errorf(CodeReplay, "chat: the message has the token of another connection")
	}
	if err := checkText(m.Text, maxPrivate); err != nil {
		return err
	}
	if err := p.requireKeys(); err != nil {
		return err
	}
	if _, _, err := checkName(m.From, 64); err != nil {
		return err
	}
	sender, err := p.lookup(ctx, m.From)
	if err != nil {
		if isRoomError(err) {
			return err
		}
		return transport.Errorf(CodePeerRefused, "chat: the room does not answer, so the sender cannot be verified: try again")
	}
	who := sender.participant()
	if who.Key != from.Key {
		return transport.Errorf(CodePeerKey, "chat: the name %q belongs to another key", who.Name)
	}
	known, err := p.checkKey(who, true)
	if err != nil {
		return err
	}

	id := messageID{nameID(who.Name), m.ID}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, again := p.delivered.get(id); again {
		return transport.Errorf(CodeReplay, "chat: the message was already delivered")
	}
	if !p.c.inbox.push(Message{
		Kind: KindPrivate, From: who.Name, Text: m.Text, Time: time.Now(),
		Unverified: who.Key.IsZero(), UnknownKey: !known && !who.Key.IsZero(),
	}) {
		return transport.Errorf(CodePeerRefused, "chat: the client is closed")
	}
	p.delivered.put(id, struct{}{})
	return nil
}
