package migrate

import (
	"io"
	"time"

	"github.com/roam-go/roam/transport"
)

// Migratable is a service that can move: a deterministic state machine, as in libraries for replicated state machines.
//
// Equal commands in equal order must produce equal states, replies and events on every host. Apply must not read a clock
// (use [Command.Time]), draw random numbers, or depend on map iteration order. Side effects in Apply happen on every host.
// Package migratetest tests an implementation.
//
// Each copy of a service has an applier, which calls the methods one at a time, but not always on the same goroutine. Only a
// returned [Snapshot] is written concurrently with later calls, and a [ConcurrentQuerier] answers queries concurrently. A
// call may take any time. Meanwhile its host remains active or in sync: it sends heartbeats, acknowledges entries to other
// hosts and orders commands, and other services are not affected. The clients of the service wait for their replies. If too
// many committed entries wait to be applied, the active host orders no more and clients are held back: it asks them to
// retry. A standby that is too far behind is removed from the in-sync set. [Hooks].Failed reports a call that has not
// returned after 5 s, with [ErrBusy].
//
// A [Client] must not be used inside Apply, because the service would wait for itself: Do and Query return [ErrForbidden].
//
// A service may also implement [Querier], [ConcurrentQuerier], [PublicQuerier], [Validator], [SessionCloser] and [Hasher].
type Migratable interface {
	// Apply executes a committed command and returns the reply for its client. An error is a reply, too: it is replicated,
	// and the client receives it, as an [*transport.Error] with its code if it is one. Apply may keep cmd.Body but must not
	// change it. The reply then belongs to the library.
	//
	// If Apply panics, the service continues with the changes made until then, which are the same on every host, without the
	// events emitted by that call, and the client receives [ErrPanic]. A reply or an event above 1 MiB less 4 KiB is dropped,
	// but the command counts as executed: for a dropped reply, the client receives [ErrReplyGone].
	Apply(cmd Command) ([]byte, error)

	// Snapshot captures the state at this point in time. It should be cheap (microseconds to a few milliseconds for any size
	// of the state), because nothing is applied meanwhile. The capture is written while Apply continues. Equal states need not
	// produce equal bytes: hosts compare hashes, never snapshots.
	Snapshot() (Snapshot, error)

	// Restore reads the state that Snapshot.WriteTo wrote. It is called at most once, on a new instance, before any other
	// method. It must read to io.EOF and return any other error of r; data before io.EOF is unverified. After an error the
	// instance is dropped.
	Restore(r io.Reader) error
}

// Snapshot is a captured state. WriteTo is called at most once, on any goroutine, while the service continues. Release is
// called exactly once, after WriteTo or instead of it.
type Snapshot interface {
	io.WriterTo
	Release()
}

// Querier answers queries of clients with an open session, without changing the state; see also [PublicQuerier]. Query sees
// every command acknowledged before the query was sent. It is called by the applier and therefore waits for an Apply in
// progress; see [ConcurrentQuerier].
type Querier interface {
	// Query returns the answer for the client that asks. The answer may depend on q.Key, for example to show a card to its
	// owner only. An error reaches the client as that of Apply does. Query may keep q.Body but must not change it. The answer
	// then belongs to the library.
	Query(q Query) ([]byte, error)
}

// Query is a query as a service sees it.
type Query struct {
	// Session identifies the client's session. It is 0 for a query without one; see [PublicQuerier].
	Session uint64
	// Key is the key that the client has proved, or zero if the transport proves none.
	Key transport.Key
	// Time is the log time of the state that answers: that of the latest entry applied. It does not advance while no entry is
	// ordered.
	Time time.Time
	// Body holds the bytes that the client sent.
	Body []byte
}

// ConcurrentQuerier is a [Querier] whose Query may run concurrently with all other methods and with itself. It does not wait
// for an Apply that began after the query was sent. The service must synchronize access to its state.
type ConcurrentQuerier interface {
	Querier
	// ConcurrentQueries is never called. It marks Query as safe for concurrent use.
	ConcurrentQueries()
}

// PublicQuerier is a [Querier] with public data: it also answers queries without a session. A [Client] opens a session in any
// case, so this is for other programs that speak the protocol.
type PublicQuerier interface {
	Querier
	// PublicQueries is never called. It marks the answers of Query as public.
	PublicQueries()
}

// Validator refuses commands before they are ordered, on the active host only. A refused command never reaches Apply, and
// its client receives the error. Validate sees the current state, possibly before earlier commands are applied, and must not
// change it.
type Validator interface {
	Validate(cmd Command) error
}

// SessionCloser is notified when a session ends: its client closed it, or it expired because the client was disconnected for
// longer than [Policy.SessionTimeout], or a new session evicted it. SessionClosed is called in log order like Apply and may
// emit events. cmd has no Body and no Seq.
type SessionCloser interface {
	// SessionClosed is called after the session cmd.Session has ended.
	SessionClosed(cmd Command)
}

// Hasher lets hosts detect that their states differ, which a nondeterministic service could otherwise hide. Hash is called
// on every host at the same places in the log, every few thousand entries. Equal states must have equal hashes. Hash should
// be cheap, because nothing is applied meanwhile: for example, it returns a sum that Apply maintains. Without a Hasher,
// hosts compare only replies, errors and events. A standby whose hash differs from the active host's fetches a fresh copy.
type Hasher interface {
	Hash() uint64
}

// Command is one entry of a service's log as Apply sees it.
type Command struct {
	// Index is the command's place in the log. It increases, not always by one.
	Index uint64
	// Epoch is the epoch in which the command was ordered: a fencing token for external systems.
	Epoch uint64
	// Time is the log time, with a precision of milliseconds, never before the time of an earlier command. It is the
	// wall clock that most hosts of the in-sync set agree on, within 2 s; a host alone has only its own. Across a move
	// it continues by the new active host's monotonic clock, so that a wrong wall clock does not change it, and
	// [Hooks].Failed reports that clock. If log time is ahead of most clocks, it passes at half speed until they have
	// caught up.
	Time time.Time
	// Session identifies the client's session. Seq numbers the session's commands from 1.
	Session, Seq uint64
	// Key is the key that the client proved when it opened the session, or zero if the transport proves none.
	Key transport.Key
	// Body holds the bytes that the client sent.
	Body []byte

	emit func(body []byte)
}

// NewCommand returns a copy of cmd for a test of a [Migratable]. emit receives the events that the service emits.
func NewCommand(cmd Command, emit func(body []byte)) Command {
	cmd.emit = emit
	return cmd
}

// Emit publishes an event to every listening client ([Client.Events]). Events are numbered from 1 without a gap and are part
// of the state: every host holds the latest ones, so that a client resumes where it stopped. Emit may be called only during
// Apply and SessionClosed. body then belongs to the library.
func (c Command) Emit(body []byte) {
	if c.emit != nil {
		c.emit(body)
	}
}
