package client

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// sendWindow bounds the bytes of unanswered commands on a connection, and those of the replies expected, to less than a
// transport buffers for a peer that is slow to read.
const sendWindow = 2 << 20

// link is a connection to a host. Client.mu guards all fields but the first three.
type link struct {
	c    *Client
	host resolver.Host
	conn transport.Conn // set before the client uses the link

	dead bool // the connection has ended
	// started: roam.open was sent or answered on this link, and commands may follow. A refusal clears it, until everything is
	// sent again from the first command without a reply on.
	started   bool
	opened    bool // the host has answered roam.open
	term      fence
	startedAt time.Time // when it was started
	lastHeard time.Time // when something last arrived

	round      uint32 // counts the starts; refusals in an earlier round are ignored
	lastSent   uint64 // highest Seq sent in this round
	inflight   int    // bytes sent in this round without an answer
	unanswered int    // commands sent without an answer, in all rounds
	resent     int    // commands that were sent on another link before
	answered   bool   // a command was answered on this link
}

// connections are a client's links: the one that carries the session, and two that exist around a planned move.
// Client.mu guards them.
type connections struct {
	current *link // carries the session; nil while there is none
	spare   *spare
	former  *link         // carried the session before a planned move; formerTimer closes it
	changed chan struct{} // closed and replaced when another current link takes requests or serves, and when the client ends

	formerTimer *time.Timer // nil before the first planned move
}

// adopt makes l the current link.
func (cs *connections) adopt(l *link) {
	l.startedAt, l.lastHeard = time.Now(), time.Now()
	cs.current = l
}

// announce wakes the goroutines that wait for another current link.
func (cs *connections) announce() {
	close(cs.changed)
	cs.changed = make(chan struct{})
}

// end returns the links to be closed when the client ends.
func (cs *connections) end() (links []*link) {
	if cs.current != nil {
		links = append(links, cs.current)
		cs.current = nil
	}
	if cs.spare != nil {
		if cs.spare.link != nil {
			links = append(links, cs.spare.link)
		}
		cs.spare = nil
	}
	if cs.former != nil {
		cs.formerTimer.Stop()
		links = append(links, cs.former)
		cs.former = nil
	}
	cs.announce()
	return links
}

// Handle implements [transport.Handler].
func (l *link) Handle(_ transport.Conn, r *transport.Request) {
	c := l.c
	switch r.Method {
	case wire.MethodEvents:
		if b, err := unmarshalEvents(r.Params); err == nil && string(b.service) == c.service {
			c.eventsArrived(l, &b)
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
			c.search.spread = spreadOf(p.SpreadMS)
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
	r.Reply(nil, nil) // these are notifications, but a call gets an answer, too
}

// Closed implements [transport.Handler].
func (l *link) Closed(_ transport.Conn, err error) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	l.dead = true
	if s := c.conns.spare; s != nil && s.link == l {
		s.cancel()
		c.conns.spare = nil
	}
	if l != c.conns.current || c.err != nil {
		return
	}
	c.log.Info("connection lost", "host", l.host.ID, "err", err)
	s := &c.search
	s.recordOutcome(l)
	if !l.answered && l.lastSent > c.queue.low() {
		c.queue.replySize = sendWindow // all replies together may have been too large for the connection
	}
	if !l.opened {
		s.failed(l.host, fmt.Errorf("connection lost: %w", err))
	} else if s.retry.tries > 0 {
		s.delay()
	}
	if l.opened {
		s.deferToOthers()
	}
	s.retry.tries = max(s.retry.tries, 1) // the first attempt is immediate; if its connection is lost at once, the next waits
	c.lose(false)
	c.ensureSearch()
}

// lose clears the current link, and returns it so that the caller closes its connection. c.mu is held.
func (c *Client) lose(planned bool) *link {
	l := c.conns.current
	if l == nil {
		return nil
	}
	c.noteAbsence(l, planned)
	c.conns.current = nil
	return l
}

// noteAbsence notes since when l, the current link, does not carry the session. c.mu is held.
func (c *Client) noteAbsence(l *link, planned bool) {
	since := time.Now()
	if call := c.queue.oldest(); call != nil {
		since = call.queuedAt
		if since.Before(l.lastHeard) {
			since = l.lastHeard
		}
	}
	c.session.absent(since, planned)
}

// learn processes a record from the resolver, from a host that does not serve, or, if from is set, from a link: it then
// reports a move. A record that is older than what the client has seen is ignored.
func (c *Client) learn(rec resolver.Record, from *link) {
	if rec.Name != c.service || rec.Epoch == 0 {
		return
	}
	var lost, next *link
	c.mu.Lock()
	cs, s, term := &c.conns, &c.search, fenceOf(&rec)
	parked := from != nil && cs.spare != nil && cs.spare.link == from
	if c.err != nil || term.less(c.session.seen) || from != nil && from != cs.current && !parked {
		c.mu.Unlock()
		return
	}
	if c.session.opened && rec.Loss > c.session.seen.loss {
		c.mu.Unlock()
		c.end(c.errStateLost(rec.Epoch))
		return
	}
	if from != nil {
		from.lastHeard = time.Now()
	}
	newer := s.update(rec)
	c.session.seen = term
	// A host that was preparing a move has announced it, even if its refusal of a command arrives before its notice.
	planned := from != nil || cs.current != nil && cs.spare != nil && cs.spare.host.Same(rec.Active)
	switch l := cs.current; {
	case l != nil && sameAddr(l.host, rec.Active):
		if l.opened && l.term.less(term) {
			// The host serves in a new term, perhaps after another host did: the session is opened again on the same link.
			c.noteAbsence(l, planned)
			l.opened, l.started = false, false
		}
		if !l.started && (newer || from != nil) {
			s.resetBackoff()
			next = l
		}
	case l != nil && l.opened && !l.term.less(term):
		// The current host serves in this term: the record is older news.
	case l != nil || newer || parked:
		lost = c.lose(planned)
		s.resetBackoff()
		if s.cancelDial != nil && !sameAddr(s.dialing, rec.Active) {
			s.cancelDial()
		}
		switch ready := cs.hasSpare(rec.Active); {
		case planned || ready:
			s.deferUntil = time.Time{}
			if planned && ready && lost != nil {
				lost = c.closeLater(lost)
			}
			if ready {
				next = cs.takeSpare() // started here, not by the search's goroutine: every command waits for it
			}
		case c.session.opened:
			s.notBefore = time.Now().Add(rand.N(herdSpread))
			if l != nil {
				s.deferToOthers()
			}
		}
	}
	if next == nil {
		c.ensureSearch()
	}
	c.mu.Unlock()
	if next != nil {
		c.start(next)
		c.ensureSearchLater()
	}
	if lost != nil {
		lost.conn.Close()
	}
}

// sameAddr reports whether a and b are the same incarnation of a host at the same address: a host with a directory can
// restart elsewhere as the same incarnation.
func sameAddr(a, b resolver.Host) bool { return a.Same(b) && a.Addr == b.Addr }

// confirm notes that l's host has taken up the session. c.mu is held.
func (c *Client) confirm(l *link, term fence) {
	l.term, l.opened = term, true
	c.search.attempt = 0
	c.search.lastErr = searchErrors{}
	first := !c.session.opened
	m, moved := c.session.takenUp(l.host, term)
	switch {
	case first:
		close(c.ready)
	case moved:
		m.Resent = l.resent
		c.log.Info("moved", "host", l.host.ID, "epoch", term.epoch, "planned", m.Planned, "pause", m.Pause, "resent", m.Resent)
		c.stats.Moves++
		if !m.Planned {
			c.stats.UnplannedMoves++
		}
		if c.onMove != nil {
			c.moves.Call(func() { c.onMove(m) })
		}
	default:
		c.stats.Reconnects++
	}
	c.conns.announce()
	c.search.wake()
}
