package migrate

import (
	"slices"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/serve"
	"github.com/roam-go/roam/resolver"
)

// ServiceStats are the counters and gauges of a service on one node. Counters start at 0 when the service is added to the node
// and only grow, so that a program can export them directly, for example with package expvar. They cover this node alone: after a
// move, the next host continues with its own.
type ServiceStats struct {
	// Ordered is the number of commands that this host, when active, appended to the log.
	Ordered uint64
	// Applied is the number of committed entries applied here, as the active host or as a standby: commands, sessions
	// opened and closed, and entries of the library itself.
	Applied uint64
	// Answered is the number of requests answered with a command's reply. Repeated is the number of requests for a command
	// that was already in the log: a client sent it again, and it was executed once.
	Answered, Repeated uint64
	// Refused is the number of requests for a command that were answered without a reply: this host was not active or had
	// just been deposed, the log was full, the session had expired, or the command was too large or out of order.
	Refused uint64
	// Queries is the number of queries answered.
	Queries uint64
	// Events is the number of events that the entries in Applied emitted.
	Events uint64
	// EventsPushed is the number of events sent to listeners; each event counts once for each listener. EventBytesPushed is the
	// size of the messages that carried them.
	EventsPushed, EventBytesPushed uint64

	// HandoffsOut is the number of handoffs that this host began and that ended with another host serving. HandoffsFailed is
	// the number of the others that it began.
	HandoffsOut, HandoffsFailed uint64
	// HandoffsIn and Failovers count how often this host became active: by a handoff, and because the active host was silent or
	// had restarted. Neither includes the creation or a reset of the service.
	HandoffsIn, Failovers uint64
	// Joins and Removals count how often a host was added to and removed from the in-sync set while this one was active. A host
	// that left the set with a change of the term is not counted.
	Joins, Removals uint64
	// Resent is the number of entries that this host, when active, sent again to another host, because they did not arrive or
	// the connection was lost.
	Resent uint64
	// SnapshotsSent and SnapshotsReceived count completed snapshots. SnapshotBytesSent and SnapshotBytesReceived are their
	// sizes.
	SnapshotsSent, SnapshotBytesSent         uint64
	SnapshotsReceived, SnapshotBytesReceived uint64

	// The remaining fields are gauges. Sessions is the number of sessions in the state. Clients is the number of clients
	// connected here.
	Sessions, Clients int
	// LogEntries and LogBytes are the size of the log kept in memory. ReplyBytes and EventBytes are the memory of the replies
	// and events kept for clients that request them again.
	LogEntries, LogBytes, ReplyBytes, EventBytes int
	// ActiveFor is how long this host has been active, and SuspendedFor how long it has committed nothing for the reasons
	// given at [Status].Suspended. They are 0 if it is not active or not suspended.
	ActiveFor, SuspendedFor time.Duration
	// Unapplied is the number of committed entries that the service has not applied here. Busy is as in [Status].
	Unapplied int
	Busy      time.Duration
	// Standbys are the other members of the in-sync set, sorted by ID. Only the active host knows them.
	Standbys []StandbyStats
}

// StandbyStats describes how far a standby is behind the active host.
type StandbyStats struct {
	// Host is its ID.
	Host string
	// Lag is the number of entries that it has not acknowledged. Unapplied is the number of entries that the active host has
	// applied and this host has not.
	Lag, Unapplied uint64
	// Silent is the time since a message arrived from it: normally up to a heartbeat.
	Silent time.Duration
}

// published is what [Service.Stats] is made of, as of the last batch of the loop.
type published struct {
	counts
	handoffsOut, handoffsFailed     uint64
	clients                         serve.Stats
	machine                         machine.Usage
	logEntries, logBytes, unapplied int
	lags                            []core.Lag
}

// Stats returns the counters and gauges as of the last completed step of the service: a command may be missing for a moment after
// its reply has arrived. Stats does not block. It also works after the service has left the node.
func (s *Service) Stats() ServiceStats {
	p, clients := s.board.readStats()
	now := s.node.now()
	since := func(at time.Duration) time.Duration {
		if at == 0 {
			return 0
		}
		return now - at
	}
	st := ServiceStats{
		Ordered: p.clients.Ordered, Applied: p.applied, Answered: p.clients.Answered, Repeated: p.clients.Repeated,
		Refused: p.clients.Refused, Queries: p.clients.Queries,
		Events: p.events, EventsPushed: p.clients.EventsPushed, EventBytesPushed: p.clients.EventBytesPushed,
		HandoffsOut: p.handoffsOut, HandoffsFailed: p.handoffsFailed, HandoffsIn: p.handoffsIn, Failovers: p.failovers,
		Joins: p.joins, Removals: p.removals, Resent: p.resent,
		SnapshotsSent: p.snapshotsSent, SnapshotBytesSent: p.snapshotBytesSent,
		SnapshotsReceived: p.snapshotsReceived, SnapshotBytesReceived: p.snapshotBytesReceived,
		Sessions: p.machine.Sessions, Clients: clients, LogEntries: p.logEntries, LogBytes: p.logBytes,
		ReplyBytes: p.machine.ReplyBytes, EventBytes: p.machine.EventBytes,
		ActiveFor: since(p.activeAt), SuspendedFor: since(p.suspendedAt), Unapplied: p.unapplied,
	}
	if a := s.board.applierNow(); a != nil {
		_, st.Busy = a.Busy()
	}
	for _, l := range p.lags {
		st.Standbys = append(st.Standbys, StandbyStats{Host: l.Host, Lag: l.Entries, Unapplied: l.Unapplied, Silent: now - l.Heard})
	}
	return st
}

// show publishes what each batch may change. The board calls it with its lock held.
func (s *Service) show(st *Status, p *published) {
	c := s.core
	st.Commit, st.Last, st.Suspended, st.Clients = c.Commit(), c.Last(), c.Suspended(), s.clients.Len()

	p.counts, p.clients = s.counts, s.clients.Stats()
	p.handoffsOut, p.handoffsFailed = s.mover.out, s.mover.failed
	p.machine = machine.Usage{}
	if m := s.machine(); m != nil {
		p.machine = m.Usage()
	}
	p.logEntries, p.logBytes = c.LogSize()
	p.unapplied = int(c.Commit() - c.AppliedIndex())
	p.lags = c.Lags(p.lags[:0])
}

// counts are the counters of [ServiceStats] that the service itself keeps. They belong to the loop.
type counts struct {
	applied, events                          uint64
	handoffsIn, failovers                    uint64
	joins, removals                          uint64
	resent                                   uint64
	snapshotsSent, snapshotBytesSent         uint64
	snapshotsReceived, snapshotBytesReceived uint64

	activeAt, suspendedAt time.Duration // 0: not active, not suspended
}

// watch notes since when this host has been active and suspended.
func (n *counts) watch(c *core.Core, now func() time.Duration) {
	noteSince(&n.activeAt, c.Role().Active(), now)
	noteSince(&n.suspendedAt, c.Suspended(), now)
}

// noteSince updates at, the time since which a condition has been true; 0 means that it is false.
func noteSince(at *time.Duration, is bool, now func() time.Duration) {
	switch {
	case !is:
		*at = 0
	case *at == 0:
		*at = max(now(), 1)
	}
}

// term counts how this host became active. The first entry of the epoch marks a failover.
func (n *counts) term(c *core.Core, handedOver bool) {
	first, _ := c.EntryAt(c.EpochStart())
	switch {
	case handedOver:
		n.handoffsIn++
	case first.Low > 0:
		n.failovers++
	}
}

// members counts the members that the active host has added and removed between two records.
func (n *counts) members(old, rec *resolver.Record) {
	if old.Version == 0 || core.TermOf(*old) != core.TermOf(*rec) {
		return
	}
	n.joins += missingFrom(old.ISR, rec.ISR)
	n.removals += missingFrom(rec.ISR, old.ISR)
}

// missingFrom counts the members of b that are not in a.
func missingFrom(a, b []resolver.Host) (n uint64) {
	for _, h := range b {
		if !slices.ContainsFunc(a, h.Same) {
			n++
		}
	}
	return n
}
