package migrate

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

const (
	dialTimeout    = 2 * time.Second        // for the first attempt to connect; later ones have up to 16 times as long
	openTimeout    = 2 * time.Second        // for a host to answer roam.open
	resolveTimeout = time.Second            // for one question to the resolver
	silenceLimit   = 300 * time.Millisecond // an answer later than this makes the client doubt its host
	maxBackoff     = 2 * time.Second
	herdSpread     = 20 * time.Millisecond // over which clients that lost their host at the same time spread

	// sendWindow bounds the bytes of commands on a connection that are not answered, and of the replies that are to be
	// expected, below what a transport buffers for a peer that is slow to read.
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
	answered   bool   // a command was, on this link
}

// Handle implements [transport.Handler].
func (l *hostLink) Handle(_ transport.Conn, r *transport.Request) {
	c := l.c
	switch r.Method {
	case wire.MethodEvents:
		if h, err := unmarshalEvents(r.Params); err == nil && string(h.service) == c.service {
			c.heardEvents(l, &h)
		}
	case wire.MethodMoved:
		var p wire.MovedParams
		if msgpack.UnmarshalSmall(r.Params, &p) == nil && p.Service == c.service {
			c.learn(p.Record, l)
		}
	case wire.MethodSpread:
		var p wire.SpreadParams
		if msgpack.UnmarshalSmall(r.Params, &p) == nil && p.Service == c.service {
			c.mu.Lock()
			c.setSpread(p.SpreadMS)
			c.mu.Unlock()
		}
	case wire.MethodPrepare:
		var p wire.PrepareParams
		if msgpack.UnmarshalSmall(r.Params, &p) == nil && p.Service == c.service {
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
	if !l.answered && l.sent > c.queue.low() {
		c.replySize = sendWindow // all replies at once may have been too much for the connection
	}
	if !l.opened {
		c.failed(l.host, fmt.Errorf("connection lost: %w", err))
	} else if c.tries > 0 {
		c.delay()
	}
	if l.opened {
		c.yield()
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
	if c.former != nil {
		c.hangUp.Stop()
		links = append(links, c.former)
		c.former = nil
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
	c.lastErr.of(h, err)
	c.attempt++
	c.delay()
	if wire.IsTimeout(err) || turnedAway(err) {
		c.yield()
	}
}

// turnedAway reports whether a host was reached and let the connection go, as one does that has more to greet than it can. To
// come again at once would only keep it busy.
func turnedAway(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, transport.ErrClosed)
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

// setSpread notes how long the spread is; a host can't ask for more than wire.MaxSpread. c.mu is held.
func (c *Client) setSpread(ms int64) {
	c.spread = min(max(time.Duration(ms), 0), wire.MaxSpread/time.Millisecond) * time.Millisecond
}

// yield lets clients go first that wait for an answer, when many have lost their host at the same time. If it does not get
// through then, the host can't cope with so many, and the spread is doubled, up to three times. c.mu is held.
func (c *Client) yield() {
	if c.spread > 0 {
		c.giveWay = time.Now().Add(rand.N(c.spread << min(max(c.tries-1, 0), 3)))
	}
}

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
	if newer || old == term && c.rec.Version < rec.Version {
		c.rec = rec
	}
	c.seen = term
	// A host that was preparing the move has told of it, even if its refusal of a command overtook the notice.
	planned := from != nil || c.cur != nil && c.spare != nil && c.spare.host.Same(rec.Active)
	switch l := c.cur; {
	case l != nil && sameAddr(l.host, rec.Active):
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
		if c.undial != nil && !sameAddr(c.dialling, rec.Active) {
			c.undial()
		}
		switch ready := c.spare != nil && c.spare.link != nil && c.spare.host.Same(rec.Active); {
		case planned || ready:
			c.giveWay = time.Time{}
			if planned && ready && lost != nil {
				lost = c.hangUpLater(lost)
			}
			if ready {
				next = c.takeSpare() // it is started here, not by another goroutine: every command waits for that
			}
		case c.opened:
			c.notBefore = time.Now().Add(rand.N(herdSpread))
			if l != nil {
				c.yield()
			}
		}
	}
	if next == nil {
		c.tend()
	}
	c.mu.Unlock()
	if next != nil {
		c.start(next)
		c.tendLater()
	}
	if lost != nil {
		lost.conn.Close()
	}
}

// sameAddr reports whether a and b are the same incarnation of a host, at the same address: one with a directory can start
// again elsewhere.
func sameAddr(a, b resolver.Host) bool { return a.Same(b) && a.Addr == b.Addr }

// adopt makes l the link that carries the session. c.mu is held.
func (c *Client) adopt(l *hostLink) {
	l.since, l.heard = time.Now(), time.Now()
	c.cur = l
}

func (c *Client) stateLost(epoch uint64) error {
	return transport.Errorf(CodeStateLost, "migrate: service %s was restarted without its state (epoch %d)", c.service, epoch)
}

// named puts the service's name in front of a host's error.
func (c *Client) named(err error) error { return fmt.Errorf("migrate: service %s: %w", c.service, err) }

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
		c.stats.Moves++
		if !m.Planned {
			c.stats.UnplannedMoves++
		}
		c.tell(m)
	} else {
		c.stats.Reconnects++
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
