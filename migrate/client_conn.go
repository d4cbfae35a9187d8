package migrate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

const (
	dialTimeout    = 2 * time.Second        // for one attempt to connect
	openTimeout    = 2 * time.Second        // for a host to answer roam.open
	resolveTimeout = time.Second            // for one question to the resolver
	silenceLimit   = 300 * time.Millisecond // an answer later than this makes the client doubt its host
	maxBackoff     = 2 * time.Second
	herdSpread     = 20 * time.Millisecond // over which clients that lost their host at the same time spread

	// sendWindow bounds the bytes of commands on a connection that are not answered, below what a transport buffers for a
	// peer that is slow to read.
	sendWindow = 2 << 20
)

// fence is the pair that only grows.
type fence struct{ loss, epoch uint64 }

func (f fence) less(o fence) bool {
	return f.loss < o.loss || f.loss == o.loss && f.epoch < o.epoch
}

func fenceOf(rec *resolver.Record) fence { return fence{rec.Loss, rec.Epoch} }

type hostTerm struct {
	host resolver.Host
	term fence
}

// absence is the time without a host.
type absence struct {
	since   time.Time // zero while there is a host
	planned bool
}

// backoff draws the delay before try n from 0 on: full jitter over 5 ms, then over 20 ms x 2^(n-1), at most 2 s.
func backoff(n int) time.Duration {
	window := 5 * time.Millisecond
	if n > 0 {
		window = min(20*time.Millisecond<<min(n-1, 16), maxBackoff)
	}
	return rand.N(window)
}

// searchErrors are the last failures of the search for a host.
type searchErrors struct {
	resolver error // of the resolver; nil if it answered with a record
	host     error // of the host tried last
	tried    resolver.Host
}

// cause is the reason why there is no host, for people.
func (e *searchErrors) cause(rec resolver.Record) error {
	switch {
	case e.host != nil && rec.Epoch != 0 && rec.Active.ID != "":
		return fmt.Errorf("host %q at %s does not serve this client: %w", e.tried.ID, e.tried.Addr, e.host)
	case errors.Is(e.resolver, resolver.ErrNotFound):
		return fmt.Errorf("%w: %w", ErrNoService, e.resolver)
	case e.resolver != nil:
		return fmt.Errorf("the resolver does not answer: %w", e.resolver)
	case rec.Epoch != 0 && rec.Active.ID == "":
		return fmt.Errorf("%w: it was retired", ErrNoService)
	case rec.Epoch != 0:
		return fmt.Errorf("host %q at %s has not answered yet", rec.Active.ID, rec.Active.Addr)
	default:
		return errors.New("the resolver has not answered yet")
	}
}

// hostLink is a connection to a host. All fields but the first three are guarded by Client.mu.
type hostLink struct {
	c    *Client
	host resolver.Host
	conn transport.Conn // set before the link is known to the client

	dead bool
	// started: the session was opened on this link, or the opening is on its way, and commands may follow. A refusal
	// clears it, until everything is sent again from the first command without a reply on.
	started bool
	opened  bool // the host has answered the opening
	term    fence
	since   time.Time // when it was started
	heard   time.Time // when something arrived

	round      uint32 // counts the starts; refusals of an earlier one say nothing
	sent       uint64 // highest Seq sent in this round
	inflight   int    // bytes sent in this round and not answered
	unanswered int    // commands sent and not answered, in all rounds
	resent     int    // commands that another link had sent before
}

// Handle implements [transport.Handler].
func (l *hostLink) Handle(_ transport.Conn, r *transport.Request) {
	c := l.c
	switch r.Method {
	case methodEvents:
		var p eventsParams
		if transport.Unmarshal(r.Params, &p) == nil && p.Service == c.service {
			c.heardEvents(l, &p)
		}
	case methodMoved:
		var p movedParams
		if transport.Unmarshal(r.Params, &p) == nil && p.Service == c.service {
			c.learn(p.Record, l)
		}
	case methodPrepare:
		var p prepareParams
		if transport.Unmarshal(r.Params, &p) == nil && p.Service == c.service {
			c.prepare(l, &p)
		}
	default:
		r.Reply(nil, transport.Errorf(transport.CodeNoMethod, "migrate: a client has no method %q", r.Method))
		return
	}
	r.Reply(nil, nil) // they are notifications; a call is answered all the same
}

// Closed implements [transport.Handler].
func (l *hostLink) Closed(_ transport.Conn, err error) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	l.dead = true
	if c.spare != nil && c.spare.link == l {
		c.spare.cancel()
		c.spare = nil
	}
	if l != c.cur || c.err != nil {
		return
	}
	c.log.Info("connection lost", "host", l.host.ID, "err", err)
	c.settle(l)
	if !l.opened {
		c.failed(l.host, fmt.Errorf("connection lost: %w", err))
	} else if c.tries > 0 {
		c.delay()
	}
	c.tries = max(c.tries, 1) // the first attempt is immediate; should it be lost at once, too, the next one is not
	c.lose(false)
	c.tend()
}

// fail ends the client. Only the first call has an effect.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	c.queue.end(err)
	c.feed.end(err)
	c.moves = nil
	if c.watch != nil {
		c.watch.Stop()
	}
	var links []*hostLink
	if c.cur != nil {
		links = append(links, c.cur)
		c.cur = nil
	}
	if c.spare != nil {
		if c.spare.link != nil {
			links = append(links, c.spare.link)
		}
		c.spare = nil
	}
	close(c.done)
	c.announce()
	c.mu.Unlock()
	c.cancel()
	for _, l := range links {
		l.conn.Close()
	}
	if !errors.Is(err, transport.ErrClosed) {
		c.log.Warn("client ended", "err", err)
	}
}

// spawn starts a goroutine that Close waits for. c.mu is held.
func (c *Client) spawn(f func()) {
	if c.err == nil {
		c.wg.Go(f)
	}
}

// announce wakes those who wait for another link. c.mu is held.
func (c *Client) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// lose notes that cur no longer carries the session, and returns it for its connection to be closed. c.mu is held.
func (c *Client) lose(planned bool) *hostLink {
	l := c.cur
	if l == nil {
		return nil
	}
	c.leave(planned)
	c.cur = nil
	return l
}

// leave notes from when on the service is not there. c.mu is held.
func (c *Client) leave(planned bool) {
	if !c.away.since.IsZero() {
		return
	}
	since := time.Now()
	if call := c.queue.oldest(); call != nil {
		since = call.since
		if since.Before(c.cur.heard) {
			since = c.cur.heard
		}
	}
	c.away = absence{since: since, planned: planned}
}

// failed counts an attempt that did not lead to a host; the next one waits. c.mu is held.
func (c *Client) failed(h resolver.Host, err error) {
	c.lastErr.host, c.lastErr.tried = err, h
	c.attempt++
	c.delay()
}

// delay puts the next try off. c.mu is held.
func (c *Client) delay() {
	c.notBefore = time.Now().Add(backoff(c.tries))
	c.tries++
}

// settle forgets earlier failures when l has carried the session for a while. c.mu is held.
func (c *Client) settle(l *hostLink) {
	if l.opened && time.Since(l.since) > time.Second {
		c.tries = 0
	}
}

// hurry makes the next try at once. c.mu is held.
func (c *Client) hurry() { c.attempt, c.tries, c.notBefore = 0, 0, time.Time{} }

// learn takes note of a record: of the resolver, of a host that does not serve, or, from a link, that the service has moved.
// A record that is not newer than what the client has seen is ignored.
func (c *Client) learn(rec resolver.Record, from *hostLink) {
	if rec.Name != c.service || rec.Epoch == 0 {
		return
	}
	var lost, next *hostLink
	c.mu.Lock()
	term := fenceOf(&rec)
	parked := c.spare != nil && c.spare.link != nil && c.spare.link == from
	if c.err != nil || term.less(c.seen) || from != nil && from != c.cur && !parked {
		c.mu.Unlock()
		return
	}
	if c.opened && rec.Loss > c.seen.loss {
		c.mu.Unlock()
		c.fail(c.stateLost(rec.Epoch))
		return
	}
	if from != nil {
		from.heard = time.Now()
	}
	old := fenceOf(&c.rec)
	newer := old.less(term)
	if newer || old == term && c.rec.Ver < rec.Ver {
		c.rec = rec
	}
	c.seen = term
	// A host that was preparing the move has told of it, even if its refusal of a command overtook the notice.
	planned := from != nil || c.cur != nil && c.spare != nil && c.spare.host.Same(rec.Active)
	switch l := c.cur; {
	case l != nil && l.host.Same(rec.Active):
		if l.opened && l.term.less(term) {
			// It serves by a new term, perhaps after another host did: the session is opened again, on the same link.
			c.leave(planned)
			l.opened, l.started = false, false
		}
		if !l.started && (newer || from != nil) {
			c.hurry()
			next = l
		}
	case l != nil && l.opened && !l.term.less(term):
		// It is not the record's news.
	case l != nil || newer || parked:
		lost = c.lose(planned)
		c.hurry()
		if c.undial != nil {
			c.undial()
		}
		if s := c.spare; s != nil && s.link != nil && s.host.Same(rec.Active) {
			next = c.takeSpare()
		} else if !planned && c.opened {
			c.notBefore = time.Now().Add(rand.N(herdSpread))
		}
	}
	c.tend()
	c.mu.Unlock()
	if next != nil {
		c.start(next)
	}
	if lost != nil {
		lost.conn.Close()
	}
}

// adopt makes l the link that carries the session. c.mu is held.
func (c *Client) adopt(l *hostLink) {
	l.since, l.heard = time.Now(), time.Now()
	c.cur = l
}

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
	params := openParams{Service: c.service, Session: c.session, Resume: c.opened, Loss: c.seen.loss, Epoch: c.seen.epoch}
	from, ask, listen := c.feed.listen()
	c.mu.Unlock()
	if open {
		if b, err := transport.Marshal(&params); err == nil {
			l.conn.Go(methodOpen, b, func(result []byte, err error) { c.openAnswered(l, round, result, err) })
		}
	}
	if listen {
		c.listen(l, round, from, ask)
	}
	c.pump(l)
	c.mu.Lock()
	c.announce()
	c.mu.Unlock()
}

// send puts waiting commands on the wire, as far as the window allows.
func (c *Client) send(l *hostLink) {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.pump(l)
}

// pump is send with sendMu held.
func (c *Client) pump(l *hostLink) {
	for {
		c.mu.Lock()
		call := c.nextToSend(l)
		if call == nil {
			c.mu.Unlock()
			return
		}
		call.number(len(c.prefix), c.queue.low())
		first := !call.sent
		call.sent = true
		l.sent = call.seq
		l.inflight += len(call.params)
		l.unanswered++
		round := l.round
		c.mu.Unlock()
		call.going.Store(first)
		l.conn.Go(methodDo, call.params, func(result []byte, err error) { c.answered(l, call, round, result, err) })
		call.going.Store(false)
	}
}

// nextToSend is the command that may be sent now; nil if there is none. c.mu is held.
func (c *Client) nextToSend(l *hostLink) *Call {
	if l != c.cur || !l.started || l.inflight >= sendWindow {
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
		return nil, transport.Errorf(CodeTooLarge, "migrate: service %q: command of %d bytes, more than %d", c.service, n, min(MaxCommand, c.room.maxBytes))
	}
	call := newCall(c, command)
	c.mu.Lock()
	if err := c.refuseNew(); err != nil {
		c.mu.Unlock()
		return nil, err
	}
	var w *roomWaiter
	if !c.room.take(call.size) {
		if !wait {
			c.mu.Unlock()
			return nil, transport.Errorf(CodeQueueFull, "migrate: service %q: queue is full", c.service)
		}
		w = c.room.wait(call.size)
	}
	c.mu.Unlock()
	if w != nil {
		if err := c.waitRoom(ctx, w); err != nil {
			return nil, err
		}
	}

	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.mu.Lock()
	if err := c.refuseNew(); err != nil {
		c.room.free(call.size)
		c.mu.Unlock()
		return nil, err
	}
	c.queue.push(call)
	c.observe()
	l := c.cur
	c.mu.Unlock()
	if l != nil {
		c.pump(l)
	}
	return call, nil
}

// refuseNew is the reason to take no more commands. c.mu is held.
func (c *Client) refuseNew() error {
	if c.err == nil && c.leaving {
		return transport.Errorf(transport.CodeClosed, "migrate: client of service %q is shutting down", c.service)
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
		a.err = transport.Errorf(CodeTooLarge, "migrate: service %q: %v", c.service, err)
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
		c.tries = 0
		if c.queue.finish(call, a.reply, a.err) {
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
	c.lastErr.host, c.lastErr.tried = err, l.host
	c.delay()
	c.tend()
}

// refusal acts on a refusal of what was sent on l in the given round. That the session is over is believed of a host only
// when it answers the opening, which tells it what the client has seen, or after it.
func (c *Client) refusal(l *hostLink, round uint32, opening bool, f fate, err error, data []byte) {
	if f == fateNotActive {
		var rec resolver.Record
		if len(data) > 0 && transport.Unmarshal(data, &rec) == nil {
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

func (c *Client) stateLost(epoch uint64) error {
	return transport.Errorf(CodeStateLost, "migrate: service %q was restarted without its state (epoch %d)", c.service, epoch)
}

// named puts the service's name in front of a host's error.
func (c *Client) named(err error) error { return fmt.Errorf("migrate: service %q: %w", c.service, err) }

// openAnswered takes the answer to roam.open.
func (c *Client) openAnswered(l *hostLink, round uint32, result []byte, err error) {
	var res openResult
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
	c.confirm(l, term)
	c.mu.Unlock()
}

// confirm notes that l's host has taken up the session. c.mu is held.
func (c *Client) confirm(l *hostLink, term fence) {
	c.seen, l.term = term, term
	l.opened = true
	c.attempt = 0
	c.lastErr = searchErrors{}
	if !c.opened {
		c.opened = true
		close(c.ready)
	} else if !c.home.host.Same(l.host) || c.home.term.less(term) {
		m := Move{Loss: term.loss, Epoch: term.epoch, Host: l.host, Planned: c.away.planned, Resent: l.resent}
		if !c.away.since.IsZero() {
			m.Pause = time.Since(c.away.since)
		}
		c.log.Info("moved", "host", l.host.ID, "epoch", term.epoch, "planned", m.Planned, "pause", m.Pause, "resent", m.Resent)
		c.tell(m)
	}
	c.home = hostTerm{l.host, term}
	c.away = absence{}
	c.nudge()
}

// tell queues m for OnMove. c.mu is held.
func (c *Client) tell(m Move) {
	if c.onMove == nil {
		return
	}
	c.moves = append(c.moves, m)
	if c.telling {
		return
	}
	c.telling = true
	// Close does not wait for this one: it may be OnMove that calls Close.
	go func() {
		for {
			c.mu.Lock()
			if len(c.moves) == 0 {
				c.telling = false
				c.mu.Unlock()
				return
			}
			m := c.moves[0]
			c.moves = c.moves[1:]
			c.mu.Unlock()
			c.onMove(m)
		}
	}()
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

// observe arms the timer that looks after what is not answered. c.mu is held.
func (c *Client) observe() {
	if c.watching || c.err != nil {
		return
	}
	c.watching = true
	if c.watch == nil {
		c.watch = time.AfterFunc(silenceLimit, c.lookAfter)
		return
	}
	c.watch.Reset(silenceLimit)
}

// lookAfter asks the resolver about a host from which nothing is heard although something is waiting: the host may have been
// replaced where this client cannot see it.
func (c *Client) lookAfter() {
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.queue.oldest()
	if c.err != nil || call == nil && c.asking == 0 {
		c.watching = false
		return
	}
	next := silenceLimit
	if l := c.cur; l != nil && l.started && l.opened {
		since := c.askSince
		if call != nil {
			since = call.since
		}
		if since.Before(l.heard) {
			since = l.heard
		}
		switch silent := time.Since(since); {
		case silent < silenceLimit:
			c.checks = 0
			next = silenceLimit - silent
		case !c.checking:
			c.checking = true
			c.spawn(c.check)
			next = silenceLimit + rand.N(min(silenceLimit<<min(c.checks, 8), maxBackoff))
			c.checks++
		}
	}
	c.watch.Reset(next)
}

// check asks the resolver, and then waits for a while for it to name another host.
func (c *Client) check() {
	ctx, cancel := context.WithTimeout(c.ctx, resolveTimeout)
	rec, err := c.resolver.Get(ctx, c.service)
	cancel()
	if err == nil {
		c.learn(rec, nil)
		ctx, cancel = context.WithTimeout(c.ctx, maxBackoff)
		if rec, err = c.resolver.Watch(ctx, c.service, rec.Ver); err == nil {
			c.learn(rec, nil)
		}
		cancel()
	}
	c.mu.Lock()
	c.checking = false
	c.mu.Unlock()
}

// known are the hosts that could serve, the active one first. c.mu is held.
func (c *Client) known() []resolver.Host {
	if c.rec.Epoch == 0 || c.rec.Active.Addr == "" {
		return nil
	}
	hosts := []resolver.Host{c.rec.Active}
	for _, h := range c.rec.ISR {
		if !h.Same(c.rec.Active) && h.Addr != "" {
			hosts = append(hosts, h)
		}
	}
	return hosts
}
