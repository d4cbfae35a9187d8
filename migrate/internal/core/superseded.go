package core

import (
	"fmt"

	"github.com/roam-go/roam/resolver"
)

// Where the resolver has gone back to an old record, and the hosts that know later ones do not answer, an old copy may
// become active and lack committed entries that another host holds. That host gives up its copy when it hears of the active
// one, since there is one history only. It must not do so silently: both hosts report it, and its store keeps the old copy
// aside.

// Superseded reports that a copy is given up although it holds committed entries that the service, as it continues, lacks.
// It is an item of [Ready].Reports.
type Superseded struct {
	Holder, Active resolver.Host // the host with the copy, and the active one
	Last           uint64        // the last committed entry of the copy
	Maybe          bool          // it is not known whether the service lacks any
}

func (s *Superseded) Error() string {
	lacks := "lacks"
	if s.Maybe {
		lacks = "may lack"
	}
	return fmt.Sprintf("host %s gives up its copy, which holds committed entries up to %d: the service continues on host %s, from "+
		"an older copy or an older record, and %s some of them", s.Holder.ID, s.Last, s.Active.ID, lacks)
}

// beyond reports whether epoch began after an inquiry or a restore that came after the epoch old: only then can committed
// entries of old be missing from its history.
func beyond(epoch, old uint64) bool { return epoch/hostNumbers >= old/hostNumbers+2 }

// differs reports whether the entry at i of epoch is certainly not the one that this host has, or had, there.
func (c *Core) differs(i, epoch uint64) bool {
	if have, ok := c.log.epochAt(i); ok {
		return have != epoch
	}
	return i < c.log.base && epoch > c.log.baseEpoch
}

// committedTo is the last entry that this host knows to have been committed. It may be beyond commit only after a restart.
func (c *Core) committedTo() uint64 {
	if c.saving == nil {
		return c.commit
	}
	return max(c.commit, c.saving.aloneTo)
}

// contradicts reports whether a message with entries contradicts what this host knows to be committed.
func (c *Core) contradicts(m Msg) bool {
	to := c.committedTo()
	if m.Prev <= to && c.differs(m.Prev, m.PrevEpoch) {
		return true
	}
	for _, e := range m.Entries {
		if e.Index > to {
			break
		}
		if c.differs(e.Index, e.Epoch) {
			return true
		}
	}
	return false
}

// supersede gives up the copy here, on which the active host counts, but whose committed entries its log contradicts.
func (c *Core) supersede() {
	last := c.place(c.committedTo())
	leader, invitation := c.standby.leader, c.standby.invitation
	if !beyond(c.term.Epoch, last.Epoch) {
		c.accuse(leader, "overwrites entry %d, which is committed, in epoch %d", last.Index, c.term.Epoch)
		return
	}
	c.reportSuperseded(c.self, leader, last.Index, false)
	c.release()
	c.standby.leader = leader
	c.send(leader, Msg{Type: MsgLeave, Round: invitation, Flag: true, Commit: last.Index})
}

// keepAside has the store, if any, keep what the next Save replaces.
func (c *Core) keepAside() {
	if c.saving != nil {
		c.saving.aside = true
	}
}

// reportReplaced reports the copy here, which snapshot m replaces, if the service lacks or may lack what it holds.
func (c *Core) reportReplaced(m Msg) {
	last := c.place(c.committedTo())
	maybe := beyond(c.term.Epoch, last.Epoch)
	if c.hasState && c.loss == c.term.Loss && last.Index > 0 && (m.Flag || maybe) {
		c.reportSuperseded(c.self, m.From, last.Index, !m.Flag)
	}
}

func (c *Core) reportSuperseded(holder, active resolver.Host, last uint64, maybe bool) {
	if holder.Same(c.self) {
		c.keepAside()
	}
	c.out.Reports = append(c.out.Reports, &Superseded{Holder: holder, Active: active, Last: last, Maybe: maybe})
}
