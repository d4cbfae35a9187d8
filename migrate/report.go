package migrate

import (
	"log/slog"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

// Report tells how a handoff went. Times that were not reached are 0.
type Report struct {
	// Service moves From one host To another.
	Service  string
	From, To resolver.Host
	// Cause is "timer", "demand" or "shutdown".
	Cause string
	// Loss and Epoch are the term that began with the move.
	Loss, Epoch uint64
	// Began is when the handoff was asked for.
	Began time.Time

	// Join is how long it took until the target was in sync: 0 if it was a standby before. The service goes on meanwhile.
	Join time.Duration
	// Prepare is how long clients were given to connect to the target ahead. The service goes on meanwhile.
	Prepare time.Duration
	// Transfer is the time from the request to take over until this host learned that it had happened; Won is the part
	// of it, on the target's clock, until the target had won the record. The service goes on until then.
	Transfer, Won time.Duration
	// Pause is the time, on the target's clock, from winning the record until it served: no command was committed
	// meanwhile. To it a client adds its own way to the target, see [Move.Pause].
	Pause time.Duration
	// Applying is the part of Pause in which the target applied what was committed before: a service that is slow to apply
	// serves only when it has caught up.
	Applying time.Duration

	// Bytes is the size of the snapshot that was sent, 0 if none was needed.
	Bytes int64
	// Commands is the number of entries ordered by the old host while the handoff was under way.
	Commands uint64
	// Clients is the number of clients connected to the old host, Ready how many of them were connected to the target ahead.
	Clients, Ready int
}

// LogValue implements [slog.LogValuer].
func (r Report) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("service", r.Service), slog.String("from", r.From.ID), slog.String("to", r.To.ID),
		slog.String("cause", r.Cause), slog.Uint64("epoch", r.Epoch),
		slog.Duration("join", r.Join), slog.Duration("prepare", r.Prepare), slog.Duration("transfer", r.Transfer),
		slog.Duration("pause", r.Pause), slog.Int64("bytes", r.Bytes), slog.Uint64("commands", r.Commands),
		slog.Int("clients", r.Clients), slog.Int("ready", r.Ready),
	)
}

// Role is what a host is for a service.
type Role string

// The roles.
const (
	Latent     Role = "latent"     // holds no copy, but could
	Joining    Role = "joining"    // fetches a copy
	Standby    Role = "standby"    // in the in-sync set: holds every acknowledged command
	Recovering Role = "recovering" // active, and about to serve
	Active     Role = "active"     // serves
	Halted     Role = "halted"     // stopped itself, or does not take over, because something was wrong: see [Hooks].Failed
)

func roleOf(r core.Role) Role {
	return [...]Role{Latent, Joining, Standby, Recovering, Active}[r]
}

// Status describes a service on this node.
type Status struct {
	// Service is its name, and Role what this host is for it.
	Service string
	Role    Role
	// Record is the newest record that this node knows; its Version is 0 if it knows none.
	Record resolver.Record
	// Commit is the index of the last committed entry here, Last that of the last entry, and Applied that of the last one that
	// the service has applied.
	Commit, Last, Applied uint64
	// Busy is for how long the service's own code (Apply, Query, Snapshot, Validate) has been in its present call; 0 if none
	// runs. The entry that it applies, if any, is Applied+1.
	Busy time.Duration
	// Suspended is true while an active host commits nothing because a standby does not keep up, or because fewer hosts are
	// in sync than [Policy.MinInSync].
	Suspended bool
	// Clients is the number of clients connected here.
	Clients int
}
