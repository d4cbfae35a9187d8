package migrate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// doubtAfter is how long the client looks for the service without the resolver where that seems not to be needed.
const doubtAfter = 300 * time.Millisecond

// tendAfter is how long an opening on a link that was made ahead may take before somebody looks after it.
const tendAfter = 50 * time.Millisecond

// tend starts the goroutine that looks for the service, unless it is there or not needed, and otherwise wakes it. c.mu is
// held.
func (c *Client) tend() {
	if c.tending {
		c.nudge()
		return
	}
	if c.err != nil || c.healthy() {
		return
	}
	c.tending = true
	c.spawn(c.search)
}

// tendLater is tend for when the session was just opened on a link that is likely to work: nearly always there will be nothing
// to do.
func (c *Client) tendLater() {
	time.AfterFunc(tendAfter, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.tend()
	})
}

func (c *Client) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// hasten ends the giving way of a client that has something to ask now. c.mu is held.
func (c *Client) hasten() {
	if !c.giveWay.IsZero() {
		c.giveWay = time.Time{}
		c.nudge()
	}
}

func (c *Client) healthy() bool { return c.cur != nil && c.cur.started && c.cur.opened }

// search runs until a host has taken up the session and takes its commands.
func (c *Client) search() {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	follow := sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.spawn(func() { c.follow(ctx) })
	})
	var doubt *time.Timer
	gave, fresh := false, false // fresh: the resolver was just asked, and nothing has failed
	c.mu.Lock()
	unknown := c.rec.Epoch == 0
	c.mu.Unlock()
	if unknown {
		fresh = c.lookUp(ctx)
	}
	for {
		c.mu.Lock()
		if c.err != nil || c.healthy() {
			c.tending = false
			c.mu.Unlock()
			return
		}
		now := time.Now()
		if wait := c.giveWay.Sub(now); wait > 0 && c.queue.oldest() == nil && c.asking == 0 {
			c.mu.Unlock()
			c.idle(ctx, wait)
			gave = true
			continue
		}
		step := c.nextStep(now)
		fresh = fresh && c.tries == 0 && len(c.known()) > 0
		c.mu.Unlock()
		if doubt == nil {
			// A host that was told of and does not answer may be gone already.
			doubt = time.AfterFunc(doubtAfter, follow)
			defer doubt.Stop()
		}
		if gave {
			gave = false
			follow() // it will know by now, and to ask it is cheaper than to connect to the wrong host
			c.idle(ctx, doubtAfter)
			continue
		}
		if step.follow && !fresh {
			follow()
		}
		switch step.do {
		case stepWait:
			c.idle(ctx, step.wait)
		case stepStart:
			c.start(step.link)
		case stepDrop:
			step.link.conn.Close()
		case stepDial:
			c.try(ctx, step.host, false)
		case stepProbe:
			c.try(ctx, step.host, true)
		}
	}
}

// idle waits to be woken, at most for d; 0 stands for no limit.
func (c *Client) idle(ctx context.Context, d time.Duration) {
	var timeout <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-c.wake:
	case <-timeout:
	case <-ctx.Done():
	}
}

type stepKind int

const (
	stepWait  stepKind = iota // for news, at most for wait
	stepStart                 // open the session on link and send everything
	stepDrop                  // close link, which does not answer
	stepDial                  // connect to host, the active one by the record, and start there
	stepProbe                 // connect to host and ask whether it is the active one
)

// searchStep is what search does next.
type searchStep struct {
	do     stepKind
	link   *hostLink
	host   resolver.Host
	wait   time.Duration
	follow bool // the resolver has to be asked, too
}

// nextStep decides what to do about a client without a host. c.mu is held.
func (c *Client) nextStep(now time.Time) searchStep {
	// Straight after a planned move the record is fresh, and the resolver is spared.
	follow := c.rec.Epoch == 0 || !c.away.planned || c.tries > 0
	l := c.cur
	if l != nil && l.opened {
		follow = c.tries > 4 // it serves, but can't take commands
	}
	if l != nil && l.started { // its opening is not answered
		if wait := l.since.Add(openTimeout).Sub(now); wait > 0 {
			return searchStep{do: stepWait, wait: wait}
		}
		c.lose(false)
		c.failed(l.host, transport.Errorf(transport.CodeTimeout, "no answer within %v", openTimeout))
		return searchStep{do: stepDrop, link: l, follow: true}
	}
	if wait := c.notBefore.Sub(now); wait > 0 {
		return searchStep{do: stepWait, wait: wait, follow: follow}
	}
	if l != nil && l.opened {
		if held := c.queue.held(); held && l.unanswered > 0 {
			return searchStep{do: stepWait}
		} else if held {
			c.queue.withdraw(func(call *Call) { c.room.free(call.size) })
		}
		return searchStep{do: stepStart, link: l, follow: follow}
	}
	hosts := c.known()
	if len(hosts) == 0 {
		return searchStep{do: stepWait, follow: true}
	}
	i := c.attempt % len(hosts)
	h := hosts[i]
	switch {
	case l != nil && sameAddr(l.host, h):
		return searchStep{do: stepStart, link: l, follow: follow}
	case i > 0:
		return searchStep{do: stepProbe, host: h, follow: true}
	case c.spare != nil && c.spare.link != nil && c.spare.host.Same(h):
		return searchStep{do: stepStart, link: c.takeSpare(), follow: follow}
	}
	return searchStep{do: stepDial, host: h, follow: follow}
}

// try connects to a host. Where it is the active one by the record, everything is sent at once; otherwise (probe) only if it
// says that it serves.
func (c *Client) try(ctx context.Context, h resolver.Host, probe bool) {
	c.mu.Lock()
	// Where many come at once a connection takes its time, and to give up early would only make it longer.
	ctx, cancel := context.WithTimeout(ctx, dialTimeout<<min(c.tries, 4)+c.spread)
	defer cancel()
	known := c.seen
	c.undial, c.dialling = cancel, h
	open := wire.OpenParams{Service: c.service, Session: c.session, Resume: c.opened, Loss: c.seen.loss, Epoch: c.seen.epoch}
	c.mu.Unlock()

	l := &hostLink{c: c, host: h}
	conn, err := c.tr.Dial(ctx, transport.Peer{Addr: h.Addr, Key: h.Key}, l)
	if err == nil && probe {
		err = c.probe(ctx, conn, open)
	}

	c.mu.Lock()
	c.undial = nil
	if err == nil && l.dead { // Closed was called before the link was anybody's
		err = transport.Errorf(transport.CodeClosed, "migrate: host %s let the connection go at once", h.ID)
	}
	// Something newer may have come meanwhile, and the parked connection may have been taken.
	stale := c.err != nil || known.less(c.seen) && !sameAddr(h, c.rec.Active) || c.cur != nil && (c.cur.started || c.cur.opened)
	var old *hostLink
	switch {
	case err != nil && stale:
		c.mu.Unlock()
	case err != nil:
		c.log.Debug("host does not serve", "host", h.ID, "addr", h.Addr, "err", err)
		c.failed(h, err)
		c.mu.Unlock()
	case stale:
		c.mu.Unlock()
	default:
		l.conn = conn
		old = c.lose(false)
		c.adopt(l)
		c.mu.Unlock()
		c.start(l)
		if old != nil {
			old.conn.Close()
		}
		return
	}
	if conn != nil {
		conn.Close()
	}
}

// probe asks a host whether it is the active one. If it is not, it says who is.
func (c *Client) probe(ctx context.Context, conn transport.Conn, open wire.OpenParams) error {
	params, err := transport.Marshal(&open)
	if err != nil {
		return err
	}
	result, err := conn.Call(ctx, wire.MethodOpen, params)
	if e, ok := errors.AsType[*transport.Error](err); ok && e.Remote {
		var rec resolver.Record
		if judgeCode(e.Code) == fateNotActive && len(e.Data) > 0 && msgpack.UnmarshalSmall(e.Data, &rec) == nil {
			c.learn(rec, nil)
		}
	}
	if err != nil {
		return err
	}
	var res wire.OpenResult
	if err := transport.Unmarshal(result, &res); err != nil {
		return err
	}
	if (fence{res.Loss, res.Epoch}).less(fence{open.Loss, open.Epoch}) {
		return fmt.Errorf("it serves by epoch %d, which is over", res.Epoch)
	}
	return nil
}

// getRecord asks the resolver once.
func (c *Client) getRecord(ctx context.Context) (resolver.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	return c.resolver.Get(ctx, c.service)
}

// lookUp asks the resolver once who serves, and reports whether that is known now.
func (c *Client) lookUp(ctx context.Context) bool {
	rec, err := c.getRecord(ctx)
	c.noteResolver(ctx, err)
	if err != nil {
		return false
	}
	c.learn(rec, nil)
	return true
}

// follow asks the resolver who serves, and learns of each change, until ctx ends.
func (c *Client) follow(ctx context.Context) {
	c.mu.Lock()
	opened := c.opened
	c.mu.Unlock()
	if opened && !c.sleep(ctx, rand.N(herdSpread)) {
		return
	}
	for n := 0; ctx.Err() == nil; n++ {
		rec, err := c.getRecord(ctx)
		for err == nil || errors.Is(err, resolver.ErrNotFound) {
			c.noteResolver(ctx, err)
			if err == nil {
				c.learn(rec, nil)
			}
			var next resolver.Record
			next, err = c.resolver.Watch(ctx, c.service, rec.Version)
			if err == nil && next.Version == rec.Version || errors.Is(err, resolver.ErrNotFound) {
				break // a resolver that does not wait is asked like one that fails
			}
			if err == nil {
				rec, n = next, 0
			}
		}
		if err != nil {
			c.noteResolver(ctx, err)
		}
		if !c.sleep(ctx, backoff(n)) {
			return
		}
	}
}

func (c *Client) noteResolver(ctx context.Context, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() == nil {
		c.lastErr.resolver = err
	}
}

// sleep waits for d, and reports whether ctx still goes on.
func (c *Client) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
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

// of notes the failure of a host. That a host has halted stays the reason until one serves: it explains why others are gone.
func (e *searchErrors) of(h resolver.Host, err error) {
	if !errors.Is(e.host, ErrHalted) {
		e.host, e.tried = err, h
	}
}

// cause is the reason why there is no host, for people.
func (e *searchErrors) cause(rec resolver.Record) error {
	switch {
	case e.host != nil && rec.Epoch != 0 && rec.Active.ID != "":
		return fmt.Errorf("host %q at %s does not serve this client: %w", e.tried.ID, e.tried.Addr, e.host)
	case errors.Is(e.resolver, resolver.ErrNotFound):
		return fmt.Errorf("%w: %w", ErrNoService, e.resolver)
	case e.resolver != nil:
		return fmt.Errorf("the resolver can't be asked: %w", e.resolver)
	case rec.Epoch != 0 && rec.Active.ID == "":
		return fmt.Errorf("%w: it was retired", ErrNoService)
	case rec.Epoch != 0:
		return fmt.Errorf("host %q at %s has not answered yet", rec.Active.ID, rec.Active.Addr)
	default:
		return errors.New("the resolver has not answered yet")
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
	rec, err := c.getRecord(c.ctx)
	if err == nil {
		c.learn(rec, nil)
		ctx, cancel := context.WithTimeout(c.ctx, maxBackoff)
		if rec, err = c.resolver.Watch(ctx, c.service, rec.Version); err == nil {
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
