package migrate

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roam-go/roam/migrate/internal/apply"
	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/hooks"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/peer"
	"github.com/roam-go/roam/migrate/internal/transfer"
	"github.com/roam-go/roam/migrate/internal/wal"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// NodeConfig configures a [Node]. Resolver and Transport are required.
type NodeConfig struct {
	// Resolver stores the records of services. Transport connects to clients and other hosts. The node closes neither.
	Resolver  resolver.Resolver
	Transport transport.Transport

	// ID is the host's name, unique among the hosts of its services: up to 128 bytes of printable UTF-8 without spaces. It
	// defaults to a name derived from the transport's key, or a random one if the transport proves no key. If two processes
	// have the same ID, the resolver refuses to announce the first one, and Hooks.Failed reports that.
	ID string
	// Listen is the listener's address in the form that [transport.Transport] accepts. It defaults to ":0".
	Listen string
	// Advertise is the address at which others reach the listener. If it has no port, or port 0, the listener's port is added.
	// It defaults to the listener's address, which must then name a host; [transport.AdvertiseAddr] finds one. The zone of a
	// link-local IPv6 address is left out, because it means nothing to other machines.
	Advertise string

	// Dir is a directory in which this node stores the state of each service that it hosts. The node acknowledges an entry only
	// after forcing it to disk, and a node that restarts with the directory continues as the same host. It defaults to
	// none: the node keeps its services in memory. Hosts with and without a directory may serve together.
	//
	// The node creates the directory if it does not exist. It belongs to one host with one key, which must be kept as well
	// ([transport.LoadIdentity]), and to one process at a time: any other use fails with [ErrStore]. Never replace it by an
	// older copy, and never remove files from it: a service whose Policy.MinInSync counts on the missing files may need
	// [Node.Reset]. A service that the node has left leaves no files behind. Each acknowledgement waits for the disk; entries
	// that arrive together share a write. One file is open per service.
	Dir string

	// Heartbeat is the longest interval between two messages of an active host. It defaults to 100 ms. FailureTimeout is how
	// long a host may be silent before it is replaced or removed, at least 3 heartbeats. It defaults to 500 ms, or to 5
	// heartbeats if that is more. A host whose process has died is detected sooner. Hosts measure the round trips between
	// them; one that is far away may be silent for 2 heartbeats and 4 round trips if that is more, so that lost packets do
	// not matter. A host that could not reach the resolver meanwhile does not hold the silence against the others.
	Heartbeat, FailureTimeout time.Duration
	// PresenceTTL is the presence lease's duration: how long the resolver lists this host after its last announcement. It
	// defaults to 3 s.
	PresenceTTL time.Duration

	// Hooks report events of the node. Functions that are nil are not called.
	Hooks Hooks
	// Logger logs events of the node. It defaults to one that discards everything.
	Logger *slog.Logger

	fs   wal.FS // for tests: the file system of Dir; nil: the operating system's
	grow int64  // for tests: the growth of a log after which the state is written
}

// Hooks report events of a node to the program. They are called one at a time, on a separate goroutine that holds no lock.
// They may call the library, except for Shutdown and Close of this node, which wait for them. A slow hook delays only later
// hook calls. No hook is called after Close has returned.
type Hooks struct {
	// Moved is called on the host that began a handoff when the handoff has ended, with the error if it failed. It is not
	// called for failovers.
	Moved func(Report, error)
	// Changed is called when this host's role for a service, or the service's record, has changed.
	Changed func(Status)
	// Failed is called for failures that no call returns: a snapshot that could not be taken, written or restored, a panic in a
	// service or in Policy.Rank (an [ErrPanic], with the stack as the Data of its [transport.Error]), a call of a service's own
	// code that does not return (an [ErrBusy]), states that differ between hosts, a service that has halted, a copy that is
	// obsolete because the service was reset on another host, a record that the resolver has lost, which the hosts restore,
	// or cannot restore because some do not answer (an [ErrNoHost]) or the resolver refuses it, a host with another [Policy],
	// a joining host that has not restored its copy within a minute, a host that breaks the protocol. It also reports what a
	// service waits for: an active host that acknowledges nothing because too few hosts are in sync (an [ErrRetry]), and a
	// standby that cannot leave without another host (an [ErrNoTarget]), both because of [Policy].MinInSync. service is "" if the
	// resolver refuses to announce the host, or if another host cannot connect to it.
	Failed func(service string, err error)
}

func (c *NodeConfig) validate() error {
	bad := func(field, why string) error {
		return transport.Errorf(CodeConfig, "migrate: NodeConfig.%s %s", field, why)
	}
	switch {
	case c.Resolver == nil:
		return bad("Resolver", "is required")
	case c.Transport == nil:
		return bad("Transport", "is required")
	case c.ID != "" && (resolver.CheckName(c.ID) != nil || len(c.ID) > resolver.MaxHostID):
		return bad("ID", fmt.Sprintf("is %.150q, not up to %d bytes of printable UTF-8 without spaces", c.ID, resolver.MaxHostID))
	case resolver.CheckAnnouncement(resolver.Host{ID: "h", Incarnation: 1, Addr: c.Advertise + ":65535"}, nil, 0) != nil:
		return bad("Advertise", fmt.Sprintf("is %.300q, not the address of a host", c.Advertise))
	case c.Heartbeat < 0:
		return bad("Heartbeat", fmt.Sprintf("is %v, below 0", c.Heartbeat))
	case c.PresenceTTL < 0:
		return bad("PresenceTTL", fmt.Sprintf("is %v, below 0", c.PresenceTTL))
	case c.PresenceTTL > time.Minute:
		return bad("PresenceTTL", fmt.Sprintf("is %v, above 1 minute", c.PresenceTTL))
	}
	if c.Listen == "" {
		c.Listen = ":0"
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = 100 * time.Millisecond
	}
	if c.FailureTimeout == 0 {
		c.FailureTimeout = max(500*time.Millisecond, 5*c.Heartbeat)
	}
	if c.FailureTimeout < 3*c.Heartbeat {
		return bad("FailureTimeout", fmt.Sprintf("is %s, less than 3 heartbeats of %s", c.FailureTimeout, c.Heartbeat))
	}
	if c.PresenceTTL == 0 {
		c.PresenceTTL = 3 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Node hosts services in a process: any number of them, with one listener and one announcement. It is safe for concurrent
// use.
type Node struct {
	cfg   NodeConfig
	self  resolver.Host
	start time.Time
	wall  func() time.Time // the wall clock; tests set it off
	log   *slog.Logger

	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	listener transport.Listener
	renew    chan struct{} // requests an announcement now
	silent   chan struct{} // closed when no further announcement will be made
	gone     chan struct{} // closed when Close has finished
	hooks    *hooks.Queue  // calls NodeConfig.Hooks
	links    *peer.Links   // to other hosts
	offers   *transfer.Offers
	fetcher  *transfer.Fetcher
	dir      *wal.Dir       // nil without NodeConfig.Dir
	limits   machine.Limits // of the services' machines; zero except in tests
	refused  string         // the last announcement error reported to Hooks.Failed; belongs to announceLoop
	checked  int            // services that have checked their records; belongs to announceLoop

	appliers   apply.Executor // runs the services' own code
	misconduct misconduct     // of other hosts
	reach      reach          // of this host and others

	mu       sync.Mutex // guards the fields below
	closed   bool
	leaving  bool
	services map[string]*Service
	inbound  map[*inbound]struct{} // connections that others opened
}

// maxHooks limits the hook calls that wait for a slow hook; beyond it the oldest are dropped.
const maxHooks = 1024

// NewNode creates a node and starts its listener. The node announces itself once it hosts a service.
func NewNode(cfg NodeConfig) (*Node, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg:      cfg,
		start:    time.Now(),
		wall:     time.Now,
		renew:    make(chan struct{}, 1),
		silent:   make(chan struct{}),
		gone:     make(chan struct{}),
		services: make(map[string]*Service),
		inbound:  make(map[*inbound]struct{}),
	}
	n.self = resolver.Host{ID: cfg.ID, Incarnation: wire.RandomID(), Key: cfg.Transport.Key()}
	if n.self.ID == "" {
		n.self.ID = "host-" + randomName(n.self.Key)
	}
	if err := n.openDir(); err != nil {
		return nil, err
	}
	n.log = cfg.Logger.With("host", n.self.ID)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.links = peer.New(peer.Config{
		Context: n.ctx, Self: n.Self, Transport: cfg.Transport, FailureTimeout: cfg.FailureTimeout, Log: n.log, Go: n.spawn,
		Down:   func(h resolver.Host) { n.eachService(core.PeerDown{Host: h}) },
		Reset:  func(h resolver.Host) { n.eachService(core.PeerReset{Host: h}) },
		Accept: n.acceptMessages, Unreached: n.unreached,
	})
	n.offers = transfer.NewOffers(n.ctx, n.self.ID, n.spawn)
	n.fetcher = transfer.NewFetcher(n.ctx, n.links, n.spawn)
	n.hooks = hooks.New(maxHooks, n.wg.Go)
	n.appliers.Stuck = n.stuck
	if err := n.listen(); err != nil {
		n.cancel()
		n.closeDir()
		return nil, err
	}
	n.wg.Go(n.announceLoop)
	return n, nil
}

// listen starts the listener and sets the address to announce. Hosts may dial at once, for example one that still probes a
// former process at the same address: accept waits until the address is set.
func (n *Node) listen() error {
	at := n.cfg.Listen
	n.mu.Lock()
	l, err := n.cfg.Transport.Listen(at, n.accept)
	if err != nil {
		n.mu.Unlock()
		return fmt.Errorf("migrate: host %s cannot listen at %s: %w", n.self.ID, at, err)
	}
	n.listener = l
	n.self.Addr = withPort(n.cfg.Advertise, l.Addr())
	host, _, err := net.SplitHostPort(n.self.Addr)
	ip := net.ParseIP(host)
	n.closed = err == nil && (host == "" || ip != nil && ip.IsUnspecified())
	refused := n.closed
	if !refused {
		if addr, err := transport.AdvertiseAddr(n.self.Addr, ""); err == nil { // it names a host: that removes its zone only
			n.self.Addr = addr
		}
	}
	n.mu.Unlock()
	if refused {
		l.Close()
		return transport.Errorf(CodeConfig,
			"migrate: NodeConfig.Advertise must name a host to listen at %s: other hosts cannot reach %s", l.Addr(), n.self.Addr)
	}
	return nil
}

// withPort returns the address to advertise for a listener: addr, with the listener's port if addr has none.
func withPort(addr, listener string) string {
	if addr == "" {
		return listener
	}
	_, port, err := net.SplitHostPort(listener)
	if err != nil {
		return addr // not in the form of TCP
	}
	host, p, err := net.SplitHostPort(addr)
	switch {
	case err == nil && p != "" && p != "0":
		return addr
	case err != nil:
		host = strings.Trim(addr, "[]")
	}
	return net.JoinHostPort(host, port)
}

func randomName(k transport.Key) string {
	if k.IsZero() {
		rand.Read(k[:4])
	}
	return hex.EncodeToString(k[:4])
}

// Self returns this host as it appears in records and announcements.
func (n *Node) Self() resolver.Host { return n.self }

// now returns the time used by the cores: the time since the node's start.
func (n *Node) now() time.Duration { return time.Since(n.start) }

// Host makes this node a host of a service. If the service has no record, Host creates it with an empty state and returns
// when this node serves it. If it exists, the node stands by, as after [Node.Standby], unless none of the hosts that held
// the state answers: then the error is [ErrNoHost]. A node whose own [NodeConfig.Dir] holds the state continues with it.
//
// Because the resolver may have lost the record, Host first asks the hosts that are present. If one of them is active, or
// this node's directory holds the state, the node stands by: the hosts that hold the state restore the record together. If
// none is, but one knows the service, the error is [ErrNoHost]. If one does not answer, Host waits for it as long as it is
// present, for up to twice [NodeConfig.PresenceTTL]; then the error is ErrNoHost as well.
//
// After a power failure of hosts that all have a directory, they may restart in any order. The others wait for the one that
// holds the latest state: retry Host until it has started. Only if it never returns, use [Node.Reset], which discards what
// only that host holds.
//
// fresh creates an empty instance of the service. It is called once for each copy on this node. ctx limits the call
// alone: the service is hosted until [Service.Leave], [Node.Shutdown] or [Node.Close]. A service's name is 1 to 253 bytes of
// printable UTF-8 without spaces.
func (n *Node) Host(ctx context.Context, service string, fresh func() Migratable, policy Policy) (*Service, error) {
	s, err := n.add(service, fresh, policy)
	if err != nil {
		return nil, err
	}
	if err := n.during(ctx, s.create); err != nil {
		s.giveUp()
		return nil, err
	}
	return s, nil
}

// during runs f with a context that also ends when the node closes.
func (n *Node) during(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	err := f(ctx)
	if err != nil && n.ctx.Err() != nil {
		return n.errClosed()
	}
	return err
}

func (n *Node) errClosed() error {
	return transport.Errorf(transport.CodeClosed, "migrate: host %s is closed", n.self.ID)
}

// Standby makes this node a latent host of a service: it fetches a copy, or takes over the service, when the active host
// requests that. The service need not exist yet. fresh and policy are as for [Node.Host].
func (n *Node) Standby(ctx context.Context, service string, fresh func() Migratable, policy Policy) (*Service, error) {
	s, err := n.add(service, fresh, policy)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		s.remove(false)
		return nil, err
	}
	s.post(item{kind: itemStart})
	return s, nil
}

// Reset hosts a service whose state is lost, with an empty state, or with the remaining state in this node's
// [NodeConfig.Dir]. Acknowledged commands may be lost: the record's Loss increases, and all clients receive [ErrStateLost].
// If a host that held the state still answers, or this node holds the state, the error is [ErrExists].
//
// On a node that already hosts the service, holds a copy and is not active, Reset continues with that copy, and ignores
// fresh and policy: so a standby continues if the resolver has lost the record and other hosts are gone for good. It keeps
// all that the copy holds, with two exceptions. On a host that has halted because other hosts died after taking over, it
// drops the command that could not be committed and all entries after it. Outside the in-sync set it drops what is not known
// to be committed.
//
// Reset asks the hosts that are present. If one is active, the error is [ErrExists]. If this node has no copy and another
// host holds one, the error is [ErrNoHost], which names that host.
func (n *Node) Reset(ctx context.Context, service string, fresh func() Migratable, policy Policy) (*Service, error) {
	if s := n.service(service); s != nil && s.canResetHere(ctx) {
		return s, n.during(ctx, s.resetHere)
	}
	s, err := n.add(service, fresh, policy)
	if err != nil {
		return nil, err
	}
	if err := n.during(ctx, s.reset); err != nil {
		s.remove(false)
		return nil, err
	}
	return s, nil
}

func (n *Node) add(service string, fresh func() Migratable, policy Policy) (*Service, error) {
	s, err := n.register(service, fresh, policy)
	if err == nil && n.dir != nil {
		err = s.begin()
	}
	return s, err
}

func (n *Node) register(service string, fresh func() Migratable, policy Policy) (*Service, error) {
	if err := policy.validate(); err != nil {
		return nil, err
	}
	if fresh == nil {
		return nil, transport.Errorf(CodeConfig, "migrate: service %s: the function that makes an instance is nil", service)
	}
	if err := wire.CheckName(service); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch old := n.services[service]; {
	case n.closed || n.leaving:
		return nil, n.errClosed()
	case old != nil && old.registrar.givenUp.Load():
		return nil, transport.Errorf(CodeExists, "migrate: host %s has given up an earlier Host of %s, which has not ended yet",
			n.self.ID, service)
	case old != nil:
		return nil, transport.Errorf(CodeExists, "migrate: host %s already hosts %s", n.self.ID, service)
	}
	s := newService(n, service, fresh, policy)
	n.services[service] = s
	n.announceSoon()
	return s, nil
}

func (n *Node) service(name string) *Service {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.services[name]
}

// Services returns the services that this node hosts, sorted by name.
func (n *Node) Services() []*Service {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.SortedFunc(maps.Values(n.services), func(a, b *Service) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
}

// Shutdown hands over all services, leaves all in-sync sets, and closes the node. Services are handed over concurrently,
// each to an in-sync host if there is one. If a service has no other host, the error is [ErrNoTarget]: the service ends with
// its state and its name is free to be hosted again, or, with a [NodeConfig.Dir], it stays there and continues when the node
// restarts. If ctx ends first, the node closes at once, and the error names the services that were not handed over.
func (n *Node) Shutdown(ctx context.Context) error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.leaving = true
	n.mu.Unlock()
	n.announceSoon()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, s := range n.Services() {
		wg.Go(func() {
			if err := s.leave(ctx, n.dir != nil); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	patience := closePatience
	if ctx.Err() != nil {
		patience /= 10 // the caller has waited already
	}
	return errors.Join(append(errs, n.close(patience))...)
}

// Close stops the node at once, as if the process had died: standbys take over its active services. It notifies the resolver
// that the host is gone, which takes FailureTimeout at most, and waits for the node's goroutines. In a bubble of
// testing/synctest, a node must be closed, and so must a [Client]. Close may be called repeatedly and concurrently, but not
// from a [Migratable].
//
// If a call of a service's own code does not return within half a second, Close stops waiting for it and returns [ErrBusy].
// That call then has no effect on the library.
func (n *Node) Close() error { return n.close(closePatience) }

func (n *Node) close(patience time.Duration) error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		<-n.gone // not n.wg: until the services are stopped, it may drop to zero and rise again
		return nil
	}
	n.closed = true
	defer close(n.gone)
	services := slices.Collect(maps.Values(n.services))
	n.mu.Unlock()
	n.withdraw()
	n.cancel()
	err := n.listener.Close()
	for _, s := range services {
		s.stop()
		s.disk.close(false)
	}
	n.closeConns()
	n.offers.Close()
	n.hooks.Close()
	n.wg.Wait()
	return errors.Join(err, n.awaitAppliers(patience), n.closeDir())
}

// closePatience limits how long Close waits for calls of the services' own code.
const closePatience = 500 * time.Millisecond

// awaitAppliers waits for the services' own code. It abandons calls that do not return, and reports them in the error.
func (n *Node) awaitAppliers(patience time.Duration) error {
	var errs []error
	for _, a := range n.appliers.Wait(patience) {
		name := "another service"
		if a != nil {
			name = a.Machine().Service()
		}
		errs = append(errs, transport.Errorf(CodeBusy, "migrate: host %s is closed, but service %s has not returned from %s",
			n.self.ID, name, busyWith(a)))
	}
	return errors.Join(errs...)
}

// closeConns closes all connections of hosts and clients.
func (n *Node) closeConns() {
	n.links.Close()
	n.mu.Lock()
	inbound := slices.Collect(maps.Keys(n.inbound))
	n.mu.Unlock()
	for _, c := range inbound {
		c.conn.Abort()
	}
}

func (n *Node) announceSoon() {
	select {
	case n.renew <- struct{}{}:
	default:
	}
}

// checkSome has some of the services check the resolver's record, in turn. Active hosts without standbys do not check it
// themselves, and a host without a copy may be needed.
func (n *Node) checkSome(names []string) {
	for range min(len(names), checkAtOnce) {
		n.checked++
		s := n.service(names[n.checked%len(names)])
		if s == nil {
			continue
		}
		switch s.Status().Role {
		case Active:
			s.post(item{kind: itemEvent, ev: core.CheckRecord{}})
		case Latent:
			n.wg.Go(s.offer)
		}
	}
}

// checkAtOnce is the number of services that check their records in each third of PresenceTTL.
const checkAtOnce = 16

// announceAgain is the longest pause after a failed announcement. A resolver answers Hosts a second after its start.
const announceAgain = 250 * time.Millisecond

// announceLoop renews this host's presence at the resolver, and withdraws it at the end. It makes one announcement at a
// time, so that none overtakes another.
func (n *Node) announceLoop() {
	defer close(n.silent)
	timer := time.NewTimer(n.cfg.PresenceTTL / 3)
	defer timer.Stop()
	var checked time.Time
	for announced := false; ; {
		select {
		case <-n.ctx.Done():
			return
		case <-n.renew:
		case <-timer.C:
		}
		n.mu.Lock()
		closed := n.closed
		var names []string
		for name, s := range n.services {
			if !s.board.ended() {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		if n.leaving || closed {
			names = nil
		}
		n.mu.Unlock()
		interval := n.cfg.PresenceTTL / 3
		if now := time.Now(); now.Sub(checked) >= interval { // not for each new service
			checked = now
			n.checkSome(names)
		}
		switch {
		case len(names) > 0:
			announced = true // it may have arrived even if the call fails
			if err := n.announce(names, n.cfg.PresenceTTL); err != nil && !refusesHost(err) {
				interval = min(interval, announceAgain)
			}
		case announced:
			announced = n.announce(nil, 0) != nil
		}
		if closed {
			return
		}
		if len(names) > 0 {
			timer.Reset(interval)
		} else {
			timer.Stop()
		}
	}
}

func (n *Node) announce(names []string, ttl time.Duration) error {
	ctx, cancel := context.WithTimeout(n.ctx, n.cfg.PresenceTTL)
	defer cancel()
	err := n.cfg.Resolver.Announce(ctx, n.self, names, ttl)
	if err != nil && n.ctx.Err() == nil {
		n.log.Warn("presence not announced", "services", len(names), "err", err)
		n.unheard(err)
	} else {
		n.refused = ""
	}
	return err
}

// refusesHost reports whether a failed announcement or change requires intervention. Otherwise the resolver may be back soon.
func refusesHost(err error) bool {
	return errors.Is(err, resolver.ErrRefused) || errors.Is(err, resolver.ErrInvalid) || transport.IsFinal(err)
}

// unheard calls Hooks.Failed, once, for a failed announcement that requires intervention.
func (n *Node) unheard(err error) {
	if !refusesHost(err) {
		return
	}
	if f := n.cfg.Hooks.Failed; f != nil && n.refused != err.Error() {
		n.refused = err.Error()
		n.hooks.Call(func() { f("", fmt.Errorf("migrate: host %s is not announced: %w", n.self.ID, err)) })
	}
}

// withdraw notifies the resolver that this host is gone. It waits for FailureTimeout at most.
func (n *Node) withdraw() {
	n.announceSoon()
	patience := time.NewTimer(n.cfg.FailureTimeout)
	defer patience.Stop()
	select {
	case <-n.silent:
	case <-patience.C:
	}
}
