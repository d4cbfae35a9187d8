package core

import (
	"fmt"
	"slices"
	"time"

	"github.com/roam-go/roam/resolver"
)

// candidates invites as many of the hosts as standbys are missing.
func (c *Core) candidates(hosts []resolver.Host) {
	a := &c.active
	a.seeking = false
	if !c.mayJoin() || a.move != nil && a.move.stage != 0 {
		return
	}
	missing := c.missing()
	for _, h := range hosts {
		if missing <= 0 {
			return
		}
		known := func(p *peer) bool { return p.host.ID == h.ID && !c.replaceable(p, h) }
		if h.ID == c.self.ID || c.recentlySlow(h) || slices.ContainsFunc(a.peers, known) {
			continue
		}
		c.invite(h)
		missing--
	}
}

func (c *Core) invite(h resolver.Host) {
	p := c.addPeer(h)
	c.active.lastInvitation++
	p.stage, p.invitation = invited, c.active.lastInvitation
	c.sendJoinRecord(h, MsgInvite, p.invitation)
}

// missing is the number of hosts to invite. A host whose restore takes too long may never join, so that another one is
// invited as well.
func (c *Core) missing() int {
	n := c.cfg.Standbys
	for _, p := range c.active.peers {
		target := c.active.move != nil && c.active.move.target.Same(p.host)
		if !p.down && !c.delayed(p) && !(p.member && (c.lagging(p) || c.leaving(p))) && !(target && !p.member) {
			n--
		}
	}
	return n
}

// JoinDelay reports, on the active host, that another host has not restored its copy for long. It is an item of
// [Ready].Reports, once for each snapshot.
type JoinDelay struct {
	Host  resolver.Host
	After time.Duration
}

// Error describes the delay and its consequence.
func (d *JoinDelay) Error() string {
	return fmt.Sprintf("host %s has not restored its copy within %v: another host is invited, if one is present",
		d.Host.ID, d.After)
}

// restoreTimeout is how long the active host waits for a host that fetches and restores a snapshot, before it invites
// another one in addition. Since a large state may take longer, it does not give up the first one until the other has
// joined.
func (c *Core) restoreTimeout() time.Duration { return 30 * c.cfg.JoinTimeout }

// delayed reports whether p has been restoring a snapshot for longer than restoreTimeout.
func (c *Core) delayed(p *peer) bool {
	return p.stage == fetching && c.now-p.fetchSince >= c.restoreTimeout()
}

// dispensable reports whether p is delayed, and enough other hosts have joined.
func (c *Core) dispensable(p *peer) bool {
	if m := c.active.move; !c.delayed(p) || m != nil && m.target.Same(p.host) {
		return false
	}
	n := c.cfg.Standbys
	for _, q := range c.active.peers {
		if q.member && !c.lagging(q) && !c.leaving(q) {
			n--
		}
	}
	return n <= 0
}

// joinTimeout is how long a host that is not yet a member may be silent.
func (c *Core) joinTimeout(p *peer) time.Duration {
	if p.stage == invited {
		return max(c.cfg.TransferTimeout, inviteTrips*c.distance())
	}
	return max(c.cfg.JoinTimeout, c.failureTimeout(p.probe.trip))
}

// mayPropose reports whether this host may propose a change of the in-sync set now. It must not while its own store hangs:
// the host that takes over from it is in that set.
func (c *Core) mayPropose() bool {
	m := c.active.move
	return c.prop == nil && !c.Lost() && c.now >= c.proposeAfter && !c.storeStalled() &&
		(m == nil || m.stage < moveTransferring && !m.transferDue)
}

// eligible reports whether p may be proposed for the in-sync set: it holds all committed entries and the epoch's first one.
func (c *Core) eligible(p *peer) bool {
	return c.nearlyCaughtUp(p) && p.match >= max(c.commit, c.active.epochStart)
}

// nearlyCaughtUp reports whether p lacks fewer entries than MaxJoinLag.
func (c *Core) nearlyCaughtUp(p *peer) bool {
	return c.mayJoin() && p.stage == streaming && p.round > 0 && c.log.last()-p.match < c.cfg.MaxJoinLag
}

// awaitJoiner lets p catch up. Under continuous load, with members that acknowledge sooner than p or with none, p would
// stay a few entries behind the last committed one for ever. So commits wait for p for a moment: normally one round trip.
func (c *Core) awaitJoiner(p *peer) {
	switch {
	case c.delayed(p) && !p.delayed:
		p.delayed = true
		c.out.Reports = append(c.out.Reports, &JoinDelay{Host: p.host, After: c.restoreTimeout()})
	case p.commitWaitSince > 0:
		if c.now-p.commitWaitSince >= c.commitWaitLimit(p) {
			p.commitWaitSince, p.nextCommitWait = 0, c.now+c.cfg.JoinTimeout<<min(p.failedCommitWaits, 3)
			p.failedCommitWaits++
		}
	case c.nearlyCaughtUp(p) && c.mayPropose() && c.now >= p.nextCommitWait:
		p.commitWaitSince = max(c.now, 1)
	}
}

// commitWaitLimit is how long commits wait for a joining host.
func (c *Core) commitWaitLimit(p *peer) time.Duration { return c.failureTimeout(p.probe.trip) / 2 }
