package serve

import (
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// Thousands of clients must not delay the messages that other hosts wait for. Hence another goroutine notifies them, and
// they reconnect over a spread of time.
const (
	// SpreadPerClient is the spread for each client: a host of several CPUs can accept about 1,000 connections a second with
	// TLS beside its other work.
	SpreadPerClient = time.Millisecond
	// SpreadFrom is the number of clients that may reconnect at the same time when a host is lost.
	SpreadFrom = 128
	// SpreadInterval is the minimum time between two announcements of the spread.
	SpreadInterval = time.Second

	// ParkedBatch is the number of parked clients that come at the same time.
	ParkedBatch = 16

	// notifyBeside is the number of clients from which another goroutine than the loop notifies them.
	notifyBeside = 16
	// reminderDelay is the time after which a few ready clients are notified by this host if the next one has not done so:
	// their connections to it may have broken, or it may have notified strangers instead.
	reminderDelay = 50 * time.Millisecond
)

// crowd holds the connections that clients have made ahead of a move to this host, and the spread announced to clients.
type crowd struct {
	parked map[*Conn]struct{} // connections that carry no session yet
	queue  []*Conn            // those of them to be notified that this host is active; some may not be parked any more

	next      *resolver.Host // the host that clients were asked to connect to
	announced int32          // the number of clients when the spread was last announced
	pending   bool           // the spread is to be announced; survives reset because its timer does
}

func (w *crowd) reset() { *w = crowd{pending: w.pending} }

func (w *crowd) park(conn *Conn) { put(&w.parked, conn, struct{}{}) }

// unpark returns false if the connection was not parked.
func (w *crowd) unpark(conn *Conn) bool {
	_, ok := w.parked[conn]
	delete(w.parked, conn)
	return ok
}

// enqueue queues all parked connections.
func (w *crowd) enqueue() {
	w.queue = w.queue[:0]
	for conn := range w.parked {
		w.queue = append(w.queue, conn)
	}
}

// take takes up to n entries from the queue and returns those that are still parked.
func (w *crowd) take(n int) (conns []transport.Conn) {
	for ; n > 0 && len(w.queue) > 0; n-- {
		last := len(w.queue) - 1
		if _, ok := w.parked[w.queue[last]]; ok {
			conns = append(conns, w.queue[last].Conn)
		}
		w.queue = w.queue[:last]
	}
	return conns
}

// doubled reports whether there are twice as many clients as when the spread was last announced. It returns false while
// parked clients are being notified: that is more urgent.
func (w *crowd) doubled(clients int) bool {
	return clients >= 2*max(int(w.announced), SpreadFrom) && len(w.queue) == 0
}

// spread returns the time over which clients without a waiting request should reconnect if they lose this host.
func spread(clients int) time.Duration {
	return min(time.Duration(max(clients-SpreadFrom, 0))*SpreadPerClient, wire.MaxSpread)
}

// notify notifies connections, beside the loop if they are many: thousands of notices would delay the heartbeats.
func (c *Clients) notify(conns []transport.Conn, method string, params any) {
	b, err := transport.Marshal(params)
	if err != nil {
		return
	}
	notify := func() {
		for _, conn := range conns {
			conn.Notify(method, b)
		}
	}
	if len(conns) >= notifyBeside {
		c.host.Go(notify)
	} else {
		notify()
	}
}

// notifyAll notifies all clients.
func (c *Clients) notifyAll(method string, params any) {
	conns := make([]transport.Conn, 0, c.registry.len())
	for a := range c.registry.each {
		conns = append(conns, a.conn.Conn)
	}
	c.notify(conns, method, params)
}

// announceActive notifies clients of the active host.
func (c *Clients) announceActive(conns []transport.Conn) {
	c.notify(conns, wire.MethodMoved, wire.MovedParams{Service: c.host.Config().Service, Record: c.host.Core().Record()})
}

// notifyParked notifies up to n more parked clients that this host is active. The others wait until those have come: if all
// came at once, each would only be without a host for longer.
func (c *Clients) notifyParked(n int) {
	if conns := c.crowd.take(n); len(conns) > 0 {
		c.announceActive(conns)
	}
}

// unpark records that a connection made ahead carries a session or is closed: the next parked client may come.
func (c *Clients) unpark(conn *Conn) {
	if c.crowd.unpark(conn) {
		c.notifyParked(1)
	}
}

// announceSuccessor notifies clients of the next active host. It leaves the ready ones to that host, which notifies them at
// the rate that it can serve, and notifies them later in case it does not.
func (c *Clients) announceSuccessor(rec resolver.Record) {
	var now, later []transport.Conn
	for a := range c.registry.each {
		if next := c.crowd.next; a.ready && next != nil && next.Same(rec.Active) {
			later = append(later, a.conn.Conn)
		} else {
			now = append(now, a.conn.Conn)
		}
	}
	c.announceActive(now)
	if len(later) > 0 {
		wait := reminderDelay
		if len(later) > ParkedBatch {
			wait = 2*c.host.Config().FailureTimeout + time.Duration(len(later))*SpreadPerClient/2
		}
		time.AfterFunc(wait, func() {
			c.host.Post(func() { c.announceActive(later) })
		})
	}
}

// announceSpread notifies all clients of the spread, within SpreadInterval, if their number has doubled. New clients learn
// the spread from the answer to their first request.
func (c *Clients) announceSpread() {
	if c.crowd.pending || !c.crowd.doubled(c.registry.len()) {
		return
	}
	c.crowd.pending = true
	time.AfterFunc(SpreadInterval, func() {
		c.host.Post(func() {
			c.crowd.pending = false
			n := c.registry.len()
			if !c.crowd.doubled(n) {
				return
			}
			c.crowd.announced = int32(n)
			c.notifyAll(wire.MethodSpread, wire.SpreadParams{Service: c.host.Config().Service, SpreadMS: spread(n).Milliseconds()})
		})
	})
}

// Prepare asks all clients to connect to the next host ahead of a move, at random moments of a spread of at most limit. It
// returns their number and the spread. [Host].Ready reports each of them. The next host learns from the log for how long other
// clients have been away.
func (c *Clients) Prepare(next resolver.Host, limit time.Duration) (n int, spread time.Duration) {
	c.recordAway(minAway)
	n = c.registry.len()
	spread = min(time.Duration(max(n-1, 0))*SpreadPerClient, limit)
	for a := range c.registry.each {
		a.prepared, a.answered, a.ready = true, false, false
	}
	c.crowd.next = &next
	c.notifyAll(wire.MethodPrepare, wire.PrepareParams{Service: c.host.Config().Service, Next: next,
		SpreadMS: spread.Milliseconds()})
	return n, spread
}

// ready records what became of a client's connection to the next host.
func (c *Clients) ready(a *attachment, r Readiness, reason string) {
	if a.ready = a.ready || a.prepared && r == Connected; a.ready {
		a.missed = ""
	}
	if a.prepared && !a.answered {
		a.answered = true
		c.host.Ready(r, reason)
	}
}

// unready records that a client cannot reach the next host. One that reaches neither of two does not count: the cause is on
// its side, or it wants to keep the service here.
func (c *Clients) unready(a *attachment, p *wire.UnreadyParams) {
	next := c.crowd.next
	if next == nil || next.ID != p.Next || a.ready {
		return
	}
	r := Unreachable
	if a.missed != "" && a.missed != p.Next {
		r = Gone
	}
	a.missed = p.Next
	c.ready(a, r, p.Reason[:min(len(p.Reason), maxUnreadyReason)])
}

// maxUnreadyReason limits a client's reason in a report.
const maxUnreadyReason = 200
