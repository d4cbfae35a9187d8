package sim

import (
	"cmp"
	"iter"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

// client follows the service and sends commands, several at a time, exactly once each.
type client struct {
	w       *world
	id      int
	session uint64
	opened  bool   // the session exists, or has ended
	loss    uint64 // under which it was opened
	next    uint64
	unacked []*command
	last    uint64 // index of the last acknowledged
	seen    core.Term
	rec     resolver.Record
	conn    *conn
	dialing bool
	heard   time.Duration // when the host last answered, or could first have
	resend  bool          // a resend is scheduled
	quiet   bool          // sends no new commands, but the few that more says
	more    int
	starts  uint64
	listen  uint64 // the number of the event to come; 0: whichever
}

type command struct {
	seq   uint64
	body  []byte
	floor mark
}

// conn is a connection from a client to a process.
type conn struct {
	c        *client
	proc     *proc
	seen     core.Term // what the client had seen when it opened
	broken   bool
	to, from time.Duration // when the last message arrives
	listen   uint64        // the next event that the process sends
}

type askKind uint8

const (
	askOpen askKind = iota + 1
	askDo
	askRead
)

func (k askKind) String() string { return [...]string{"", "open", "command", "read"}[k] }

type request struct {
	conn    *conn
	kind    askKind
	session uint64
	resume  bool
	seq     uint64
	low     uint64
	body    []byte
	floor   mark // for a read
	call    int  // its place in the order of calls and answers
	done    bool
}

type reply struct {
	Code   code
	Index  uint64
	Count  uint64
	Hash   uint64
	Sum    uint64
	Term   core.Term
	Record resolver.Record
	Events events // that came before it
}

// events are some that a process sends, numbered from first on.
type events struct {
	first  uint64
	bodies [][]byte
	gap    bool // older ones are gone
}

func newClient(w *world, id int) *client { return &client{w: w, id: id, listen: 1} }

func (c *client) begin() {
	c.newSession()
	var think, watch func()
	think = func() {
		if !c.quiet || c.more > 0 {
			c.invoke()
		}
		c.w.after(c.w.exp(c.w.prof.think), think)
	}
	watch = func() {
		if c.conn != nil && (len(c.unacked) > 0 || !c.opened) && c.w.now-c.heard > c.w.prof.slowClient {
			c.w.tracef("client %d gives up on %s", c.id, c.conn.proc.name())
			c.conn.reset()
		}
		c.connect()
		c.w.after(c.w.prof.slowClient/2, watch)
	}
	think()
	watch()
}

// finish sends a few more commands, and then no more.
func (c *client) finish() { c.quiet, c.more = true, 3 }

func (c *client) newSession() {
	c.starts++
	c.session = uint64(c.id+1)*1000 + c.starts
	c.opened, c.next, c.unacked, c.last = false, 1, nil, 0
}

func (c *client) invoke() {
	w := c.w
	if !c.opened || len(c.unacked) >= w.prof.window {
		return
	}
	if c.quiet {
		c.more--
	}
	if w.chance(w.prof.reads) {
		if c.conn != nil {
			c.conn.send(&request{kind: askRead, session: c.session, floor: w.chk.mark(c), call: w.chk.called()})
		}
		return
	}
	body := make([]byte, w.rng.IntN(w.prof.body)+1)
	for i := range min(len(body), 8) {
		body[i] = byte(w.rng.Uint32())
	}
	cmd := &command{seq: c.next, body: body, floor: w.chk.mark(c)}
	c.next++
	c.unacked = append(c.unacked, cmd)
	w.chk.invoked(c, cmd)
	if w.poison {
		w.poison, w.poisoned = false, cmdKey{c.session, cmd.seq}
		w.tracef("command %d/%d kills whoever applies it", c.session, cmd.seq)
	}
	if c.conn != nil {
		c.sendCommand(cmd)
		if w.chance(w.prof.hostile) {
			c.sendCommand(c.unacked[w.rng.IntN(len(c.unacked))])
		}
	}
}

func (c *client) sendCommand(cmd *command) {
	c.conn.send(&request{kind: askDo, session: c.session, seq: cmd.seq, low: c.unacked[0].seq, body: cmd.body})
}

// connect looks for the active host.
func (c *client) connect() {
	w := c.w
	if c.conn != nil || c.dialing {
		return
	}
	c.dialing = true
	dial := func() {
		i := w.rng.IntN(len(w.hosts))
		if c.rec.Active.ID != "" && !w.chance(0.1) {
			i = hostIndex(c.rec.Active)
		}
		w.after(2*w.latency(), func() {
			c.dialing = false
			p := w.hosts[i].proc
			if p == nil {
				c.later()
				return
			}
			c.conn = &conn{c: c, proc: p, seen: c.seen, listen: max(c.listen, 1)}
			c.heard = w.now
			c.conn.send(&request{kind: askOpen, session: c.session, resume: c.opened})
			if c.opened {
				c.sendAll()
			}
		})
	}
	if w.chance(0.5) {
		var rec resolver.Record
		w.res.ask(-1, func() { rec = w.res.truth() }, func(ok bool) {
			if ok {
				c.learn(rec)
			}
			dial()
		})
		return
	}
	dial()
}

func (c *client) later() { c.w.after(c.w.exp(30*time.Millisecond), c.connect) }

func (c *client) sendAll() {
	cmds := slices.Clone(c.unacked)
	if c.w.chance(c.w.prof.hostile) {
		c.w.rng.Shuffle(len(cmds), func(i, j int) { cmds[i], cmds[j] = cmds[j], cmds[i] })
	}
	for _, cmd := range cmds {
		c.sendCommand(cmd)
	}
}

func (c *client) learn(r resolver.Record) {
	if r.Version == 0 || core.TermOf(r).Compare(core.TermOf(c.rec)) < 0 || core.TermOf(r).Compare(c.seen) < 0 {
		return
	}
	c.rec = r
}

// send puts a request on its way.
func (n *conn) send(q *request) {
	q.conn = n
	w := n.c.w
	n.to = max(n.to, w.now+w.latency())
	late := w.chance(w.prof.late)
	w.queue.push(n.to, func() {
		if !n.broken || late {
			n.proc.do(func() { n.proc.handle(q) })
		}
	})
}

// answer sends a reply.
func (q *request) answer(r reply) {
	if q.done {
		return
	}
	q.done = true
	n := q.conn
	w := n.c.w
	if w.o.Log != nil {
		w.tracef("%s answers client %d: %v %d: %s at %d", n.proc.name(), n.c.id, q.kind, q.seq, r.Code, r.Index)
	}
	r.Term = n.proc.core.Term()
	if r.Code == codeOK {
		r.Events = n.events()
	}
	n.from = max(n.from, w.now+w.latency())
	w.queue.push(n.from, func() {
		if !n.broken {
			n.c.answered(q, r)
		}
	})
}

// events are those that the process has not sent yet. They go ahead of an answer, as on a real connection they go ahead of all
// that comes of later entries.
func (n *conn) events() events {
	first, _, bodies, _ := n.proc.replica.Machine().Events(n.listen, math.MaxInt, math.MaxInt)
	if first < n.listen {
		return events{first: n.listen} // it has not caught up with what the client has heard elsewhere
	}
	e := events{first, bodies, first > n.listen}
	n.listen = first + uint64(len(bodies))
	return e
}

// reset breaks the connection.
func (n *conn) reset() {
	n.broken = true
	if n.c.conn == n {
		n.c.conn = nil
		n.c.later()
	}
}

func (c *client) answered(q *request, r reply) {
	w := c.w
	c.heard = w.now
	if r.Code == codeNotActive {
		c.learn(r.Record)
		c.conn.reset()
		return
	}
	if q.session != c.session {
		return
	}
	if r.Term.Compare(c.seen) < 0 {
		// From a host that does not know yet that it is deposed.
		c.conn.reset()
		return
	}
	if r.Term.Loss > c.seen.Loss {
		c.listen = 0
	}
	if r.Term.Loss > c.seen.Loss && c.opened {
		w.tracef("client %d: the state was lost", c.id)
		c.seen = r.Term
		c.newSession()
		c.conn.reset()
		return
	}
	if r.Code == codeOK {
		c.seen = r.Term // a refusal may come from a beginning of which nothing remains
	}
	switch r.Code {
	case codeExpired:
		w.chk.expired(c, r.Term)
		w.tracef("client %d: session %d has expired", c.id, c.session)
		w.stats.Expired++
		c.newSession()
		c.conn.reset()
		return
	case codeOutOfOrder, codeRetry:
		if !c.resend {
			c.resend = true
			w.after(w.exp(20*time.Millisecond), func() {
				c.resend = false
				if c.conn == nil {
					return
				}
				if !c.opened || r.Code == codeRetry && w.chance(0.3) {
					c.conn.reset()
					return
				}
				c.sendAll()
			})
		}
		return
	case codeOther:
		w.failf("client %d: %v in answer to command %d", c.id, r.Code, q.seq)
	}
	w.chk.heard(c, q, r)
	switch q.kind {
	case askOpen:
		if !c.opened {
			c.opened, c.loss = true, r.Term.Loss
		}
	case askDo:
		i, ok := slices.BinarySearchFunc(c.unacked, q.seq, func(x *command, seq uint64) int { return cmp.Compare(x.seq, seq) })
		if !ok {
			w.chk.again(c, q.seq, r)
			return
		}
		cmd := c.unacked[i]
		c.unacked = slices.Delete(c.unacked, i, i+1)
		w.stats.Commands++
		w.chk.acknowledged(c, cmd, r)
	case askRead:
		w.stats.Reads++
		w.chk.read(c, q, r)
	}
}

func sorted[V any](m map[uint64]V) iter.Seq[uint64] {
	return slices.Values(slices.Sorted(maps.Keys(m)))
}

func sortedPairs[V any](m map[[2]uint64]V) iter.Seq[[2]uint64] {
	return slices.Values(slices.SortedFunc(maps.Keys(m), func(a, b [2]uint64) int {
		return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
	}))
}
