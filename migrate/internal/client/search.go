package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

const (
	dialTimeout = 2 * time.Second       // of the first attempt to connect; later ones have up to 16 times as long
	openTimeout = 2 * time.Second       // for a host to answer roam.open
	herdSpread  = 20 * time.Millisecond // over which clients that lost their host at the same time spread

	// resolverAfter is how long the search relies on known hosts before it asks the resolver, where it asks them first.
	resolverAfter = 300 * time.Millisecond
	// ensureAfter is how long a host with a spare connection may take to answer roam.open before the search starts.
	ensureAfter = 50 * time.Millisecond
)

// search is the state of a client's search for the active host. Client.mu guards it.
type search struct {
	running bool          // its goroutine is there
	wakeup  chan struct{} // wakes it; 1 deep
	rec     resolver.Record

	retry     backoff
	notBefore time.Time // when the next attempt may begin
	attempt   int       // which of the known hosts is next
	lastErr   searchErrors

	spread     time.Duration // over which the host wants its clients to come back if they lose it
	deferUntil time.Time     // until then other clients go first, unless a request is waiting

	cancelDial context.CancelFunc // nil if no dial is under way
	dialing    resolver.Host      // where it goes
}

// wake makes the search look at the state again.
func (s *search) wake() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// wait waits to be woken, or until d has passed. A d of 0 is no limit.
func (s *search) wait(ctx context.Context, d time.Duration) {
	var timeout <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-s.wakeup:
	case <-timeout:
	case <-ctx.Done():
	}
}

// update keeps the newer of rec and the record known. It returns true if rec has a higher term.
func (s *search) update(rec resolver.Record) (newer bool) {
	old, term := fenceOf(&s.rec), fenceOf(&rec)
	newer = old.less(term)
	if newer || old == term && s.rec.Version < rec.Version {
		s.rec = rec
	}
	return newer
}

// hosts returns the hosts that could serve, the active one first.
func (s *search) hosts() []resolver.Host {
	if s.rec.Epoch == 0 || s.rec.Active.Addr == "" {
		return nil
	}
	hosts := []resolver.Host{s.rec.Active}
	for _, h := range s.rec.ISR {
		if !h.Same(s.rec.Active) && h.Addr != "" {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// failed counts an attempt that led to no host, and delays the next one.
func (s *search) failed(h resolver.Host, err error) {
	s.lastErr.record(h, err)
	s.attempt++
	s.delay()
	if wire.IsTimeout(err) || isOverload(err) {
		s.deferToOthers()
	}
}

// isOverload reports whether a host was reached and then closed the connection, as one does that has more handshakes to make
// than it can. Coming back at once would only keep it busy.
func isOverload(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, transport.ErrClosed)
}

// delay delays the next attempt.
func (s *search) delay() { s.notBefore = time.Now().Add(s.retry.next()) }

// recordOutcome resets the backoff if l has carried the session for a while.
func (s *search) recordOutcome(l *link) {
	if l.opened && time.Since(l.startedAt) > time.Second {
		s.retry.reset()
	}
}

// resetBackoff allows the next attempt at once, at the active host.
func (s *search) resetBackoff() {
	s.attempt, s.notBefore = 0, time.Time{}
	s.retry.reset()
}

// deferToOthers lets clients with a waiting request go first after many have lost their host at the same time. While
// attempts fail, the host can't serve so many, and the spread doubles, up to three times.
func (s *search) deferToOthers() {
	if s.spread > 0 {
		s.deferUntil = time.Now().Add(rand.N(s.spread << min(max(s.retry.tries-1, 0), 3)))
	}
}

// skipWait ends deferToOthers because a request is waiting.
func (s *search) skipWait() {
	if !s.deferUntil.IsZero() {
		s.deferUntil = time.Time{}
		s.wake()
	}
}

// spreadOf decodes a spread. A host can't ask for more than wire.MaxSpread.
func spreadOf(ms int64) time.Duration {
	return min(max(time.Duration(ms), 0), wire.MaxSpread/time.Millisecond) * time.Millisecond
}

// searchErrors are the last failures of a search.
type searchErrors struct {
	resolver error // nil if the resolver answered with a record
	host     error // of the host tried last
	tried    resolver.Host
}

// record notes the failure of a host. ErrHalted stays until a host serves: it explains why others are gone.
func (e *searchErrors) record(h resolver.Host, err error) {
	if !errors.Is(e.host, wire.ErrHalted) {
		e.host, e.tried = err, h
	}
}

// cause returns the reason why there is no host.
func (s *search) cause() error {
	e, rec := &s.lastErr, &s.rec
	switch {
	case e.host != nil && rec.Epoch != 0 && rec.Active.ID != "":
		return fmt.Errorf("host %q at %s does not serve this client: %w", e.tried.ID, e.tried.Addr, e.host)
	case errors.Is(e.resolver, resolver.ErrNotFound):
		return fmt.Errorf("%w: %w", wire.ErrNoService, e.resolver)
	case e.resolver != nil:
		return fmt.Errorf("the resolver failed: %w", e.resolver)
	case rec.Epoch != 0 && rec.Active.ID == "":
		return fmt.Errorf("%w: it was retired", wire.ErrNoService)
	case rec.Epoch != 0:
		return fmt.Errorf("host %q at %s has not answered yet", rec.Active.ID, rec.Active.Addr)
	default:
		return errors.New("the resolver has not answered yet")
	}
}

// ensureSearch starts the search's goroutine if it is needed, and wakes it if it is there. c.mu is held.
func (c *Client) ensureSearch() {
	if c.search.running {
		c.search.wake()
		return
	}
	if c.err != nil || c.served() {
		return
	}
	c.search.running = true
	c.spawn(c.runSearch)
}

// ensureSearchLater calls ensureSearch after roam.open was sent on a link that is likely to work: nearly always there
// will be nothing to do.
func (c *Client) ensureSearchLater() {
	time.AfterFunc(ensureAfter, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ensureSearch()
	})
}

// served reports whether a host has taken up the session and takes its commands. c.mu is held.
func (c *Client) served() bool {
	l := c.conns.current
	return l != nil && l.started && l.opened
}

// runSearch runs until the client is served.
func (c *Client) runSearch() {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	s := &c.search
	askResolver := sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.spawn(func() { c.followResolver(ctx) })
	})
	var resolverTimer *time.Timer
	deferred, fresh := false, false // fresh: the resolver was just asked, and nothing has failed since
	c.mu.Lock()
	unknown := s.rec.Epoch == 0
	c.mu.Unlock()
	if unknown {
		fresh = c.lookUp(ctx)
	}
	for {
		c.mu.Lock()
		if c.err != nil || c.served() {
			s.running = false
			c.mu.Unlock()
			return
		}
		now := time.Now()
		if wait := s.deferUntil.Sub(now); wait > 0 && c.queue.oldest() == nil && c.watch.queries == 0 {
			c.mu.Unlock()
			s.wait(ctx, wait)
			deferred = true
			continue
		}
		step := c.nextStep(now)
		fresh = fresh && s.retry.tries == 0 && len(s.hosts()) > 0
		c.mu.Unlock()
		if resolverTimer == nil {
			// A host that was announced and does not answer may be gone already.
			resolverTimer = time.AfterFunc(resolverAfter, askResolver)
			defer resolverTimer.Stop()
		}
		if deferred {
			deferred = false
			askResolver() // it knows the active host by now, and asking it costs less than connecting to the wrong one
			s.wait(ctx, resolverAfter)
			continue
		}
		if step.askResolver && !fresh {
			askResolver()
		}
		switch step.do {
		case stepWait:
			s.wait(ctx, step.wait)
		case stepStart:
			c.start(step.link)
		case stepDrop:
			step.link.conn.Close()
		case stepDial:
			c.tryHost(ctx, step.host, false)
		case stepProbe:
			c.tryHost(ctx, step.host, true)
		}
	}
}

type stepKind int

const (
	stepWait  stepKind = iota // to be woken, or until wait has passed
	stepStart                 // open the session on link and send everything
	stepDrop                  // close link, which does not answer
	stepDial                  // connect to host, the active one by the record, and start there
	stepProbe                 // connect to host and ask whether it is active
)

// searchStep is the search's next action.
type searchStep struct {
	do          stepKind
	link        *link
	host        resolver.Host
	wait        time.Duration
	askResolver bool // ask the resolver, too
}

// nextStep decides the next step of a search. c.mu is held.
func (c *Client) nextStep(now time.Time) searchStep {
	s, l := &c.search, c.conns.current
	// Straight after a planned move the record is fresh: the resolver need not be asked.
	ask := s.rec.Epoch == 0 || !c.session.planned || s.retry.tries > 0
	if l != nil && l.opened {
		ask = s.retry.tries > 4 // the host serves, but can't take commands
	}
	if l != nil && l.started { // roam.open has no answer yet
		if wait := l.startedAt.Add(openTimeout).Sub(now); wait > 0 {
			return searchStep{do: stepWait, wait: wait}
		}
		c.lose(false)
		s.failed(l.host, transport.Errorf(transport.CodeTimeout, "no answer within %v", openTimeout))
		return searchStep{do: stepDrop, link: l, askResolver: true}
	}
	if wait := s.notBefore.Sub(now); wait > 0 {
		return searchStep{do: stepWait, wait: wait, askResolver: ask}
	}
	if l != nil && l.opened {
		if c.queue.hasRefused() {
			if l.unanswered > 0 {
				return searchStep{do: stepWait}
			}
			c.queue.withdraw()
		}
		return searchStep{do: stepStart, link: l, askResolver: ask}
	}
	hosts := s.hosts()
	if len(hosts) == 0 {
		return searchStep{do: stepWait, askResolver: true}
	}
	i := s.attempt % len(hosts)
	h := hosts[i]
	switch {
	case l != nil && sameAddr(l.host, h):
		return searchStep{do: stepStart, link: l, askResolver: ask}
	case i > 0:
		return searchStep{do: stepProbe, host: h, askResolver: true}
	case c.conns.hasSpare(h):
		return searchStep{do: stepStart, link: c.conns.takeSpare(), askResolver: ask}
	}
	return searchStep{do: stepDial, host: h, askResolver: ask}
}

// tryHost connects to a host. If it is the active one by the record, everything is sent at once; with probe, only if it
// reports that it is active.
func (c *Client) tryHost(ctx context.Context, h resolver.Host, probe bool) {
	c.mu.Lock()
	s := &c.search
	// Where many connect at once a connection takes long, and short deadlines prolong the congestion.
	ctx, cancel := context.WithTimeout(ctx, dialTimeout<<min(s.retry.tries, 4)+s.spread)
	defer cancel()
	seen := c.session.seen
	s.cancelDial, s.dialing = cancel, h
	open := c.openParams()
	c.mu.Unlock()

	l := &link{c: c, host: h}
	conn, err := c.transport.Dial(ctx, transport.Peer{Addr: h.Addr, Key: h.Key, Role: transport.RoleHost}, l)
	if err == nil && probe {
		err = c.probe(ctx, conn, open)
	}

	c.mu.Lock()
	s.cancelDial = nil
	if err == nil && l.dead { // Closed was called before the client used the link
		err = transport.Errorf(transport.CodeClosed, "migrate: host %s closed the connection at once", h.ID)
	}
	// A newer record may have arrived meanwhile, and the spare connection may have been taken.
	cur := c.conns.current
	stale := c.err != nil || seen.less(c.session.seen) && !sameAddr(h, s.rec.Active) ||
		cur != nil && (cur.started || cur.opened)
	if err == nil && !stale {
		l.conn = conn
		old := c.lose(false)
		c.conns.adopt(l)
		c.mu.Unlock()
		c.start(l)
		if old != nil {
			old.conn.Close()
		}
		return
	}
	if err != nil && !stale {
		c.log.Debug("host does not serve", "host", h.ID, "addr", h.Addr, "err", err)
		s.failed(h, err)
	}
	c.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

// probe asks a host whether it is active. If it is not, it may know the active one.
func (c *Client) probe(ctx context.Context, conn transport.Conn, open wire.OpenParams) error {
	params, err := transport.Marshal(&open)
	if err != nil {
		return err
	}
	result, err := conn.Call(ctx, wire.MethodOpen, params)
	if e, ok := errors.AsType[*transport.Error](err); ok && e.Remote && classifyCode(e.Code) == outcomeNotActive {
		c.learnFrom(e.Data)
	}
	if err != nil {
		return err
	}
	var res wire.OpenResult
	if err := transport.Unmarshal(result, &res); err != nil {
		return err
	}
	if (fence{res.Loss, res.Epoch}).less(fence{open.Loss, open.Epoch}) {
		return errDeposed(res.Epoch)
	}
	return nil
}

func errDeposed(epoch uint64) error { return fmt.Errorf("its epoch %d is over", epoch) }

// learnFrom processes the record in the data of a host's refusal, if there is one.
func (c *Client) learnFrom(data []byte) {
	var rec resolver.Record
	if len(data) > 0 && msgpack.UnmarshalSmall(data, &rec) == nil {
		c.learn(rec, nil)
	}
}
