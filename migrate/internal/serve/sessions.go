package serve

import (
	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// open opens or resumes a session.
func (c *Clients) open(r *Request, p *wire.OpenParams) {
	key := r.conn.Peer().Key
	if c.registry.find(r.conn, p.Session) == nil && c.registry.onConn(r.conn) >= MaxSessionsPerConn {
		r.Reply(nil, transport.Errorf(wire.CodeTooLarge,
			"migrate: service %s: %d sessions are open on the connection, and no more are allowed",
			c.host.Config().Service, MaxSessionsPerConn))
		return
	}
	a := c.host.Machine().AdmitOpen(p.Session, key, p.Resume)
	if a.Verdict == machine.Append || a.Verdict == machine.Pending {
		if err := c.host.Suspended(); err != nil { // otherwise the client would wait without knowing why
			r.Reply(nil, err)
			return
		}
	}
	switch a.Verdict {
	case machine.Append:
		if !c.makeRoom(key) {
			r.Reply(nil, transport.Errorf(wire.CodeRetry, "migrate: service %s: as many clients are connected as it may have",
				c.host.Config().Service))
			return
		}
		if !c.host.Propose(core.Entry{Kind: core.OpenSession, Session: p.Session, Body: append([]byte(nil), key[:]...)}) {
			c.retry(r)
			return
		}
		fallthrough
	case machine.Pending:
		c.requests.addOpen(p.Session, r)
	case machine.Replied:
		c.opened(r, p.Session)
	case machine.Refused:
		r.Reply(nil, a.Err)
	}
}

// opened attaches a session that is open, and answers the request for it.
func (c *Clients) opened(r *Request, session uint64) {
	if r.conn.isClosed() { // ConnClosed may have been called already
		r.Reply(nil, errGone)
		c.expireSoon()
		return
	}
	c.attach(r.conn, session)
	c.unpark(r.conn)
	t := c.host.Core().Term()
	r.Reply(transport.Marshal(wire.OpenResult{
		Loss: t.Loss, Epoch: t.Epoch, NextEvent: c.host.Machine().NextEvent(), SpreadMS: spread(c.registry.len()).Milliseconds(),
	}))
}

// listen makes a client a listener.
func (c *Clients) listen(r *Request, p *wire.ListenParams) {
	a := c.registry.find(r.conn, p.Session)
	switch {
	case a != nil:
	case c.requests.isOpening(p.Session): // by the request before this one
		c.retry(r)
		return
	default: // that request was refused
		r.Reply(nil, c.host.Machine().Expired(p.Session))
		return
	}
	m := c.host.Machine()
	next := p.From
	if p.From == 0 || p.From > m.NextEvent() {
		next = m.NextEvent()
	} else if first, _, _, _ := m.Events(p.From, 1, 1); first > p.From {
		next = first
	}
	c.pusher.listen(a, next)
	r.Reply(transport.Marshal(wire.ListenResult{Next: next}))
}

// leave ends a session for its client.
func (c *Clients) leave(r *Request, p *wire.LeaveParams) {
	switch a := c.host.Machine().AdmitClose(p.Session, r.conn.Peer().Key); a.Verdict {
	case machine.Append:
		if !c.host.Propose(core.Entry{Kind: core.CloseSession, Session: p.Session}) {
			c.retry(r)
			return
		}
		fallthrough
	case machine.Pending:
		c.requests.addClose(p.Session, r)
	case machine.Replied:
		r.Reply(nil, nil)
	case machine.Refused:
		r.Reply(nil, a.Err)
	}
}

// ended forgets a session that has ended. It closes the connection of a client that did not ask for that, so that it learns
// of it.
func (c *Clients) ended(session uint64) {
	asked := c.closed(session)
	if a := c.registry.end(session); a != nil {
		c.detach(a)
		if !asked {
			a.conn.Abort()
		}
	}
}

// closed answers the requests to end a session, and reports whether there were any.
func (c *Clients) closed(session uint64) bool {
	rs := c.requests.takeCloses(session)
	for _, r := range rs {
		r.Reply(nil, nil)
	}
	return len(rs) > 0
}
