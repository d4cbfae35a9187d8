package chatcore

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/roam-go/roam/transport"
)

const (
	maxLinks    = 16               // outbound connections
	idleTimeout = time.Minute      // before an outbound connection is closed
	dialTimeout = 10 * time.Second // for dial and hello
)

// link is an outbound connection to another client. It stays open for further messages.
type link struct {
	slots chan struct{} // limits messages in flight; the receiver rejects more
	ready chan struct{} // closed once conn or err is set
	conn  transport.Conn
	token []byte
	err   error

	// Guarded by private.mu.
	users int
	used  time.Time
}

// Private sends text directly to one participant's client and waits until it has arrived. The connection is pinned to the
// key that the room has for the name. While the room moves, Private works for participants that this client has looked up
// before. Of concurrent calls for one participant, only a few are in flight at a time; the others wait.
//
// The client pins the first key of each name, and never evicts it. If the name later has another key, messages to and from
// it are rejected until [Client.Forget]. A client pins at most 10,000 keys; beyond that Private returns [ErrPeerKey] for new
// names. Received private messages pin keys as well, but at most 32 at once and then one every 10 s, and only while fewer
// than 5,000 keys are pinned. Messages from other new names arrive with [Message.UnknownKey] set.
//
// After these errors the message has not arrived: [ErrNoSuchName]; [ErrNoPrivate] if the participant accepts no private
// messages; [ErrPeerUnreachable]; [ErrPeerKey] if the peer proves another key, the key has changed, or it cannot be pinned;
// [ErrPeerRefused] with the reason given by the participant's client; [ErrUnverified]; [ErrBadText]. It may have arrived
// after [ErrPeerLost], which means that the connection broke before the answer and resending failed, and after the error of
// ctx.
func (c *Client) Private(ctx context.Context, to, text string) error {
	p := c.private
	if err := p.requireKeys(); err != nil {
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
		return transport.Errorf(CodeNoPrivate, "chat: %q accepts no private messages", who.Name)
	case who.Key.IsZero() && !c.cfg.InsecurePrivate:
		return transport.Errorf(CodeUnverified, "chat: %q has no key, so the receiver cannot be authenticated", who.Name)
	}
	if _, err := p.checkKey(who, false); err != nil {
		return err
	}
	m := privateParams{To: who.Name, From: c.name, Text: text, ID: rand.Uint64N(1<<53-1) + 1}
	for lost := false; ; lost = true {
		broke, err := p.send(ctx, who, m)
		switch {
		case err == nil, lost && errors.Is(err, ErrReplay): // it had arrived; only the reply was lost
			return nil
		case broke && !lost:
			// It may have arrived, or the idle connection was dead. Resend it on a new connection with the same id.
		case lost && ctx.Err() != nil:
			return ctx.Err()
		case lost:
			return transport.Errorf(CodePeerLost, "chat: %q may have received the message: the connection broke before the "+
				"answer, and resending failed: %v", who.Name, err)
		case errors.Is(err, ErrReplay):
			return transport.Errorf(CodePeerRefused, "%v", err)
		default:
			return err
		}
	}
}

// send makes one attempt. broke reports that the connection broke while the message was in flight.
func (p *private) send(ctx context.Context, who Participant, m privateParams) (broke bool, err error) {
	peer := transport.Peer{Addr: who.Addr, Key: who.Key}
	l, err := p.acquire(peer, who.Name)
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
		<-l.slots // not when ctx ends: the message is still in flight then
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
		// The peer's text is untrusted: quote and truncate it.
		code := CodePeerRefused
		if e.Code == CodeReplay {
			code = CodeReplay
		}
		return false, transport.Errorf(code, "chat: %q rejected the message: %.200q", who.Name, e.Message)
	}
	p.removeLink(peer, l)
	_ = l.conn.Close()
	return true, unreachable(who, err)
}

func unreachable(who Participant, err error) error {
	if errors.Is(err, transport.ErrWrongKey) {
		return transport.Errorf(CodePeerKey, "chat: the peer at %s is not %q; nothing was sent: %v", who.Addr, who.Name, err)
	}
	return transport.Errorf(CodePeerUnreachable, "chat: %q is unreachable at %s: %v; the client may have exited, or a "+
		"firewall blocks the connection", who.Name, who.Addr, err)
}

// acquire returns the link to a peer, which may still be dialing. The caller must release it.
func (p *private) acquire(peer transport.Peer, name string) (l *link, err error) {
	var oldest transport.Conn
	defer func() { // runs after p.mu is unlocked
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
		oldest = p.evictIdle()
	}
	if len(p.links) >= maxLinks {
		return nil, transport.Errorf(CodePeerUnreachable, "chat: no connection to %q is available: private messages to %d others "+
			"are in flight", name, maxLinks)
	}
	l = &link{slots: make(chan struct{}, maxInFlight), ready: make(chan struct{}), users: 1}
	p.links[peer] = l
	p.c.wg.Go(func() { p.dial(peer, l) })
	if p.idleTimer == nil {
		p.idleTimer = time.AfterFunc(idleTimeout, p.sweep)
	}
	return l, nil
}

func (p *private) release(l *link) {
	p.mu.Lock()
	l.users--
	l.used = time.Now()
	p.mu.Unlock()
}

// dial connects a link on behalf of all callers that wait for it, so none of them can cancel it for the others.
func (p *private) dial(peer transport.Peer, l *link) {
	ctx, cancel := context.WithTimeout(p.c.ctx, dialTimeout)
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

// linkHandler removes a link when its connection ends. It serves no methods.
type linkHandler struct {
	p    *private
	peer transport.Peer
	l    *link
}

func (h linkHandler) Handle(_ transport.Conn, r *transport.Request) {
	r.Reply(nil, transport.ErrNoMethod)
}

func (h linkHandler) Closed(transport.Conn, error) { h.p.removeLink(h.peer, h.l) }

func (p *private) removeLink(peer transport.Peer, l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.links[peer] == l {
		delete(p.links, peer)
	}
}

// evictIdle removes the least recently used idle link, if any, and returns its connection for closing. The caller holds
// p.mu.
func (p *private) evictIdle() transport.Conn {
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

// sweep closes idle links.
func (p *private) sweep() {
	var idle []transport.Conn
	p.mu.Lock()
	for peer, l := range p.links {
		if l.users == 0 && l.conn != nil && time.Since(l.used) >= idleTimeout {
			idle = append(idle, l.conn)
			delete(p.links, peer)
		}
	}
	switch {
	case p.closed:
	case len(p.links) > 0:
		p.idleTimer.Reset(idleTimeout)
	default:
		p.idleTimer = nil
	}
	p.mu.Unlock()
	for _, conn := range idle {
		_ = conn.Close()
	}
}
