package client

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

const (
	parkLimit = 30 * time.Second // how long a spare connection waits for the move

	closeFormerAfter = 200 * time.Millisecond // the least delay after a planned move
)

// spare is the connection to the host that will be active next, or the attempt to make it. Client.mu guards link.
type spare struct {
	host   resolver.Host
	link   *link // nil until connected
	cancel context.CancelFunc
	again  chan *link // the active host has repeated its request, on this link
}

// hasSpare reports whether there is a spare connection to host.
func (cs *connections) hasSpare(host resolver.Host) bool {
	return cs.spare != nil && cs.spare.link != nil && cs.spare.host.Same(host)
}

// takeSpare makes the spare connection the current one.
func (cs *connections) takeSpare() *link {
	s := cs.spare
	cs.spare = nil
	s.cancel()
	cs.adopt(s.link)
	return s.link
}

// closeLater closes the connection to the former host, after a planned move, at a random moment after all clients have
// followed it: closing thousands at once would delay those that have not. It returns the link to be closed now, if
// another move came first. c.mu is held.
func (c *Client) closeLater(l *link) (now *link) {
	cs := &c.conns
	now, cs.former = cs.former, l
	wait := closeFormerAfter + c.search.spread
	wait += rand.N(wait)
	if cs.formerTimer == nil {
		cs.formerTimer = time.AfterFunc(wait, func() {
			c.mu.Lock()
			l := cs.former
			cs.former = nil
			c.mu.Unlock()
			if l != nil {
				l.conn.Close()
			}
		})
	} else {
		cs.formerTimer.Reset(wait)
	}
	return now
}

// prepare processes the active host's request to connect to the next host ahead of a move.
func (c *Client) prepare(from *link, p *wire.PrepareParams) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if from != c.conns.current || c.err != nil || p.Next.Addr == "" || p.Next.Same(from.host) {
		return
	}
	from.lastHeard = time.Now()
	if s := c.conns.spare; s != nil {
		if s.host.Same(p.Next) {
			select {
			case s.again <- from:
			default:
			}
			return
		}
		s.cancel()
	}
	ctx, cancel := context.WithCancel(c.ctx)
	s := &spare{host: p.Next, cancel: cancel, again: make(chan *link, 1)}
	c.conns.spare = s
	spread := spreadOf(p.SpreadMS)
	c.spawn(func() { c.park(ctx, s, from, spread) })
}

// park connects to the next host, tells the active one, and closes the connection if the move does not come.
func (c *Client) park(ctx context.Context, s *spare, from *link, spread time.Duration) {
	defer s.cancel()
	var l *link
	if spread == 0 || sleep(ctx, rand.N(spread)) {
		l = c.connectSpare(ctx, s, from)
	}
	for limit := time.After(parkLimit); l != nil; {
		select {
		case from = <-s.again:
			limit = time.After(parkLimit)
			c.sendReady(from)
			continue
		case <-limit:
		case <-ctx.Done():
		}
		break
	}
	c.mu.Lock()
	if c.conns.spare == s {
		c.conns.spare = nil
	}
	unused := l != nil && l != c.conns.current
	c.mu.Unlock()
	if unused {
		l.conn.Close()
	}
}

func (c *Client) connectSpare(ctx context.Context, s *spare, from *link) *link {
	dialCtx, cancel := context.WithTimeout(ctx, wire.ReadyTimeout*5/6)
	defer cancel()
	l := &link{c: c, host: s.host}
	conn, err := c.transport.Dial(dialCtx, transport.Peer{Addr: s.host.Addr, Key: s.host.Key, Role: transport.RoleHost}, l)
	if err != nil {
		c.log.Debug("no connection to the next host", "host", s.host.ID, "addr", s.host.Addr, "err", err)
		if ctx.Err() == nil {
			c.sendUnready(from, s.host, err)
		}
		return nil
	}
	l.conn = conn
	params, err := transport.Marshal(&wire.ParkParams{Service: c.service, Session: c.session.id})
	if err != nil {
		conn.Close()
		return nil
	}
	parked := make(chan error, 1)
	conn.Go(wire.MethodPark, params, func(_ []byte, err error) { parked <- err })
	// From here on the move may use it, whether the host has answered or not.
	c.mu.Lock()
	if c.conns.spare != s || l.dead {
		c.mu.Unlock()
		conn.Close()
		return nil
	}
	s.link = l
	if c.conns.current == nil {
		c.search.wake()
	}
	c.mu.Unlock()
	select {
	case err = <-parked:
	case <-dialCtx.Done():
		err = dialCtx.Err()
	}
	if err == nil {
		c.sendReady(from)
	}
	return l
}

// sendReady tells the active host that the connection to the next one is up.
func (c *Client) sendReady(l *link) {
	if params, err := transport.Marshal(&wire.ReadyParams{Service: c.service, Session: c.session.id}); err == nil {
		l.conn.Notify(wire.MethodReady, params) // if it is lost, the host waits a little longer
	}
}

// sendUnready tells the active host that this client cannot connect to the next one.
func (c *Client) sendUnready(l *link, next resolver.Host, err error) {
	p := &wire.UnreadyParams{Service: c.service, Session: c.session.id, Next: next.ID, Reason: err.Error()}
	if params, err := transport.Marshal(p); err == nil {
		l.conn.Notify(wire.MethodUnready, params)
	}
}
