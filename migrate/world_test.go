package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// tally is a service that remembers every command in order and emits it. The reply is the command's place, from 1.
type tally struct{ Seen []string }

func (t *tally) Apply(cmd Command) ([]byte, error) {
	t.Seen = append(t.Seen, string(cmd.Body))
	cmd.Emit(cmd.Body)
	return strconv.AppendInt(nil, int64(len(t.Seen)), 10), nil
}

func (t *tally) all() []string { return t.Seen }

func (t *tally) Query(q Query) ([]byte, error) {
	if string(q.Body) == "all" {
		return json.Marshal(t.Seen)
	}
	return strconv.AppendInt(nil, int64(len(t.Seen)), 10), nil
}

func (t *tally) Snapshot() (Snapshot, error) {
	b, err := json.Marshal(t)
	return bytesSnapshot(b), err
}

func (t *tally) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, t)
}

type bytesSnapshot []byte

func (s bytesSnapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s)
	return int64(n), err
}
func (s bytesSnapshot) Release() {}

func newTally() Migratable { return new(tally) }

// world is some hosts on a network in memory, with the clients that write, and a record of what they were told. It must be
// made in a bubble.
type world struct {
	t     *testing.T
	net   *transport.Memory
	res   resolver.Resolver
	log   *slog.Logger
	hooks Hooks         // of the nodes made from now on
	beat  time.Duration // their heartbeat
	trs   map[string]*transport.MemoryTransport
	walls *walls // nil: none
	nodes map[string]*Node
	cls   []*Client

	resolverOf func(host string) resolver.Resolver // nil: res for all
	last       []func()                            // after all else is closed

	mu      sync.Mutex // guards what follows
	invoked map[string]bool
	acked   map[string]int // the place that the service gave it
	highest int            // place that was acknowledged
	writers []*writer
	readers []*reader
}

func newWorld(t *testing.T, names ...string) *world {
	w := &world{
		t: t, net: transport.NewMemory(), res: resolver.NewMemory(), log: slog.New(slog.DiscardHandler),
		trs: map[string]*transport.MemoryTransport{}, nodes: map[string]*Node{},
		invoked: map[string]bool{}, acked: map[string]int{},
	}
	if testing.Verbose() && os.Getenv("ROAM_LOG") != "" {
		w.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	w.net.SetDelay(time.Millisecond)
	for _, name := range names {
		w.node(name)
	}
	return w
}

func (w *world) transport(name string) *transport.MemoryTransport {
	if w.trs[name] == nil {
		w.trs[name] = w.net.Host(name)
	}
	return w.trs[name]
}

func (w *world) resolver(host string) resolver.Resolver {
	if w.resolverOf != nil {
		return w.resolverOf(host)
	}
	return w.res
}

// remoteResolver puts the resolver on a host of its own, "dns", so that its round trips count and it can be cut off.
func (w *world) remoteResolver() {
	server, err := resolver.NewServer(resolver.ServerConfig{Transport: w.transport("dns")})
	require.NoError(w.t, err)
	_, err = server.Listen("dns:1")
	require.NoError(w.t, err)
	clients := map[string]*resolver.Client{}
	w.resolverOf = func(host string) resolver.Resolver {
		if clients[host] == nil {
			c, err := resolver.NewClient(resolver.ClientConfig{
				Transport: w.transport(host), Server: transport.Peer{Addr: "dns:1"},
			})
			require.NoError(w.t, err)
			clients[host] = c
			w.last = append(w.last, func() { c.Close() })
		}
		return clients[host]
	}
	w.last = append(w.last, func() { server.Close() })
}

func (w *world) node(name string) *Node {
	n, err := NewNode(NodeConfig{
		Resolver: w.resolver(name), Transport: w.walled(name), ID: name, Listen: name + ":1", Logger: w.log, Hooks: w.hooks,
		Heartbeat: w.beat,
	})
	require.NoError(w.t, err)
	w.nodes[name] = n
	return n
}

func (w *world) host(name, service string, p Policy) *Service {
	s, err := w.nodes[name].Host(w.t.Context(), service, newTally, p)
	require.NoError(w.t, err)
	return s
}

func (w *world) standby(name, service string, p Policy) *Service {
	s, err := w.nodes[name].Standby(w.t.Context(), service, newTally, p)
	require.NoError(w.t, err)
	return s
}

// pair hosts "svc" on a, with b in sync.
func (w *world) pair(p Policy) (a, b *Service) {
	a, b = w.host("a", "svc", p), w.standby("b", "svc", p)
	w.inSync(a, 2)
	return a, b
}

func (w *world) dial(name, service string, cfg ClientConfig) *Client {
	cfg.Resolver, cfg.Transport, cfg.Logger = w.resolver(name), w.walled(name), w.log
	c, err := Dial(w.t.Context(), service, cfg)
	require.NoError(w.t, err)
	w.cls = append(w.cls, c)
	return c
}

func (w *world) close() {
	for _, wr := range w.writers {
		wr.cancel()
		<-wr.done
	}
	for _, c := range w.cls {
		c.Close()
	}
	for _, r := range w.readers {
		<-r.done
	}
	for _, n := range w.nodes {
		n.Close()
	}
	for _, f := range slices.Backward(w.last) {
		f()
	}
	for _, tr := range w.trs {
		tr.Close()
	}
}

// crash ends a host like a SIGKILL: its connections are reset, and its node is never heard of again.
func (w *world) crash(name string) {
	w.net.Crash(name)
	w.nodes[name].Close()
	delete(w.nodes, name)
	delete(w.trs, name)
}

// eventually waits until ok, at most for a minute.
func (w *world) eventually(ok func() bool, msg string, args ...any) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not within a minute: "+msg, args...)
		}
	}
}

// active returns the service that serves now: where several hosts believe so, the one of the highest epoch.
func (w *world) active(service string) *Service {
	w.t.Helper()
	var found *Service
	w.eventually(func() bool {
		for _, n := range w.nodes {
			s := n.service(service)
			if s == nil || s.Status().Role != Active {
				continue
			}
			if found == nil || s.Status().Record.Epoch > found.Status().Record.Epoch {
				found = s
			}
		}
		return found != nil
	}, "a host is active")
	return found
}

// inSync waits until the in-sync set has n members.
func (w *world) inSync(s *Service, n int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	err := s.wait(ctx, func(st Status) bool { return len(st.Record.ISR) == n })
	require.NoError(w.t, err, "%d members are wanted: %+v", n, s.Status())
}

// role waits until s has the role.
func (w *world) role(s *Service, r Role) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(w.t, s.wait(ctx, func(st Status) bool { return st.Role == r }), "%s is wanted: %+v", r, s.Status())
}

// appOf is the instance of the service that s holds.
func appOf(s *Service) Migratable { return s.machine().App().(adapter).Migratable }

// The memory that an event and a cached reply count in addition to their bytes.
const (
	eventOverhead = 32
	replyOverhead = 64
)

// state is what a host's copy has seen; ok is false if it holds none.
func (w *world) state(s *Service) (seen []string, ok bool) {
	copied := make(chan []string, 1)
	s.post(item{kind: itemFunc, fn: func() {
		if s.machine() == nil {
			close(copied)
			return
		}
		app := appOf(s).(interface{ all() []string })
		s.replica.Later(func(*machine.Machine) { copied <- slices.Clone(app.all()) }) // when the service applies nothing
	}})
	select {
	case seen, ok = <-copied:
		return seen, ok
	case <-time.After(time.Second):
		return nil, false
	}
}

// writer sends commands one after the other until stopped. What it was told is recorded in the world.
type writer struct {
	w      *world
	name   string
	cancel context.CancelFunc
	stop   atomic.Bool // after the present command
	done   chan struct{}

	answers

	mu   sync.Mutex    // guards what follows
	pace time.Duration // between two commands
	err  error         // that ended it
}

// write starts a writer.
func (w *world) write(c *Client) *writer {
	ctx, cancel := context.WithCancel(w.t.Context())
	wr := &writer{w: w, name: fmt.Sprintf("w%d", len(w.writers)), cancel: cancel, done: make(chan struct{})}
	w.writers = append(w.writers, wr)
	go func() {
		defer close(wr.done)
		wr.answers.begin()
		for n := 0; ctx.Err() == nil && !wr.stop.Load(); n++ {
			if err := w.do(ctx, c, fmt.Sprintf("%s-%d", wr.name, n)); err != nil {
				if ctx.Err() == nil {
					wr.mu.Lock()
					wr.err = err
					wr.mu.Unlock()
				}
				return
			}
			wr.mu.Lock()
			pace := wr.pace
			wr.mu.Unlock()
			wr.answered(pace)
			time.Sleep(pace)
		}
	}()
	return wr
}

// do executes one command, which must be unlike any other, and records its fate.
func (w *world) do(ctx context.Context, c *Client, cmd string) error {
	w.mu.Lock()
	w.invoked[cmd] = true
	floor := w.highest
	w.mu.Unlock()
	reply, err := c.Do(ctx, []byte(cmd))
	if err != nil {
		return err
	}
	at, err := strconv.Atoi(string(reply))
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if at <= floor {
		w.t.Errorf("command %s is at %d, but %d was acknowledged before it was sent", cmd, at, floor)
	}
	w.acked[cmd], w.highest = at, max(w.highest, at)
	return nil
}

// end stops the writer, after the command that it has sent was acknowledged.
func (wr *writer) end() {
	wr.w.t.Helper()
	wr.stop.Store(true)
	select {
	case <-wr.done:
	case <-time.After(time.Minute):
		wr.w.t.Fatalf("writer %s waits for its last command", wr.name)
	}
	require.NoError(wr.w.t, wr.err, "writer %s", wr.name)
}

// slow makes the writer wait between two commands, to save time where it is not watched. It does not count for gaps.
func (wr *writer) slow(pace time.Duration) {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	wr.pace = pace
}

// answers counts the answers to requests that are made one after the other, and knows the longest time between two of them.
type answers struct {
	mu   sync.Mutex // guards what follows
	n    int
	last time.Time // of the last one, or of the end of the pause after it
	gap  time.Duration
}

func (a *answers) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = time.Now()
}

// answered counts an answer, after which a pause follows.
func (a *answers) answered(pause time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n++
	a.gap = max(a.gap, time.Since(a.last))
	a.last = time.Now().Add(pause)
}

// resetGap forgets the longest gap so far.
func (a *answers) resetGap() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gap = 0
}

// longest is the longest time between two answers, the present silence included.
func (a *answers) longest() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(a.gap, time.Since(a.last))
}

func (a *answers) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}

// reader listens to the events from the first on.
type reader struct {
	mu   sync.Mutex
	seen []string
	next uint64
	done chan struct{}
}

func (w *world) read(c *Client) *reader {
	r := &reader{next: 1, done: make(chan struct{})}
	w.readers = append(w.readers, r)
	go func() {
		defer close(r.done)
		for ev, err := range c.Events(w.t.Context(), 1) {
			if err != nil {
				return
			}
			r.mu.Lock()
			if ev.Gap != 0 || ev.Seq != r.next {
				w.t.Errorf("event %d came after %d, with a gap from %d", ev.Seq, r.next-1, ev.Gap)
			}
			r.next = ev.Seq + 1
			r.seen = append(r.seen, string(ev.Body))
			r.mu.Unlock()
		}
	}()
	return r
}

// check stops the writers, and checks that the service has executed what it acknowledged: each command once and at the
// place that it said, none that nobody sent, those of one writer in order; that all copies are equal; and that who listens
// has heard the same.
func (w *world) check(c *Client) {
	w.t.Helper()
	t := w.t
	for _, wr := range w.writers {
		wr.end()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := c.Query(ctx, []byte("all"))
	require.NoError(t, err)
	var all []string
	require.NoError(t, json.Unmarshal(b, &all))
	at, last := map[string]int{}, map[string]int{}
	for i, cmd := range all {
		require.True(t, w.invoked[cmd], "%s was executed, but nobody sent it", cmd)
		require.Zero(t, at[cmd], "%s was executed twice", cmd)
		at[cmd] = i + 1
		if name, num, ok := strings.Cut(cmd, "-"); ok {
			n, _ := strconv.Atoi(num)
			require.Equal(t, last[name], n, "%s is out of order", cmd)
			last[name] = n + 1
		}
	}
	for cmd, i := range w.acked {
		require.Equal(t, i, at[cmd], "place of %s, which was acknowledged", cmd)
	}
	epoch := w.active("svc").Status().Record.Epoch
	for name, n := range w.nodes {
		s := n.service("svc")
		if s == nil || s.Status().Record.Epoch < epoch { // one that is cut off
			continue
		}
		if r := s.Status().Role; r != Active && r != Standby {
			continue
		}
		var seen []string
		ok := false
		w.eventually(func() bool { seen, ok = w.state(s); return !ok || len(seen) >= len(all) }, "host %s has all", name)
		if ok {
			require.Equal(t, all, seen, "copy of host %s", name)
		}
	}
	for _, r := range w.readers {
		w.eventually(func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.seen) >= len(all) }, "the events arrive")
		require.Equal(t, all, r.seen, "events")
	}
}
