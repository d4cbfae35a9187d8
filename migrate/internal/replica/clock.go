package replica

import (
	"fmt"
	"slices"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

// clock is the clock of the log, in Unix milliseconds. Between entries it runs by the monotonic clock of each host, so that
// a host continues the log's time when it becomes active, whatever its wall clock says. Wall clocks correct it: where most
// hosts of the in-sync set agree, log time jumps forward to theirs, or runs at half speed until they have caught up. A lone
// host has only its own clock to go by.
type clock struct {
	time int64         // log time, when this host's monotonic clock showed at
	at   time.Duration // monotonic

	off     int64         // log time minus this host's wall clock, where that is wrong; else 0
	heard   int64         // log time minus this host's wall clock when the active host last told the former
	checked time.Duration // when the clocks were last compared
	tell    bool          // the active host is to be told the clock here
	slow    bool          // log time is ahead of the hosts' clocks
	told    bool          // it was reported that this host's clock is wrong
	members []reading     // of other hosts, while this one is active
}

// reading is the wall clock of another host.
type reading struct {
	host resolver.Host
	off  int64         // its wall clock minus the monotonic clock here, in ms
	at   time.Duration // when it came
	told bool          // it was reported that it is wrong
}

const (
	// clockSlack is by how much two clocks may differ and still agree, in ms: hosts that are far away, and messages that
	// are lost on the way, look like that.
	clockSlack = 2000
	// clockEvery is how often clocks are compared, and how often a standby sends its own.
	clockEvery = time.Second
	// clockStale is the age at which another host's clock does not count any more.
	clockStale = 10 * time.Second
	// maxClock limits a time that another host sends: the end of the year 9999.
	maxClock = 253_402_300_799_999
)

// WrongClock reports that the clock of a host differs from that of most hosts, or from the log's. It is reported once, and
// again if that was over meanwhile.
type WrongClock struct {
	Host  string        // its ID; empty: log time itself differs from the hosts' clocks
	Ahead time.Duration // of the log's time, or of the hosts'; negative: behind
}

func (w *WrongClock) Error() string {
	if w.Host == "" && w.Ahead < 0 {
		return fmt.Sprintf("log time was %v behind the clocks of the hosts and has jumped forward", -w.Ahead.Round(time.Second))
	}
	if w.Host == "" {
		return fmt.Sprintf("log time is %v ahead of the clocks of the hosts; it passes at half speed until they have "+
			"caught up", w.Ahead.Round(time.Second))
	}
	where := "ahead of"
	if w.Ahead < 0 {
		where = "behind"
	}
	return fmt.Sprintf("the clock of host %s is %v %s that of the service; set it", w.Host, w.Ahead.Abs().Round(time.Second), where)
}

func near(a, b int64) bool { return a-b <= clockSlack && b-a <= clockSlack }

// continued is the log's time by the monotonic clock alone.
func (c *clock) continued(now time.Duration) int64 {
	d := now - c.at
	if c.slow {
		d /= 2
	}
	return c.time + d.Milliseconds()
}

// ordered is called with the time that an entry was given. It is later than the clock's if an entry before it has that time.
func (c *clock) ordered(now time.Duration, t int64) {
	if t-c.continued(now) > clockSlack {
		c.time, c.at = t, now
	}
}

// hear takes the log's time from the active host.
func (c *clock) hear(now time.Duration, log int64) {
	c.time, c.at, c.slow, c.members = log, now, false, nil
}

// judge notes by how much the clock here, that of host self, is wrong. It returns what is to be reported; nil: nothing.
func (c *clock) judge(self string, off int64) *WrongClock {
	if near(off, 0) {
		c.off, c.told = 0, false
		return nil
	}
	c.off = off
	if c.told {
		return nil
	}
	c.told = true
	return &WrongClock{Host: self, Ahead: time.Duration(-off) * time.Millisecond}
}

// read takes the wall clock of another host of the in-sync set.
func (c *clock) read(now time.Duration, host resolver.Host, wall int64) {
	i := slices.IndexFunc(c.members, func(m reading) bool { return m.host.ID == host.ID })
	if i < 0 {
		i, c.members = len(c.members), append(c.members, reading{})
	}
	c.members[i].host, c.members[i].off, c.members[i].at = host, wall-now.Milliseconds(), now
}

// log is the log's time on the active host.
func (c *clock) log(now time.Duration, wall int64) int64 {
	own, log := wall+c.off, c.continued(now)
	if c.slow || !near(own, log) {
		return log
	}
	c.time, c.at = own, now
	return own
}

// due reports whether the active host is to compare the clocks: every clockEvery, and when its own has been set.
func (c *clock) due(now time.Duration, wall int64) bool {
	return now-c.checked >= clockEvery || !c.slow && !near(wall+c.off, c.continued(now))
}

// compare looks for the time that most hosts of isr have, of which this one is self, and corrects the log's. It returns what
// is to be reported.
func (c *clock) compare(now time.Duration, wall int64, isr []resolver.Host, self string) (reports []*WrongClock) {
	log := c.continued(now)
	c.checked = now
	c.members = slices.DeleteFunc(c.members, func(m reading) bool {
		return now-m.at > clockStale || !slices.ContainsFunc(isr, m.host.Same)
	})
	truth, found := c.most(now, wall, log, len(isr))
	if found {
		if len(isr) > 1 || near(wall, truth) {
			if w := c.judge(self, truth-wall); w != nil {
				reports = append(reports, w)
			}
		}
		for i := range c.members {
			m := &c.members[i]
			ahead := m.off + now.Milliseconds() - truth
			if wrong := !near(ahead, 0); wrong && !m.told {
				reports = append(reports, &WrongClock{Host: m.host.ID, Ahead: time.Duration(ahead) * time.Millisecond})
				m.told = true
			} else if !wrong {
				m.told = false
			}
		}
		slow := log-truth > clockSlack
		if slow && !c.slow || truth-log > clockSlack {
			reports = append(reports, &WrongClock{Ahead: time.Duration(log-truth) * time.Millisecond})
		}
		c.slow = slow
		log = max(log, truth)
	}
	c.time, c.at = log, now
	return reports
}

// most returns the time that more than half of n hosts have. A lone host takes its own, as it was corrected while there were
// others, unless it has been set right since.
func (c *clock) most(now time.Duration, wall, log int64, n int) (truth int64, found bool) {
	if n <= 1 {
		if near(wall, log) {
			return wall, true
		}
		return wall + c.off, true
	}
	agree := func(t int64) bool {
		votes := 0
		if near(wall, t) {
			votes = 1
		}
		for _, m := range c.members {
			if near(m.off+now.Milliseconds(), t) {
				votes++
			}
		}
		return 2*votes > n
	}
	if agree(wall) {
		return wall, true
	}
	for _, m := range c.members {
		if t := m.off + now.Milliseconds(); agree(t) {
			return t, true
		}
	}
	return 0, false
}

// stamp gives a message to another host the time that it is to know: the log's, or that of the clock here.
func (r *Replica) stamp(m *core.Msg) {
	switch {
	case m.Type == core.MsgAppend && (len(m.Entries) == 0 || r.clock == nil):
		r.startClock()
		m.Served = time.Duration(r.logTime())
	case m.Type == core.MsgAppend:
		m.Served = time.Duration(r.clock.continued(r.now))
	case m.Type == core.MsgAck && r.clock != nil && r.clock.tell:
		r.clock.tell = false
		m.Served = time.Duration(r.env.Wall())
	}
}

// heed takes the time in a message from another host that the core has just been given.
func (r *Replica) heed(m *core.Msg) {
	switch {
	case m.Served <= 0 || m.Served > maxClock:
	case m.Type == core.MsgAck && r.core.Role().Active():
		if r.clock != nil && slices.ContainsFunc(r.core.Record().ISR, m.From.Same) {
			r.clock.read(r.now, m.From, int64(m.Served))
		}
	case m.Type == core.MsgAppend && m.Term == r.core.Term() && !r.core.Role().Active():
		if r.clock == nil {
			r.clock = new(clock)
		}
		c := r.clock
		c.hear(r.now, int64(m.Served))
		if r.now-c.checked < clockEvery {
			return
		}
		c.checked, c.tell = r.now, true
		off := c.time - r.env.Wall()
		was := c.heard
		c.heard = off
		if !near(off, was) {
			return // perhaps one of the two messages came late
		}
		if w := c.judge(r.core.Self().ID, off); w != nil {
			r.env.Report(w)
		}
	}
}

// startClock starts the log's clock on a host that is active and has heard of no other's.
func (r *Replica) startClock() {
	if r.clock == nil {
		r.clock = &clock{time: max(r.env.Wall(), r.core.LastTime()), at: r.now}
	}
}

// logTime is the log's time on the active host.
func (r *Replica) logTime() int64 {
	wall := r.env.Wall()
	if r.clock == nil {
		if r.core.LastTime()-wall <= clockSlack {
			return wall
		}
		r.startClock()
	}
	if r.clock.due(r.now, wall) {
		for _, w := range r.clock.compare(r.now, wall, r.core.Record().ISR, r.core.Self().ID) {
			r.env.Report(w)
		}
	}
	return r.clock.log(r.now, wall)
}
