package client

import (
	"context"
	"errors"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// Query asks the service without changing its state.
func (c *Client) Query(ctx context.Context, q []byte) ([]byte, error) {
	if err := wire.CheckOutsideApply(c.service, "Query"); err != nil {
		return nil, err
	}
	if len(q) > wire.MaxCommand {
		return nil, transport.Errorf(wire.CodeTooLarge, "migrate: service %s: query of %d bytes, more than %d",
			c.service, len(q), wire.MaxCommand)
	}
	params, err := transport.Marshal(&wire.QueryParams{Service: c.service, Session: c.session.id, Body: q})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	atLeast := c.queue.lastIndex
	c.mu.Unlock()
	var reply []byte
	err = c.ask(ctx, wire.MethodQuery, params, func(result []byte) bool {
		var res wire.QueryResult
		if transport.Unmarshal(result, &res) != nil {
			return false
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		reply = res.Reply
		return res.Epoch >= c.session.seen.epoch && res.Index >= atLeast
	})
	return reply, err
}

// ask makes a call that does not depend on the session's order, at the active host, until it is answered. accept reports
// whether a result is recent enough.
func (c *Client) ask(ctx context.Context, method string, params []byte, accept func(result []byte) bool) error {
	c.mu.Lock()
	c.watch.beginQuery()
	c.watchAnswers()
	c.search.skipWait()
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.watch.endQuery()
		c.mu.Unlock()
	}()
	for retry := newBackoff(); ; {
		l, round, err := c.startedLink(ctx)
		if err != nil {
			return err
		}
		result, err := l.conn.Call(ctx, method, params)
		e, remote := errors.AsType[*transport.Error](err)
		remote = remote && e.Remote
		if err == nil || remote {
			c.mu.Lock()
			l.lastHeard = time.Now()
			c.mu.Unlock()
		}
		if err == nil && accept(result) {
			return nil
		}
		if remote {
			switch o := classifyCode(e.Code); {
			case method == wire.MethodQuery && e.Code == wire.CodeForbidden:
				return err // the service's own error: no other client knows the session
			case o == outcomeEnded, o == outcomeNotActive && aboutHost(e.Code):
				c.refused(l, round, false, o, err, e.Data)
				if o == outcomeEnded && c.Err() != nil {
					return c.Err()
				}
			case o != outcomeRetry:
				return err
			}
		}
		moved, err := c.pauseAsk(ctx, l, round, retry.next())
		if err != nil {
			return err
		}
		if moved {
			retry.reset()
		}
	}
}

// pauseAsk waits for d before a request that failed on l in the given round is made again. It returns at once, with moved
// set, when another host, or the same one anew, takes the requests: the reason to wait has gone.
func (c *Client) pauseAsk(ctx context.Context, l *link, round uint32, d time.Duration) (moved bool, err error) {
	pause := time.NewTimer(d)
	defer pause.Stop()
	for {
		c.mu.Lock()
		now, changed := c.conns.current, c.conns.changed
		moved = now != nil && now.started && now.opened && (now != l || now.round != round)
		c.mu.Unlock()
		if moved {
			return true, nil
		}
		select {
		case <-changed:
		case <-pause.C:
			return false, nil
		case <-c.done:
			return false, c.Err()
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// startedLink waits for a current link that was started.
func (c *Client) startedLink(ctx context.Context) (*link, uint32, error) {
	for {
		c.sendMu.Lock() // waits until roam.open of a link that is being started was sent
		c.mu.Lock()
		l, changed, err := c.conns.current, c.conns.changed, c.err
		started, round := l != nil && l.started, uint32(0)
		if started {
			round = l.round
		}
		c.mu.Unlock()
		c.sendMu.Unlock()
		switch {
		case err != nil:
			return nil, 0, err
		case started:
			return l, round, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.mu.Lock()
			defer c.mu.Unlock()
			return nil, 0, c.explain(ctx.Err())
		}
	}
}
