package transport

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Memory is a network of named hosts inside the process, for tests. Its connections can be slow, cut, damaged or
// partitioned. It carries the same messages as [TCP] and works in a testing/synctest bubble. It is safe for concurrent use.
//
// A fault applies to one direction between two hosts, or to both, and to existing and future connections unless the method
// states otherwise. The hosts need not exist when a fault is set.
type Memory struct {
	mu        sync.Mutex // guards everything here and in the streams; held for moments only
	hosts     map[string]*MemoryTransport
	listeners map[string]*memListener
	links     map[[2]string]*memLink // by from, to
	conns     map[*memConn]struct{}
	oneWay    time.Duration
	ports     int
	dials     int64
	changed   sync.Cond // wakes dials that wait
	messages  atomic.Int64
}

// memLink is the state of one direction between two hosts.
type memLink struct {
	from, to string
	delay    time.Duration // below 0: use the network's
	blocked  bool
	refuse   bool
	rate     int64 // bytes a second; 0: no limit
	free     time.Time
	cutIn    int64 // bytes until a cut; below 0: none
	flipIn   int64 // bytes until one is damaged; below 0: none
}

// MemoryStats are counters of a [Memory].
type MemoryStats struct {
	Dials    int64 // attempts to connect, successful or not
	Open     int   // connections that at least one side has not closed
	Messages int64 // calls, replies and notifications sent, greetings and pings included
}

var errRefused error = syscall.ECONNREFUSED

// NewMemory returns a network without delay and faults.
func NewMemory() *Memory {
	m := &Memory{
		hosts:     make(map[string]*MemoryTransport),
		listeners: make(map[string]*memListener),
		links:     make(map[[2]string]*memLink),
		conns:     make(map[*memConn]struct{}),
	}
	m.changed.L = &m.mu
	return m
}

// Host returns the host with that name. It creates the host, with the default configuration and a key that depends only on
// the name, if there is none or the last one was closed or crashed.
func (m *Memory) Host(name string) *MemoryTransport {
	seed := sha256.Sum256([]byte("roam memory host " + name))
	t, err := m.HostWith(name, TCPConfig{Identity: &Identity{key: ed25519.NewKeyFromSeed(seed[:])}})
	if err != nil {
		panic(err) // the defaults are valid
	}
	return t
}

// HostWith is like Host with a configuration, which is used only if the host is created. Nothing is encrypted: Identity is
// the key that other hosts see. With InsecurePlaintext, or without an Identity, the host has no key. Without a Realm, which
// requires an Identity, the host is open.
func (m *Memory) HostWith(name string, cfg TCPConfig) (*MemoryTransport, error) {
	if name == "" || strings.Contains(name, ":") {
		return nil, fmt.Errorf("transport: %q is not a valid host name", name)
	}
	lim, err := cfg.limits()
	if err != nil {
		return nil, err
	}
	var pass *x509.Certificate
	if cfg.Realm != nil {
		if err := cfg.check(); err != nil {
			return nil, err
		}
		if cfg.Identity == nil {
			return nil, fmt.Errorf("transport: host %q has a Realm but no Identity", name)
		}
		if pass, err = cfg.Realm.own(cfg.Identity.Key()); err != nil {
			return nil, err
		}
	}
	lim.messages = &m.messages
	lim.realm = cfg.realmName()
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.hosts[name]; t != nil && !t.dead {
		return t, nil
	}
	t := &MemoryTransport{net: m, name: name}
	t.init(lim)
	if cfg.Identity != nil && !cfg.InsecurePlaintext {
		t.key = cfg.Identity.Key()
	}
	if cfg.Realm != nil {
		t.pass, t.members = pass, newMembers(cfg.Realm, cfg.Accept)
	}
	m.hosts[name] = t
	return t, nil
}

// MemoryTransport is the [Transport] of one host of a [Memory].
type MemoryTransport struct {
	endpoint
	net     *Memory
	name    string
	key     Key
	pass    *x509.Certificate // nil: no realm
	members *members
	dead    bool // closed or crashed; guarded by net.mu
}

var _ Transport = (*MemoryTransport)(nil)

// Key returns the host's key.
func (t *MemoryTransport) Key() Key { return t.key }

// Close closes the host's listeners and connections and waits until their goroutines have ended. Do not call it from a
// handler.
func (t *MemoryTransport) Close() error {
	t.net.mu.Lock()
	t.dead = true
	t.net.changed.Broadcast()
	t.net.mu.Unlock()
	t.close()
	return nil
}

// Listen implements [Transport]. addr is name:port with the host's own name, or :port. Port 0 selects a free port.
func (t *MemoryTransport) Listen(addr string, accept func(Conn) Handler) (Listener, error) {
	l, err := t.listen(addr, accept)
	if err != nil {
		return nil, fmt.Errorf("transport: listen at %s: %w", addr, err)
	}
	return l, nil
}

func (t *MemoryTransport) listen(addr string, accept func(Conn) Handler) (*memListener, error) {
	name, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if name != "" && name != t.name {
		return nil, fmt.Errorf("this is host %s", t.name)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	l := &memListener{t: t, gate: gate{accept: accept}}
	if err := t.serve(l, nil); err != nil {
		return nil, err
	}
	m := t.net
	m.mu.Lock()
	l.addr = net.JoinHostPort(t.name, strconv.FormatUint(n, 10))
	for n == 0 || m.listeners[l.addr] != nil {
		if n != 0 {
			m.mu.Unlock()
			t.unserve(l)
			return nil, errors.New("address already in use")
		}
		m.ports++
		l.addr = net.JoinHostPort(t.name, strconv.Itoa(m.ports))
		if m.listeners[l.addr] == nil {
			break
		}
	}
	m.listeners[l.addr] = l
	m.mu.Unlock()
	return l, nil
}

type memListener struct {
	t    *MemoryTransport
	addr string
	gate
}

func (l *memListener) Addr() string { return l.addr }

func (l *memListener) Close() error {
	l.gate.close()
	m := l.t.net
	m.mu.Lock()
	if m.listeners[l.addr] == l {
		delete(m.listeners, l.addr)
	}
	m.mu.Unlock()
	l.t.unserve(l)
	return nil
}

// Dial implements [Transport]. If ctx has no deadline, the greeting may take 2 s.
func (t *MemoryTransport) Dial(ctx context.Context, to Peer, h Handler) (Conn, error) {
	c, err := t.dial(ctx, to, h)
	if err != nil {
		return nil, dialError(ctx, to, err)
	}
	return c, nil
}

func (t *MemoryTransport) dial(ctx context.Context, to Peer, h Handler) (*conn, error) {
	base, peer, err := t.net.connect(ctx, t, to)
	if err != nil {
		return nil, err
	}
	return t.dialled(ctx, base, func() (*conn, error) {
		c := newConn(base, base, nil, t.lim, peer)
		c.handler = h
		return c, c.greet()
	})
}

// connect creates the two ends of a connection after one round trip, and passes one to the listener.
func (m *Memory) connect(ctx context.Context, t *MemoryTransport, to Peer) (*memConn, Peer, error) {
	host, _, err := net.SplitHostPort(to.Addr)
	if err != nil {
		return nil, to, err
	}
	stop := context.AfterFunc(ctx, func() {
		m.mu.Lock()
		m.changed.Broadcast()
		m.mu.Unlock()
	})
	defer stop()
	here, far, l, err := m.pair(ctx, t, to, host)
	if err != nil {
		return nil, to, err
	}
	from := Peer{Addr: string(far.remote)}
	if err = to.meets(l.t, t.members); err == nil {
		if stranger := from.meets(t, l.t.members); stranger != nil {
			l.t.lim.log.Warn("connection of a stranger refused", "peer", from.Addr, "error", stranger)
			err = t.lim.refusedPass(l.t.lim.realm)
		}
	}
	if err == nil && !l.take(far, from) {
		err = errRefused
	}
	if err != nil {
		here.Close()
		far.Close()
		return nil, to, err
	}
	return here, to, nil
}

// meets checks what the process with the transport t proves, as the handshake does over TCP, and sets it in p.
func (p *Peer) meets(t *MemoryTransport, members *members) error {
	var a admission
	if members != nil {
		var err error
		if a, err = members.admit(t.pass); err != nil {
			return err
		}
	}
	return p.proved(t.key, a, members != nil)
}

// pair waits for the link and creates both ends.
func (m *Memory) pair(
	ctx context.Context, t *MemoryTransport, to Peer, host string,
) (here, far *memConn, l *memListener, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dials++
	there, back := m.link(t.name, host), m.link(host, t.name)
	for begun := false; ; {
		switch {
		case ctx.Err() != nil:
			return nil, nil, nil, ctx.Err()
		case t.dead:
			return nil, nil, nil, ErrClosed
		case there.refuse:
			return nil, nil, nil, errRefused
		case there.blocked || back.blocked:
			m.changed.Wait() // no answer
			continue
		}
		if trip := m.delay(there) + m.delay(back); trip > 0 && !begun {
			begun = true
			wait := time.NewTimer(trip)
			m.mu.Unlock()
			select {
			case <-wait.C:
			case <-ctx.Done():
			}
			wait.Stop()
			m.mu.Lock()
			continue
		}
		break
	}
	l = m.listeners[to.Addr]
	if l == nil || l.t.dead {
		return nil, nil, nil, errRefused
	}
	if err := to.proved(l.t.key, admission{}, false); err != nil { // the rest is checked when the lock is released
		return nil, nil, nil, err
	}
	m.ports++
	local := memAddr(net.JoinHostPort(t.name, strconv.Itoa(m.ports)))
	up, down := m.stream(there), m.stream(back)
	here = &memConn{net: m, in: down, out: up, local: local, remote: memAddr(to.Addr)}
	far = &memConn{net: m, in: up, out: down, local: memAddr(to.Addr), remote: local}
	m.conns[here], m.conns[far] = struct{}{}, struct{}{}
	return here, far, l, nil
}

// take starts the greeting on the listener's side, unless the endpoint is closed.
func (l *memListener) take(base *memConn, peer Peer) bool {
	e := &l.t.endpoint
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.conns[base] = nil
	e.wg.Add(1)
	go func() {
		base.SetDeadline(e.lim.handshakeBy())
		c := newConn(base, base, nil, e.lim, peer)
		first, err := e.receive(c, &l.gate, func() {})
		if err != nil {
			e.drop(base)
			e.lim.log.Info("connection refused", "peer", peer.Addr, "error", err)
			e.wg.Done()
			return
		}
		e.wg.Done()
		e.read(c, first)
	}()
	return true
}

func (m *Memory) stream(l *memLink) *memStream {
	s := &memStream{net: m, link: l}
	s.cond.L = &m.mu
	return s
}

// link returns the link between two hosts. The caller holds the mutex.
func (m *Memory) link(from, to string) *memLink {
	l := m.links[[2]string{from, to}]
	if l == nil {
		l = &memLink{from: from, to: to, delay: -1, cutIn: -1, flipIn: -1}
		m.links[[2]string{from, to}] = l
	}
	return l
}

func (m *Memory) delay(l *memLink) time.Duration {
	if l.delay >= 0 {
		return l.delay
	}
	return m.oneWay
}

// gone removes an end that was closed or reset.
func (m *Memory) gone(c *memConn) { delete(m.conns, c) }

// damage applies the faults that count bytes to the data that is sent, and reports whether the connection is cut after it.
func (l *memLink) damage(data *[]byte) (cut bool) {
	b := *data
	if l.cutIn >= 0 {
		if cut = int64(len(b)) >= l.cutIn; cut {
			b = b[:l.cutIn]
			l.cutIn = -1
		} else {
			l.cutIn -= int64(len(b))
		}
	}
	if l.flipIn >= 0 {
		if l.flipIn < int64(len(b)) {
			b[l.flipIn] ^= 0x10
			l.flipIn = -1
		} else {
			l.flipIn -= int64(len(b))
		}
	}
	*data = b
	return cut
}

// change runs f on the links of the pairs and wakes all goroutines that may wait for it.
func (m *Memory) change(f func(*memLink), pairs ...[2]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range pairs {
		f(m.link(p[0], p[1]))
	}
	m.wake()
}

func (m *Memory) wake() {
	m.changed.Broadcast()
	for c := range m.conns {
		c.in.cond.Broadcast()
		c.out.cond.Broadcast()
	}
}

func both(a, b string) [][2]string { return [][2]string{{a, b}, {b, a}} }

// SetDelay sets the delay from each host to any other. A dial takes two delays more. Bytes already in flight keep theirs.
func (m *Memory) SetDelay(oneWay time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.oneWay = max(oneWay, 0)
}

// SetLinkDelay sets the delay from one host to another. A negative one restores the delay of SetDelay.
func (m *Memory) SetLinkDelay(from, to string, oneWay time.Duration) {
	m.change(func(l *memLink) { l.delay = oneWay }, [2]string{from, to})
}

// Throttle limits the bytes per second from one host to another, on all connections together. 0 means no limit.
func (m *Memory) Throttle(from, to string, bytesPerSecond int) {
	m.change(func(l *memLink) { l.rate, l.free = int64(max(bytesPerSecond, 0)), time.Time{} }, [2]string{from, to})
}

// Block holds back all bytes from one host to another, as if a route was lost. Connections stall, and dials in either
// direction get no answer. After [Memory.Heal] the bytes arrive, because TCP retransmits them.
func (m *Memory) Block(from, to string) {
	m.change(func(l *memLink) { l.blocked = true }, [2]string{from, to})
}

// Partition blocks both directions between two hosts.
func (m *Memory) Partition(a, b string) {
	m.change(func(l *memLink) { l.blocked = true }, both(a, b)...)
}

// Isolate partitions a host from every other host created so far.
func (m *Memory) Isolate(host string) { m.eachPeer(host, m.Partition) }

// Refuse makes dials from one host to another fail at once, even if the link is blocked. It does not affect existing
// connections.
func (m *Memory) Refuse(from, to string) {
	m.change(func(l *memLink) { l.refuse = true }, [2]string{from, to})
}

// Heal ends the effects of Block, Partition, Isolate and Refuse between two hosts, in both directions.
func (m *Memory) Heal(a, b string) {
	m.change(func(l *memLink) { l.blocked, l.refuse = false, false }, both(a, b)...)
}

// HealAll heals all pairs of hosts.
func (m *Memory) HealAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.links {
		l.blocked, l.refuse = false, false
	}
	m.wake()
}

// Blackhole discards all bytes from one host to another on the existing connections, for their lifetime, and the receiver is
// not notified. New connections work.
func (m *Memory) Blackhole(from, to string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		if l := c.out.link; l.from == from && l.to == to {
			c.out.black = true
			c.out.segs = nil
		}
	}
}

// Cut resets the connections between two hosts. New ones work.
func (m *Memory) Cut(a, b string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		if l := c.out.link; l.from == a && l.to == b || l.from == b && l.to == a {
			c.die(errReset)
		}
	}
}

// CutAfter resets the connection that carries the n-th byte from now on from one host to another, after that byte.
func (m *Memory) CutAfter(from, to string, n int64) {
	m.change(func(l *memLink) { l.cutIn = n }, [2]string{from, to})
}

// FlipAfter inverts a bit of the byte after the next n bytes from one host to another.
func (m *Memory) FlipAfter(from, to string, n int64) {
	m.change(func(l *memLink) { l.flipIn = n }, [2]string{from, to})
}

// Crash ends a host as if its process had died: its connections are reset, its listeners disappear, and its transport
// returns [ErrClosed]. [Memory.Host] then creates a new host with that name.
func (m *Memory) Crash(host string) {
	m.mu.Lock()
	t := m.hosts[host]
	if t == nil {
		m.mu.Unlock()
		return
	}
	t.dead = true
	for addr, l := range m.listeners {
		if l.t == t {
			delete(m.listeners, addr)
		}
	}
	for c := range m.conns {
		if c.out.link.from == host || c.out.link.to == host {
			c.die(errReset)
		}
	}
	m.changed.Broadcast()
	m.mu.Unlock()
	t.crash()
}

func (m *Memory) eachPeer(host string, f func(a, b string)) {
	m.mu.Lock()
	var names []string
	for name := range m.hosts {
		if name != host {
			names = append(names, name)
		}
	}
	m.mu.Unlock()
	for _, name := range names {
		f(host, name)
	}
}

// Stats returns the counters.
func (m *Memory) Stats() MemoryStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	open := make(map[*memStream]struct{})
	for c := range m.conns {
		up := c.out
		if c.local > c.remote { // the same stream for both ends
			up = c.in
		}
		open[up] = struct{}{}
	}
	return MemoryStats{Dials: m.dials, Open: len(open), Messages: m.messages.Load()}
}
