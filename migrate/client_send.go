package migrate

import (
	"context"
	"errors"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// start opens the session on l and sends what is waiting, without waiting for an answer in between.
func (c *Client) start(l *hostLink) {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.mu.Lock()
	if l != c.cur || l.dead || l.started {
		c.mu.Unlock()
		return
	}
	l.started = true
	l.round++
	l.sent, l.inflight = c.queue.low()-1, 0
	l.since = time.Now()
	open, round := !l.opened, l.round
	if open {
		l.resent = 0
		for _, call := range c.queue.calls {
			call.held = nil // the host may judge otherwise now
			if call.sent && !call.finished() {
				l.resent++
			}
		}
	}
	params := wire.OpenParams{Service: c.service, Session: c.session, Resume: c.opened, Loss: c.seen.loss, Epoch: c.seen.epoch}
	from, ask, listen := c.feed.listen()
	c.mu.Unlock()
	if open {
		if b, err := transport.Marshal(&params); err == nil {
			l.conn.Go(wire.MethodOpen, b, func(result []byte, err error) { c.openAnswered(l, round, result, err) })
		}
	}
	if listen {
		c.listen(l, round, from, ask)
	}
	c.mu.Lock()
	c.pump(l)
	c.mu.Lock()
	c.announce()
	c.mu.Unlock()
}

// send puts waiting commands on the wire, as far as the window allows.
func (c *Client) send(l *hostLink) {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.mu.Lock()
	c.pump(l)
}

// pump is send with sendMu and mu held; it releases mu.
func (c *Client) pump(l *hostLink) {
	for {
		call := c.nextToSend(l)
		if call == nil {
			c.mu.Unlock()
			return
		}
		call.number(len(c.prefix), c.queue.low())
		first := !call.sent
		call.sent = true
		if first {
			c.stats.Sent++
		} else {
			c.stats.Resent++
		}
		l.sent = call.seq
		l.inflight += len(call.params)
		l.unanswered++
		round := l.round
		last := c.nextToSend(l) == nil // what may be sent from now on is left to who sees to that
		c.mu.Unlock()
		call.going.Store(first)
		l.conn.Go(wire.MethodDo, call.params, func(result []byte, err error) { c.answered(l, call, round, result, err) })
		call.going.Store(false)
		if last {
			return
		}
		c.mu.Lock()
	}
}

// nextToSend is the command that may be sent now; nil if there is none. c.mu is held.
func (c *Client) nextToSend(l *hostLink) *Call {
	if l != c.cur || !l.started || l.inflight >= sendWindow || int64(l.unanswered)*c.replySize >= sendWindow {
		return nil
	}
	for _, call := range c.queue.after(l.sent) {
		if !call.finished() {
			return call
		}
	}
	return nil
}

// enqueue queues a command and sends it if there is a host. If there is no room, it waits for some or not.
func (c *Client) enqueue(ctx context.Context, command []byte, wait bool) (*Call, error) {
	if n := len(command); n > MaxCommand || n > c.room.maxBytes {
		return nil, transport.Errorf(CodeTooLarge, "migrate: service %s: command of %d bytes, more than %d", c.service, n, min(MaxCommand, c.room.maxBytes))
	}
	call := newCall(c, command)
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.mu.Lock()
	err := c.refuseNew()
	if err == nil && !c.room.take(call.size) {
		if !wait {
			c.mu.Unlock()
			return nil, transport.Errorf(CodeQueueFull, "migrate: service %s: queue is full", c.service)
		}
		w := c.room.wait(call.size)
		c.mu.Unlock()
		c.sendMu.Unlock()
		err = c.waitRoom(ctx, w)
		c.sendMu.Lock()
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		if err = c.refuseNew(); err != nil {
			c.room.free(call.size)
		}
	}
	if err != nil {
		c.mu.Unlock()
		return nil, err
	}
	c.queue.push(call)
	c.observe()
	c.hasten()
	if l := c.cur; l != nil {
		c.pump(l)
	} else {
		c.mu.Unlock()
	}
	return call, nil
}

// refuseNew is the reason to take no more commands. c.mu is held.
func (c *Client) refuseNew() error {
	if c.err == nil && c.leaving {
		return transport.Errorf(transport.CodeClosed, "migrate: client of service %s is shutting down", c.service)
	}
	return c.err
}

func (c *Client) waitRoom(ctx context.Context, w *roomWaiter) (err error) {
	select {
	case <-w.ready:
		return nil
	case <-c.done:
		err = c.Err()
	case <-ctx.Done():
		err = ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room.leave(w)
	if c.err == nil {
		err = c.explain(err)
	}
	return err
}

// answered takes the answer to a command that was sent on l in the given round.
func (c *Client) answered(l *hostLink, call *Call, round uint32, result []byte, err error) {
	a := judgeCommand(result, err)
	unsent := a.fate == fateBroken && call.going.Load() && transport.CodeOf(err) == transport.CodeBadMessage
	if unsent {
		// The transport does not take a message of this size, and none was sent before.
		a.fate = fateRefused
		a.err = transport.Errorf(CodeTooLarge, "migrate: service %s: %v", c.service, err)
	}
	c.mu.Lock()
	l.unanswered--
	call.sent = call.sent && !unsent
	if round == l.round {
		l.inflight -= len(call.params)
	}
	if a.fate == fateBroken || l != c.cur {
		c.mu.Unlock()
		return
	}
	l.heard = time.Now()
	current := round == l.round && l.started
	switch {
	case a.fate == fateReplied:
		c.lastAck = max(c.lastAck, a.index)
		c.replySize = max(int64(len(result)), c.replySize*7/8)
		l.answered = true
		c.tries = 0
		if c.queue.finish(call, a.reply, a.err) {
			c.stats.Acknowledged++
			c.room.free(call.size)
		}
	case a.fate == fateRefused && current && l.opened:
		call.held = a.err
		c.refuse(l, a.err)
	case current:
		c.mu.Unlock()
		c.refusal(l, round, false, a.fate, a.err, a.data)
		return
	}
	if !l.started && l.unanswered == 0 {
		c.nudge()
	}
	more := c.nextToSend(l) != nil
	c.mu.Unlock()
	if more {
		c.send(l)
	}
}

// refuse stops the sending on l: everything behind a refused command is refused, too. c.mu is held.
func (c *Client) refuse(l *hostLink, err error) {
	c.settle(l)
	l.started = false
	c.lastErr.of(l.host, err)
	c.delay()
	c.tend()
}

// refusal acts on a refusal of what was sent on l in the given round. That the session is over is believed of a host only
// when it answers the opening, which tells it what the client has seen, or after it.
func (c *Client) refusal(l *hostLink, round uint32, opening bool, f fate, err error, data []byte) {
	if f == fateNotActive {
		var rec resolver.Record
		if len(data) > 0 && msgpack.UnmarshalSmall(data, &rec) == nil {
			c.learn(rec, nil)
		}
	}
	c.mu.Lock()
	if l != c.cur || round != l.round || !l.started {
		c.mu.Unlock()
		return
	}
	switch {
	case f == fateEnded && (l.opened || opening):
		c.mu.Unlock()
		c.fail(c.named(err))
		return
	case f == fateNotActive:
		l.opened = false
		c.attempt++
	}
	c.log.Debug("refused", "host", l.host.ID, "err", err)
	c.refuse(l, err)
	c.mu.Unlock()
}

// openAnswered takes the answer to roam.open.
func (c *Client) openAnswered(l *hostLink, round uint32, result []byte, err error) {
	var res wire.OpenResult
	if err == nil {
		err = transport.Unmarshal(result, &res)
	}
	e, remote := errors.AsType[*transport.Error](err)
	if err != nil && (!remote || !e.Remote) {
		if e == nil || e.Code != transport.CodeBadMessage {
			return // Closed says so
		}
	}
	c.mu.Lock()
	if l != c.cur || round != l.round || !l.started {
		c.mu.Unlock()
		return
	}
	l.heard = time.Now()
	if err != nil {
		c.mu.Unlock()
		c.refusal(l, round, true, judgeCode(e.Code), err, e.Data)
		return
	}
	term := fence{res.Loss, res.Epoch}
	switch {
	case term.less(c.seen):
		c.mu.Unlock()
		c.refusal(l, round, true, fateNotActive, transport.Errorf(CodeNotActive, "it serves by epoch %d, which is over", res.Epoch), nil)
		return
	case c.opened && res.Loss > c.seen.loss:
		c.mu.Unlock()
		c.fail(c.stateLost(res.Epoch))
		return
	}
	c.setSpread(res.SpreadMS)
	c.confirm(l, term)
	c.mu.Unlock()
}

// ask makes a call that does not need the session's order, wherever the service is, until it is answered. ok says whether
// the client may accept a result.
func (c *Client) ask(ctx context.Context, method string, params []byte, ok func(result []byte) bool) error {
	c.mu.Lock()
	if c.asking == 0 {
		c.askSince = time.Now()
	}
	c.asking++
	c.observe()
	c.hasten()
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.asking--
		c.mu.Unlock()
	}()
	for n := 0; ; n++ {
		l, round, err := c.link(ctx)
		if err != nil {
			return err
		}
		result, err := l.conn.Call(ctx, method, params)
		e, remote := errors.AsType[*transport.Error](err)
		remote = remote && e.Remote
		if err == nil || remote {
			c.mu.Lock()
			l.heard = time.Now()
			c.mu.Unlock()
		}
		if err == nil && ok(result) {
			return nil
		}
		if remote {
			switch f := judgeCode(e.Code); {
			case method == wire.MethodQuery && e.Code == CodeForbidden:
				return err // the service's own: to ask needs no session
			case f == fateEnded, f == fateNotActive && notServing(e.Code):
				c.refusal(l, round, false, f, err, e.Data)
				if f == fateEnded && c.Err() != nil {
					return c.Err()
				}
			case f != fateRetry:
				return err
			}
		}
		pause := time.NewTimer(backoff(n))
		select {
		case <-pause.C:
		case <-c.done:
			pause.Stop()
			return c.Err()
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
}

// notServing reports whether an answer with this code speaks of the host and not of what was asked.
func notServing(code transport.Code) bool {
	switch code {
	case CodeNotActive, CodeHalted, CodeNoHost, CodeNoService:
		return true
	}
	return false
}

// link waits for a link on which the session was started.
func (c *Client) link(ctx context.Context) (*hostLink, uint32, error) {
	for {
		c.sendMu.Lock() // so that what has begun to start is on its way
		c.mu.Lock()
		l, changed, err := c.cur, c.changed, c.err
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
