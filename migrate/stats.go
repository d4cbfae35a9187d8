package migrate

import (
	"slices"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

// ServiceStats says what a service has done on this node, and what it holds. Counters begin at 0 when the service is added
// to the node and only grow, so that a program can export them as they are, with package expvar for instance. They are of this
// node alone: after a move the next host goes on with its own.
type ServiceStats struct {
	// Ordered is the number of commands to which this host, being active, gave a place in the log.
	Ordered uint64
	// Applied is the number of committed entries applied here, as the active host or as a standby: commands, sessions
	// opened and closed, and what the library orders itself.
	Applied uint64
	// Answered is the number of requests answered with a command's reply. Repeated counts the requests for a command that
	// had its place in the log already: a client sent it again, and it was executed once.
	Answered, Repeated uint64
	// Refused is the number of requests for a command that were answered without a reply: this host was not active or had
	// just ceased to be, the log was full, the session had expired, or the command was too large or not the next one.
	Refused uint64
	// Queries is the number of queries answered.
	Queries uint64
	// Events is the number of events that the entries in Applied emitted.
	Events uint64
	// EventsPushed is the number of events sent to listeners, each counted for each listener, and EventBytesPushed the bytes
	// of the messages that they were sent in.
	EventsPushed, EventBytesPushed uint64

	// HandoffsOut is the number of handoffs from this host after which another served, and HandoffsFailed that of the others
	// that it began.
	HandoffsOut, HandoffsFailed uint64
	// HandoffsIn and Failovers are how often this host became active: by a handoff, and because the active host was silent or
	// had restarted. To create or to reset a service counts as neither.
	HandoffsIn, Failovers uint64
	// Joins and Removals are how often a host was added to and removed from the in-sync set while this one was active. A host
	// that is lost with the term that it was active in is not counted as removed.
	Joins, Removals uint64
	// Resent is the number of entries that this host, being active, had to send to another once more, because they did not
	// arrive or the connection was lost.
	Resent uint64
	// SnapshotsSent and SnapshotsReceived count the snapshots that were completed, SnapshotBytesSent and
	// SnapshotBytesReceived their bytes.
	SnapshotsSent, SnapshotBytesSent         uint64
	SnapshotsReceived, SnapshotBytesReceived uint64

	// The rest are gauges. Sessions is the number of sessions in the state, Clients that of those connected here.
	Sessions, Clients int
	// LogEntries and LogBytes are the part of the log kept in memory. ReplyBytes and EventBytes are the memory of the replies
	// and of the events kept for clients that ask again.
	LogEntries, LogBytes, ReplyBytes, EventBytes int
	// ActiveFor is how long this host has been active, and SuspendedFor how long it has committed nothing for the reasons
	// given at [Status].Suspended. 0: it is not.
	ActiveFor, SuspendedFor time.Duration
	// Unapplied is the number of committed entries that the service has not applied here, and Busy for how long its own code has
	// been in its present call; 0 if none runs.
	Unapplied int
	Busy      time.Duration
	// Standbys are the other members of the in-sync set, by ID. Only the active host knows them.
	Standbys []StandbyStats
}

// StandbyStats says how far a standby is behind the active host.
type StandbyStats struct {
	// Host is its ID.
	Host string
	// Lag is the number of entries that it has not acknowledged, and Unapplied the number of those that its service has not
	// applied, though the active host has.
	Lag, Unapplied uint64
	// Silent is how long ago it was last heard: up to a heartbeat if all is well.
	Silent time.Duration
}

// stats is [ServiceStats] as the loop keeps it, with times of the node's clock instead of durations.
type stats struct {
	ServiceStats
	activeAt, suspendedAt time.Duration // 0: it is not
	lags                  []core.Lag
}

// Stats returns counters and gauges as of the end of what the service has last done here: what a reply tells of may be missing
// for a moment. It waits for nothing. What a service has counted can still be read when it is no longer on the node.
func (s *Service) Stats() ServiceStats {
	s.mu.Lock()
	st := s.published
	lags := slices.Clone(st.lags)
	if s.stopped {
		st.activeAt, st.suspendedAt, lags = 0, 0, nil
	}
	applier := s.applier
	s.mu.Unlock()
	if applier != nil {
		_, st.Busy = applier.Busy()
	}
	now := s.node.now()
	since := func(at time.Duration) time.Duration {
		if at == 0 {
			return 0
		}
		return now - at
	}
	st.ActiveFor, st.SuspendedFor = since(st.activeAt), since(st.suspendedAt)
	for _, l := range lags {
		st.Standbys = append(st.Standbys, StandbyStats{Host: l.Host, Lag: l.Entries, Unapplied: l.Unapplied, Silent: now - l.Heard})
	}
	return st.ServiceStats
}

// publishStats makes what the loop has counted visible to other goroutines. s.mu is held.
func (s *Service) publishStats() {
	n := &s.stats
	c := s.clients.Stats()
	n.Ordered, n.Answered, n.Repeated, n.Refused, n.Queries = c.Ordered, c.Answered, c.Repeated, c.Refused, c.Queries
	n.EventsPushed, n.EventBytesPushed = c.EventsPushed, c.EventBytesPushed
	n.Clients = s.clients.Len()
	n.LogEntries, n.LogBytes = s.core.LogSize()
	n.Unapplied = int(s.core.Commit() - s.core.AppliedIndex())
	n.Sessions, n.ReplyBytes, n.EventBytes = 0, 0, 0
	if m := s.machine(); m != nil {
		u := m.Usage()
		n.Sessions, n.ReplyBytes, n.EventBytes = u.Sessions, u.ReplyBytes, u.EventBytes
	}
	n.activeAt = s.sinceWhen(n.activeAt, s.core.Role().Active())
	n.suspendedAt = s.sinceWhen(n.suspendedAt, s.core.Suspended())
	lags := s.published.lags[:0]
	s.published = *n
	s.published.lags = s.core.Lags(lags)
}

// sinceWhen is at, the time since when something is the case, brought up to date.
func (s *Service) sinceWhen(at time.Duration, is bool) time.Duration {
	switch {
	case !is:
		return 0
	case at == 0:
		return max(s.node.now(), 1)
	}
	return at
}

// countTerm counts how this host became active. The first entry of the epoch shows a failover.
func (s *Service) countTerm(handedOver bool) {
	first, _ := s.core.EntryAt(s.core.EpochStart())
	switch {
	case handedOver:
		s.stats.HandoffsIn++
	case first.Low > 0:
		s.stats.Failovers++
	}
}

// countMembers counts who came and went between two records.
func (s *Service) countMembers(old, rec *resolver.Record) {
	if old.Version == 0 || core.TermOf(*old) != core.TermOf(*rec) || !rec.Active.Same(s.node.self) {
		return
	}
	s.stats.Joins += missingFrom(old.ISR, rec.ISR)
	s.stats.Removals += missingFrom(rec.ISR, old.ISR)
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
