package chatcore

import (
	"bytes"
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"github.com/roam-go/roam/transport"
)

// What the clients of a room call with one another; doc.go describes it.
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
	ID    uint64 // drawn by the sender, below 2^53: the same for the same message sent again
	Token []byte // what methodHello answered on this connection
}

const (
	maxPrivate    = 64 << 10 // bytes of text
	maxCallers    = 64       // connections from others
	maxUnanswered = 4        // private messages under way on one of these
	maxPeople     = 1024     // answers of the room that are kept
	maxKeys       = 10_000   // keys of others that are remembered
	maxReceived   = 1024     // messages that are remembered
	lookupTime    = 500 * time.Millisecond
	verifyTime    = 10 * time.Second
)

// private is the part of a Client that speaks with the other clients. The room is only asked who they are.
type private struct {
	c        *Client
	listener transport.Listener // nil for none
	joined   chan struct{}      // closed when the client has its name

	mu       sync.Mutex // guards all below; never held over a call of the transport or the room
	closed   bool
	callers  map[transport.Conn]*caller
	links    map[transport.Peer]*link
	sweeper  *time.Timer                   // closes idle links; nil before the first
	people   memory[string, person]        // what the room answered, by nameID
	keys     memory[string, transport.Key] // the first key of each nameID
	received memory[received, struct{}]    // what was delivered
}

// received identifies a private message.
type received struct {
	from string // nameID
	id   uint64
}

func newPrivate(c *Client) *private {
	return &private{
		c:        c,
		joined:   make(chan struct{}),
		callers:  make(map[transport.Conn]*caller),
		links:    make(map[transport.Peer]*link),
		people:   memory[string, person]{limit: maxPeople},
		keys:     memory[string, transport.Key]{limit: maxKeys},
		received: memory[received, struct{}]{limit: maxReceived},
	}
}

// listen begins to take private messages, and returns the address that the others are to be told. It waits for the room to
// have a host where the address depends on that.
func (p *private) listen(ctx context.Context) (addr string, err error) {
	cfg := p.c.cfg
	if cfg.Listen == "" {
		return "", nil
	}
	if err := p.allowed(); err != nil {
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
		// The room is on the move. Once it answers it is somewhere.
		if _, err := p.c.session.Query(ctx, mustMarshal(&query{Op: askWho, Limit: 1})); err != nil {
			return "", err
		}
	}
}

// allowed refuses private messages where they would be neither private nor from anybody.
func (p *private) allowed() error {
	if p.c.cfg.Transport.Key().IsZero() && !p.c.cfg.InsecurePrivate {
		return transport.Errorf(CodeUnverified, "chat: the transport proves no keys, so nobody could tell who sends and who reads "+
			"a private message: use a transport with keys, or set ClientConfig.InsecurePrivate")
	}
	return nil
}

// open is called when the client has its name.
func (p *private) open() { close(p.joined) }

// close ends all connections and takes no more. It is safe to call twice.
func (p *private) close() {
	p.mu.Lock()
	p.closed = true
	if p.sweeper != nil {
		p.sweeper.Stop()
	}
	var conns []transport.Conn
	for conn := range p.callers {
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

// start runs f on a goroutine for which Close waits; false when it is too late.
func (p *private) start(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.c.wg.Go(f)
	return true
}

// lookup asks the room who somebody is. While the room does not answer, because it is on the move, the last answer does.
func (p *private) lookup(ctx context.Context, name string) (person, error) {
	id := nameID(name)
	p.mu.Lock()
	last, known := p.people.get(id)
	p.mu.Unlock()
	asking := ctx
	if known {
		var cancel context.CancelFunc
		asking, cancel = context.WithTimeout(ctx, lookupTime)
		defer cancel()
	}
	who, err := p.ask(asking, name)
	switch {
	case err == nil:
		p.mu.Lock()
		p.people.put(id, who)
		p.mu.Unlock()
		return who, nil
	case known && ctx.Err() == nil && !answered(err) && strings.EqualFold(last.Name, name):
		p.c.cfg.Logger.Info("chat: the room does not answer, its last answer is used", "service", p.c.service, "name", name, "err", err)
		return last, nil
	default:
		return person{}, err
	}
}

// answered tells an error that the room answered from one that kept it from answering.
func answered(err error) bool {
	code := transport.CodeOf(err)
	return 300 <= code && code < 400
}

func (p *private) ask(ctx context.Context, name string) (person, error) {
	var who person
	answer, err := p.c.session.Query(ctx, mustMarshal(&query{Op: askFind, Name: name}))
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

// trust compares a key with the first one that belonged to the name, and remembers the first.
func (p *private) trust(who Participant) error {
	id := nameID(who.Name)
	p.mu.Lock()
	defer p.mu.Unlock()
	first, ok := p.keys.get(id)
	switch {
	case !ok && !who.Key.IsZero():
		p.keys.put(id, who.Key)
	case ok && first != who.Key:
		return transport.Errorf(CodePeerKey, "chat: the key of %q has changed from %v to %v: it may be somebody else who uses the "+
			"name now; if the change is expected, forget the old key", who.Name, first, who.Key)
	}
	return nil
}

// Forget forgets the key that belonged to a name when the first private message was exchanged with it: whoever has the name
// in the room at the next one is trusted.
func (c *Client) Forget(name string) {
	id := nameID(name)
	c.private.mu.Lock()
	defer c.private.mu.Unlock()
	c.private.keys.drop(id)
	c.private.people.drop(id)
}

// caller is a connection from another client.
type caller struct {
	p     *private
	token []byte // must come with every message, so that one recorded on another connection is worthless

	// Guarded by p.mu.
	unanswered int
	used       time.Time
}

func (p *private) accept(conn transport.Conn) transport.Handler {
	c := &caller{p: p, token: make([]byte, 16), used: time.Now()}
	rand.Read(c.token) // never fails
	var oldest transport.Conn
	p.mu.Lock()
	if !p.closed && len(p.callers) >= maxCallers {
		for other, o := range p.callers {
			if o.unanswered == 0 && (oldest == nil || o.used.Before(p.callers[oldest].used)) {
				oldest = other
			}
		}
	}
	refuse := p.closed || len(p.callers) >= maxCallers && oldest == nil
	if !refuse {
		delete(p.callers, oldest)
		p.callers[conn] = c
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

func (c *caller) Closed(conn transport.Conn, _ error) {
	c.p.mu.Lock()
	delete(c.p.callers, conn)
	c.p.mu.Unlock()
}

func (c *caller) Handle(conn transport.Conn, r *transport.Request) {
	switch {
	case !r.IsCall():
	case r.Method == methodHello:
		r.Reply(transport.Marshal([]any{c.token}))
	case r.Method == methodPrivate:
		c.take(conn, r)
	default:
		r.Reply(nil, transport.ErrNoMethod)
	}
}

// take answers on another goroutine, because the room may have to be asked.
func (c *caller) take(conn transport.Conn, r *transport.Request) {
	p := c.p
	p.mu.Lock()
	busy := c.unanswered == maxUnanswered
	if !busy {
		c.unanswered++
		c.used = time.Now()
	}
	p.mu.Unlock()
	if busy {
		r.Reply(nil, transport.Errorf(CodePeerRefused, "chat: too many private messages at once"))
		return
	}
	if !p.start(func() {
		ctx, cancel := context.WithTimeout(p.c.ctx, verifyTime)
		defer cancel()
		err := p.receive(ctx, r.Params, c.token, conn.Peer())
		if err != nil {
			p.c.cfg.Logger.Warn("chat: private message refused", "service", p.c.service, "addr", conn.Peer().Addr, "err", err)
		}
		p.mu.Lock()
		c.unanswered--
		p.mu.Unlock()
		r.Reply(nil, err)
	}) {
		r.Reply(nil, transport.ErrClosed)
	}
}

// receive checks a private message and delivers it. Who sent it is decided by the key that the connection proved.
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
		return transport.Errorf(CodeNoSuchName, "chat: this is %q, and the message is for somebody else", self)
	}
	if !bytes.Equal(m.Token, token) {
		return transport.Errorf(CodeReplay, "chat: the message was made for another connection")
	}
	if err := checkText(m.Text, maxPrivate); err != nil {
		return err
	}
	if err := p.allowed(); err != nil {
		return err
	}
	if _, _, err := checkName(m.From, 64); err != nil {
		return err
	}
	sender, err := p.lookup(ctx, m.From)
	if err != nil {
		if answered(err) {
			return err
		}
		return transport.Errorf(CodePeerRefused, "chat: the room does not answer, so it cannot be checked who you are: try again")
	}
	who := sender.participant()
	if who.Key != from.Key {
		return transport.Errorf(CodePeerKey, "chat: the name %q belongs to another key than yours", who.Name)
	}
	if err := p.trust(who); err != nil {
		return err
	}

	once := received{nameID(who.Name), m.ID}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, again := p.received.get(once); again {
		return transport.Errorf(CodeReplay, "chat: the message was delivered before")
	}
	if !p.c.inbox.push(Message{
		Kind: KindPrivate, From: who.Name, Text: m.Text, Time: time.Now(), Unverified: who.Key.IsZero(),
	}) {
		return transport.Errorf(CodePeerRefused, "chat: the client has ended")
	}
	p.received.put(once, struct{}{})
	return nil
}
