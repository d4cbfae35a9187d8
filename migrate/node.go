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
	Resolver  resolver.Resolver
	Transport transport.Transport

	// ID is the host's name, unique among the hosts of its services: up to 128 bytes of printable UTF-8 without spaces. ""
	// stands for one made from the transport's key, or a random one where the transport proves none. Where two processes have
	// one ID, the resolver refuses to announce the one that came first, which Hooks.Failed is told of.
	ID string
	// Listen is the address for the listener, as [transport.Transport] takes it. "" stands for ":0".
	Listen string
	// Advertise is the address at which others reach the listener; where it has no port, or port 0, the listener's is
	// added. "" stands for the listener's own, which must then name a host ([transport.AdvertiseAddr] finds one).
	Advertise string

	// Dir is a directory in which this node keeps what it acknowledges, for each service that it hosts: it acknowledges an
	// entry when it is forced to the disk, and a node that starts again with the directory goes on as the host that it was.
	// "" stands for none: the node keeps its services in memory. Hosts with and without one may serve together. The
	// directory is made if there is none. It belongs to one host, with one key, which must be kept as well
	// ([transport.LoadIdentity]), and to one process at a time: another use is refused with [ErrStore]. An older copy of it
	// must never take its place, and nothing in it be removed by hand: a service whose Policy.MinInSync counts on what is
	// gone may need [Node.Reset]. A service that is left leaves nothing in it. Each acknowledgement waits for the disk;
	// what comes at one time shares that. One file is open for each service.
	Dir string

	// Heartbeat is the longest interval between two messages of an active host; it defaults to 100 ms. FailureTimeout is how
	// long a host may be silent before it is replaced or removed: at least 3 heartbeats; it defaults to 500 ms, or 5 heartbeats
	// if that is more. A host whose process has died is detected sooner.
	Heartbeat, FailureTimeout time.Duration
	// PresenceTTL is how long the resolver believes in this host after its last announcement; 0 stands for 3 s.
	PresenceTTL time.Duration

	// Hooks are told what happens; nil funcs are not called.
	Hooks Hooks
	// Logger is told what the node does; nil discards.
	Logger *slog.Logger

	fs   wal.FS // for tests: of Dir; nil: the operating system's
	grow int64  // for tests: how far a log grows before the state is written
}

// Hooks tell a program what happens on its node. They are called one at a time, on a goroutine of the node's own that
// holds no lock: they may call the library (except for Shutdown and Close of this node, which wait for them), and a slow
// one delays only the hooks after it. They are not called after Close has returned.
type Hooks struct {
	// Moved is called on the host that began a handoff, when it has ended, well or not; not for failovers.
	Moved func(Report, error)
	// Changed is called when this host's role for a service, or the service's record, has changed.
	Changed func(Status)
	// Failed is called when something went wrong that no caller is told of: a snapshot that could not be taken, written or
	// restored, a panic in a service or in Policy.Rank (an [ErrPanic], with the stack as the Data of its [transport.Error]),
	// states that differ between hosts, a service that has halted, a copy that counts no more because the service was reset
	// on another host. The service is "" where it is the host that the resolver refuses to announce.
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

// Node is a process's part in hosting services: any number of them behind one listener and one announcement. It is safe
// for concurrent use.
type Node struct {
	cfg   NodeConfig
	self  resolver.Host
	start time.Time
	log   *slog.Logger

	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	listener transport.Listener
	renew    chan struct{} // asks for an announcement now
	silent   chan struct{} // closed when no further announcement will be made
	gone     chan struct{} // closed when Close is through
	hooks    *hooks.Queue  // calls NodeConfig.Hooks
	links    *peer.Links   // to other hosts
	offers   *transfer.Offers
	fetcher  *transfer.Fetcher
	dir      *wal.Dir       // nil: none
	limits   machine.Limits // of the services' machines; zero but in tests
	refused  string         // the last announcement's error that Hooks.Failed was told of; of announceLoop

	appliers apply.Executor // runs the services' own code

	mu       sync.Mutex // guards what follows
	closed   bool
	leaving  bool
	services map[string]*Service
	inbound  map[*inbound]struct{} // connections that others made
}

// maxHooks limits the hook calls that wait for a slow hook; beyond it the oldest are dropped.
const maxHooks = 1024

// NewNode makes a node and begins to listen. It announces itself once it hosts a service.
func NewNode(cfg NodeConfig) (*Node, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg:      cfg,
		start:    time.Now(),
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
		Down:  func(h resolver.Host) { n.eachService(core.PeerDown{Host: h}) },
		Reset: func(h resolver.Host) { n.eachService(core.PeerReset{Host: h}) },
	})
	n.offers = transfer.NewOffers(n.ctx, n.self.ID, n.spawn)
	n.fetcher = transfer.NewFetcher(n.ctx, n.links, n.spawn)
	l, err := cfg.Transport.Listen(cfg.Listen, n.accept)
	if err != nil {
		n.cancel()
		n.closeDir()
		return nil, fmt.Errorf("migrate: host %s can't listen at %s: %w", n.self.ID, cfg.Listen, err)
	}
	n.listener = l
	n.self.Addr = withPort(cfg.Advertise, l.Addr())
	if host, _, err := net.SplitHostPort(n.self.Addr); err == nil {
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			n.cancel()
			l.Close()
			n.closeDir()
			return nil, transport.Errorf(CodeConfig,
				"migrate: NodeConfig.Advertise must name a host to listen at %s: others can't reach %s", l.Addr(), n.self.Addr)
		}
	}
	n.hooks = hooks.New(maxHooks, n.wg.Go)
	n.appliers.Stuck = n.stuck
	n.wg.Go(n.announceLoop)
	return n, nil
}

// withPort is the address to advertise for a listener: addr, with the listener's port where it has none.
func withPort(addr, listener string) string {
	if addr == "" {
		return listener
	}
	_, port, err := net.SplitHostPort(listener)
	if err != nil {
		return addr // not an address of TCP's kind
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

// Self is this host as records and presence name it.
func (n *Node) Self() resolver.Host { return n.self }

// now is the time that cores live in.
func (n *Node) now() time.Duration { return time.Since(n.start) }

// Host makes this node a host of a service, which it creates, with an empty state, if no record of it exists. If it exists
// the node stands by like one that called [Node.Standby], unless none of the hosts that held the state answers: then the
// error is [ErrNoHost]. A node whose own [NodeConfig.Dir] holds the state goes on with it. Where all hosts have a directory
// and are started after a power cut, in any order, it is the one that holds the latest state that the others wait for: let
// them try Host again until it is there. Only if it never comes back is it time for [Node.Reset], which gives up what only
// that host holds.
//
// fresh makes an empty instance of the service: one for each copy that comes to live here. ctx bounds the call only; the
// service is hosted until [Service.Leave], [Node.Shutdown] or [Node.Close]. A service's name is 1 to 253 bytes of printable
// UTF-8 without spaces.
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

// during runs f with a context that ends with the node, too.
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

// Standby makes this node a latent host of a service: it takes a copy, or the service itself, when the active host asks
// it to. The service need not exist yet.
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

// Reset hosts a service whose state is gone, with an empty state, or with what this node's [NodeConfig.Dir] has left of it:
// what was acknowledged before may be lost, the record's Loss rises, and every client is told with [ErrStateLost]. While a
// host that held the state still answers, or this one holds it, the error is [ErrExists].
//
// On a host that has halted because others took over in vain, Reset goes on with the copy that is there, and without the
// command that could not be committed and all after it; fresh and policy are not looked at.
func (n *Node) Reset(ctx context.Context, service string, fresh func() Migratable, policy Policy) (*Service, error) {
	if s := n.service(service); s != nil && s.Status().Role == Halted && !s.over.Load() {
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
	case old != nil && old.isGivenUp():
		return nil, transport.Errorf(CodeExists, "migrate: host %s has given up an earlier Host of %s, of which something is still under way",
			n.self.ID, service)
	case old != nil:
		return nil, transport.Errorf(CodeExists, "migrate: host %s hosts %s already", n.self.ID, service)
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

// Services returns the services that this node hosts, by name.
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

// Shutdown hands every service over, leaves every in-sync set, and closes the node. Services are handed over side by
// side, to an in-sync host if there is one. The error is [ErrNoTarget] where there is no other host: then the service ends
// with its state and its name is free to be hosted anew, or, with a [NodeConfig.Dir], it stays there and goes on when the node
// starts again. When ctx ends first the node is closed as it is, and the error says which services were not handed over.
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
		patience /= 10 // the caller has waited
	}
	return errors.Join(append(errs, n.close(patience))...)
}

// Close stops at once, as if the process had died: what this node was active for goes on at a standby. It tells the resolver
// that the host is gone, for which it waits FailureTimeout at most, and waits for the node's goroutines: in a bubble of
// testing/synctest a node has to be closed, as a [Client] has to. It is safe to call twice and from many goroutines, but not
// from a [Migratable].
//
// It does not wait for a service whose Apply does not return: it gives up after half a second, with [ErrBusy]. What that call still
// does has no effect any more.
func (n *Node) Close() error { return n.close(closePatience) }

func (n *Node) close(patience time.Duration) error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		<-n.gone // not for n.wg: until the services are stopped, it may fall to zero and rise again
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
		s.closeStore(false)
	}
	n.closeConns()
	n.offers.Close()
	n.hooks.Close()
	n.wg.Wait()
	return errors.Join(err, n.awaitAppliers(services, patience), n.closeDir())
}

// closePatience is how long Close waits for calls of the services' own code to return.
const closePatience = 500 * time.Millisecond

// awaitAppliers waits for the services' own code. What does not return is left behind, and is the error.
func (n *Node) awaitAppliers(services []*Service, patience time.Duration) error {
	var errs []error
	for _, a := range n.appliers.Wait(patience) {
		name := "another service"
		for _, s := range services {
			if s.applierNow() == a {
				name = s.name
			}
		}
		errs = append(errs, transport.Errorf(CodeBusy, "migrate: host %s is closed, but service %s has not returned from %s", n.self.ID, name, busyWith(a)))
	}
	return errors.Join(errs...)
}

// closeConns closes all connections, those of peers and clients.
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

// announceLoop keeps the resolver informed that this host is there, and in the end that it is not: one announcement at a
// time, so that none overtakes another.
func (n *Node) announceLoop() {
	defer close(n.silent)
	timer := time.NewTimer(n.cfg.PresenceTTL / 3)
	defer timer.Stop()
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
			if !s.over.Load() {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		if n.leaving || closed {
			names = nil
		}
		n.mu.Unlock()
		switch {
		case len(names) > 0:
			announced = true // it may arrive even if it fails
			n.announce(names, n.cfg.PresenceTTL)
		case announced:
			announced = !n.announce(nil, 0)
		}
		if closed {
			return
		}
		if len(names) > 0 {
			timer.Reset(n.cfg.PresenceTTL / 3)
		} else {
			timer.Stop()
		}
	}
}

func (n *Node) announce(names []string, ttl time.Duration) bool {
	ctx, cancel := context.WithTimeout(n.ctx, n.cfg.PresenceTTL)
	defer cancel()
	err := n.cfg.Resolver.Announce(ctx, n.self, names, ttl)
	if err != nil && n.ctx.Err() == nil {
		n.log.Warn("presence not announced", "services", len(names), "err", err)
		n.unheard(err)
	} else {
		n.refused = ""
	}
	return err == nil
}

// unheard tells Hooks.Failed, once, of an announcement that a person has to do something about.
func (n *Node) unheard(err error) {
	switch {
	case errors.Is(err, resolver.ErrRefused), errors.Is(err, resolver.ErrInvalid), errors.Is(err, transport.ErrWrongKey),
		errors.Is(err, transport.ErrVersion):
	default:
		return // the resolver may be there again soon
	}
	if f := n.cfg.Hooks.Failed; f != nil && n.refused != err.Error() {
		n.refused = err.Error()
		n.hooks.Call(func() { f("", fmt.Errorf("migrate: host %s is not announced: %w", n.self.ID, err)) })
	}
}

// withdraw tells the resolver that this host is gone; it does not insist.
func (n *Node) withdraw() {
	n.announceSoon()
	patience := time.NewTimer(n.cfg.FailureTimeout)
	defer patience.Stop()
	select {
	case <-n.silent:
	case <-patience.C:
	}
}
