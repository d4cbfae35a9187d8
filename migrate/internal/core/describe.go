package core

import (
	"fmt"
	"strings"

	"github.com/roam-go/roam/resolver"
)

// String describes m on one line, for logs and scenario files.
func (m Msg) String() string {
	s := fmt.Sprintf("%s %s", m.Type, m.Term)
	switch m.Type {
	case MsgAppend:
		if m.Prev == ^uint64(0) {
			s += fmt.Sprintf(" nothing yet, round %d", m.Round)
			break
		}
		s += fmt.Sprintf(" after %d/e%d", m.Prev, m.PrevEpoch)
		if n := len(m.Entries); n > 0 {
			s += fmt.Sprintf(" entries %d-%d", m.Entries[0].Index, m.Entries[n-1].Index)
		}
		s += fmt.Sprintf(" commit %d, round %d", m.Commit, m.Round)
	case MsgAck:
		s += fmt.Sprintf(" %d, round %d", m.Index, m.Round)
		if m.Flag {
			s += fmt.Sprintf(", resend from %d", m.Commit)
		}
	case MsgInvite, MsgRelease, MsgLeave:
		if m.Round > 0 {
			s += fmt.Sprintf(" #%d", m.Round)
		}
	case MsgJoin:
		s += fmt.Sprintf(" #%d", m.Round)
		if m.Flag {
			s += fmt.Sprintf(" with a copy of %d entries", m.Commit)
		}
	case MsgPolicy:
		s += fmt.Sprintf(" %d copies, at least %d", m.Prev, m.PrevEpoch)
	case MsgSnapshot:
		s += fmt.Sprintf(" #%d: %d at %d/e%d", m.Prev, m.Round, m.Index, m.PrevEpoch)
	}
	if m.Record != nil {
		s += " " + Describe(*m.Record)
	}
	if m.Reason != "" {
		s += " (" + m.Reason + ")"
	}
	return s
}

// Describe describes a record on one line, in brackets.
func Describe(r resolver.Record) string {
	if r.Epoch == 0 {
		return "[no record]"
	}
	isr := make([]string, len(r.ISR))
	for i, h := range r.ISR {
		isr[i] = h.ID
	}
	active := r.Active.ID
	if active == "" {
		active = "nobody"
	}
	return fmt.Sprintf("[v%d %s %s active, in sync %s]", r.Version, TermOf(r), active, strings.Join(isr, " "))
}
