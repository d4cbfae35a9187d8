package sim

import (
	"bytes"

	"github.com/roam-go/roam/migrate/internal/core"
)

// mark is the latest place acknowledged to anyone, under the loss that the client knows.
func (k *checker) mark(c *client) mark {
	m := mark{loss: c.seen.Loss}
	if h := k.logs[m.loss]; h != nil {
		m.index = h.acked
	}
	return m
}

func (k *checker) invoked(c *client, cmd *command) {
	key := cmdKey{c.session, cmd.seq}
	k.bodies[key] = cmd.body
	op := operation{call: k.called(), answer: unanswered, session: c.session, body: cmd.body}
	if c.loss == 0 || c.loss == k.first {
		k.addOp(key, op)
	} else {
		k.elsewhere[key] = op
	}
}

func (k *checker) addOp(key cmdKey, op operation) {
	k.opOf[key] = len(k.ops)
	k.ops = append(k.ops, op)
}

// strayed notes that a command, which a client gave to a later beginning of the service, was done in the first one, too.
func (k *checker) strayed(key cmdKey) {
	if op, ok := k.elsewhere[key]; ok {
		delete(k.elsewhere, key)
		k.addOp(key, op)
	}
}

// called counts calls and answers of clients, and so tells which came first.
func (k *checker) called() int {
	k.calls++
	return k.calls
}

// heard: events come each once and in order, but for gaps that are told of (I13), and are those of committed entries (I9).
// None is still to come that is older than an answer.
func (k *checker) heard(c *client, q *request, r reply) {
	h, e := k.logs[r.Term.Loss], r.Events
	if c.listen > 0 && e.first != c.listen && !(e.gap && e.first > c.listen) {
		k.failf("client %d hears event %d when %d is next (I13)", c.id, e.first, c.listen)
	}
	applied := uint64(0) // events of the entries that a host has applied
	if h.applied > 0 {
		applied = h.emitted[h.applied-1]
	}
	for i, body := range e.bodies {
		if n := e.first + uint64(i); n > applied || !bytes.Equal(h.events[n-1], body) {
			k.failf("client %d hears event %d, which is not that of an entry that was applied (I9)", c.id, n)
		}
	}
	c.listen = e.first + uint64(len(e.bodies))
	if e.gap {
		// It had just applied what was emitted last.
		if all := h.events[:c.listen-1]; len(all)-kept(all) != int(e.first)-1 {
			k.failf("client %d is told that there is no event before %d, of %d (I13)", c.id, e.first, len(all))
		}
	}
	k.w.stats.Events += len(e.bodies)
	if e.gap {
		k.w.stats.Gaps++
	}
	if q.kind == askDo && c.listen <= h.emitted[r.Index-1] {
		k.failf("client %d hears of entry %d, but not of event %d (I13)", c.id, r.Index, h.emitted[r.Index-1])
	}
}

const (
	maxOps   = 1000
	maxTries = 20_000
)

// linear: where clients did not do too much, a search of all orders finds one that explains what they saw (I12). It knows
// neither indexes nor what was committed.
func (k *checker) linear() {
	if len(k.ops) > maxOps {
		return
	}
	v, stuck := linearizable(ordered(k.ops), maxTries)
	switch v {
	case linear:
		k.w.stats.Linear++
	case undecided:
		k.w.stats.Undecided++
	case notLinear:
		k.failf("what clients saw is not linearizable (I12): nothing explains %+v", *stuck)
	}
}

// acknowledged: a result is that of a committed entry (I9), which is the command's own (I10) and lies after all that was
// acknowledged before the command was sent (I12).
func (k *checker) acknowledged(c *client, cmd *command, r reply) {
	h := k.logs[r.Term.Loss]
	if h == nil || r.Index == 0 || r.Index > uint64(len(h.entries)) {
		k.failf("client %d: command %d is acknowledged at %d, which is not committed (I9)", c.id, cmd.seq, r.Index)
	}
	e := h.entries[r.Index-1]
	if e.Kind != core.Command || e.Session != c.session || e.Seq != cmd.seq {
		k.failf("client %d: command %d is acknowledged at %d, where %s is (I10)", c.id, cmd.seq, r.Index, entry(e))
	}
	if o := h.outcomes[r.Index-1]; !o.applied || o.want.count != r.Count {
		k.failf("client %d: command %d has reply %d, want %+v (I9, I16)", c.id, cmd.seq, r.Count, o)
	}
	if cmd.floor.loss == h.loss && r.Index <= cmd.floor.index {
		k.failf("client %d: command %d is at %d, before what was acknowledged when it was sent, %d (I12)",
			c.id, cmd.seq, r.Index, cmd.floor.index)
	}
	if c.loss != r.Term.Loss {
		k.failf("client %d: command %d is acknowledged under loss %d, of a session of loss %d (I18)", c.id, cmd.seq, r.Term.Loss, c.loss)
	}
	if m, ok := k.acked[cmdKey{c.session, cmd.seq - 1}]; ok && m.index >= r.Index {
		k.failf("client %d: command %d is at %d, and the one before it at %d (I11)", c.id, cmd.seq, r.Index, m.index)
	}
	if m, ok := k.acked[cmdKey{c.session, cmd.seq + 1}]; ok && m.index <= r.Index {
		k.failf("client %d: command %d is at %d, and the one after it at %d (I11)", c.id, cmd.seq, r.Index, m.index)
	}
	h.acked = max(h.acked, r.Index)
	k.acked[cmdKey{c.session, cmd.seq}] = mark{h.loss, r.Index}
	if i, ok := k.opOf[cmdKey{c.session, cmd.seq}]; ok {
		k.ops[i].answer, k.ops[i].count = k.called(), r.Count
	}
}

// again: a second acknowledgement says the same as the first.
func (k *checker) again(c *client, seq uint64, r reply) {
	if m, ok := k.acked[cmdKey{c.session, seq}]; ok && (m != mark{r.Term.Loss, r.Index}) && m.loss == r.Term.Loss {
		k.failf("client %d: command %d is acknowledged at %d and at %d (I10)", c.id, seq, m.index, r.Index)
	}
}

// read: an answer shows all that was acknowledged before the question (I12), and a state that was (I9).
func (k *checker) read(c *client, q *request, r reply) {
	h := k.logs[r.Term.Loss]
	if h == nil || r.Index == 0 || r.Index > uint64(len(h.entries)) || !h.outcomes[r.Index-1].applied || h.outcomes[r.Index-1].hash != r.Hash {
		k.failf("client %d: an answer shows a state at %d that never was (I9)", c.id, r.Index)
	}
	if q.floor.loss == h.loss && r.Index < q.floor.index {
		k.failf("client %d: an answer is from %d, but %d was acknowledged before it was asked for (I12)", c.id, r.Index, q.floor.index)
	}
	if h.loss == k.first {
		k.ops = append(k.ops, operation{call: q.call, answer: k.called(), read: true, count: r.Count, sum: r.Sum})
	}
}

// expired: a session that is said to have ended was ended by the log (I15).
func (k *checker) expired(c *client, t core.Term) {
	h := k.logs[t.Loss]
	if h != nil && h.ended[c.session] {
		return
	}
	k.failf("client %d: session %d is said to have expired, in %s, but has not (I15)", c.id, c.session, t)
}
