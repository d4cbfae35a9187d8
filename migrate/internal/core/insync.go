package core

import (
	"slices"
	"time"

	"github.com/roam-go/roam/resolver"
)

// lagging reports whether a member does not keep up: it is unreachable, or its unacknowledged entries are too old or too
// large.
func (c *Core) lagging(p *peer) bool {
	return c.unreachable(p) || c.ackOverdue(p) || c.log.last()-p.match > 0 && c.overLagBytes(p)
}

// unreachable reports whether p seems to be gone or has been silent for FailureTimeout.
func (c *Core) unreachable(p *peer) bool {
	return p.down || c.now-max(p.lastAck, p.back) >= c.failureTimeout(p.probe.trip)
}

// ackOverdue reports whether the oldest entry that p has not acknowledged is older than FailureTimeout. It detects this
// when the entry is twice as old at the latest.
func (c *Core) ackOverdue(p *peer) bool {
	return p.lagMark > p.match && c.now-max(p.lagMarkAt, p.back) >= c.failureTimeout(p.probe.trip)
}

// markLag records since when p lacks entries.
func (c *Core) markLag(p *peer) {
	switch last := c.log.last(); {
	case !p.member || p.match >= last:
		p.lagMark = 0
	case p.lagMark <= p.match:
		p.lagMark, p.lagMarkAt = last, c.now
	}
}

// slowHost is a host that was removed for being slow, although it was reachable.
type slowHost struct {
	id    string
	pause time.Duration
	until time.Duration // it gets no invitation before this time
}

// suspectAt is when this host reads the record because p does not answer, to find out whether it is itself cut off: half of
// FailureTimeout before it removes p.
func (c *Core) suspectAt(p *peer) time.Duration {
	since := p.lastAck
	if p.lagMark > p.match {
		since = min(since, p.lagMarkAt)
	}
	return max(since, p.back) + c.failureTimeout(p.probe.trip)/2
}

// suspect reports whether p may be removed for its silence: the resolver has answered meanwhile, without delay.
func (c *Core) suspect(p *peer) bool {
	at := c.suspectAt(p)
	if c.now >= at && p.checked < at && c.asked == nil {
		c.get()
	}
	return p.checked >= at || p.down || !c.unreachable(p) && !c.ackOverdue(p)
}

// removeLagging proposes the removal of a member that does not keep up. A host that is merely slow would catch up and fall
// behind again, so that the pause before its next invitation doubles each time.
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

// recentlySlow reports whether h was removed for being slow and its pause has not ended.
func (c *Core) recentlySlow(h resolver.Host) bool {
	return slices.ContainsFunc(c.active.slowHosts, func(s slowHost) bool { return s.id == h.ID && c.now < s.until })
}

// InSync returns how many hosts hold what this active host has ordered, or will soon, itself included, and how many must before
// it is committed.
func (c *Core) InSync() (have, need int) {
	have = 1
	for _, p := range c.active.peers {
		if p.member && !c.lagging(p) {
			have++
		}
	}
	return have, max(len(c.rec.ISR), c.cfg.MinInSync)
}

// belowMinInSync reports whether the in-sync set is smaller than MinInSync.
func (c *Core) belowMinInSync() bool { return len(c.rec.ISR) < c.cfg.MinInSync }

// mayShrink reports whether the in-sync set may lose a member. If not, waiting commands commit once another host has
// joined, the silent one is heard again, or its next incarnation has taken its place.
func (c *Core) mayShrink() bool { return len(c.rec.ISR) > max(c.cfg.MinInSync, 1) }

// mayJoin reports whether this host invites others. Before the epoch's first entry is committed it does so only if that
// commit may depend on it. In either case a host must have acknowledged the log up to that entry before it is proposed.
func (c *Core) mayJoin() bool { return c.role == Serving || c.role == Recovering && c.active.blocked }

// replaceable reports whether h may take the place of p, an earlier incarnation of the same host, in the in-sync set.
func (c *Core) replaceable(p *peer, h resolver.Host) bool {
	return p.member && c.lagging(p) && !c.mayShrink() && p.host.ID == h.ID && !p.host.Same(h)
}

// leaving reports whether p wants to leave the in-sync set, which it repeats until it is removed.
func (c *Core) leaving(p *peer) bool {
	return p.leaveAskedAt > 0 && c.now-p.leaveAskedAt < c.failureTimeout(p.probe.trip)
}

// overLagBytes reports whether a member lacks more than LagBytes.
func (c *Core) overLagBytes(p *peer) bool {
	if c.log.bytes <= c.cfg.LagBytes {
		return false
	}
	return c.bytesBetween(p.match+1, c.log.last()+1) > c.cfg.LagBytes
}

// trimStandbys removes surplus standbys: first those that are leaving, then the predecessor, then the last of the in-sync
// set.
func (c *Core) trimStandbys() {
	if len(c.rec.ISR)-1 <= c.cfg.Standbys || !c.mayShrink() {
		return
	}
	var victim resolver.Host
	for _, h := range c.rec.ISR {
		if !h.Same(c.self) && !victim.Same(c.active.predecessor()) || victim.ID == "" && !h.Same(c.self) {
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

// recvLeave handles a host's request to be removed.
func (c *Core) recvLeave(m Msg) {
	p := c.peer(m.From)
	switch {
	case !c.role.Active():
		return
	case p == nil:
		round := m.Round
		if m.Term != c.term {
			round = 0 // not an invitation of this term: the host may get one before the release
		}
		c.sendJoinRecord(m.From, MsgRelease, round)
		return
	case m.Term == c.term && m.Round != p.invitation:
		return // of an earlier invitation
	}
	if m.Commit > 0 && !p.superseded {
		p.superseded = true
		c.reportSuperseded(p.host, c.self, m.Commit, false)
	}
	if !p.member {
		c.failMoveTo(p.host, "host "+p.host.ID+" did not get a copy, or is about to leave")
		c.sendJoinRecord(m.From, MsgRelease, p.invitation)
		c.dropPeer(p)
		return
	}
	p.leaveAskedAt = max(c.now, 1)
	gone := m.Flag && m.Term == c.term // in an earlier term it may have had no copy yet
	if c.mayPropose() && (c.mayShrink() || gone) && member(c.rec.ISR, p.host) {
		c.proposeRemove(p.host, true)
	}
}
