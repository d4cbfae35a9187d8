package migrate

import (
	"io"
	"time"

	"github.com/roam-go/roam/transport"
)

// Migratable is a service that roams: a deterministic state machine, as for replicated-state-machine libraries.
//
// Equal commands in equal order must give equal states, replies and events on every host: Apply reads no clock (use
// [Command.Time]), draws no random numbers, and does not depend on the order of a map. Methods are called one at
// a time, on whatever goroutine; only a [Snapshot] that was returned is written concurrently with later calls. Package
// migratetest tests an implementation.
//
// A service may also implement [Querier], [Validator], [SessionCloser] and [Hasher].
type Migratable interface {
	// Apply executes a committed command and returns the reply for its client. An error is a reply, too: it is replicated
	// and the client gets it, as an [*transport.Error] with its code if it is one. Apply may keep cmd.Body,
	// and must not change it; the reply belongs to the library from then on.
	//
	// If Apply panics the service goes on with what it had changed by then, the same on every host, without the events that
	// it had emitted, and the client gets [ErrPanic]. A reply, or an event, over 1 MiB less 4 KiB is dropped alone: the
	// client gets [ErrReplyGone].
	Apply(cmd Command) ([]byte, error)

	// Snapshot captures the state at this point in time. It must be cheap (microseconds to a few milliseconds, whatever
	// the size of the state), because nothing is applied meanwhile; the capture is written while Apply goes on. Equal states
	// need not give equal bytes: hosts compare hashes, never snapshots.
	Snapshot() (Snapshot, error)

	// Restore fills the state from what Snapshot.WriteTo wrote. It is called at most once, on a new instance, before
	// anything else. It must read to io.EOF and return any other error of r: only at io.EOF are the bytes known to be
	// whole. After an error the instance is dropped.
	Restore(r io.Reader) error
}

// Snapshot is a captured state. WriteTo is called at most once, on any goroutine, while the service goes on; Release is
// called exactly once, after it or instead of it.
type Snapshot interface {
	io.WriterTo
	Release()
}

// Querier answers questions without changing the state. Query sees every command acknowledged before it was asked.
type Querier interface {
	Query(q []byte) ([]byte, error)
}

// ConcurrentQuerier is a [Querier] whose Query may run beside all other methods, and beside itself: it waits for no Apply that
// began after it was asked. The service guards its own state.
type ConcurrentQuerier interface {
	Querier
	// ConcurrentQueries is never called; it tells that Query is safe for concurrent use.
	ConcurrentQueries()
}

// Validator refuses a command before it is ordered, on the active host only: a refused command never reaches Apply, and
// its client gets the error. Validate sees the state as it is then, possibly before earlier commands are applied, and must
// not change it.
type Validator interface {
	Validate(cmd Command) error
}

// SessionCloser learns that a session has ended: closed by its client, or expired because the client was away for longer
// than [Policy.SessionTimeout]. It is called in log order like Apply and may emit events. cmd has no Body and no Seq.
type SessionCloser interface {
	// SessionClosed is told the session in cmd.Session.
	SessionClosed(cmd Command)
}

// Hasher lets hosts find out that their states differ, which a service that is not deterministic would otherwise hide.
// Hash is called on every host at the same places in the log, every few thousand entries; equal states must have equal
// hashes. It must be cheap, because nothing is applied meanwhile: a sum that Apply keeps up to date, say. Without it
// only replies, errors and events are compared. A host whose hash differs from the active host's is made to take a
// fresh copy.
type Hasher interface {
	Hash() uint64
}

// Command is one entry of a service's log as Apply sees it.
type Command struct {
	// Index is the command's place in the log: it grows, not always by one.
	Index uint64
	// Epoch is the epoch in which it was ordered.
	Epoch uint64
	// Time is the log's time in Unix milliseconds precision: the active host's clock when it ordered the command, never
	// before the time of an earlier command.
	Time time.Time
	// Session identifies the client's session, and Seq the command in it, from 1.
	Session, Seq uint64
	// Key is the key that the client proved when it opened the session; zero where the transport proves none.
	Key transport.Key
	// Body is what the client sent.
	Body []byte

	emit func(body []byte)
}

// NewCommand makes a command for a test of a [Migratable]; emit receives what the service emits.
func NewCommand(cmd Command, emit func(body []byte)) Command {
	cmd.emit = emit
	return cmd
}

// Emit publishes an event to every client that listens ([Client.Events]). Events are numbered from 1 without a gap, and
// are part of the state: every host holds the latest ones, so that a client resumes where it stopped. It may be called
// only during Apply and SessionClosed; body belongs to the library from then on.
func (c Command) Emit(body []byte) {
	if c.emit != nil {
		c.emit(body)
	}
}
