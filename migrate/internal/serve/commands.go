package serve

import (
	"bytes"
	"sync"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// commandStats are the counters of commands and queries.
type commandStats struct{ ordered, answered, repeated, refused, queries uint64 }

// do orders a command, after the service has validated it.
func (c *Clients) do(r *Request, p *wire.DoParams) {
	if len(p.Body) > wire.MaxCommand {
		c.stats.refused++
		r.Reply(nil, transport.Errorf(wire.CodeTooLarge, "migrate: service %s: a command of %d bytes is over the limit of %d",
			c.host.Config().Service, len(p.Body), wire.MaxCommand))
		return
	}
	// The log keeps the body for long. It must not keep the request with it, and the connection.
	body := bytes.Clone(p.Body)
	if c.host.Validates() {
		c.validate(r, p, body)
	} else {
		c.order(r, p, body, nil)
	}
}

// validate has the applier validate a command, and then orders it. The commands of a session keep their order, because all
// of them are validated.
func (c *Clients) validate(r *Request, p *wire.DoParams, body []byte) {
	e := core.Entry{Kind: core.Command, Session: p.Session, Seq: p.Seq, Low: p.Low, Body: body}
	c.requests.addValidation(r)
	c.host.Later(func(m *machine.Machine) {
		err := m.Validate(e)
		c.host.Post(func() {
			if c.requests.takeValidation(r) {
				c.order(r, p, body, err)
			}
		})
	})
}

// order appends a command to the log, unless it is there already. refusal is the error of the service's validation.
func (c *Clients) order(r *Request, p *wire.DoParams, body []byte, refusal error) {
	switch a := c.host.Machine().Admit(p.Session, p.Seq, p.Low, r.conn.Peer().Key); a.Verdict {
	case machine.Append:
		e := core.Entry{Kind: core.Command, Session: p.Session, Seq: p.Seq, Low: p.Low, Body: body}
		if refusal != nil {
			e.Kind, e.Body = core.Refusal, machine.RefusalBody(refusal)
		}
		if !c.host.Propose(e) {
			c.stats.refused++
			c.retry(r)
			return
		}
		c.stats.ordered++
		c.requests.addCommand(commandKey{p.Session, p.Seq}, r)
	case machine.Pending:
		c.stats.repeated++
		c.requests.addCommand(commandKey{p.Session, p.Seq}, r)
	case machine.Replied:
		c.stats.repeated++
		c.reply(r, &a.Reply)
	case machine.Refused:
		c.stats.refused++
		r.Reply(nil, a.Err)
	}
}

// replyBuffers holds buffers for encoded replies.
var replyBuffers = sync.Pool{New: func() any { return new([]byte) }}

// maxPooled is the size up to which a buffer is used again.
const maxPooled = 64 << 10

// reply answers a command that is applied.
func (c *Clients) reply(r *Request, a *machine.Result) {
	c.stats.answered++
	replicas := uint32(c.host.Core().Replicas())
	if a.Err == nil {
		res := wire.DoResult{Index: a.Index, Epoch: a.Epoch, Replicas: replicas, Reply: a.Reply}
		buf := replyBuffers.Get().(*[]byte)
		result := wire.AppendDoResult((*buf)[:0], &res)
		r.Reply(result, nil)
		if cap(result) <= maxPooled {
			*buf = result
			replyBuffers.Put(buf)
		}
		return
	}
	if a.Index == 0 { // it was applied at an index that is no longer known
		r.Reply(nil, a.Err)
		return
	}
	data, err := transport.Marshal(wire.AppliedData{Index: a.Index, Epoch: a.Epoch, Replicas: replicas, Data: a.Err.Data})
	if err != nil {
		r.Reply(nil, err)
		return
	}
	r.Reply(nil, &transport.Error{Code: a.Err.Code, Message: a.Err.Message, Data: data})
}

// query asks the core when the query may be answered. It needs an open session, unless the service answers everybody.
func (c *Clients) query(r *Request, p *wire.QueryParams) {
	key := r.conn.Peer().Key
	session, err := c.host.Machine().AdmitQuery(p.Session, key, c.host.PublicQueries())
	if err != nil {
		r.Reply(nil, err)
		return
	}
	c.host.Step(core.Read{ID: c.requests.addQuery(r, machine.Query{Session: session, Key: key, Body: p.Body})})
}

// Read answers a query. Everything that was acknowledged before the query is committed.
func (c *Clients) Read(id uint64) {
	q, ok := c.requests.query(id)
	if !ok {
		return
	}
	c.stats.queries++
	answer := func(m *machine.Machine) {
		index, epoch := m.Applied()
		reply, err := m.Query(q.Query)
		c.host.Post(func() {
			if !c.requests.takeQuery(id) {
				return // it was refused meanwhile
			}
			if err != nil {
				q.req.Reply(nil, err)
			} else {
				q.req.Reply(transport.Marshal(wire.QueryResult{Index: index, Epoch: epoch, Reply: reply}))
			}
		})
	}
	if c.host.ConcurrentQueries() && c.host.Core().CaughtUp() {
		// All acknowledged entries are applied: this host applies an entry before it acknowledges it, and has applied the entries
		// of earlier epochs.
		m := c.host.Machine()
		c.host.Spawn(func() { answer(m) })
		return
	}
	c.host.Later(answer)
}

// ReadsFailed refuses all queries: the client must ask another host, or again.
func (c *Clients) ReadsFailed() { c.requests.failQueries(c.notServing) }

// notServing returns the error of a host that is not active, or not yet ready to serve.
func (c *Clients) notServing() error {
	if c.host.Core().Role().Active() {
		cfg := c.host.Config()
		return transport.Errorf(wire.CodeRetry, "migrate: host %s is about to serve %s", cfg.HostID, cfg.Service)
	}
	return c.host.NotActive(c.host.Core().Record())
}
