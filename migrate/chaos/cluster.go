//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/roam-go/roam/migrate"
)

const service = "chaos.example"

// cluster is all processes of a run.
type cluster struct {
	cfg      config
	rnd      *rand.Rand
	starter  *starter
	check    *checker
	meter    *meter
	net      *network // nil: processes dial one another
	lan      *lan     // nil: all are in this machine's network
	resolver *process
	hosts    []*host
	clients  []*process
	more     []*process        // other processes
	last     uint32            // the highest number of a client
	addrs    map[string]string // of the listening processes, by ID
	sayf     func(format string, args ...any)
	trapped  chan struct{} // receives when a host is in its trap
	records  string        // name of the resolver's file

	mu    sync.Mutex // guards what follows
	moves []moved
	notes map[string]int
	alone map[string]string // hosts that report that only a person can decide, and the report
}

// host is a host with its consecutive processes.
type host struct {
	id string
	p  *process
}

func newCluster(cfg config, sayf func(string, ...any)) (*cluster, error) {
	c := &cluster{
		cfg: cfg, rnd: rand.New(rand.NewPCG(cfg.seed, 1)), check: newChecker(), meter: newMeter(),
		addrs: make(map[string]string), notes: make(map[string]int), sayf: sayf, starter: newStarter(),
		trapped: make(chan struct{}, len(hostIDs(cfg.hosts))), records: recordsName, alone: make(map[string]string),
	}
	if cfg.proxies {
		c.net = newNetwork()
	}
	ids := append([]string{resolverID}, hostIDs(cfg.hosts)...)
	if scenarios[cfg.scenario].lan {
		all := slices.Clone(ids)
		for i := range cfg.procs {
			all = append(all, clientsID(i))
		}
		var err error
		if c.lan, err = newLAN(all); err != nil {
			return nil, fmt.Errorf("network namespaces need root and iproute2: %w", err)
		}
	}
	for _, id := range ids {
		if c.lan != nil {
			c.addrs[id] = c.lan.addr(id)
			continue
		}
		addr, err := freeAddr()
		if err != nil {
			return nil, err
		}
		c.addrs[id] = addr
	}
	return c, nil
}

func hostIDs(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("h%d", i+1)
	}
	return ids
}

func clientsID(i int) string { return fmt.Sprintf("c%d", i+1) }

// freeAddr returns an address without a listener. A restarted process listens at the same one. If all of 127/8 belongs to
// this machine, the address is such that other connections do not take its port.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+rand.N(254), rand.N(256), 1+rand.N(254)))
	if err != nil {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// start starts all processes and returns when a standby is in sync.
func (c *cluster) start(ctx context.Context) error {
	if err := c.startResolver(); err != nil {
		return err
	}
	for i, id := range hostIDs(c.cfg.hosts) {
		h := &host{id: id}
		c.hosts = append(c.hosts, h)
		if err := c.startHost(h, i == 0); err != nil {
			return err
		}
	}
	for i := range c.cfg.procs {
		p, err := c.startClients(clientsID(i), share(c.cfg.clients, c.cfg.procs, i), share(c.cfg.idle, c.cfg.procs, i))
		if err != nil {
			return err
		}
		c.clients = append(c.clients, p)
	}
	return c.waitInSync(ctx, 10*time.Second)
}

// share is the i-th of n parts of total.
func share(total, n, i int) int { return total*(i+1)/n - total*i/n }

func (c *cluster) setup(role, id string) (setup, error) {
	s := setup{
		Role: role, ID: id, Dir: c.cfg.dir, Service: service, Listen: c.addrs[id], Resolver: c.addrs[resolverID],
		Durable: c.cfg.durable, Records: c.records,
		Insecure: c.cfg.insecure, Standbys: c.cfg.standbys, EventBytes: c.cfg.events, Ballast: c.cfg.ballast,
		Apply: c.cfg.apply, Stall: c.cfg.stall, Beside: c.cfg.scenario == "stuck",
	}
	if c.net == nil {
		return s, nil
	}
	var err error
	s.Via, err = c.net.via(id, c.addrs)
	return s, err
}

func (c *cluster) startResolver() error {
	s, err := c.setup("resolver", resolverID)
	if err == nil {
		c.resolver, err = c.starter.run(s, c.lan.enter(resolverID), c.take)
	}
	if err == nil && c.net != nil {
		err = c.net.refuse(resolverID, false)
	}
	return err
}

func (c *cluster) startHost(h *host, create bool) error { return c.startHostAs(h, create, false) }

// startHostAs starts a host, which creates the service, calls Host until it succeeds, or stands by.
func (c *cluster) startHostAs(h *host, create, newcomer bool) error {
	s, err := c.setup("host", h.id)
	if err != nil {
		return err
	}
	s.Create, s.Newcomer = create, newcomer
	if c.net != nil {
		if err := c.net.refuse(h.id, false); err != nil {
			return err
		}
	}
	h.p, err = c.starter.run(s, c.lan.enter(h.id), c.take)
	return err
}

// startClients starts a process with clients and its share of the commands. Each client has a unique number.
func (c *cluster) startClients(id string, writers, idle int) (*process, error) {
	s, err := c.setup("clients", id)
	if err != nil {
		return nil, err
	}
	s.First, s.Writers, s.Idle, s.Rate = c.last+1, writers, idle, c.cfg.rate/float64(c.cfg.procs)
	c.last += uint32(writers + 1 + idle) // one sends only queries
	return c.starter.run(s, c.lan.enter(id), c.take)
}

// take handles the reports of children.
func (c *cluster) take(p *process, rep *report) {
	if rep.Wrong != "" {
		c.check.violation("%s: %s", p.ID, rep.Wrong)
	}
	if rep.Note != "" {
		c.mu.Lock()
		c.notes[p.ID+": "+rep.Note]++
		if rep.Alone {
			c.alone[p.ID] = rep.Note
		}
		c.mu.Unlock()
	}
	if st := rep.Status; st != nil && rep.ID == 0 && st.Role == migrate.Active {
		c.check.serves(p.ID, st.Loss, st.Epoch)
	}
	if rep.Caught {
		select {
		case c.trapped <- struct{}{}:
		default:
		}
	}
	if len(rep.Acks) > 0 {
		c.check.acked(rep.Acks)
		c.meter.count(rep.Acks)
	}
	for i := range rep.Events {
		c.check.observed(&rep.Events[i])
	}
	if len(rep.Moves) > 0 {
		c.mu.Lock()
		c.moves = append(c.moves, rep.Moves...)
		c.mu.Unlock()
	}
}

// active returns the host that reported to be active in the highest epoch; nil if there is none.
func (c *cluster) active() (*host, *statusReport) {
	var (
		best *host
		st   *statusReport
	)
	for _, h := range c.hosts {
		if s := h.p.latest(); s != nil && s.Role == migrate.Active && (st == nil || s.Epoch > st.Epoch) {
			best, st = h, s
		}
	}
	return best, st
}

// standby returns a standby in the in-sync set; nil if there is none.
func (c *cluster) standby() *host {
	a, st := c.active()
	if a == nil {
		return nil
	}
	for _, h := range c.hosts {
		if h != a && slices.ContainsFunc(st.ISR, func(m member) bool { return m.ID == h.id }) {
			return h
		}
	}
	return nil
}

func (c *cluster) other(h *host) *host {
	for {
		if o := c.hosts[c.rnd.IntN(len(c.hosts))]; o != h {
			return o
		}
	}
}

func (c *cluster) host(id string) *host {
	for _, h := range c.hosts {
		if h.id == id {
			return h
		}
	}
	return nil
}

// inSync describes what is missing until the wanted number of hosts holds every command; "" if nothing.
func (c *cluster) inSync() string {
	a, st := c.active()
	if a == nil {
		return "no host is active"
	}
	if st.Susp {
		return "host " + a.id + " can't commit"
	}
	for _, m := range st.ISR {
		h := c.host(m.ID)
		if h == nil || h.p.inc() != m.Inc || h.p.latest() == nil {
			return "a host that is gone, " + m.ID + ", is in the in-sync set"
		}
	}
	if want := min(c.cfg.standbys+1, len(c.hosts)); len(st.ISR) < want {
		return fmt.Sprintf("%d hosts are in sync, not %d", len(st.ISR), want)
	}
	return ""
}

func (c *cluster) waitInSync(ctx context.Context, timeout time.Duration) error {
	why := ""
	if poll(ctx, timeout, func() bool { why = c.inSync(); return why == "" }) {
		return nil
	}
	return fmt.Errorf("after %s: %s (%s)", timeout, why, c.describe())
}

// describe describes the last reports of the hosts.
func (c *cluster) describe() string {
	s := ""
	for _, h := range c.hosts {
		if st := h.p.latest(); st == nil {
			s += h.id + ": dead or silent; "
		} else {
			s += fmt.Sprintf("%s: %s, epoch %d of %s, in sync %v; ", h.id, st.Role, st.Epoch, st.Active, st.ISR)
		}
	}
	return s
}

// poll waits until ok returns true.
func poll(ctx context.Context, timeout time.Duration, ok func() bool) bool {
	for end := time.Now().Add(timeout); ; {
		if ok() {
			return true
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return false
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// errLoad ends a run that proves nothing, for lack of load.
var errLoad = errors.New("load too low")

// ready waits until the next fault may come: all hosts are in sync and enough commands are acknowledged.
func (c *cluster) ready(ctx context.Context) error {
	if err := c.waitInSync(ctx, 30*time.Second); err != nil {
		return err
	}
	const span = 250 * time.Millisecond
	rate := 0.0
	if poll(ctx, c.cfg.patience, func() bool { rate = c.meter.rate(span); return rate >= c.cfg.minRate }) {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %.0f commands/s before a fault, want %.0f (%s)", errLoad, rate, c.cfg.minRate, c.describe())
}

// killHost ends a host's process by SIGKILL.
func (c *cluster) killHost(h *host) {
	h.p.signal(syscall.SIGKILL)
	if c.net != nil {
		c.net.refuse(h.id, true)
	}
	<-h.p.done
}

func (c *cluster) killResolver() {
	c.resolver.signal(syscall.SIGKILL)
	if c.net != nil {
		c.net.refuse(resolverID, true)
	}
	<-c.resolver.done
}

func (c *cluster) processes() []*process {
	ps := slices.Concat(c.more, c.clients)
	for _, h := range c.hosts {
		ps = append(ps, h.p)
	}
	return append(ps, c.resolver)
}

// settle stops the writers and checks that all processes agree on the log. The last fault ended at healed.
func (c *cluster) settle(ctx context.Context, res *result) error {
	began := time.Now()
	if err := c.waitInSync(ctx, 30*time.Second); err != nil {
		c.check.violation("after healing: %v", err)
	}
	res.InSync = time.Since(began)
	sent := make(map[uint32]uint32)
	for _, p := range c.clients {
		if _, err := p.ask(order{Op: "rate"}, 5*time.Second); err != nil {
			return fmt.Errorf("%s: %w", p.ID, err)
		}
	}
	for _, p := range c.clients {
		rep, err := p.ask(order{Op: "settle", Timeout: 30 * time.Second}, 40*time.Second)
		if err != nil {
			c.check.violation("after healing, commands are not acknowledged: %s: %v (%s)", p.ID, err, c.describe())
			return nil
		}
		for client, n := range rep.Done {
			sent[client] = n
			res.Sent += int(n)
		}
	}
	states := make(map[string]Place)
	poll(ctx, 5*time.Second, func() bool {
		clear(states)
		_, st := c.active()
		if st == nil {
			return false
		}
		equal := true
		var one Place
		for _, m := range st.ISR {
			rep, err := c.host(m.ID).p.ask(order{Op: "state"}, 2*time.Second)
			if err != nil {
				return false
			}
			one = rep.Status.Place
			states[m.ID] = one
		}
		for _, p := range states {
			equal = equal && p == one
		}
		return equal && c.check.length() == one.Pos
	})
	res.Equal = time.Since(began)
	res.Replicas = len(states)
	c.check.finish(sent, states)
	c.census()
	return nil
}

// census checks that the running hosts have leaked nothing: each has one or two connections for each other process and,
// if it serves or did so a moment ago, for each client, and one or two goroutines for each of these.
func (c *cluster) census() {
	conns := 2 * (len(c.processes()) + c.cfg.clients + c.cfg.procs + c.cfg.idle)
	for _, h := range c.hosts {
		var l *leakReport
		if !poll(context.Background(), 5*time.Second, func() bool {
			rep, err := h.p.ask(order{Op: "state"}, 2*time.Second)
			if err != nil {
				return false
			}
			l = rep.Leaks
			return l.Files <= l.FilesBefore+conns+8 && l.Goroutines <= l.GoroutinesBefore+2*conns+16
		}) && l != nil {
			c.check.violation("after healing, %s has %d files and %d goroutines; it began with %d and %d, and there are at most %d connections",
				h.id, l.Files, l.Goroutines, l.FilesBefore, l.GoroutinesBefore, conns)
		}
	}
}

// quit closes all processes and reports their leaks.
func (c *cluster) quit(res *result) {
	for _, p := range c.processes() {
		rep, err := p.ask(order{Op: "quit"}, 30*time.Second)
		switch {
		case err != nil:
			c.check.violation("%s does not end: %v", p.ID, err)
		case rep.Leaks != nil && rep.Leaks.leaked():
			l := rep.Leaks
			c.check.violation("%s leaks: %d goroutines, %d before; %d files, %d before\n%s",
				p.ID, l.Goroutines, l.GoroutinesBefore, l.Files, l.FilesBefore, l.Stacks)
		default:
			res.Closed++
		}
	}
}

// close kills the remaining processes.
func (c *cluster) close() {
	for _, p := range c.processes() {
		if p != nil {
			p.kill()
		}
	}
	if c.net != nil {
		c.net.close()
	}
	if c.lan != nil {
		c.lan.close()
	}
	c.starter.close()
}

// makeDir creates the directory of a run, a temporary one for "".
func makeDir(dir string) (string, error) {
	if dir == "" {
		return os.MkdirTemp("", "roam-chaos-*")
	}
	abs, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(abs, 0o700)
	}
	if err == nil {
		err = os.RemoveAll(filepath.Join(abs, recordsName)) // of an earlier run
	}
	return abs, err
}
