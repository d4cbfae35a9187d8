package transporttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// Each fault is planted into a transport that keeps the rules, and must be found by one of the checks named.
var faults = map[string][]string{
	"swaps two notifications":       {"Order"},
	"loses a notification":          {"Order"},
	"doubles a notification":        {"Order"},
	"listener cannot call":          {"BothDirections"},
	"serialises replies":            {"AnyOrder", "Cancel", "ConcurrentCalls"},
	"mixes up replies":              {"ConcurrentCalls", "AnyOrder"},
	"passes nil params":             {"Params"},
	"sends any params":              {"BadParams"},
	"closes on a large message":     {"SizeLimit"},
	"cuts large messages":           {"SizeLimit"},
	"cancel closes":                 {"Cancel"},
	"cancel is ignored":             {"Cancel"},
	"loses codes":                   {"Errors"},
	"loses data":                    {"Errors"},
	"loses Remote":                  {"Errors"},
	"ignores unknown calls":         {"UnknownMethod"},
	"senders wait":                  {"SlowPeer"},
	"buffers without limit":         {"SlowPeer"},
	"keeps the sender's bytes":      {"Ownership"},
	"uses a buffer again":           {"Ownership"},
	"replies only in Handle":        {"ReplyElsewhere", "Cancel", "AnyOrder"},
	"second reply counts":           {"ReplyTwice"},
	"every message is a call":       {"ReplyToNotification"},
	"second Close fails":            {"CloseManyTimes"},
	"Close drops what waits":        {"CloseDelivers"},
	"Close waits for the handler":   {"CloseInHandler"},
	"pending calls hang":            {"PendingCalls"},
	"sends after Close":             {"AfterClose"},
	"Closed comes twice":            {"Closed"},
	"Closed has no reason":          {"Closed"},
	"handles before accept returns": {"Accept"},
	"accepts twice":                 {"Accept"},
	"ignores nil from accept":       {"AcceptNil"},
	"listener closes connections":   {"ListenerClose"},
	"listener goes on":              {"ListenerClose"},
	"hides keys":                    {"Keys"},
	"ignores keys":                  {"WrongKey"},
	"dial hangs":                    {"DialRefused", "DialCancelled"},
	"dial ignores its context":      {"DialCancelled"},
	"context closes":                {"DialContext"},
}

func TestFindsPlantedFaults(t *testing.T) {
	covered := map[string]bool{}
	for fault, names := range faults {
		t.Run(strings.ReplaceAll(fault, " ", "_"), func(t *testing.T) {
			i := slices.IndexFunc(checks, func(c check) bool { return c.name == names[0] })
			require.GreaterOrEqual(t, i, 0)
			failure := try(t, checks[i], fault)
			require.Contains(t, failure, checks[i].rule, "the check does not see the fault")
		})
		covered[names[0]] = true
	}
	for _, c := range checks {
		require.True(t, covered[c.name], "no fault for check %s", c.name)
	}
}

func TestFindsNothingInNothing(t *testing.T) {
	for _, c := range checks {
		require.Empty(t, try(t, c, ""), c.name)
	}
}

// try runs one check on a transport with a fault and returns how it failed.
func try(t *testing.T, c check, fault string) string {
	n := transport.NewMemory()
	a, b := n.Host("a"), n.Host("b")
	rec := &recorder{ctx: t.Context()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		patience := 300 * time.Millisecond
		if fault == "" {
			patience = 10 * time.Second
		}
		c.run(rec, Pair{Listener: &broken{a, fault}, Dialer: &broken{b, fault}, Addr: "a:0"}, patience)
	}()
	<-done
	for _, f := range slices.Backward(rec.cleanup) {
		f()
	}
	a.Close()
	b.Close()
	return rec.failure
}

// recorder stands in for a test that is expected to fail.
type recorder struct {
	ctx     context.Context
	mu      sync.Mutex
	failure string
	cleanup []func()
}

func (*recorder) Helper()                    {}
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Cleanup(f func())         { r.cleanup = append(r.cleanup, f) }
func (r *recorder) Fatalf(format string, args ...any) {
	r.mu.Lock()
	if r.failure == "" {
		r.failure = fmt.Sprintf(format, args...)
	}
	r.mu.Unlock()
	runtime.Goexit()
}

// broken is a transport with a fault.
type broken struct {
	transport.Transport
	fault string
}

func (b *broken) Dial(ctx context.Context, to transport.Peer, h transport.Handler) (transport.Conn, error) {
	switch b.fault {
	case "ignores keys":
		to.Key = transport.Key{}
	case "dial ignores its context":
		go b.Transport.Dial(context.WithoutCancel(ctx), to, nil)
		time.Sleep(400 * time.Millisecond)
		return nil, errors.New("it took too long")
	}
	c, err := b.Transport.Dial(ctx, to, b.handler(h))
	if err != nil {
		if b.fault == "dial hangs" {
			time.Sleep(400 * time.Millisecond)
		}
		return nil, err
	}
	if b.fault == "context closes" {
		context.AfterFunc(ctx, func() { c.Close() })
	}
	return b.conn(c), nil
}

func (b *broken) Listen(addr string, accept func(transport.Conn) transport.Handler) (transport.Listener, error) {
	var mu sync.Mutex
	var conns []transport.Conn
	l, err := b.Transport.Listen(addr, func(c transport.Conn) transport.Handler {
		mu.Lock()
		conns = append(conns, c)
		mu.Unlock()
		if b.fault == "accepts twice" {
			accept(b.conn(c))
		}
		if b.fault == "handles before accept returns" {
			late := &brokenHandler{b: b, h: lateHandler(func() transport.Handler { return accept(b.conn(c)) })}
			return late
		}
		h := accept(b.conn(c))
		if h == nil && b.fault == "ignores nil from accept" {
			return &handler{}
		}
		if h == nil {
			return nil
		}
		return b.handler(h)
	})
	if err != nil {
		return nil, err
	}
	return &brokenListener{Listener: l, fault: b.fault, conns: func() []transport.Conn {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(conns)
	}}, nil
}

type brokenListener struct {
	transport.Listener
	fault string
	conns func() []transport.Conn
}

func (l *brokenListener) Close() error {
	switch l.fault {
	case "listener goes on":
		return nil
	case "listener closes connections":
		for _, c := range l.conns() {
			c.Close()
		}
	}
	return l.Listener.Close()
}

// lateHandler asks for the handler only when something arrives, a second time for each message.
type lateHandler func() transport.Handler

func (f lateHandler) Handle(c transport.Conn, r *transport.Request) { f().Handle(c, r) }
func (f lateHandler) Closed(transport.Conn, error)                  {}

func (b *broken) conn(c transport.Conn) transport.Conn {
	return &brokenConn{Conn: c, fault: b.fault, dialed: b.Transport.Key() == transport.NewMemory().Host("b").Key()}
}

func (b *broken) handler(h transport.Handler) transport.Handler {
	if h == nil && b.fault == "ignores unknown calls" {
		h = &handler{}
	}
	if h == nil {
		return nil
	}
	return &brokenHandler{b: b, h: h}
}

type brokenConn struct {
	transport.Conn
	fault  string
	dialed bool

	mu     sync.Mutex
	held   []byte
	closed bool
	sent   int
	one    sync.Mutex // for "serialises replies"
	last   []byte
}

func (c *brokenConn) Peer() transport.Peer {
	p := c.Conn.Peer()
	if c.fault == "hides keys" {
		p.Key = transport.Key{}
	}
	return p
}

func (c *brokenConn) Notify(method string, params []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent++
	switch c.fault {
	case "swaps two notifications":
		if c.sent%7 == 0 && c.held == nil {
			c.held = slices.Clone(params)
			return nil
		}
		err := c.Conn.Notify(method, params)
		if c.held != nil {
			err = c.Conn.Notify(method, c.held)
			c.held = nil
		}
		return err
	case "loses a notification":
		if c.sent == 9 {
			return nil
		}
	case "doubles a notification":
		if c.sent == 9 {
			c.Conn.Notify(method, params)
		}
	case "sends any params":
		c.Conn.Notify(method, []byte{0xc0, 1})
		return nil
	case "senders wait":
		c.Conn.Call(context.Background(), "echo", nil)
	case "buffers without limit":
		if len(params) > 1000 {
			return nil
		}
	case "keeps the sender's bytes":
		c.held = params // sent before the next call
		return nil
	case "closes on a large message":
		if len(params) > 1<<20 {
			c.Conn.Close()
			return transport.ErrBadMessage
		}
	case "cuts large messages":
		if len(params) > 1<<20 {
			return c.Conn.Notify(method, nil)
		}
	case "Close drops what waits":
		if c.sent > 50 {
			return nil
		}
	case "sends after Close":
		if c.closed {
			return nil
		}
	}
	return c.Conn.Notify(method, params)
}

func (c *brokenConn) Call(ctx context.Context, method string, params []byte) ([]byte, error) {
	switch c.fault {
	case "serialises replies":
		c.one.Lock()
		defer c.one.Unlock()
	case "cancel is ignored":
		ctx = context.WithoutCancel(ctx)
	case "keeps the sender's bytes":
		c.mu.Lock()
		if c.held != nil {
			c.Conn.Notify("n", c.held)
			c.held = nil
		}
		c.mu.Unlock()
	case "pending calls hang":
		if method == "never" {
			<-ctx.Done()
		}
	case "listener cannot call":
		if !c.dialed {
			return nil, errors.New("only the dialer calls")
		}
	}
	result, err := c.Conn.Call(ctx, method, params)
	if err != nil && ctx.Err() != nil && c.fault == "cancel closes" {
		c.Conn.Close()
	}
	if e, ok := errors.AsType[*transport.Error](err); ok && e.Remote {
		e := *e
		switch c.fault {
		case "loses codes":
			e.Code = transport.CodeUnknown
		case "loses data":
			e.Data = nil
		case "loses Remote":
			e.Remote = false
		}
		return nil, &e
	}
	if c.fault == "mixes up replies" {
		c.mu.Lock()
		defer c.mu.Unlock()
		result, c.last = c.last, result
	}
	return result, err
}

func (c *brokenConn) Go(method string, params []byte, done func([]byte, error)) {
	if c.fault == "serialises replies" {
		go func() {
			result, err := c.Call(context.Background(), method, params)
			done(result, err)
		}()
		return
	}
	c.Conn.Go(method, params, done)
}

func (c *brokenConn) Close() error {
	c.mu.Lock()
	again := c.closed
	c.closed = true
	c.mu.Unlock()
	if again && c.fault == "second Close fails" {
		return errors.New("closed already")
	}
	if c.fault == "Close waits for the handler" {
		time.Sleep(400 * time.Millisecond)
	}
	return c.Conn.Close()
}

type brokenHandler struct {
	b   *broken
	h   transport.Handler
	buf []byte
}

func (h *brokenHandler) Handle(c transport.Conn, r *transport.Request) {
	q := r
	params := r.Params
	reply := r.Reply
	switch h.b.fault {
	case "passes nil params":
		if len(params) == 1 {
			params = nil
		}
	case "uses a buffer again":
		h.buf = append(h.buf[:0], params...)
		params = h.buf
	case "every message is a call":
		q = transport.NewRequest(r.Method, params, reply)
		h.h.Handle(h.b.conn(c), q)
		return
	case "second reply counts":
		reply = func(result []byte, err error) { r.Reply([]byte{1}, nil) }
	case "replies only in Handle":
		handling := true
		var mu sync.Mutex
		reply = func(result []byte, err error) {
			mu.Lock()
			defer mu.Unlock()
			if handling {
				r.Reply(result, err)
			}
		}
		defer func() { mu.Lock(); handling = false; mu.Unlock() }()
	}
	if !r.IsCall() {
		reply = nil
	}
	h.h.Handle(h.b.conn(c), transport.NewRequest(r.Method, params, reply))
}

func (h *brokenHandler) Closed(c transport.Conn, err error) {
	switch h.b.fault {
	case "Closed comes twice":
		h.h.Closed(h.b.conn(c), err)
	case "Closed has no reason":
		err = io.EOF
	}
	h.h.Closed(h.b.conn(c), err)
}
