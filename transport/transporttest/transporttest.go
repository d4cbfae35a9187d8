// Package transporttest is the conformance suite for implementations of transport.Transport.
//
//	func TestMyTransport(t *testing.T) {
//		transporttest.Run(t, func(t *testing.T) transporttest.Pair {
//			return transporttest.Pair{Listener: newMine(t), Dialer: newMine(t), Addr: "127.0.0.1:0"}
//		})
//	}
//
// A failure names the rule that the implementation breaks.
package transporttest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/roam-go/roam/transport"
)

// Pair is two transports that can reach each other. Each check uses a new pair, which t.Cleanup closes.
type Pair struct {
	// Listener listens at Addr, at any free port, and Dialer dials it.
	Listener, Dialer transport.Transport
	Addr             string

	// MaxMessage is the largest message in bytes that the transports carry. It defaults to 1 MiB.
	MaxMessage int
}

// Run checks each rule in a subtest with a new pair.
func Run(t *testing.T, newPair func(t *testing.T) Pair) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			c.run(t, newPair(t), 10*time.Second)
		})
	}
}

// tb is the part of testing.TB that a check uses, so that the checks can be tested.
type tb interface {
	Helper()
	Context() context.Context
	Fatalf(format string, args ...any)
	Cleanup(func())
}

type check struct {
	name string
	rule string
	f    func(*run)
}

func (c check) run(t tb, p Pair, patience time.Duration) {
	t.Helper()
	if p.MaxMessage == 0 {
		p.MaxMessage = 1 << 20
	}
	c.f(&run{tb: t, Pair: p, rule: c.rule, patience: patience})
}

// run is one check in progress.
type run struct {
	tb
	Pair
	rule     string
	patience time.Duration // how long to wait for what must happen
}

func (r *run) failf(format string, args ...any) {
	r.Helper()
	r.Fatalf("rule broken: %s\n\t%s", r.rule, fmt.Sprintf(format, args...))
}

func (r *run) must(err error, what string) {
	r.Helper()
	if err != nil {
		r.failf("%s: %v", what, err)
	}
}

// within runs f and fails if it does not return in time.
func (r *run) within(what string, f func()) {
	r.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	r.wait(what, done)
}

func (r *run) wait(what string, ch <-chan struct{}) {
	r.Helper()
	receive(r, what, ch)
}

// receive receives a value that must arrive.
func receive[T any](r *run, what string, ch <-chan T) (v T) {
	r.Helper()
	select {
	case v = <-ch:
	case <-time.After(r.patience):
		r.failf("%s: nothing after %v", what, r.patience)
	}
	return v
}

// offer sends v if there is room, so a transport that delivers too much does not block a check.
func offer[T any](ch chan<- T, v T) {
	select {
	case ch <- v:
	default:
	}
}

// call calls with a deadline.
func (r *run) call(c transport.Conn, method string, params []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(r.Context(), r.patience)
	defer cancel()
	return c.Call(ctx, method, params)
}

// alive checks that c still works.
func (r *run) alive(c transport.Conn) {
	r.Helper()
	p := value("alive")
	got, err := r.call(c, "echo", p)
	r.must(err, "a further call on the connection")
	if string(got) != string(p) {
		r.failf("a further call on the connection: got % x, want % x", got, p)
	}
}

// connect returns both ends of a connection with the given handlers.
func (r *run) connect(listener, dialer transport.Handler) (dialed, accepted transport.Conn) {
	r.Helper()
	conns := make(chan transport.Conn, 1)
	l, err := r.Listener.Listen(r.Addr, func(c transport.Conn) transport.Handler {
		conns <- c
		return listener
	})
	r.must(err, "listen")
	r.Cleanup(func() { l.Close() })
	dialed = r.dial(l, dialer)
	return dialed, receive(r, "accept call", conns)
}

func (r *run) dial(l transport.Listener, h transport.Handler) transport.Conn {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), r.patience)
	defer cancel()
	c, err := r.Dialer.Dial(ctx, transport.Peer{Addr: l.Addr(), Key: r.Listener.Key()}, h)
	r.must(err, "dial")
	r.Cleanup(func() { c.Close() })
	return c
}

// value returns v in MessagePack.
func value(v any) []byte {
	b, err := transport.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// handler is a handler made of functions. It echoes calls of "echo".
type handler struct {
	handle func(transport.Conn, *transport.Request)
	closed func(transport.Conn, error)
}

func (h *handler) Handle(c transport.Conn, r *transport.Request) {
	switch {
	case r.Method == "echo":
		r.Reply(r.Params, nil)
	case h.handle != nil:
		h.handle(c, r)
	}
}

func (h *handler) Closed(c transport.Conn, err error) {
	if h.closed != nil {
		h.closed(c, err)
	}
}

// log records events in order.
type log struct {
	mu sync.Mutex
	s  []string
}

func (l *log) add(s string) {
	l.mu.Lock()
	l.s = append(l.s, s)
	l.mu.Unlock()
}

func (l *log) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.s...)
}
