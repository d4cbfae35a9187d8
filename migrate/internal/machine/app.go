package machine

import (
	"errors"
	"io"
	"time"

	"github.com/roam-go/roam/transport"
)

// App is the user's service. A [Machine] calls it from the applier, one call at a time. Package migrate adapts the user's
// type to it; the last four methods are optional there.
type App interface {
	// Apply executes a committed command and returns the reply for its client.
	Apply(cmd Command) ([]byte, error)
	// Snapshot captures the state.
	Snapshot() (Snapshot, error)
	// Restore fills a new instance from the output of Snapshot.WriteTo.
	Restore(r io.Reader) error

	// Query answers a question without changing the state. It returns [ErrNoQuery] if the service answers none.
	Query(q Query) ([]byte, error)
	// Validate returns an error for a command that must not be ordered.
	Validate(cmd Command) error
	// SessionClosed reports the end of session cmd.Session, in the order of the log.
	SessionClosed(cmd Command)
	// Hash returns the hash of the state; ok is false if the service has none.
	Hash() (sum uint64, ok bool)
}

// ErrNoQuery is returned by [App].Query if the service answers no queries.
var ErrNoQuery = errors.New("no queries")

// Snapshot is a captured state. WriteTo is called at most once, on any goroutine and while later calls of the App run;
// Release is called exactly once, after it or instead of it.
type Snapshot interface {
	io.WriterTo
	Release()
}

// Command is an entry of the log as the service sees it.
type Command struct {
	Index, Epoch uint64        // its place in the log
	Time         time.Time     // log time, in UTC
	Session, Seq uint64        // the client's session, and the number of the command in it
	Key          transport.Key // the key of the session's client
	Body         []byte        // as sent by the client

	// Emit publishes an event. It may be called only during Apply and SessionClosed; it panics elsewhere, except that it
	// does nothing during Validate.
	Emit func(body []byte)
}

// Query is a question as the service sees it.
type Query struct {
	Session uint64        // the client's session; 0: none
	Key     transport.Key // the key of the client
	Time    time.Time     // log time of the state that answers, in UTC
	Body    []byte        // as sent by the client
}

func discard([]byte) {}
