//go:build unix

package main

import (
	"bufio"
	"encoding/gob"
	"io"
	"sync"
	"time"

	"github.com/roam-go/roam/migrate"
)

// The parent and a child exchange gobs on the child's standard input and output. The parent sends a setup, then orders. The
// child sends reports, the first when it is ready.

type setup struct {
	Role     string // "resolver", "host", "clients", "flood" or "beside"
	ID       string
	Dir      string // keys and files
	Service  string
	Listen   string
	Resolver string            // its address
	Via      map[string]string // address to dial instead of another
	Insecure bool
	Records  string // name of the resolver's file

	// Hosts.
	Create              bool // the service does not exist yet
	Newcomer            bool // calls Host until it succeeds
	Durable             bool // with a directory
	Standbys            int
	EventBytes, Ballast int
	Apply, Stall        time.Duration // of each command, and of one in a thousand besides
	Beside              bool          // with a second service

	// Clients. Writers and readers are numbered from First.
	First   uint32
	Writers int
	Idle    int     // clients that only follow the service
	Rate    float64 // commands a second, of all writers
}

type order struct {
	ID int
	// Op is "handoff", "state", "trap", "rate", "herd", "tries", "settle", "flood", "calm", "stick", "shutdown", "seen",
	// "reset", "unlisten" or "quit"
	Op      string
	Service string // for a host: the second one, or the main one if empty
	Target  string
	Rate    float64
	Batch   int
	Size    int
	Timeout time.Duration
}

// report reports one thing. The answer to an order has the ID of the order.
type report struct {
	ID  int
	Err string

	Ready  *readyReport
	Status *statusReport
	Move   *migrate.Report
	Acks   []ack
	Events []eventBatch
	Moves  []moved
	Wrong  string // violation seen by the child
	Note   string
	Alone  bool // Note says that only a person can decide, and how
	Caught bool // a host is in its trap
	Herd   *herdReport
	Leaks  *leakReport
	Done   map[uint32]uint32 // number of commands that each client has sent

	Flooded uint64 // number of acknowledged commands of the flood so far

	Busy   time.Duration // how long a call of a host's service has been running
	Stop   *stopReport
	Beside *besideReport
}

type readyReport struct {
	Addr string
	Inc  uint64 // of a host
	Took time.Duration
}

type statusReport struct {
	At     int64
	Role   migrate.Role
	Loss   uint64
	Epoch  uint64
	Active string
	ISR    []member
	Place  Place
	Susp   bool
}

// member is a host in the in-sync set.
type member struct {
	ID  string
	Inc uint64
}

// ack is an acknowledged command or an answered query. Times are Unix nanoseconds.
type ack struct {
	Ident         // Seq is 0 for a query
	Place         // for a query the latest place that it saw
	Epoch         uint32
	Invoked, Done int64
}

// eventBatch is a sequence of events that a client received, without a gap.
type eventBatch struct {
	Observer uint32
	First    uint64
	Gap      uint64 // the client got a gap from Gap to First-1
	Events   []event
}

// moved is a move that a client has seen.
type moved struct {
	Client  uint32
	At      int64
	Epoch   uint64
	Host    string
	Planned bool
	Pause   time.Duration
	Resent  int
}

// herdReport reports where a process's clients are attached.
type herdReport struct {
	Clients  int
	Attached int // clients attached to the host of the order
	Ended    int
	Tries    map[int]int // number of clients by number of dials since the last report
}

// leakReport compares the resources of a process at its start with those after it has closed everything.
type leakReport struct {
	Goroutines, Files             int
	GoroutinesBefore, FilesBefore int
	Stacks                        string
}

func (l *leakReport) leaked() bool {
	return l.Goroutines > l.GoroutinesBefore || l.Files > l.FilesBefore
}

// pipe sends gobs, without buffering. It is safe for concurrent use.
type pipe struct {
	mu  sync.Mutex // held while writing
	w   *bufio.Writer
	enc *gob.Encoder
}

func newPipe(w io.Writer) *pipe {
	b := bufio.NewWriter(w)
	return &pipe{w: b, enc: gob.NewEncoder(b)}
}

func (p *pipe) send(v any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.enc.Encode(v); err != nil {
		return err
	}
	return p.w.Flush()
}
