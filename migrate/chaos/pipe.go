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

// What the parent and a child say to one another, as gobs on the child's standard input and output. The first thing that
// the parent sends is a setup, then orders; the child sends reports, the first when it is ready.

type setup struct {
	Role     string // "resolver", "host", "clients" or "flood"
	ID       string
	Dir      string // keys and files
	Service  string
	Listen   string
	Resolver string            // its address
	Via      map[string]string // what to dial instead of an address
	Insecure bool

	// Hosts.
	Create              bool // the service does not exist yet
	Durable             bool // keep what is acknowledged on disk
	Standbys            int
	EventBytes, Ballast int

	// Clients. Writers and readers are numbered from First.
	First   uint32
	Writers int
	Idle    int     // clients that only listen to what moves
	Rate    float64 // commands a second, of all writers
}

type order struct {
	ID      int
	Op      string // "handoff", "state", "trap", "rate", "herd", "tries", "settle", "flood", "calm" or "quit"
	Target  string
	Rate    float64
	Batch   int
	Size    int
	Timeout time.Duration
}

// report says one thing; those that answer an order have its ID.
type report struct {
	ID  int
	Err string

	Ready  *readyReport
	Status *statusReport
	Move   *migrate.Report
	Acks   []ack
	Events []eventBatch
	Moves  []moved
	Wrong  string // something that must not happen, seen by the child
	Note   string
	Caught bool // a host is in its trap
	Herd   *herdReport
	Leaks  *leakReport
	Done   map[uint32]uint32 // how many commands each client has sent

	Flooded uint64 // how many commands of a flood were acknowledged so far
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

// ack is a command that was acknowledged, or a query that was answered. Times are Unix nanoseconds.
type ack struct {
	Ident         // Seq is 0 for a query
	Place         // for a query the latest that it saw
	Epoch         uint32
	Invoked, Done int64
}

// eventBatch is what a client saw of the events, without a gap.
type eventBatch struct {
	Observer uint32
	First    uint64
	Gap      uint64 // the events from Gap to First-1 were said to be gone
	Events   []event
}

// moved is what a client was told of a move.
type moved struct {
	Client  uint32
	At      int64
	Epoch   uint64
	Host    string
	Planned bool
	Pause   time.Duration
	Resent  int
}

// herdReport says where a process's clients are.
type herdReport struct {
	Clients  int
	Attached int // clients at the host that the order named
	Ended    int
	Tries    map[int]int // how many clients have dialled so often since that was last asked
}

// leakReport compares a process before it did anything with how it is after it has closed everything.
type leakReport struct {
	Goroutines, Files             int
	GoroutinesBefore, FilesBefore int
	Stacks                        string
}

func (l *leakReport) leaked() bool {
	return l.Goroutines > l.GoroutinesBefore || l.Files > l.FilesBefore
}

// pipe sends gobs from many goroutines. What is sent is seen by the other side at once.
type pipe struct {
	mu  sync.Mutex // held while writing, which is what it is for
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
