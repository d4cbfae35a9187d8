package migrate

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

const (
	parkLimit = 30 * time.Second // after which a parked connection is not needed any more

	hangUpAfter = 200 * time.Millisecond // after a planned move, at least
)

// sparing is the connection to the host that will serve next, or the making of it.
type sparing struct {
	host   resolver.Host
	link   *hostLink // parked; nil until it is connected
	cancel context.CancelFunc
	asked  chan *hostLink // the active host has asked again, on this link
}

// prepare follows the active host's advice to connect to the next host ahead of a move.
func (c *Client) prepare(from *hostLink, p *wire.PrepareParams) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if from != c.cur || c.err != nil || p.Next.Addr == "" || p.Next.Same(from.host) {
		return
	}
	from.heard = time.Now()
	if s := c.spare; s != nil && s.host.Same(p.Next) {
		select {
		case s.asked <- from:
		default:
		}
		return
	}
	if c.spare != nil {
		c.spare.cancel()
	}
	ctx, cancel := context.WithCancel(c.ctx)
	s := &sparing{host: p.Next, cancel: cancel, asked: make(chan *hostLink, 1)}
	c.spare = s
	spread := min(max(time.Duration(p.SpreadMS), 0), wire.MaxSpread/time.Millisecond) * time.Millisecond
	c.spawn(func() { c.park(ctx, s, from, spread) })
}

// takeSpare makes the parked connection the one that carries the session. c.mu is held.
func (c *Client) takeSpare() *hostLink {
	s := c.spare
	c.spare = nil
	s.cancel()
	c.adopt(s.link)
	return s.link
}

// hangUpLater closes the connection to the host that served before a planned move, at a random moment after all clients have
// followed it: to close thousands takes the hosts from those who still wait. It returns what is to be closed now, after
// another move so soon. c.mu is held.
func (c *Client) hangUpLater(l *hostLink) (now *hostLink) {
	now, c.former = c.former, l
	wait := hangUpAfter + c.spread + rand.N(hangUpAfter+c.spread)
	if c.hangUp == nil {
		c.hangUp = time.AfterFunc(wait, func() {
			c.mu.Lock()
			l := c.former
			c.former = nil
			c.mu.Unlock()
			if l != nil {
				l.conn.Close()
			}
		})
	} else {
		c.hangUp.Reset(wait)
	}
	return now
}

// park connects to the next host, says so to the present one, and drops the connection if the move does not come.
func (c *Client) park(ctx context.Context, s *sparing, from *hostLink, spread time.Duration) {
	defer s.cancel()
	var l *hostLink
	if spread == 0 || c.sleep(ctx, rand.N(spread)) {
		l = c.connectSpare(ctx, s, from)
	}
	for limit := time.After(parkLimit); l != nil; {
		select {
		case from = <-s.asked:
			limit = time.After(parkLimit)
			c.sayReady(from)
			continue
		case <-limit:
		case <-ctx.Done():
		}
		break
	}
	c.mu.Lock()
	if c.spare == s {
		c.spare = nil
	}
	unused := l != nil && l != c.cur
	c.mu.Unlock()
	if unused {
		l.conn.Close()
	}
}

func (c *Client) connectSpare(ctx context.Context, s *sparing, from *hostLink) *hostLink {
	dialCtx, cancel := context.WithTimeout(ctx, parkLimit)
	defer cancel()
	l := &hostLink{c: c, host: s.host}
	conn, err := c.tr.Dial(dialCtx, transport.Peer{Addr: s.host.Addr, Key: s.host.Key}, l)
	if err != nil {
		c.log.Debug("no connection to the next host", "host", s.host.ID, "addr", s.host.Addr, "err", err)
		return nil
	}
	l.conn = conn
	params, err := transport.Marshal(&wire.ParkParams{Service: c.service, Session: c.session})
	if err != nil {
		conn.Close()
		return nil
	}
	parked := make(chan error, 1)
	conn.Go(wire.MethodPark, params, func(_ []byte, err error) { parked <- err })
	// From here on the move may use it, whether parking was answered or not.
	c.mu.Lock()
	if c.spare != s || l.dead {
		c.mu.Unlock()
		conn.Close()
		return nil
	}
	s.link = l
	if c.cur == nil {
		c.nudge()
	}
	c.mu.Unlock()
	select {
	case err = <-parked:
	case <-dialCtx.Done():
		err = dialCtx.Err()
	}
	if err == nil {
		c.sayReady(from)
	}
	return l
}

// sayReady tells the present host that the connection to the next one is up.
func (c *Client) sayReady(l *hostLink) {
	if params, err := transport.Marshal(&wire.ReadyParams{Service: c.service, Session: c.session}); err == nil {
		l.conn.Notify(wire.MethodReady, params) // a lost one costs the host some waiting
	}
}
