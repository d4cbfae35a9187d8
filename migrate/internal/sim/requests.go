package sim

import (
	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/transport"
)

// handle processes a client's request.
func (p *proc) handle(q *request) {
	p.align()
	if !p.core.Role().Active() {
		q.answer(p.notActive())
		return
	}
	if q.conn.seen.Compare(p.core.Term()) > 0 {
		// The client has seen a higher term: this host's state says nothing about its session.
		q.answer(reply{Code: codeRetry})
		p.step(core.CheckRecord{})
		p.kick()
		return
	}
	p.seen[q.session] = p.local()
	m := p.replica.Machine()
	switch q.kind {
	case askOpen:
		e := core.Entry{Kind: core.OpenSession, Session: q.session, Body: make([]byte, len(transport.Key{}))}
		if p.admit(q, m.AdmitOpen(q.session, transport.Key{}, q.resume), e) {
			p.opening[q.session] = append(p.opening[q.session], q)
		}
	case askDo:
		e := core.Entry{Kind: core.Command, Session: q.session, Seq: q.seq, Low: q.low, Body: q.body}
		if p.admit(q, m.Admit(q.session, q.seq, q.low, transport.Key{}), e) {
			k := [2]uint64{q.session, q.seq}
			p.waiting[k] = append(p.waiting[k], q)
		}
	case askRead:
		p.readID++
		p.reads[p.readID] = q
		p.step(core.Read{ID: p.readID})
	}
	p.kick()
}

// admit orders the entry of a request, or answers the request. It reports whether the request waits for the entry.
func (p *proc) admit(q *request, a machine.Admission, e core.Entry) bool {
	switch a.Verdict {
	case machine.Append:
		if p.order(e) {
			return true
		}
		q.answer(reply{Code: codeRetry})
	case machine.Pending:
		return true
	case machine.Replied:
		r := reply{}
		if v := resultOf(&a.Reply); q.kind == askDo {
			r = reply{Code: v.code, Index: v.index, Count: v.count}
		}
		q.answer(r)
	case machine.Refused:
		q.answer(reply{Code: codeOf(a.Err)})
	}
	return false
}

// order orders an entry, if there is room.
func (p *proc) order(e core.Entry) bool {
	ok := p.replica.Propose(e)
	if ok {
		p.w.chk.ordered(p)
	}
	return ok
}

// expire ends sessions whose clients have not been heard for long, by the local clock since this host became active.
func (p *proc) expire() {
	limit := p.w.prof.expiry
	if limit == 0 || p.core.Role() != core.Serving {
		return
	}
	var idle []uint64
	for id := range p.replica.Machine().Idle() {
		if p.local()-max(p.since, p.seen[id]) >= limit {
			idle = append(idle, id)
		}
	}
	for _, id := range idle {
		p.order(core.Entry{Kind: core.CloseSession, Session: id, Seq: 1})
		p.seen[id] = p.local()
	}
}

func (p *proc) notActive() reply {
	return reply{Code: codeNotActive, Record: p.core.Record()}
}
