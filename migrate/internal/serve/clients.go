package serve

import (
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// Clients serves the clients of one service on one host. Its methods, except Init, are called on the service's loop. Every
// idle service has one, so that it must stay small.
type Clients struct {
	host     Host
	registry registry
	requests requests
	pusher   pusher
	crowd    crowd
	expiry   expiry
	stats    commandStats

	connClosed bool // a connection with requests in flight is closed, and they are still kept
}

// Init initializes c. The host need not be complete yet: Init does not call it.
func (c *Clients) Init(h Host) { c.host = h }

// reset forgets all clients. Their requests must be answered already.
func (c *Clients) reset() {
	c.registry = registry{}
	c.crowd.reset()
	c.pusher.reset()
}

// Len returns the number of connected clients.
func (c *Clients) Len() int { return c.registry.len() }

// Waiting returns the number of commands that wait to be applied.
func (c *Clients) Waiting() int { return len(c.requests.commands) }

// Deadline returns when [Clients.Tick] must be called, on the clock of [Host].Now; 0: never.
func (c *Clients) Deadline() time.Duration { return c.expiry.at }

// Stats returns the counters.
func (c *Clients) Stats() Stats {
	return Stats{
		Ordered: c.stats.ordered, Answered: c.stats.answered, Repeated: c.stats.repeated, Refused: c.stats.refused,
		Queries: c.stats.queries, EventsPushed: c.pusher.events, EventBytesPushed: c.pusher.bytes,
	}
}

// Usage returns the sizes of the tables.
func (c *Clients) Usage() Usage {
	return Usage{
		Sessions: c.registry.len(), Connections: len(c.registry.byConn), Parked: len(c.crowd.parked), Ahead: len(c.registry.terms),
		Commands: len(c.requests.commands), Queries: len(c.requests.queries), Opens: len(c.requests.opening),
	}
}

// Handle handles a request; params are its decoded parameters.
func (c *Clients) Handle(r *Request, params any) {
	if !c.host.Core().Role().Active() {
		if _, ok := params.(*wire.ParkParams); ok {
			c.crowd.park(r.conn)
			r.Reply(nil, nil)
			return
		}
		c.notActive(r, params)
		return
	}
	if c.clientAhead(r.conn, params) {
		c.notActive(r, params)
		return
	}
	switch p := params.(type) {
	case *wire.OpenParams:
		c.open(r, p)
	case *wire.DoParams:
		c.do(r, p)
	case *wire.QueryParams:
		c.query(r, p)
	case *wire.ListenParams:
		c.listen(r, p)
	case *wire.LeaveParams:
		c.leave(r, p)
	case *wire.ReadyParams:
		if a := c.registry.find(r.conn, p.Session); a != nil {
			c.ready(a, Connected, "")
		}
		r.Reply(nil, nil)
	case *wire.UnreadyParams:
		if a := c.registry.find(r.conn, p.Session); a != nil {
			c.unready(a, p)
		}
		r.Reply(nil, nil)
	case *wire.ParkParams:
		r.Reply(nil, nil)
		c.announceActive([]transport.Conn{r.conn.Conn})
	}
}

// notActive refuses a request.
func (c *Clients) notActive(r *Request, params any) {
	if _, ok := params.(*wire.DoParams); ok {
		c.stats.refused++
	}
	r.Reply(nil, c.host.NotActive(c.host.Core().Record()))
}

// clientAhead reports whether the client has seen a higher term than this host. Then this host is about to learn that it is
// no longer active. It refuses the client's requests, because it does not know what has happened to the client's sessions.
func (c *Clients) clientAhead(conn *Conn, params any) bool {
	mine := c.host.Core().Term()
	if p, ok := params.(*wire.OpenParams); ok {
		c.registry.sawTerm(conn, core.Term{Loss: p.Loss, Epoch: p.Epoch}, mine)
	}
	if !c.registry.isAhead(conn, mine) {
		return false
	}
	c.host.Step(core.CheckRecord{})
	return true
}

// retry answers a request while the log is full.
func (c *Clients) retry(r *Request) {
	r.Reply(nil, transport.Errorf(wire.CodeRetry, "migrate: service %s: the log is full, a standby does not keep up",
		c.host.Config().Service))
}

// Applied answers the requests that wait for an applied entry.
func (c *Clients) Applied(a *machine.Result) {
	switch a.Kind {
	case core.Command, core.Refusal:
		if w, ok := c.requests.takeCommand(commandKey{a.Session, a.Seq}); ok {
			w.each(func(r *Request) { c.reply(r, a) })
		}
	case core.OpenSession:
		for _, r := range c.requests.takeOpens(a.Session) {
			if a.Err != nil {
				r.Reply(nil, a.Err)
			} else {
				c.opened(r, a.Session)
			}
		}
		c.expireSoon() // its client may be disconnected already
	}
	if a.Ended != 0 {
		c.ended(a.Ended)
	}
	if a.Kind == core.CloseSession {
		c.closed(a.Session) // the session may have ended before
	}
}

// ConnClosed forgets a connection that is closed.
func (c *Clients) ConnClosed(conn *Conn) {
	for a := c.registry.first(conn); a != nil; a = c.registry.first(conn) {
		c.detach(a)
	}
	c.unpark(conn)
	c.registry.forgetTerm(conn)
	calls, _ := conn.InFlight()
	c.connClosed = c.connClosed || calls > 0
}

// Tick does the work that is due by the clock.
func (c *Clients) Tick() {
	c.expire()
	c.notifyParked(ParkedBatch) // in case those notified before have not come
}

// Flush completes a batch of work: it sends events, and removes the requests of all connections that were closed.
func (c *Clients) Flush() {
	c.pusher.push(c.host, &c.registry)
	if c.connClosed {
		c.connClosed = false
		c.requests.dropClosed()
	}
}

// Activated is called when this host has become active. It notifies the parked clients.
func (c *Clients) Activated() {
	c.expiry.activeSince, c.pusher.pushed = c.host.Now(), 0
	c.crowd.enqueue()
	c.notifyParked(ParkedBatch)
	if c.host.Machine().Usage().Sessions > 0 {
		c.expireSoon()
	}
}

// Deposed is called when this host is no longer active. It notifies the clients of the next host and refuses their requests.
func (c *Clients) Deposed() {
	rec := c.host.Core().Record()
	err := c.host.NotActive(rec)
	if rec.Active.ID != "" && core.TermOf(rec) == c.host.Core().Term() {
		c.announceSuccessor(rec)
		c.refuse(err)
	} else {
		c.Disconnect(err)
	}
	c.expiry.at = 0
}

// Disconnect refuses all requests with err and closes all clients' connections: a client that only listens learns in no
// other way that it has to look for the service.
func (c *Clients) Disconnect(err error) {
	attached := c.registry
	c.refuse(err)
	for a := range attached.each {
		a.conn.Abort()
	}
}

// refuse answers all requests with err and forgets all clients.
func (c *Clients) refuse(err error) {
	c.stats.refused += c.requests.refuse(err)
	c.reset()
}
