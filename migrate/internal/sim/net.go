package sim

import (
	"fmt"
	"strings"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

// link carries messages one way between two hosts.
type link struct {
	cut     bool
	lag     time.Duration // messages with entries take so much longer, and are overtaken by others
	holding bool          // while cut: keep what is sent, as retransmission does, instead of losing it
	held    []func()
	last    time.Duration // when the last message arrives
	gen     int           // of the connection: what is on its way is lost with it
}

// latency draws the time that a message takes.
func (w *world) latency() time.Duration {
	d := w.prof.latency + w.exp(w.prof.jitter)
	if w.chance(w.prof.slow) {
		d += min(w.exp(w.prof.slowBy), 12*time.Second)
	}
	return d
}

func hostIndex(h resolver.Host) int { return int(h.ID[0] - 'a') }

// send puts a message between hosts on its way.
func (w *world) send(from *proc, to resolver.Host, m core.Msg) {
	w.stats.Steps++
	if w.o.Log != nil {
		w.tracef("%s -> %s: %s", from.name(), label(to), describe(m))
	}
	w.carry(from, to, m)
	if w.chance(w.prof.dup) {
		w.after(w.exp(100*time.Millisecond), func() { w.carry(from, to, m) })
	}
}

func (w *world) carry(from *proc, to resolver.Host, m core.Msg) {
	if to.Same(liar) {
		return
	}
	j := hostIndex(to)
	l := w.links[from.host.index][j]
	if l.cut {
		if l.holding && len(l.held) < 2000 {
			l.held = append(l.held, func() { w.carry(from, to, m) })
		}
		return
	}
	if w.chance(w.prof.drop) {
		w.tracef("  lost: %s -> %s: %s", from.name(), label(to), m.Type)
		return
	}
	at := w.now + w.latency()
	if l.lag > 0 && len(m.Entries) > 0 {
		at += l.lag
	} else if !w.chance(w.prof.reorder) {
		at = max(at, l.last)
		l.last = at
	}
	gen, late := l.gen, w.chance(w.prof.late)
	w.queue.push(at, func() {
		if l.gen != gen && !late {
			return
		}
		p := w.hosts[j].proc
		if p == nil || p.self.Incarnation != to.Incarnation && !w.chance(w.prof.misdeliver) || p.self.Incarnation == to.Incarnation && p.self.Addr != to.Addr {
			if w.chance(w.prof.hint) {
				from.event(core.PeerDown{Host: to})
			}
			return
		}
		p.event(core.Recv{Msg: m})
	})
}

// near reports whether the process of host h can answer that of host i.
func (w *world) near(i int, h *host) bool {
	return h.proc != nil && !h.proc.paused && !w.links[i][h.index].cut && !w.links[h.index][i].cut
}

// cutLink stops or restores a link.
func (w *world) cutLink(i, j int, cut, holding bool) {
	l := w.links[i][j]
	l.cut, l.holding = cut, holding
	if cut {
		return
	}
	held := l.held
	l.held = nil
	for _, f := range held {
		f()
	}
}

// resetLink breaks the connection from i to j: what is on its way is lost, or comes late.
func (w *world) resetLink(i, j int) {
	l := w.links[i][j]
	l.gen++
	l.held = nil
	a, b := w.hosts[i].proc, w.hosts[j].proc
	w.tracef("the connection from %c to %c is reset", 'a'+i, 'a'+j)
	if a != nil && b != nil && w.chance(w.prof.hint) {
		w.after(w.exp(20*time.Millisecond), func() { a.event(core.PeerReset{Host: b.self}) })
	}
}

func label(h resolver.Host) string {
	if h.ID == "" {
		return "nobody"
	}
	return fmt.Sprintf("%s/%d", h.ID, h.Incarnation%1000)
}

func describeRecord(r *resolver.Record) string {
	if r == nil || r.Version == 0 && r.Epoch == 0 {
		return "no record"
	}
	var isr []string
	for _, h := range r.ISR {
		isr = append(isr, label(h))
	}
	return fmt.Sprintf("v%d %s active=%s isr={%s}", r.Version, core.TermOf(*r), label(r.Active), strings.Join(isr, " "))
}

func describe(m core.Msg) string {
	s := fmt.Sprintf("%s %s", m.Type, m.Term)
	switch m.Type {
	case core.MsgAppend:
		s += fmt.Sprintf(" prev=%d/e%d n=%d commit=%d round=%d", m.Prev, m.PrevEpoch, len(m.Entries), m.Commit, m.Round)
	case core.MsgAck:
		s += fmt.Sprintf(" index=%d commit=%d round=%d", m.Index, m.Commit, m.Round)
	case core.MsgJoin:
		s += fmt.Sprintf(" copy=%v commit=%d loss=%d", m.Flag, m.Commit, m.Index)
	case core.MsgSnapshot:
		s += fmt.Sprintf(" id=%d index=%d/e%d", m.Round, m.Index, m.PrevEpoch)
	}
	if m.Flag && m.Type == core.MsgAck {
		s += " resend"
	}
	if m.Record != nil {
		s += " [" + describeRecord(m.Record) + "]"
	}
	if m.Reason != "" {
		s += " (" + m.Reason + ")"
	}
	return s
}
