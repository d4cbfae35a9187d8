package core

import "time"

// Hosts may be far apart. A timeout that a lost packet or a slow answer must not reach follows the measured round trips: to
// the hosts of the in-sync set, and to the resolver. The active host measures with a round of heartbeats now and then. A
// standby knows when the active host has echoed an acknowledgement.

// trip is a round trip as measured, in ms: the average of the last ones. A lost packet delays one of them, so that the
// average falls faster than it rises. 0: not measured yet. Every idle service has two, so that it is small.
type trip uint16

// probe is the active host's measurement of the round trip to another host.
type probe struct {
	trip  trip
	round uint64        // the round that measures it; 0: none
	began time.Duration // when that round began
	next  time.Duration // no other measurement before this time
}

// names is how this host reaches the resolver.
type names struct {
	trip trip
	lost bool // the last read of the record failed
}

const (
	// probeInterval is the least time between two measurements of a round trip.
	probeInterval = time.Second
	// maxTrip bounds what a single measurement, and a round trip, may be.
	maxTrip = time.Second
	// lossTrips is how many round trips a host waits for another one, in addition to lossBeats heartbeats: a packet that was
	// lost twice arrives within them.
	lossTrips, lossBeats = 4, 2
	// inviteTrips is how many round trips the answer to an invitation may take: both hosts may have to connect, which takes
	// four.
	inviteTrips = 10
	// transferTrips is how many round trips a transfer may take. It takes three, with the resolver's.
	transferTrips = 6
)

func (t trip) duration() time.Duration { return time.Duration(t) * time.Millisecond }

// measured adds a measurement.
func (t *trip) measured(d time.Duration) {
	d = min(max(d, time.Millisecond), maxTrip)
	switch was := t.duration(); {
	case was == 0:
	case d < was:
		d = (was + d) / 2
	default:
		d = was + (d-was)/8 + time.Millisecond/2
	}
	*t = trip(d / time.Millisecond)
}

// lossTime is how long the answer of a host t away may take if packets are lost.
func (c *Core) lossTime(t trip) time.Duration {
	return lossBeats*c.cfg.Heartbeat + lossTrips*t.duration()
}

// failureTimeout is how long a host t away may be silent: FailureTimeout, or longer if it is so far away that a packet that
// is lost would take that long.
func (c *Core) failureTimeout(t trip) time.Duration {
	return max(c.cfg.FailureTimeout, c.lossTime(t))
}

// readDone notes that a read of the record has ended. If it took long, this host may have been cut off: then the silence of
// other hosts until now does not show that they are gone.
func (c *Core) readDone(began time.Duration, answered bool) {
	n := &c.names
	if !answered {
		n.lost = true
		return
	}
	late := n.lost || c.now-began >= c.lossTime(n.trip)
	n.lost = false
	n.trip.measured(c.now - began)
	for _, p := range c.active.peers {
		if late {
			p.back = c.now
		} else {
			p.checked = c.now
		}
	}
	if late {
		c.standby.heard = c.now
	}
}

// distance is the longest round trip that this host has measured: a host that it does not know may be as far away.
func (c *Core) distance() time.Duration {
	return max(c.names.trip, c.leader, c.active.trip()).duration()
}

// trip is the longest round trip to another host.
func (a *activeState) trip() (d trip) {
	for _, p := range a.peers {
		d = max(d, p.probe.trip)
	}
	return d
}

// transferTimeout is how long a handoff may take once it was requested.
func (c *Core) transferTimeout() time.Duration {
	return max(c.cfg.TransferTimeout, transferTrips*c.distance())
}

// probe begins a measurement of the round trip to each host whose last one is old: the hosts acknowledge a new round at
// once.
func (c *Core) probe() {
	a, due := &c.active, false
	for _, p := range a.peers {
		if p.sendDue && p.stage != invited && p.probe.round == 0 && c.now >= p.probe.next && !c.cfg.NoProbes {
			p.probe.round, p.probe.began, p.probe.next, due = a.round+1, c.now, c.now+probeInterval, true
		}
	}
	a.roundDue = a.roundDue || due
}

// probed ends a measurement that the acknowledgement of a round answers.
func (c *Core) probed(p *peer, round uint64) {
	if p.probe.round > 0 && round >= p.probe.round {
		p.probe.trip.measured(c.now - p.probe.began)
		p.probe.round = 0
	}
}

// echoed measures the round trip to the active host, which has echoed that this one sent an acknowledgement at sent. The
// echo waits for the next message, a heartbeat at the latest.
func (c *Core) echoed(sent time.Duration) {
	if sent > c.standby.contact {
		c.leader.measured(c.now - sent - c.cfg.Heartbeat)
	}
}
