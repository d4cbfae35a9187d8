package core

import (
	"fmt"
	"slices"

	"github.com/roam-go/roam/resolver"
)

// Misconduct reports a message that no host sends that keeps the protocol: the other host is broken or hostile. The message
// has no effect. It is an item of [Ready].Reports.
type Misconduct struct {
	Self, From resolver.Host
	What       string
}

func (m *Misconduct) Error() string {
	return fmt.Sprintf("host %s breaks the protocol, which host %s ignores: it %s", m.From.ID, m.Self.ID, m.What)
}

// accuse reports that h breaks the protocol.
func (c *Core) accuse(h resolver.Host, format string, args ...any) {
	c.out.Reports = append(c.out.Reports, &Misconduct{Self: c.self, From: h, What: fmt.Sprintf(format, args...)})
}

// A record in a message is a reason to read the record of the resolver, not the record: a host that the resolver has never
// named could claim any term, and this host would follow it for ever. There are two exceptions. A member of the in-sync set
// is believed: what it knows when it refuses a message or answers an inquiry and, if the resolver would have made that change
// for it, that it is active or has changed the set, which saves each move a round trip to the resolver. And when the resolver
// has lost its memory, the answers of all hosts to an inquiry count: only they know what it had.

// hearRecord handles a record that host from sends.
func (c *Core) hearRecord(r resolver.Record, from resolver.Host) {
	switch {
	case !c.isNews(r):
	case c.mayHaveMade(from, r):
		c.learn(r)
	default:
		c.get()
	}
}

// isNews reports whether r is a later record than the one that this host knows.
func (c *Core) isNews(r resolver.Record) bool {
	d := TermOf(r).Compare(TermOf(c.rec))
	return d > 0 || d == 0 && r.Version > c.rec.Version
}

// mayHaveMade reports whether r is the record that follows the one that this host knows, made by h as a member of the
// in-sync set.
func (c *Core) mayHaveMade(h resolver.Host, r resolver.Record) bool {
	cur := &c.rec
	return cur.Version > 0 && r.Generation == cur.Generation && r.Version == cur.Version+1 &&
		r.Loss == cur.Loss && r.Epoch <= cur.Epoch+1 && sameKey(r.Proposer, h) && resolver.Check(cur, r) == nil
}

// isMember reports whether h is in the in-sync set, or has been proposed for it.
func (c *Core) isMember(h resolver.Host) bool {
	return slices.ContainsFunc(c.members(), func(m resolver.Host) bool { return sameKey(m, h) })
}

// ofAnotherAge reports whether h claims to know of an epoch that no host begins in a hundred years. That does not count:
// there must be room for far terms above the epochs that this host believes.
func (c *Core) ofAnotherAge(h resolver.Host, epoch uint64) bool {
	const century = 100 * 366 * 24 * 3600 * 1000 // in ms
	if epoch/hostNumbers <= max(uint64(c.cfg.Start), c.term.Epoch/hostNumbers)+century {
		return false
	}
	c.accuse(h, "claims to know of epoch %d", epoch)
	return true
}

// obeys reports whether m, which only the active host sends, is from the host that the record of its term names.
func (c *Core) obeys(m Msg) bool {
	switch {
	case m.Term != c.term || TermOf(c.rec) != m.Term:
		return false
	case !sameKey(c.rec.Active, m.From):
		if c.rec.Active.ID != "" {
			c.accuse(m.From, "claims to be active in %s, in which host %s is", m.Term, c.rec.Active.ID)
		}
		return false
	}
	return true
}

// recvWaiting handles the message of the active host that has waited for a record, which is here.
func (c *Core) recvWaiting() {
	m := c.waiting
	c.waiting = nil
	if m != nil && c.obeys(*m) {
		c.recvActive(*m)
	}
}

// sameKey reports whether two hosts are the same, with the same key.
func sameKey(a, b resolver.Host) bool { return a.Same(b) && a.Key == b.Key }
