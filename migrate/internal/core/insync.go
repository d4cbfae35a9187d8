package core

import (
	"slices"
	"time"

	"github.com/roam-go/roam/resolver"
)

// lagging reports whether a member does not keep up: it is not heard, or what it has not acknowledged is too old or too much.
func (c *Core) lagging(p *peer) bool {
	return c.unreachable(p) || c.ackOverdue(p) || c.log.last()-p.match > 0 && c.overLagBytes(p)
}

func (c *Core) unreachable(p *peer) bool { return p.down || c.now-p.lastAck >= c.cfg.FailureTimeout }

// ackOverdue reports whether the oldest entry that p has not acknowledged is older than FailureTimeout. That is found when it is twice
// as old at the latest.
func (c *Core) ackOverdue(p *peer) bool {
	return p.lagMark > p.match && c.now-p.lagMarkAt >= c.cfg.FailureTimeout
}

// markLag notes since when p lacks something.
func (c *Core) markLag(p *peer) {
	switch last := c.log.last(); {
	case !p.member || p.match >= last:
		p.lagMark = 0
	case p.lagMark <= p.match:
		p.lagMark, p.lagMarkAt = last, c.now
	}
}

// slowHost is a host that was removed although it was heard.
type slowHost struct {
	id    string
	pause time.Duration
	until time.Duration // it is not invited before
}

// removeLagging proposes the removal of a member that does not keep up. One that is merely slow would soon catch up and fall behind
// again: each time it is left alone for twice as long.
func (c *Core) removeLagging(p *peer) {
	c.proposeRemove(p.host, false)
	if c.unreachable(p) {
		return
	}
	a := &c.active
	s := slowHost{id: p.host.ID, pause: c.cfg.JoinTimeout}
	most := 8 * c.cfg.JoinTimeout
	a.slowHosts = slices.DeleteFunc(a.slowHosts, func(o slowHost) bool {
		if o.id == s.id && c.now < o.until+most {
			s.pause = min(2*o.pause, most)
		}
		return o.id == s.id || c.now >= o.until+most
	})
	s.until = c.now + s.pause
	a.slowHosts = append(a.slowHosts, s)
}

// recentlySlow reports whether h was too slow a short while ago.
func (c *Core) recentlySlow(h resolver.Host) bool {
	return slices.ContainsFunc(c.active.slowHosts, func(s slowHost) bool { return s.id == h.ID && c.now < s.until })
}

// belowMinInSync reports whether fewer hosts are in sync than an acknowledged command is to be held by.
func (c *Core) belowMinInSync() bool { return len(c.rec.ISR) < c.cfg.MinInSync }

// mayShrink reports whether the in-sync set may lose a member. Where it may not, what waits goes on when another host
// has joined, the silent one is heard again, or its next incarnation has taken its place.
func (c *Core) mayShrink() bool { return len(c.rec.ISR) > max(c.cfg.MinInSync, 1) }

// mayJoin reports whether hosts are invited. Before the epoch's first entry is committed that is so only where its commit
// may depend on it; whoever is proposed has acknowledged all of the log up to that entry in any case.
func (c *Core) mayJoin() bool { return c.role == Serving || c.role == Recovering && c.active.blocked }

// replaceable reports whether h may take the place of p, an earlier incarnation of the same host, in the in-sync set.
func (c *Core) replaceable(p *peer, h resolver.Host) bool {
	return p.member && c.lagging(p) && !c.mayShrink() && p.host.ID == h.ID && !p.host.Same(h)
}

// leaving reports whether p wants to leave the in-sync set: it says so again and again.
func (c *Core) leaving(p *peer) bool {
	return p.leaveAskedAt > 0 && c.now-p.leaveAskedAt < c.cfg.FailureTimeout
}

// overLagBytes reports whether a member is further behind than LagBytes.
func (c *Core) overLagBytes(p *peer) bool {
	if c.log.bytes <= c.cfg.LagBytes {
		return false
	}
	return c.bytesBetween(p.match+1, c.log.last()+1) > c.cfg.LagBytes
}

// trimStandbys removes the hosts that hold a copy beyond the number that is wanted: first the one that handed over to this
// one, then from the end.
func (c *Core) trimStandbys() {
	if len(c.rec.ISR)-1 <= c.cfg.Standbys || !c.mayShrink() {
		return
	}
	var victim resolver.Host
	for _, h := range c.rec.ISR {
		if !h.Same(c.self) && !victim.Same(c.active.predecessor) || victim.ID == "" && !h.Same(c.self) {
			victim = h
		}
	}
	for _, p := range c.active.peers {
		if c.leaving(p) && member(c.rec.ISR, p.host) {
			victim = p.host
		}
	}
	if victim.ID != "" {
		c.proposeRemove(victim, true)
	}
}

func (c *Core) recvLeave(m Msg) {
	p := c.peer(m.From)
	switch {
	case !c.role.Active():
	case p == nil:
		c.sendJoinRecord(m.From, MsgRelease, m.Round)
	case m.Term == c.term && m.Round != p.invitation: // of an earlier invitation
	case !p.member:
		c.failMoveTo(p.host, "host "+p.host.ID+" did not get a copy, or is about to leave")
		c.sendJoinRecord(m.From, MsgRelease, p.invitation)
		c.dropPeer(p)
	default:
		p.leaveAskedAt = max(c.now, 1)
		gone := m.Flag && m.Term == c.term // of an earlier term: it may have got a copy since
		if c.mayPropose() && (c.mayShrink() || gone) && member(c.rec.ISR, p.host) {
			c.proposeRemove(p.host, true)
		}
	}
}
