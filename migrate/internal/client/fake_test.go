package client

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

const testService = "counter.example"

// fakeWorld is a service as its clients see it: hosts that implement the wire protocol over a network in memory and share
// one state, as if replication were instant. It must be used inside a bubble.
type fakeWorld struct {
	t     *testing.T
	net   *transport.Memory
	res   *fakeResolver
	hosts map[string]*fakeHost

	mu       sync.Mutex // guards the fields below and those of the hosts
	rec      resolver.Record
	sessions map[uint64]*fakeSession
	log      []string // executed commands
	events   [][]byte // from number 1 on
	kept     uint64   // number of the first event kept
	seen     []string // calls that arrived, as host:method
}

type fakeSession struct {
	last    uint64
	replies map[uint64][]byte // encoded wire.DoResult
	errs    map[uint64]*transport.Error
}

// fakeHost is one host. Its fields change how it behaves.
type fakeHost struct {
	w     *fakeWorld
	tr    *transport.MemoryTransport
	host  resolver.Host
	conns map[transport.Conn]*fakeConn

	term   fence                            // in which it believes itself active; zero: it is not active
	mute   bool                             // receives, but sends nothing
	lossy  bool                             // executes, but loses the reply
	refuse func(method string, n int) error // n counts all calls; nil: serve
	late   bool                             // with refuse: the answer to roam.open comes after those to later calls
	calls  int
	slow   time.Duration // execution time of a command
	hint   *resolver.Record
}

type fakeConn struct {
	session uint64
	next    uint64 // event to send next; 0: not listening
	parked  bool
	ready   bool
	pushing bool
}

func newFakeWorld(t *testing.T, names ...string) *fakeWorld {
	w := &fakeWorld{
		t: t, net: transport.NewMemory(), res: newFakeResolver(), hosts: map[string]*fakeHost{},
		sessions: map[uint64]*fakeSession{}, kept: 1,
	}
	for i, name := range names {
		h := &fakeHost{w: w, tr: w.net.Host(name), conns: map[transport.Conn]*fakeConn{}}
		h.host = resolver.Host{ID: name, Incarnation: uint64(i + 1), Addr: name + ":1", Key: h.tr.Key()}
		h.listen()
		w.hosts[name] = h
		w.rec.ISR = append(w.rec.ISR, h.host)
	}
	w.rec.Name, w.rec.Generation = testService, 7
	w.serve(names[0], false)
	t.Cleanup(func() {
		for _, h := range w.hosts {
			h.tr.Close()
		}
	})
	return w
}

func (h *fakeHost) listen() {
	_, err := h.tr.Listen(h.host.Addr, func(c transport.Conn) transport.Handler {
		h.w.mu.Lock()
		defer h.w.mu.Unlock()
		h.conns[c] = &fakeConn{}
		return h
	})
	require.NoError(h.w.t, err)
}

// serve makes a host the active one and updates the resolver. With announce, the old one notifies its clients.
func (w *fakeWorld) serve(name string, announce bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rec.Epoch++
	w.rec.Version++
	w.rec.Active = w.hosts[name].host
	for _, h := range w.hosts {
		was := h.term != fence{}
		h.term = fence{}
		if h.host.Same(w.rec.Active) {
			h.term = fenceOf(&w.rec)
		} else if was && announce {
			h.notifyAll(wire.MethodMoved, &wire.MovedParams{Service: testService, Record: w.rec})
		}
	}
	w.res.set(w.rec)
}

func (h *fakeHost) notifyAll(method string, v any) {
	params, err := transport.Marshal(v)
	require.NoError(h.w.t, err)
	for c := range h.conns {
		c.Notify(method, params)
	}
}

// prepare makes a host ask its clients to connect to the next one.
func (w *fakeWorld) prepare(from, next string, spread time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[from].notifyAll(wire.MethodPrepare, &wire.PrepareParams{
		Service: testService, Next: w.hosts[next].host, SpreadMS: spread.Milliseconds(),
	})
}

// crash ends a host without notice.
func (w *fakeWorld) crash(name string) {
	w.net.Crash(name)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[name].term = fence{}
}

// publish emits events outside any command.
func (w *fakeWorld) publish(bodies ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.emit(bodies...)
}

func (w *fakeWorld) emit(bodies ...string) {
	for _, b := range bodies {
		w.events = append(w.events, []byte(b))
	}
	for _, h := range w.hosts {
		h.push()
	}
}

// push sends new events to the listening connections, in batches that fit a connection.
func (h *fakeHost) push() {
	w := h.w
	if h.term == (fence{}) || h.mute {
		return
	}
	for c, fc := range h.conns {
		if fc.next == 0 || fc.next > uint64(len(w.events)) || fc.pushing {
			continue
		}
		fc.next = max(fc.next, w.kept)
		p := wire.EventsParams{Service: testService, Loss: h.term.loss, Epoch: h.term.epoch, First: fc.next}
		for size := 0; fc.next <= uint64(len(w.events)) && len(p.Bodies) < 512 && size < 256<<10; fc.next++ {
			size += len(w.events[fc.next-1])
			p.Bodies = append(p.Bodies, w.events[fc.next-1])
			p.Times = append(p.Times, time.Now().UnixMilli())
		}
		params, _ := transport.Marshal(&p)
		c.Notify(wire.MethodEvents, params)
		if fc.next <= uint64(len(w.events)) {
			fc.pushing = true
			time.AfterFunc(time.Microsecond, func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				fc.pushing = false
				h.push()
			})
		}
	}
}

func (h *fakeHost) Closed(c transport.Conn, _ error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	delete(h.conns, c)
}

func (h *fakeHost) Handle(c transport.Conn, r *transport.Request) {
	w := h.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, h.host.ID+":"+r.Method)
	h.calls++
	fc := h.conns[c]
	switch r.Method {
	case wire.MethodPark:
		fc.parked = true
		r.Reply(nil, nil)
		return
	case wire.MethodReady:
		fc.ready = true
		return
	}
	if h.mute {
		return
	}
	if h.refuse != nil {
		if err := h.refuse(r.Method, h.calls); err != nil {
			if h.late && r.Method == wire.MethodOpen {
				time.AfterFunc(10*time.Millisecond, func() { r.Reply(nil, err) })
			} else {
				r.Reply(nil, err)
			}
			return
		}
	}
	if h.term == (fence{}) {
		rec := w.rec
		if h.hint != nil {
			rec = *h.hint
		}
		data, _ := transport.Marshal(&rec)
		r.Reply(nil, &transport.Error{Code: wire.CodeNotActive, Message: "not me", Data: data})
		return
	}
	switch r.Method {
	case wire.MethodOpen:
		var p wire.OpenParams
		require.NoError(w.t, transport.Unmarshal(r.Params, &p))
		if h.term.less(fence{p.Loss, p.Epoch}) {
			r.Reply(nil, wire.ErrNotActive)
			return
		}
		if w.sessions[p.Session] == nil {
			if p.Resume {
				r.Reply(nil, wire.ErrSessionExpired)
				return
			}
			w.sessions[p.Session] = &fakeSession{replies: map[uint64][]byte{}, errs: map[uint64]*transport.Error{}}
		}
		fc.session = p.Session
		w.reply(r, &wire.OpenResult{Loss: h.term.loss, Epoch: h.term.epoch, NextEvent: uint64(len(w.events)) + 1})
	case wire.MethodListen:
		var p wire.ListenParams
		require.NoError(w.t, transport.Unmarshal(r.Params, &p))
		fc.next = p.From
		if p.From == 0 {
			fc.next = uint64(len(w.events)) + 1
		}
		fc.next = max(fc.next, w.kept)
		w.reply(r, &wire.ListenResult{Next: fc.next})
		h.push()
	case wire.MethodDo:
		var p wire.DoParams
		require.NoError(w.t, transport.Unmarshal(r.Params, &p))
		result, err := w.execute(&p)
		switch {
		case h.lossy:
		case h.slow > 0:
			time.AfterFunc(h.slow, func() { r.Reply(result, err) })
		default:
			r.Reply(result, err)
		}
	case wire.MethodQuery:
		w.reply(r, &wire.QueryResult{Index: uint64(len(w.log)), Epoch: h.term.epoch, Reply: fmt.Appendf(nil, "%d", len(w.log))})
	case wire.MethodLeave:
		var p wire.LeaveParams
		require.NoError(w.t, transport.Unmarshal(r.Params, &p))
		delete(w.sessions, p.Session)
		r.Reply(nil, nil)
	default:
		r.Reply(nil, transport.ErrNoMethod)
	}
}

func (w *fakeWorld) reply(r *transport.Request, v any) {
	b, err := transport.Marshal(v)
	require.NoError(w.t, err)
	r.Reply(b, nil)
}

// execute is the service: its reply to a command is "re:" and the command. "emit" emits an event, "fail" returns an error,
// "large" is refused before it is ordered.
func (w *fakeWorld) execute(p *wire.DoParams) ([]byte, error) {
	s := w.sessions[p.Session]
	if s == nil {
		return nil, wire.ErrSessionExpired
	}
	if p.Seq <= s.last {
		if e := s.errs[p.Seq]; e != nil {
			return nil, e
		}
		return s.replies[p.Seq], nil
	}
	if p.Seq != s.last+1 {
		return nil, wire.ErrOutOfOrder
	}
	body := string(p.Body)
	if body == "large" {
		return nil, wire.ErrTooLarge
	}
	s.last = p.Seq
	w.log = append(w.log, body)
	index := uint64(len(w.log))
	if body == "fail" {
		data, _ := transport.Marshal(&wire.AppliedData{Index: index, Epoch: w.rec.Epoch, Replicas: 2})
		s.errs[p.Seq] = &transport.Error{Code: wire.CodeApplication, Message: "it failed", Data: data}
		return nil, s.errs[p.Seq]
	}
	if body == "emit" {
		w.emit(fmt.Sprintf("e%d", len(w.events)+1))
	}
	s.replies[p.Seq], _ = transport.Marshal(&wire.DoResult{
		Index: index, Epoch: w.rec.Epoch, Replicas: 2, Reply: []byte("re:" + body),
	})
	return s.replies[p.Seq], nil
}

// set changes a host with the lock held.
func (w *fakeWorld) set(name string, f func(h *fakeHost)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w.hosts[name])
}

func (w *fakeWorld) executed() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.log)
}

// count returns how many calls of the method arrived at the host.
func (w *fakeWorld) count(host, method string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.seen {
		if s == host+":"+method {
			n++
		}
	}
	return n
}

// dial returns a client on a host of its own.
func (w *fakeWorld) dial(change ...func(*Config)) *Client {
	c, err := w.tryDial(w.t.Context(), change...)
	require.NoError(w.t, err)
	return c
}

func (w *fakeWorld) tryDial(ctx context.Context, change ...func(*Config)) (*Client, error) {
	w.mu.Lock()
	name := fmt.Sprintf("client%d", len(w.seen))
	w.mu.Unlock()
	tr := w.net.Host(name)
	w.t.Cleanup(func() { tr.Close() })
	cfg := Config{Resolver: w.res, Transport: tr}
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for _, f := range change {
		f(&cfg)
	}
	return Dial(ctx, testService, cfg)
}

// fakeResolver holds one record. It can fail.
type fakeResolver struct {
	mu      sync.Mutex
	rec     resolver.Record
	down    error
	gets    int
	linger  time.Duration // between the end of a Watch's context and its return
	changed chan struct{}
}

func newFakeResolver() *fakeResolver { return &fakeResolver{changed: make(chan struct{})} }

func (r *fakeResolver) set(rec resolver.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec.ISR = slices.Clone(rec.ISR)
	r.rec = rec
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *fakeResolver) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = err
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *fakeResolver) asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gets
}

func (r *fakeResolver) Get(ctx context.Context, name string) (resolver.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gets++
	switch {
	case r.down != nil:
		return resolver.Record{}, r.down
	case r.rec.Name != name:
		return resolver.Record{}, resolver.ErrNotFound
	}
	return r.rec, nil
}

func (r *fakeResolver) Watch(ctx context.Context, name string, after uint64) (resolver.Record, error) {
	for {
		r.mu.Lock()
		rec, down, changed := r.rec, r.down, r.changed
		r.mu.Unlock()
		if down != nil {
			return resolver.Record{}, down
		}
		if rec.Name == name && rec.Version != after {
			return rec, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			r.mu.Lock()
			linger := r.linger
			r.mu.Unlock()
			time.Sleep(linger)
			return resolver.Record{}, ctx.Err()
		}
	}
}

func (r *fakeResolver) CompareAndSwap(context.Context, uint64, resolver.Record) (resolver.Record, error) {
	return resolver.Record{}, resolver.ErrRefused
}
func (r *fakeResolver) Announce(context.Context, resolver.Host, []string, time.Duration) error {
	return nil
}
func (r *fakeResolver) Hosts(context.Context, string) ([]resolver.Host, error) { return nil, nil }

// connected returns how many connections a host has.
func (w *fakeWorld) connected(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.hosts[name].conns)
}
