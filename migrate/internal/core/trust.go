package core

import (
	"errors"
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
// named could claim any term, and this host would follow it for ever. Only members of the in-sync set are believed: the
// active host about its own epoch, any of them that it is active in the next one, which saves each move a round trip to the
// resolver, and about later terms when it refuses a message or answers an inquiry, since the resolver may have lost them.
// About this host's own epochs nobody is believed but the resolver. The answers of other hosts are never believed, but may
// keep this host from acting: see knowsBetter.

// hearRecord handles a record that host from sends.
func (c *Core) hearRecord(r resolver.Record, from resolver.Host) {
	switch {
	case !c.isNews(r):
	case c.mayHaveMade(from, r) && c.credible(from, TermOf(r), r):
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

// mayHaveMade reports whether h may have made r of the record that this host knows or of a few later ones, which this host has
// missed: as the active host, or as a member that has become active since.
func (c *Core) mayHaveMade(h resolver.Host, r resolver.Record) bool {
	const most = 16 // later versions
	cur := &c.rec
	if cur.Version == 0 || r.Generation != cur.Generation || r.Version <= cur.Version || r.Version > cur.Version+most ||
		r.Loss != cur.Loss || !sameKey(r.Proposer, h) || !sameKey(r.Active, h) {
		return false
	}
	if r.Epoch == cur.Epoch {
		return sameKey(cur.Active, h)
	}
	return r.Epoch == cur.Epoch+1 && c.isMember(h) && (member(r.ISR, c.self) || cur.Active.Same(c.self))
}

// isOwn reports whether r is of a term in which only this host can be active. Only the resolver tells what became of the
// changes that this host has proposed; others can at most repeat it.
func (c *Core) isOwn(r resolver.Record) bool {
	return r.Active.Same(c.self) || TermOf(r) == TermOf(c.rec) && c.rec.Active.Same(c.self)
}

// isMember reports whether h is in the in-sync set, or has been proposed for it.
func (c *Core) isMember(h resolver.Host) bool {
	return slices.ContainsFunc(c.members(), func(m resolver.Host) bool { return sameKey(m, h) })
}

const (
	year    = 366 * 24 * 3600 * 1000 // in ms
	century = 100 * year
)

// latestEpoch is the epoch, in units of hostNumbers, that a far term begins by a clock that is ahead by so much.
func (c *Core) latestEpoch(ahead uint64) uint64 {
	return max(uint64(max(c.cfg.Start, 0)), c.term.Epoch/hostNumbers, c.term.Loss/hostNumbers) + ahead
}

// credible reports whether a host that keeps the protocol may know of term t, and of record r if its version is not 0. No
// host begins an epoch of a hundred years ahead: there must be room for far terms above those that this host believes.
func (c *Core) credible(h resolver.Host, t Term, r resolver.Record) bool {
	latest := c.latestEpoch(century)
	switch epoch, loss := max(t.Epoch, r.Epoch), max(t.Loss, r.Loss); {
	case epoch/hostNumbers > latest:
		c.accuse(h, "claims to know of epoch %d", epoch)
	case loss/hostNumbers > latest:
		c.accuse(h, "claims to know of loss %d", loss)
	case r.Version > 0 && (r.Name != c.cfg.Name || errors.Is(resolver.Check(nil, r), resolver.ErrInvalid)):
		c.accuse(h, "sends a record that no resolver has")
	default:
		return true
	}
	return false
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
