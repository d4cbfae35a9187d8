package migrate

import (
	"log/slog"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

// Cause is the reason for a handoff.
type Cause string

// The causes of a handoff.
const (
	CauseTimer       Cause = "timer"       // Policy.Every has passed
	CauseDemand      Cause = "demand"      // Service.Handoff
	CauseShutdown    Cause = "shutdown"    // Service.Leave or Node.Shutdown
	CauseUnreachable Cause = "unreachable" // another host that holds a copy cannot connect to this one
)

// Report describes a handoff. The durations of steps that were not reached are 0.
type Report struct {
	// Service is the service's name, From the old host, and To the new one.
	Service  string
	From, To resolver.Host
	// Cause is the reason for the handoff.
	Cause Cause
	// Loss and Epoch are the term that began with the move.
	Loss, Epoch uint64
	// Began is when the handoff was requested.
	Began time.Time

	// Join is how long it took until the target was in sync; about 0 if it was a standby before. The service continues
	// meanwhile.
	Join time.Duration
	// Prepare is the time given to clients to connect to the target ahead. The service continues meanwhile.
	Prepare time.Duration
	// Transfer is the time from the request to take over until this host learned that the target had taken over. Won is the
	// part of it, on the target's clock, until the target had won the record. The service continues until then.
	Transfer, Won time.Duration
	// Pause is the time, on the target's clock, from winning the record until the target served. No command was committed
	// meanwhile. To a client, the pause is longer by its latency to the target; see [Move.Pause].
	Pause time.Duration
	// Applying is the part of Pause in which the target applied the entries committed before: a new active host serves only
	// once it has applied all of that.
	Applying time.Duration

	// Bytes is the size of the snapshot that was sent, or 0 if none was needed.
	Bytes int64
	// Commands is the number of entries that the old host ordered during the handoff.
	Commands uint64
	// Clients is the number of clients connected to the old host. Ready is the number of them that connected to the target
	// ahead, and Unreachable the number of those that reported that they could not.
	Clients, Ready, Unreachable int
}

// LogValue implements [slog.LogValuer].
func (r Report) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("service", r.Service), slog.String("from", r.From.ID), slog.String("to", r.To.ID),
		slog.String("cause", string(r.Cause)), slog.Uint64("epoch", r.Epoch),
		slog.Duration("join", r.Join), slog.Duration("prepare", r.Prepare), slog.Duration("transfer", r.Transfer),
		slog.Duration("pause", r.Pause), slog.Int64("bytes", r.Bytes), slog.Uint64("commands", r.Commands),
		slog.Int("clients", r.Clients), slog.Int("ready", r.Ready), slog.Int("unreachable", r.Unreachable),
	)
}

// Role is the role of a host for a service.
type Role string

// The roles.
const (
	Latent     Role = "latent"     // holds no copy, but can fetch one
	Joining    Role = "joining"    // fetches a copy
	Standby    Role = "standby"    // in the in-sync set: holds every acknowledged command
	Recovering Role = "recovering" // active, but does not serve yet
	Active     Role = "active"     // serves
	Halted     Role = "halted"     // stopped itself or does not take over, after a failure that [Hooks].Failed reported
)

func roleOf(r core.Role) Role {
	return [...]Role{Latent, Joining, Standby, Recovering, Active}[r]
}

// Status describes a service on this node.
type Status struct {
	// Service is its name, and Role the role of this host.
	Service string
	Role    Role
	// Record is the newest record that this node knows. Its Version is 0 if the node knows none.
	Record resolver.Record
	// Commit, Last and Applied are indexes in this host's log: of the last committed entry, the last entry, and the last entry
	// that the service has applied.
	Commit, Last, Applied uint64
	// Busy is how long the current call of the service's own code (Apply, Query, Snapshot or Validate) has been running, or 0
	// if none is. If the call is Apply, its entry is Applied+1.
	Busy time.Duration
	// Suspended is true while an active host commits nothing because a standby does not keep up, or because fewer hosts are
	// in sync than [Policy.MinInSync].
	Suspended bool
	// Clients is the number of clients connected to this host.
	Clients int
}
