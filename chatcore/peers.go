package chatcore

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/roam-go/roam/transport"
)

const (
	maxLinks = 16               // connections to others
	idleTime = time.Minute      // after which one is closed
	dialTime = 10 * time.Second // for making one
)

// link is a connection to another client. It is kept for the next message.
type link struct {
	slots chan struct{} // as many as messages may be under way: the other side refuses more
	ready chan struct{} // closed when conn or err is set, for good
	conn  transport.Conn
	token []byte
	err   error

	// Guarded by private.mu.
	users int
	used  time.Time
}

// Private says text to one participant, straight from this client to theirs, and waits until it has arrived. The connection
// is pinned to the key that the room knows for the name. Whether the room is on the move meanwhile does not matter for
// somebody whom it was asked about before. Of many calls at once for one participant only a few are sent at a time; the
// others wait.
//
// The first key of each name is remembered, as long as the client lives: when the name has another one later, messages to
// and from it are refused until [Client.Forget].
//
// Errors: [ErrNoSuchName] when nobody of that name is in the room, [ErrNoPrivate] when they take no private messages,
// [ErrPeerUnreachable], [ErrPeerKey] when whoever answers is not them or their key has changed, [ErrPeerRefused] with
// their client's reason, [ErrUnverified], [ErrBadText]: then it has not arrived. After [ErrPeerLost], when the connection
// broke before the answer and the message could not be sent again to find out, and after ctx's error, it may have.
func (c *Client) Private(ctx context.Context, to, text string) error {
	p := c.private
	if err := p.allowed(); err != nil {
		return err
	}
	if err := checkText(text, maxPrivate); err != nil {
		return err
	}
	if _, _, err := checkName(to, 64); err != nil {
		return err
	}
	found, err := p.lookup(ctx, to)
	if err != nil {
		return err
	}
	who := found.participant()
	switch {
	case who.Addr == "":
		return transport.Errorf(CodeNoPrivate, "chat: %q takes no private messages", who.Name)
	case who.Key.IsZero() && !c.cfg.InsecurePrivate:
		return transport.Errorf(CodeUnverified, "chat: %q has no key, so it could not be told who reads the message", who.Name)
	}
	if err := p.trust(who); err != nil {
		return err
	}
	m := privateParams{To: who.Name, From: c.name, Text: text, ID: rand.Uint64N(1<<53-1) + 1}
	for lost := false; ; lost = true {
		broke, err := p.send(ctx, who, m)
		switch {
		case err == nil, lost && errors.Is(err, ErrReplay): // it had arrived, only the reply was lost
			return nil
		case broke && !lost:
			// It may have arrived, or the connection has ended long ago: the same message on a new one decides.
		case lost && ctx.Err() != nil:
			return ctx.Err()
		case lost:
			return transport.Errorf(CodePeerLost, "chat: %q may have got the message or not: the connection broke before the "+
				"answer, and sending it again failed: %v", who.Name, err)
		case errors.Is(err, ErrReplay):
			return transport.Errorf(CodePeerRefused, "%v", err)
		default:
			return err
		}
	}
}

// send makes one attempt; broke tells that the connection broke with the message on its way.
func (p *private) send(ctx context.Context, who Participant, m privateParams) (broke bool, err error) {
	peer := transport.Peer{Addr: who.Addr, Key: who.Key}
	l, err := p.take(peer, who.Name)
	if err != nil {
		return false, err
	}
	defer p.release(l)
	select {
	case <-l.ready:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if l.err != nil {
		return false, unreachable(who, l.err)
	}
	m.Token = l.token
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	done := make(chan error, 1)
	l.conn.Go(methodPrivate, mustMarshal(&m), func(_ []byte, err error) {
		<-l.slots // only now: if ctx ends before, the message is still under way
		done <- err
	})
	select {
	case err = <-done:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if err == nil {
		return false, nil
	}
	if e, ok := errors.AsType[*transport.Error](err); ok && e.Remote {
		// The words are the peer's: they are quoted, and not too many.
		code := CodePeerRefused
		if e.Code == CodeReplay {
			code = CodeReplay
		}
		return false, transport.Errorf(code, "chat: %q refused the message: %.200q", who.Name, e.Message)
	}
	p.forget(peer, l)
	_ = l.conn.Close()
	return true, unreachable(who, err)
}

func unreachable(who Participant, err error) error {
	if errors.Is(err, transport.ErrWrongKey) {
		return transport.Errorf(CodePeerKey, "chat: whoever answers at %s is not %q, nothing was sent: %v", who.Addr, who.Name, err)
	}
	return transport.Errorf(CodePeerUnreachable, "chat: %q cannot be reached at %s: %v; their client may have ended, or a firewall "+
		"is between: ask them to join again, or say it to all", who.Name, who.Addr, err)
}

// take returns the connection to a peer, which may still be in the making, for use until release.
func (p *private) take(peer transport.Peer, name string) (l *link, err error) {
	var oldest transport.Conn
	defer func() { // after p.mu is free again
		if oldest != nil {
			_ = oldest.Close()
		}
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, transport.Errorf(transport.CodeClosed, "chat: the client is closed")
	}
	if l = p.links[peer]; l != nil {
		l.users++
		return l, nil
	}
	if len(p.links) >= maxLinks {
		oldest = p.dropOldest()
	}
	if len(p.links) >= maxLinks {
		return nil, transport.Errorf(CodePeerUnreachable, "chat: %q cannot be reached now: %d private messages to others are "+
			"under way", name, maxLinks)
	}
	l = &link{slots: make(chan struct{}, maxUnanswered), ready: make(chan struct{}), users: 1}
	p.links[peer] = l
	p.c.wg.Go(func() { p.dial(peer, l) })
	if p.sweeper == nil {
		p.sweeper = time.AfterFunc(idleTime, p.sweep)
	}
	return l, nil
}

func (p *private) release(l *link) {
	p.mu.Lock()
	l.users--
	l.used = time.Now()
	p.mu.Unlock()
}

// dial makes a connection for all who wait for it: none of them can cancel it for the others.
func (p *private) dial(peer transport.Peer, l *link) {
	ctx, cancel := context.WithTimeout(p.c.ctx, dialTime)
	defer cancel()
	conn, token, err := p.connect(ctx, peer, l)
	p.mu.Lock()
	if err == nil && p.closed {
		err = transport.ErrClosed
	}
	l.conn, l.token, l.err = conn, token, err
	if err != nil && p.links[peer] == l {
		delete(p.links, peer)
	}
	p.mu.Unlock()
	close(l.ready)
	if err != nil && conn != nil {
		_ = conn.Close()
	}
}

func (p *private) connect(ctx context.Context, peer transport.Peer, l *link) (transport.Conn, []byte, error) {
	conn, err := p.c.cfg.Transport.Dial(ctx, peer, linkHandler{p, peer, l})
	if err != nil {
		return nil, nil, err
	}
	reply, err := conn.Call(ctx, methodHello, nil)
	if err != nil {
		return conn, nil, err
	}
	var hello struct {
		_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec
		Token   []byte
	}
	err = transport.Unmarshal(reply, &hello)
	return conn, hello.Token, err
}

// linkHandler notices the end of a link. Nothing is ever asked on one.
type linkHandler struct {
	p    *private
	peer transport.Peer
	l    *link
}

func (h linkHandler) Handle(_ transport.Conn, r *transport.Request) {
	r.Reply(nil, transport.ErrNoMethod)
}

func (h linkHandler) Closed(transport.Conn, error) { h.p.forget(h.peer, h.l) }

func (p *private) forget(peer transport.Peer, l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.links[peer] == l {
		delete(p.links, peer)
	}
}

// dropOldest makes a place among the links, if one is unused, and returns the connection to close. p.mu is held.
func (p *private) dropOldest() transport.Conn {
	var oldest *link
	var at transport.Peer
	for peer, l := range p.links {
		if l.users == 0 && l.conn != nil && (oldest == nil || l.used.Before(oldest.used)) {
			oldest, at = l, peer
		}
	}
	if oldest == nil {
		return nil
	}
	delete(p.links, at)
	return oldest.conn
}

// sweep closes the links that nobody has used for a while.
func (p *private) sweep() {
	var idle []transport.Conn
	p.mu.Lock()
	for peer, l := range p.links {
		if l.users == 0 && l.conn != nil && time.Since(l.used) >= idleTime {
			idle = append(idle, l.conn)
			delete(p.links, peer)
		}
	}
	switch {
	case p.closed:
	case len(p.links) > 0:
		p.sweeper.Reset(idleTime)
	default:
		p.sweeper = nil
	}
	p.mu.Unlock()
	for _, conn := range idle {
		_ = conn.Close()
	}
}
