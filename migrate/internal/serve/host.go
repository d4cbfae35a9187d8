package serve

import (
	"log/slog"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/resolver"
)

// Host is the owner of [Clients], a service on a host. Clients calls its methods on the service's loop.
type Host interface {
	// Config returns the configuration. It is not stored in Clients because an idle service must stay small.
	Config() Config
	// Now returns the time on the clock of the core.
	Now() time.Duration

	// Core returns the state of the protocol. Clients only reads it.
	Core() *core.Core
	// Machine returns the copy of the service; nil if there is none. An active host has one.
	Machine() *machine.Machine
	// Step passes an event to the core.
	Step(core.Event)
	// Propose appends an entry to the log. It returns false if the log is full.
	Propose(core.Entry) bool
	// Later calls f by the applier, after everything committed so far is applied, and reports whether there is a copy.
	Later(f func(*machine.Machine)) bool

	// Post calls f on the loop. Any goroutine may call it.
	Post(f func())
	// Go calls f on another goroutine; f does not block.
	Go(f func())
	// Spawn calls f on another goroutine; f calls the service's code and may block.
	Spawn(f func())

	// NotActive returns the error for a request to a host that is not active. rec is the newest record known.
	NotActive(rec resolver.Record) error
	// Suspended returns an error if the active host has acknowledged nothing for a while because it lacks others.
	Suspended() error
	// Validates reports whether the service validates commands before they are ordered.
	Validates() bool
	// ConcurrentQueries reports whether the service allows queries during Apply.
	ConcurrentQueries() bool
	// PublicQueries reports whether the service answers queries without a session.
	PublicQueries() bool
	// Ready is called during a move, at most once for each client that [Clients.Prepare] counted. reason is that of a client
	// that cannot reach the next host.
	Ready(r Readiness, reason string)
}

// Readiness is what became of a client's connection to the next host.
type Readiness uint8

// The outcomes.
const (
	Connected   Readiness = iota // it is up
	Gone                         // the client has disconnected from this host
	Unreachable                  // the client could not connect
)

// Config describes the service and its host.
type Config struct {
	Service, HostID string
	// SessionTimeout is the time after which the session of a disconnected client ends.
	SessionTimeout time.Duration
	// FailureTimeout is the time after which a silent host counts as dead.
	FailureTimeout time.Duration
	Log            *slog.Logger
}

// Stats are counters that only grow.
type Stats struct {
	Ordered  uint64 // commands appended to the log
	Answered uint64 // requests for a command answered with its reply
	Repeated uint64 // requests for a command that was in the log already
	Refused  uint64 // requests for a command answered without its reply
	Queries  uint64 // queries answered

	EventsPushed, EventBytesPushed uint64 // events sent to listeners, and the bytes of their messages
}

// Usage is the number of things that [Clients] remembers.
type Usage struct {
	Sessions    int // attached sessions
	Connections int // connections that carry an attached session
	Parked      int // connections made ahead of a move to this host
	Ahead       int // connections whose client has seen a higher term

	Commands, Queries, Opens int // commands, queries and opening sessions without an answer
}
