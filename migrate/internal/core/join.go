package core

import (
	"slices"
	"time"

	"github.com/roam-go/roam/resolver"
)

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
		if h.ID == c.self.ID || c.resting(h) || slices.ContainsFunc(a.peers, func(p *peer) bool { return p.host.ID == h.ID && !c.replaceable(p, h) }) {
			continue
		}
		c.invite(h)
		missing--
	}
}

func (c *Core) invite(h resolver.Host) {
	p := c.addPeer(h)
	c.active.joins++
	p.stage, p.join = invited, c.active.joins
	c.sendJoinRecord(h, MsgInvite, p.join)
}

// missing is the number of hosts that should be invited.
func (c *Core) missing() int {
	n := c.cfg.Standbys
	for _, p := range c.active.peers {
		target := c.active.move != nil && c.active.move.target.Same(p.host)
		if !p.down && !(p.member && (c.silent(p) || c.leaving(p))) && !(target && !p.member) {
			n--
		}
	}
	return n
}

// joinLimit is how long a host that is no member yet may be silent.
func (c *Core) joinLimit(p *peer) time.Duration {
	if p.stage == invited {
		return c.cfg.Transfer
	}
	return c.cfg.Join
}

// free reports whether this host may propose a change of the in-sync set now. While its own store hangs it must not: whoever
// takes over from it is in that set.
func (c *Core) free() bool {
	return c.prop == nil && c.now >= c.calm && !c.stuck() && (c.active.move == nil || c.active.move.stage < moveTransferring && !c.active.move.due)
}

// eligible reports whether p holds enough to be in the in-sync set: all that is committed, and this epoch's first entry.
func (c *Core) eligible(p *peer) bool {
	return c.near(p) && p.match >= max(c.commit, c.active.epochStart)
}

// near reports whether p is about to catch up.
func (c *Core) near(p *peer) bool {
	return c.mayJoin() && p.stage == streaming && p.round > 0 && c.log.last()-p.match < c.cfg.Lag
}

// awaitJoiner lets p catch up. Where members acknowledge sooner than p, or there are none, and commands come all the time,
// it would be a few entries behind what is committed for ever. So for a moment nothing is committed without it: one round
// trip if all is well.
func (c *Core) awaitJoiner(p *peer) {
	switch {
	case p.hold > 0:
		if c.now-p.hold >= c.holdLimit() {
			p.hold, p.rest = 0, c.now+c.cfg.Join<<min(p.rests, 3)
			p.rests++
		}
	case c.near(p) && c.free() && c.now >= p.rest:
		p.hold = max(c.now, 1)
	}
}

func (c *Core) holdLimit() time.Duration { return c.cfg.Silence / 2 }
