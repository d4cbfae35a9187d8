package migrate

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

const (
	pushEvents = 1024 // in one batch
	pushBytes  = 256 << 10
	pushPiece  = 48 << 10 // bytes in one message, beside a single large event: what one read of a busy connection holds
)

// clients is a host's side of its clients, for one service. It belongs to the service's loop.
type clients struct {
	s        *Service
	attached map[clientKey]*attachment
	sessions map[uint64]*attachment   // the same, by session: it is attached to the latest connection that took it up
	of       map[*inbound]*attachment // the same, by connection, linked by sibling
	parked   map[*inbound]struct{}    // connections made ahead of a move to this host, until they carry a session
	untold   []*inbound               // those of them that are to be told that this host is active
	next     hostKey                  // the host to which clients were told to connect
	ahead    map[*inbound]core.Term   // the highest terms that clients have seen, where that is above this host's
	gone     map[uint64]time.Duration
	since    time.Duration // when this host became active
	told     int           // how many clients there were when they were told of the spread
	telling  bool          // they will be told of it

	validating map[*request]struct{} // commands about which the service's Validator is asked
	waiting    map[commandKey]waiters
	opening    map[uint64][]*request
	leaving    map[uint64][]*request
	reads      map[uint64]question
	lastID     uint64
	result     []byte // where the reply of a command is put together

	lost bool // a connection has ended that had something under way

	behind map[*attachment]struct{} // listeners with events to come, beside those that have just been emitted
	pushed uint64                   // events below were sent to every listener that is not behind
}

type clientKey struct {
	from    *inbound
	session uint64
}

type commandKey struct{ session, seq uint64 }

// waiters are the requests that wait for the same command: nearly always one.
type waiters struct {
	first *request
	more  []*request
}

func (w *waiters) add(r *request) {
	if w.first == nil {
		w.first = r
	} else {
		w.more = append(w.more, r)
	}
}

func (w *waiters) each(f func(*request)) {
	f(w.first)
	for _, r := range w.more {
		f(r)
	}
}

// attachment is a session on a connection.
type attachment struct {
	clientKey
	sibling   *attachment // another session on the connection
	listening bool
	next      uint64 // the next event to send
	busy      bool   // a batch is on its way that the client has not confirmed
	told      bool   // was told to connect to the next host
	ready     bool   // has done so
}

type question struct {
	req  *request
	body []byte
}

func (c *clients) init(s *Service) {
	c.s = s
	c.reset()
}

func (c *clients) reset() {
	c.attached, c.of, c.sessions, c.told = nil, nil, nil, 0
	c.parked, c.untold, c.next = nil, nil, hostKey{}
	c.validating, c.waiting, c.opening, c.leaving, c.reads = nil, nil, nil, nil, nil
	c.gone, c.behind, c.ahead = nil, nil, nil
}

// put writes to a map that is made when it is first needed: an idle service has none.
func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

func (c *clients) handle(from *inbound, r *request, params any) {
	active := c.s.core.Role().Active()
	if !active {
		if _, ok := params.(*wire.ParkParams); ok {
			put(&c.parked, from, struct{}{})
			r.Reply(nil, nil)
			return
		}
		c.notActive(r, params)
		return
	}
	if c.behindOf(from, params) {
		c.notActive(r, params)
		return
	}
	switch p := params.(type) {
	case *wire.OpenParams:
		c.open(from, r, p)
	case *wire.DoParams:
		c.do(from, r, p)
	case *wire.QueryParams:
		c.query(from, r, p)
	case *wire.ListenParams:
		c.listen(from, r, p)
	case *wire.LeaveParams:
		c.leave(from, r, p)
	case *wire.ReadyParams:
		if a := c.attached[clientKey{from, p.Session}]; a != nil && a.told && !a.ready {
			a.ready = true
			c.s.clientReady(false)
		}
		r.Reply(nil, nil)
	case *wire.ParkParams:
		r.Reply(nil, nil)
		c.tellMoved([]transport.Conn{from.conn})
	}
}

// notActive refuses a request.
func (c *clients) notActive(r *request, params any) {
	if _, ok := params.(*wire.DoParams); ok {
		c.s.stats.Refused++
	}
	r.Reply(nil, c.s.notActive(c.s.core.Record()))
}

// behindOf reports whether the client has seen a higher term than this host, which then must be about to learn that it is
// no longer active: it does not know what has become of the client's sessions, and takes nothing for them.
func (c *clients) behindOf(from *inbound, params any) bool {
	mine := c.s.core.Term()
	if p, ok := params.(*wire.OpenParams); ok {
		if t := (core.Term{Loss: p.Loss, Epoch: p.Epoch}); t.Compare(mine) > 0 && t.Compare(c.ahead[from]) > 0 {
			put(&c.ahead, from, t)
		}
	}
	t, ok := c.ahead[from]
	if !ok {
		return false
	}
	if t.Compare(mine) <= 0 {
		delete(c.ahead, from)
		return false
	}
	c.s.replica.Step(core.CheckRecord{})
	return true
}

func (c *clients) attach(from *inbound, id uint64) *attachment {
	k := clientKey{from, id}
	a := c.attached[k]
	if a == nil {
		if old := c.sessions[id]; old != nil {
			// Its client has left it, or this is an opening that was given up and came late: then the client opens anew.
			c.detach(old)
			if c.of[old.from] == nil || old.from.intake.held.Load() {
				old.from.close()
			}
		}
		a = &attachment{clientKey: k}
		a.sibling = c.of[from]
		put(&c.of, from, a)
		put(&c.attached, k, a)
		put(&c.sessions, id, a)
		delete(c.gone, id)
		c.grown()
	}
	return a
}

func (c *clients) detach(a *attachment) {
	delete(c.attached, a.clientKey)
	delete(c.behind, a)
	if first := c.of[a.from]; first != a {
		for first.sibling != a {
			first = first.sibling
		}
		first.sibling = a.sibling
	} else if a.sibling != nil {
		c.of[a.from] = a.sibling
	} else {
		delete(c.of, a.from)
	}
	if a.told && !a.ready {
		c.s.clientReady(true)
	}
	if c.sessions[a.session] == a {
		delete(c.sessions, a.session)
		put(&c.gone, a.session, c.s.node.now())
		c.expireSoon()
	}
}

// closed forgets a connection that was closed.
func (c *clients) closed(from *inbound) {
	for a := c.of[from]; a != nil; a = c.of[from] {
		c.detach(a)
	}
	c.unpark(from)
	delete(c.ahead, from)
	busy, _ := from.intake.state()
	c.lost = c.lost || busy
}

// errGone answers requests whose connection has ended: nobody hears it.
var errGone = errors.New("the connection has ended")

// sweep lets go of what connections that have ended wait for, once for all that ended at a time.
func (c *clients) sweep() {
	if !c.lost {
		return
	}
	c.lost = false
	gone := func(r *request) bool {
		_, closed := r.from.intake.state()
		if closed {
			r.Reply(nil, errGone)
		}
		return closed
	}
	for k, w := range c.waiting {
		var left waiters
		w.each(func(r *request) {
			if !gone(r) {
				left.add(r)
			}
		})
		if c.waiting[k] = left; left.first == nil {
			delete(c.waiting, k)
		}
	}
	for _, m := range []map[uint64][]*request{c.opening, c.leaving} {
		for id, rs := range m {
			if m[id] = slices.DeleteFunc(rs, gone); len(m[id]) == 0 {
				delete(m, id)
			}
		}
	}
	maps.DeleteFunc(c.validating, func(r *request, _ struct{}) bool { return gone(r) })
	maps.DeleteFunc(c.reads, func(_ uint64, q question) bool { return gone(q.req) })
}

// maxCarried bounds the sessions of a service on one connection.
const maxCarried = 1024

func (c *clients) carried(from *inbound) int {
	n := 0
	for a := c.of[from]; a != nil; a = a.sibling {
		n++
	}
	return n
}

func (c *clients) open(from *inbound, r *request, p *wire.OpenParams) {
	key := from.conn.Peer().Key
	if c.attached[clientKey{from, p.Session}] == nil && c.carried(from) >= maxCarried {
		r.Reply(nil, transport.Errorf(CodeTooLarge, "migrate: service %s: %d sessions are open on the connection, and no more are allowed",
			c.s.name, maxCarried))
		return
	}
	switch a := c.s.machine().AdmitOpen(p.Session, key, p.Resume); a.Verdict {
	case machine.Append:
		if !c.makeRoom() {
			r.Reply(nil, transport.Errorf(CodeRetry, "migrate: service %s: as many clients are connected as it may have", c.s.name))
			return
		}
		if !c.s.replica.Propose(core.Entry{Kind: core.OpenSession, Session: p.Session, Body: append([]byte(nil), key[:]...)}) {
			c.retry(r)
			return
		}
		fallthrough
	case machine.Pending:
		put(&c.opening, p.Session, append(c.opening[p.Session], r))
	case machine.Replied:
		c.opened(r, p.Session)
	case machine.Refused:
		r.Reply(nil, a.Err)
	}
}

// makeRoom sees to it that another session can be opened: where there are as many as allowed, it ends the one that was
// unused for longest among those whose clients are not connected. So no newcomers, however many, push out those who are there.
func (c *clients) makeRoom() bool {
	m := c.s.machine()
	if len(c.opening) < m.Room() {
		return true
	}
	var away uint64
	for id := range m.Idle(math.MaxInt64) {
		if c.sessions[id] == nil {
			away = id
			break
		}
	}
	return away != 0 && c.s.replica.Propose(core.Entry{Kind: core.CloseSession, Session: away, Seq: 1})
}

func (c *clients) opened(r *request, id uint64) {
	if _, closed := r.from.intake.state(); closed { // its itemGone may be behind us
		r.Reply(nil, errGone)
		c.expireSoon()
		return
	}
	c.attach(r.from, id)
	c.unpark(r.from)
	t := c.s.core.Term()
	r.Reply(transport.Marshal(wire.OpenResult{
		Loss: t.Loss, Epoch: t.Epoch, NextEvent: c.s.machine().NextEvent(), SpreadMS: c.spread().Milliseconds(),
	}))
}

func (c *clients) do(from *inbound, r *request, p *wire.DoParams) {
	n := &c.s.stats
	if len(p.Body) > MaxCommand {
		n.Refused++
		r.Reply(nil, transport.Errorf(CodeTooLarge, "migrate: service %s: a command of %d bytes is over the limit of %d",
			c.s.name, len(p.Body), MaxCommand))
		return
	}
	// The log keeps the body for long, and must not keep the request, and with it a connection that may have ended.
	body := bytes.Clone(p.Body)
	if validates(c.s.machine()) {
		c.validate(from, r, p, body)
	} else {
		c.order(from, r, p, body, nil)
	}
}

// validate asks the service's Validator, which needs the service's state to itself, and then orders the command. Commands of a
// session keep their order: all of them go this way.
func (c *clients) validate(from *inbound, r *request, p *wire.DoParams, body []byte) {
	e := core.Entry{Kind: core.Command, Session: p.Session, Seq: p.Seq, Low: p.Low, Body: body}
	put(&c.validating, r, struct{}{})
	c.s.replica.Later(func(m *machine.Machine) {
		err := m.Validate(e)
		c.s.call(func() {
			if _, ok := c.validating[r]; ok { // else it was refused meanwhile
				delete(c.validating, r)
				c.order(from, r, p, body, err)
			}
		})
	})
}

// order orders a command unless it was before; refusal is what the service says against it, nil if nothing.
func (c *clients) order(from *inbound, r *request, p *wire.DoParams, body []byte, refusal error) {
	n := &c.s.stats
	switch a := c.s.machine().Admit(p.Session, p.Seq, p.Low, from.conn.Peer().Key); a.Verdict {
	case machine.Append:
		e := core.Entry{Kind: core.Command, Session: p.Session, Seq: p.Seq, Low: p.Low, Body: body}
		if refusal != nil {
			e.Kind, e.Body = core.Refusal, machine.RefusalBody(refusal)
		}
		if !c.s.replica.Propose(e) {
			n.Refused++
			c.retry(r)
			return
		}
		n.Ordered++
		c.await(r, p)
	case machine.Pending:
		n.Repeated++
		c.await(r, p)
	case machine.Replied:
		n.Repeated++
		c.reply(r, &a.Reply)
	case machine.Refused:
		n.Refused++
		r.Reply(nil, a.Err)
	}
}

// await answers a request when its command is applied.
func (c *clients) await(r *request, p *wire.DoParams) {
	k := commandKey{p.Session, p.Seq}
	w := c.waiting[k]
	w.add(r)
	put(&c.waiting, k, w)
}

// retry is the answer while the log is full.
func (c *clients) retry(r *request) {
	r.Reply(nil, transport.Errorf(CodeRetry, "migrate: service %s: the log is full, a standby does not keep up", c.s.name))
}

// reply answers a command that is applied.
func (c *clients) reply(r *request, a *machine.Result) {
	c.s.stats.Answered++
	replicas := uint32(c.s.core.Replicas())
	if a.Err == nil {
		res := wire.DoResult{Index: a.Index, Epoch: a.Epoch, Replicas: replicas, Reply: a.Reply}
		c.result = wire.AppendDoResult(c.result[:0], &res)
		r.Reply(c.result, nil)
		if cap(c.result) > 64<<10 {
			c.result = nil
		}
		return
	}
	if a.Index == 0 { // it was applied, and where is forgotten
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

// applied answers those who wait for an entry.
func (c *clients) applied(a *machine.Result) {
	switch a.Kind {
	case core.Command, core.Refusal:
		k := commandKey{a.Session, a.Seq}
		if w, ok := c.waiting[k]; ok {
			w.each(func(r *request) { c.reply(r, a) })
			delete(c.waiting, k)
		}
	case core.OpenSession:
		for _, r := range c.opening[a.Session] {
			if a.Err != nil {
				r.Reply(nil, a.Err)
			} else {
				c.opened(r, a.Session)
			}
		}
		delete(c.opening, a.Session)
		c.expireSoon() // its client may be gone already
	}
	if a.Ended != 0 {
		c.ended(a.Ended)
	}
	if a.Kind == core.CloseSession {
		c.left(a.Session) // it may have ended before
	}
}

// ended cuts off the client of a session that is over, so that it learns of it.
func (c *clients) ended(id uint64) {
	asked := c.left(id)
	delete(c.gone, id)
	if a := c.sessions[id]; a != nil {
		delete(c.sessions, id)
		c.detach(a)
		if !asked {
			a.from.close()
		}
	}
}

// left answers those who wanted a session to end, and reports whether anybody did.
func (c *clients) left(id uint64) bool {
	asked := c.leaving[id]
	delete(c.leaving, id)
	for _, r := range asked {
		r.Reply(nil, nil)
	}
	return len(asked) > 0
}

func (c *clients) query(from *inbound, r *request, p *wire.QueryParams) {
	c.lastID++
	put(&c.reads, c.lastID, question{r, p.Body})
	c.s.replica.Step(core.Read{ID: c.lastID})
}

// answerRead answers a question: everything acknowledged before it was asked is applied.
func (c *clients) answerRead(id uint64) {
	q, ok := c.reads[id]
	if !ok {
		return
	}
	c.s.stats.Queries++
	c.s.replica.Later(func(m *machine.Machine) {
		index, epoch := m.Applied()
		ask := func() {
			reply, err := m.Query(q.body)
			c.s.call(func() {
				if _, ok := c.reads[id]; !ok {
					return // it was refused meanwhile
				}
				delete(c.reads, id)
				if err != nil {
					q.req.Reply(nil, err)
				} else {
					q.req.Reply(transport.Marshal(wire.QueryResult{Index: index, Epoch: epoch, Reply: reply}))
				}
			})
		}
		if concurrentQueries(m) {
			c.s.node.appliers.Spawn(ask)
		} else {
			ask()
		}
	})
}

func (c *clients) failReads() {
	for _, q := range c.reads {
		q.req.Reply(nil, c.notServing())
	}
	c.reads = nil
}

// notServing is the answer of a host that is not active, or not yet.
func (c *clients) notServing() error {
	if c.s.core.Role().Active() {
		return transport.Errorf(CodeRetry, "migrate: host %s is about to serve %s", c.s.node.self.ID, c.s.name)
	}
	return c.s.notActive(c.s.core.Record())
}

func (c *clients) listen(from *inbound, r *request, p *wire.ListenParams) {
	a := c.attached[clientKey{from, p.Session}]
	if a == nil {
		// The open that goes before it in the pipeline was refused, or still waits to be committed.
		if len(c.opening[p.Session]) == 0 {
			r.Reply(nil, c.s.machine().Expired(p.Session))
			return
		}
		c.retry(r)
		return
	}
	m := c.s.machine()
	a.listening, a.next = true, p.From
	if p.From == 0 || p.From > m.NextEvent() {
		a.next = m.NextEvent()
	} else if first, _, _, _ := m.Events(p.From, 1, 1); first > p.From {
		a.next = first
	}
	put(&c.behind, a, struct{}{})
	r.Reply(transport.Marshal(wire.ListenResult{Next: a.next}))
}

func (c *clients) leave(from *inbound, r *request, p *wire.LeaveParams) {
	switch a := c.s.machine().AdmitClose(p.Session, from.conn.Peer().Key); a.Verdict {
	case machine.Append:
		if !c.s.replica.Propose(core.Entry{Kind: core.CloseSession, Session: p.Session}) {
			c.retry(r)
			return
		}
		fallthrough
	case machine.Pending:
		put(&c.leaving, p.Session, append(c.leaving[p.Session], r))
	case machine.Replied:
		r.Reply(nil, nil)
	case machine.Refused:
		r.Reply(nil, a.Err)
	}
}

// push sends events to those who listen. What many have not seen is encoded once. A listener that is behind by more than
// one batch gets the next when it has confirmed the last; one that is not, and stops reading, is cut off by its
// connection and resumes later.
func (c *clients) push() {
	if !c.s.core.Role().Active() || c.s.machine() == nil {
		return
	}
	end := c.s.machine().NextEvent()
	var batch eventBatch
	defer batch.send()
	if end > c.pushed {
		for _, a := range c.attached {
			if a.listening && !a.busy {
				c.pushTo(a, end, &batch)
			}
		}
		c.pushed = end
	} else {
		for a := range c.behind {
			if !a.busy {
				c.pushTo(a, end, &batch)
			}
		}
	}
}

// eventBatch is the latest batch that was encoded, and who is to get it.
type eventBatch struct {
	from, next uint64
	messages   [][]byte
	events     int
	bytes      int // of messages
	conns      []transport.Conn
}

func (b *eventBatch) send() {
	for _, params := range b.messages {
		transport.NotifyAll(b.conns, wire.MethodEvents, params)
	}
	b.conns = nil
}

// encodeEvents makes a batch of the events from number from on.
func (c *clients) encodeEvents(from, end uint64) (b eventBatch, err error) {
	t := c.s.core.Term()
	b.from, b.next = from, from
	for b.next < end && b.events < pushEvents && b.bytes < pushBytes {
		first, times, bodies, next := c.s.machine().Events(b.next, pushEvents-b.events, min(pushPiece, pushBytes-b.bytes))
		params, err := transport.Marshal(wire.EventsParams{
			Service: c.s.name, Loss: t.Loss, Epoch: t.Epoch, First: first, Times: times, Bodies: bodies,
		})
		if err != nil {
			return b, fmt.Errorf("from %d on: %w", first, err)
		}
		b.messages = append(b.messages, params)
		b.next = next
		b.events += len(bodies)
		b.bytes += len(params)
	}
	return b, nil
}

func (c *clients) pushTo(a *attachment, end uint64, b *eventBatch) {
	if a.next >= end {
		delete(c.behind, a)
		return
	}
	if b.messages == nil || b.from != a.next {
		b.send()
		var err error
		if *b, err = c.encodeEvents(a.next, end); err != nil {
			c.s.log.Error("events not sent", "err", err)
			*b = eventBatch{}
			return
		}
	}
	a.next = b.next
	c.s.stats.EventsPushed += uint64(b.events)
	c.s.stats.EventBytesPushed += uint64(b.bytes)
	if a.next >= end {
		delete(c.behind, a)
		b.conns = append(b.conns, a.from.conn)
		return
	}
	a.busy = true
	put(&c.behind, a, struct{}{})
	last := len(b.messages) - 1
	for _, params := range b.messages[:last] {
		a.from.conn.Notify(wire.MethodEvents, params)
	}
	a.from.conn.Go(wire.MethodEvents, b.messages[last], func(_ []byte, err error) {
		c.s.post(item{kind: itemFunc, fn: func() { a.busy = false }})
	})
}

// activated tells the clients that have connected ahead.
func (c *clients) activated() {
	c.since, c.pushed = c.s.node.now(), 0
	c.untold = slices.AppendSeq(c.untold[:0], maps.Keys(c.parked))
	c.call(callAtOnce)
	if c.s.machine().Usage().Sessions > 0 {
		c.expireSoon()
	}
}

// deposed tells every client where the service is now, and takes back what is not committed.
func (c *clients) deposed() {
	rec := c.s.core.Record()
	if rec.Active.ID != "" && core.TermOf(rec) == c.s.core.Term() {
		c.sayGoodbye(rec)
		c.refuseAll(c.s.notActive(rec))
	} else {
		c.turnAway(c.s.notActive(rec))
	}
	c.s.expiry = 0
}

// turnAway is refuseAll, and cuts all clients off: nothing else would tell those who only listen that they have to look for the
// service.
func (c *clients) turnAway(err error) {
	attached := c.attached
	c.refuseAll(err)
	for k := range attached {
		k.from.close()
	}
}

// refuseAll answers all who wait.
func (c *clients) refuseAll(err error) {
	for _, w := range c.waiting {
		w.each(func(r *request) { c.s.stats.Refused++; r.Reply(nil, err) })
	}
	for _, rs := range c.opening {
		for _, r := range rs {
			r.Reply(nil, err)
		}
	}
	for _, rs := range c.leaving {
		for _, r := range rs {
			r.Reply(nil, err)
		}
	}
	for r := range c.validating {
		c.s.stats.Refused++
		r.Reply(nil, err)
	}
	for _, q := range c.reads {
		q.req.Reply(nil, err)
	}
	c.reset()
}

// expireSoon sets the time to look for sessions whose clients have been away for too long.
func (c *clients) expireSoon() {
	if s := c.s; s.expiry == 0 && s.core.Role().Active() {
		s.expiry = s.node.now() + max(s.policy.SessionTimeout/4, 10*time.Millisecond)
	}
}

// expire ends the sessions of clients that have been away for too long, by this host's own clock and since it became
// active: how far another host's clock is off does not matter.
func (c *clients) expire() {
	s := c.s
	now := s.node.now()
	if s.expiry == 0 || now < s.expiry {
		return
	}
	s.expiry = 0
	if s.core.Role() != core.Serving {
		return
	}
	left := false
	var over []uint64
	for id := range s.machine().Idle(math.MaxInt64) {
		if c.sessions[id] != nil {
			continue
		}
		if now-max(c.since, c.gone[id]) >= s.policy.SessionTimeout {
			over = append(over, id)
		} else {
			left = true
		}
	}
	for _, id := range over {
		s.replica.Propose(core.Entry{Kind: core.CloseSession, Session: id, Seq: 1})
		delete(c.gone, id)
	}
	if left {
		c.expireSoon()
	}
}
