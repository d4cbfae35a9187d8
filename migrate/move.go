package migrate

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/replica"
	"github.com/roam-go/roam/migrate/internal/serve"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// mover hands the service over to another host. Except for busy, its fields belong to the loop.
type mover struct {
	*site
	replica *replica.Replica
	clients *serve.Clients

	busy        atomic.Bool // a caller waits for the end of a handoff
	current     *moveState  // nil: no handoff is in progress
	every       *time.Timer // of Policy.Every; nil: not started yet
	out, failed uint64      // the handoffs that ended with another host serving, and the others
}

// moveState is a handoff that this host has begun.
type moveState struct {
	report    Report
	began     time.Duration
	prepared  time.Duration // when clients were notified
	asked     time.Duration // when the target was asked to take over
	taken     bool
	abandoned string // why the caller no longer waits for the end
	insist    bool   // continue even if clients cannot reach the target
	missed    string // why the last such client cannot
	last      uint64 // the last index of the log at the start
	preparing bool
	waiting   int         // connected clients that have not connected to the target yet
	timer     *time.Timer // of the present stage; nil: none
	done      chan moveResult
}

type moveResult struct {
	report Report
	err    error
}

// failure returns the error of a handoff to the host with the ID to, if one was selected.
func (m *mover) failure(to, reason string) error {
	if to != "" {
		to = " to host " + to
	}
	return transport.Errorf(CodeTransferFailed, "migrate: service %s did not move from host %s%s: %s", m.name, m.node.self.ID, to, reason)
}

// begin starts a handoff. With insist, it does not matter whether clients can reach the target. It runs on the loop, like all
// functions below.
func (m *mover) begin(rep Report, insist bool, done chan moveResult) {
	now := m.node.now()
	if m.current != nil {
		done <- moveResult{rep, m.failure(rep.To.ID, "another handoff is under way")}
		return
	}
	m.current = &moveState{report: rep, insist: insist, began: now, last: m.replica.Core().Last(), done: done}
	m.replica.Step(core.Handoff{Target: rep.To})
}

// end gives the outcome to the caller.
func (m *mover) end(err error) {
	mv := m.current
	m.current = nil
	if mv.timer != nil {
		mv.timer.Stop()
	}
	if err == nil {
		m.out++
	} else {
		m.failed++
	}
	mv.done <- moveResult{mv.report, err}
}

// event tracks a handoff by the events of the core.
func (m *mover) event(ev core.MoveEvent) {
	mv := m.current
	if mv == nil {
		return
	}
	now := m.node.now()
	switch ev.Stage {
	case core.MoveInSync:
		mv.report.Join = now - mv.began
		m.prepare()
	case core.MoveTaken:
		mv.taken = true
		t := m.replica.Core().Term()
		mv.report.Loss, mv.report.Epoch = t.Loss, t.Epoch
		mv.report.Transfer = now - mv.asked
		mv.report.Commands = m.replica.Core().Last() - mv.last
		// The target reports when it serves. If it dies first, this host or another one takes over.
		m.awaitServing(mv)
		if mv.abandoned != "" {
			m.abandon(mv.abandoned)
		}
	case core.MoveServed:
		mv.report.Won, mv.report.Pause, mv.report.Applying = ev.Won, ev.Served, ev.Applying
		m.end(nil)
	case core.MoveFailed:
		m.end(m.failure(mv.report.To.ID, ev.Reason))
	}
}

// abandon gives up a handoff whose caller no longer waits. If the target has taken over, it continues there nevertheless.
func (m *mover) abandon(reason string) {
	m.replica.Step(core.Abandon{Reason: reason})
	if mv := m.current; mv != nil && mv.taken {
		m.end(m.failure(mv.report.To.ID, "it has taken over, but has not yet applied all entries committed before; "+reason))
	} else if mv != nil {
		mv.abandoned = reason
	}
}

// awaitServing ends a handoff whose target has won the record and has been silent since. A target that is heard is still
// applying committed entries, which may take any time.
func (m *mover) awaitServing(mv *moveState) {
	mv.timer = time.AfterFunc(2*m.node.cfg.FailureTimeout, func() {
		m.call(func() {
			switch {
			case m.current != mv:
			case m.replica.Core().Hears(mv.report.To):
				m.awaitServing(mv)
			default:
				m.end(m.failure(mv.report.To.ID, "it has taken over, but has not reported since that it serves"))
			}
		})
	})
}

// prepare asks the clients to connect to the target ahead, at random times within a spread that grows with their number. The move
// continues when all have connected, or when the spread has passed and no more clients connect.
func (m *mover) prepare() {
	mv := m.current
	if to := mv.report.To; !mv.insist && m.node.links.Unreachable(to) {
		m.replica.Step(core.Abandon{Reason: fmt.Sprintf("this host cannot connect to it at %s", to.Addr)})
		return
	}
	mv.prepared = m.node.now()
	mv.preparing = true
	last := m.replica.Core().Last()
	n, spread := m.clients.Prepare(mv.report.To, m.policy.Spread)
	mv.last += m.replica.Core().Last() - last // what it appends is not a command
	mv.report.Clients, mv.waiting = n, n
	if mv.report.Clients == 0 {
		m.transfer()
		return
	}
	mv.timer = time.AfterFunc(spread+max(wire.ReadyTimeout, m.node.cfg.FailureTimeout), func() {
		m.call(func() { m.prepared(mv, 0) })
	})
}

// maxPrepare limits the time that a move waits for clients that are still connecting ahead.
const maxPrepare = 20 * time.Second

// prepared continues the move if no further client has connected for FailureTimeout.
func (m *mover) prepared(mv *moveState, ready int) {
	if m.current != mv || !mv.preparing {
		return
	}
	if now := mv.report.Ready; now > ready && m.node.now()-mv.prepared < maxPrepare {
		mv.timer = time.AfterFunc(m.node.cfg.FailureTimeout, func() { m.call(func() { m.prepared(mv, now) }) })
		return
	}
	m.transfer()
}

// ready counts a client that has answered the request to connect to the target, or has disconnected.
func (m *mover) ready(r serve.Readiness, reason string) {
	mv := m.current
	if mv == nil || !mv.preparing {
		return
	}
	switch r {
	case serve.Connected:
		mv.report.Ready++
	case serve.Unreachable:
		mv.report.Unreachable++
		mv.missed = reason
	}
	if mv.waiting--; mv.waiting <= 0 {
		m.transfer()
	}
}

// transfer asks the target to take over, unless clients cannot reach it.
func (m *mover) transfer() {
	mv := m.current
	mv.preparing = false
	if mv.timer != nil {
		mv.timer.Stop()
	}
	if n := mv.report.Unreachable; n > 0 && !mv.insist {
		m.replica.Step(core.Abandon{Reason: fmt.Sprintf("%d of %d clients cannot connect to it at %s (%q)", n, mv.report.Clients,
			mv.report.To.Addr, mv.missed)})
		return
	}
	mv.asked = m.node.now()
	mv.report.Prepare = mv.asked - mv.prepared
	m.replica.Step(core.Transfer{})
}

// sent notes the size of a snapshot that another host has fetched.
func (m *mover) sent(to resolver.Host, bytes int64) {
	if m.current != nil && m.current.report.To.Same(to) {
		m.current.report.Bytes = bytes
	}
}

// startEvery starts the timer of Policy.Every, which calls turn.
func (m *mover) startEvery(turn func()) {
	if m.every == nil {
		m.every = time.AfterFunc(m.policy.Every, turn)
	} else {
		m.every.Reset(m.policy.Every)
	}
}

// stopEvery stops the timer of Policy.Every.
func (m *mover) stopEvery() {
	if m.every != nil {
		m.every.Stop()
	}
}
