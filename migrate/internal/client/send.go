package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// Do executes a command and waits for its reply. It blocks while the queue is full.
func (c *Client) Do(ctx context.Context, command []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := wire.CheckOutsideApply(c.service, "Do"); err != nil {
		return nil, err
	}
	call, err := c.enqueue(ctx, command, true)
	if err != nil {
		return nil, err
	}
	return call.Reply(ctx)
}

// Go queues a command, or returns ErrQueueFull.
func (c *Client) Go(command []byte) (*Call, error) {
	return c.enqueue(context.Background(), command, false)
}

// start opens the session on l and sends the waiting commands, without waiting for answers.
func (c *Client) start(l *link) {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.mu.Lock()
	if l != c.conns.current || l.dead || l.started {
		c.mu.Unlock()
		return
	}
	l.started = true
	l.round++
	l.lastSent, l.inflight = c.queue.low()-1, 0
	l.startedAt = time.Now()
	open, round := !l.opened, l.round
	if open {
		l.resent = c.queue.restart()
	}
	params := c.openParams()
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
	c.conns.announce()
	c.mu.Unlock()
}

// send sends waiting commands as far as the window allows.
func (c *Client) send(l *link) {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.mu.Lock()
	c.pump(l)
}

// pump is send with sendMu and mu held; it unlocks mu.
func (c *Client) pump(l *link) {
	for {
		call := c.nextToSend(l)
		if call == nil {
			c.mu.Unlock()
			return
		}
		call.number(len(c.queue.prefix), c.queue.low())
		first := !call.sent
		call.sent = true
		if first {
			c.stats.Sent++
		} else {
			c.stats.Resent++
		}
		l.lastSent = call.seq
		l.inflight += len(call.params)
		l.unanswered++
		round := l.round
		last := c.nextToSend(l) == nil // whoever makes more sendable from now on sends it
		c.mu.Unlock()
		call.sending.Store(first)
		l.conn.Go(wire.MethodDo, call.params, func(result []byte, err error) { c.answered(l, call, round, result, err) })
		call.sending.Store(false)
		if last {
			return
		}
		c.mu.Lock()
	}
}

// nextToSend returns the command that may be sent now, or nil. c.mu is held.
func (c *Client) nextToSend(l *link) *Call {
	if l != c.conns.current || !l.started || l.inflight >= sendWindow || int64(l.unanswered)*c.queue.replySize >= sendWindow {
		return nil
	}
	for _, call := range c.queue.after(l.lastSent) {
		if !call.finished() {
			return call
		}
	}
	return nil
}

// enqueue queues a command and sends it if there is a host. With wait, it waits for room.
func (c *Client) enqueue(ctx context.Context, command []byte, wait bool) (*Call, error) {
	if n, limit := len(command), min(wire.MaxCommand, c.queue.room.maxBytes); n > limit {
		return nil, transport.Errorf(wire.CodeTooLarge, "migrate: service %s: command of %d bytes, more than %d",
			c.service, n, limit)
	}
	call := newCall(c, command)
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.mu.Lock()
	err := c.refuseNew()
	if err == nil && !c.queue.room.take(call.size) {
		if !wait {
			c.mu.Unlock()
			return nil, transport.Errorf(wire.CodeQueueFull, "migrate: service %s: queue is full", c.service)
		}
		w := c.queue.room.wait(call.size)
		c.mu.Unlock()
		c.sendMu.Unlock()
		err = c.waitRoom(ctx, w)
		c.sendMu.Lock()
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		if err = c.refuseNew(); err != nil {
			c.queue.room.free(call.size)
		}
	}
	if err != nil {
		c.mu.Unlock()
		return nil, err
	}
	c.queue.push(call)
	c.watchAnswers()
	c.search.skipWait()
	if l := c.conns.current; l != nil {
		c.pump(l)
	} else {
		c.mu.Unlock()
	}
	return call, nil
}

// refuseNew returns the reason for taking no more commands. c.mu is held.
func (c *Client) refuseNew() error {
	if c.err == nil && c.closing {
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
	c.queue.room.leave(w)
	if c.err == nil {
		err = c.explain(err)
	}
	return err
}

// answered processes the answer to a command that was sent on l in the given round.
func (c *Client) answered(l *link, call *Call, round uint32, result []byte, err error) {
	a := classify(result, err)
	unsent := a.outcome == outcomeBroken && call.sending.Load() && transport.CodeOf(err) == transport.CodeBadMessage
	if unsent {
		// The transport does not send a message of this size, and has not before.
		a.outcome = outcomeRefused
		a.err = transport.Errorf(wire.CodeTooLarge, "migrate: service %s: %v", c.service, err)
	}
	c.mu.Lock()
	l.unanswered--
	call.sent = call.sent && !unsent
	if round == l.round {
		l.inflight -= len(call.params)
	}
	if a.outcome == outcomeBroken || l != c.conns.current {
		c.mu.Unlock()
		return
	}
	l.lastHeard = time.Now()
	current := round == l.round && l.started
	switch q := &c.queue; {
	case a.outcome == outcomeDone:
		q.lastIndex = max(q.lastIndex, a.index)
		q.replySize = max(int64(len(result)), q.replySize*7/8)
		l.answered = true
		c.search.retry.reset()
		if q.finish(call, a.reply, a.err) {
			c.stats.Acknowledged++
		}
	case a.outcome == outcomeRefused && current && l.opened:
		call.refused = a.err
		c.pause(l, a.err)
	case current:
		c.mu.Unlock()
		c.refused(l, round, false, a.outcome, a.err, a.data)
		return
	}
	if !l.started && l.unanswered == 0 {
		c.search.wake()
	}
	more := c.nextToSend(l) != nil
	c.mu.Unlock()
	if more {
		c.send(l)
	}
}

// pause stops sending on l until the search starts it again: the host refuses everything behind a refused command, too. c.mu
// is held.
func (c *Client) pause(l *link, err error) {
	c.search.recordOutcome(l)
	l.started = false
	c.search.lastErr.record(l.host, err)
	c.search.delay()
	c.ensureSearch()
}

// refused processes a refusal of a request sent on l in the given round. outcomeEnded counts only in the answer to
// roam.open, which tells the host what the client has seen, or after it: a long-deposed host may not know the session.
func (c *Client) refused(l *link, round uint32, opening bool, o outcome, err error, data []byte) {
	if o == outcomeNotActive {
		c.learnFrom(data)
	}
	c.mu.Lock()
	if l != c.conns.current || round != l.round || !l.started {
		c.mu.Unlock()
		return
	}
	switch {
	case o == outcomeEnded && (l.opened || opening):
		c.mu.Unlock()
		c.end(fmt.Errorf("migrate: service %s: %w", c.service, err))
		return
	case o == outcomeNotActive:
		l.opened = false
		c.search.attempt++
	}
	c.log.Debug("refused", "host", l.host.ID, "err", err)
	c.pause(l, err)
	c.mu.Unlock()
}

// openAnswered processes the answer to roam.open.
func (c *Client) openAnswered(l *link, round uint32, result []byte, err error) {
	var res wire.OpenResult
	if err == nil {
		err = transport.Unmarshal(result, &res)
	}
	e, ok := errors.AsType[*transport.Error](err)
	if err != nil && (!ok || !e.Remote && e.Code != transport.CodeBadMessage) {
		return // the connection has ended; Closed handles that
	}
	c.mu.Lock()
	if l != c.conns.current || round != l.round || !l.started {
		c.mu.Unlock()
		return
	}
	l.lastHeard = time.Now()
	if err != nil {
		c.mu.Unlock()
		c.refused(l, round, true, classifyCode(e.Code), err, e.Data)
		return
	}
	term := fence{res.Loss, res.Epoch}
	switch {
	case term.less(c.session.seen):
		c.mu.Unlock()
		c.refused(l, round, true, outcomeNotActive, transport.Errorf(wire.CodeNotActive, "%v", errDeposed(res.Epoch)), nil)
		return
	case c.session.opened && res.Loss > c.session.seen.loss:
		c.mu.Unlock()
		c.end(c.errStateLost(res.Epoch))
		return
	}
	c.search.spread = spreadOf(res.SpreadMS)
	c.confirm(l, term)
	c.mu.Unlock()
}
