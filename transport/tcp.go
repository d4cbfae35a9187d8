package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
)

// TCPConfig configures a [TCP]. One of Realm, Open and InsecurePlaintext must be set: it decides who can connect.
type TCPConfig struct {
	// Identity is the key that this side proves. It defaults to a new one, which no peer knows.
	Identity *Identity

	// Realm makes this side a member of a realm. Connections from and to others fail with [ErrNotMember].
	Realm *Realm

	// Accept admits the members of further realms. It replaces a realm without a pause: first all processes accept the new
	// one, then all use it and accept the old one, and then they stop to accept that. At each step a process may be started
	// again.
	Accept []*Realm

	// Open admits everybody who can reach this side's addresses, with any key. Every peer may then do everything that a
	// member of a realm may. It cannot be combined with a Realm.
	Open bool

	// InsecurePlaintext is like Open and also disables TLS: no peer proves its identity, and everybody on the path can read
	// and change the messages. Both sides must use the same setting. It cannot be combined with an Identity or a Realm.
	InsecurePlaintext bool

	// MaxPending limits the bytes that wait to be sent on one connection. Beyond it the connection is closed with
	// [ErrSlowPeer]. It is at least 4 MiB, and defaults to that.
	MaxPending int

	// MaxBuffered limits the bytes of memory that all connections together take for messages that wait to be sent, and for
	// parts of messages that have arrived. Beyond it the connections that take most, bytes times the time since they made
	// progress, are closed with [ErrSlowPeer], but none that takes less than the average.
	// Connections that need at most 4 KiB for either do not count. It is at least MaxPending, and defaults to 64 MiB, or 4
	// times MaxPending if that is more.
	MaxBuffered int

	// MaxConns limits the open connections, outbound included; further inbound ones are closed before the handshake. It
	// defaults to 65,536. Where the system limits the open files of a process (RLIMIT_NOFILE), an eighth of them, and at least
	// 32, are kept for other uses.
	MaxConns int

	// PingEvery is how long a peer may be silent before it is pinged. After three times as long the connection is closed
	// with [ErrTimeout]. It is at least 1 ms, and defaults to 5 s.
	PingEvery time.Duration

	// Logger logs refused connections and protocol errors. It defaults to none.
	Logger *slog.Logger

	// Set by tests only.
	maxMessage                       int           // bytes of a message, envelope included
	handshakeTimeout, messageTimeout time.Duration // see limits
}

const (
	defaultMessage = 1 << 20
	minPending     = 4 << 20
	minBuffered    = 64 << 20 // the least default
)

func (cfg *TCPConfig) limits() (*limits, error) {
	l := &limits{
		minVersion: minVersion,
		maxVersion: maxVersion,
		maxMessage: cmp.Or(cfg.maxMessage, defaultMessage),
		maxPending: cmp.Or(cfg.MaxPending, minPending),
		maxConns:   cmp.Or(cfg.MaxConns, 1<<16),
		files:      openFiles,
		pingEvery:  cmp.Or(cfg.PingEvery, 5*time.Second),
		handshake:  cmp.Or(cfg.handshakeTimeout, 2*time.Second),
		message:    cmp.Or(cfg.messageTimeout, 10*time.Second),
		log:        cfg.Logger,
	}
	l.writing = l.message
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	buffered := cmp.Or(cfg.MaxBuffered, max(minBuffered, 4*l.maxPending))
	l.budget = &budget{max: int64(buffered), log: l.log, start: time.Now(), conns: func(func(*conn)) {}}
	switch {
	case l.maxPending < minPending:
		return nil, fmt.Errorf("transport: MaxPending is %d, less than %d", l.maxPending, minPending)
	case buffered < l.maxPending:
		return nil, fmt.Errorf("transport: MaxBuffered is %d, less than MaxPending, %d", buffered, l.maxPending)
	case l.maxConns < 0:
		return nil, fmt.Errorf("transport: MaxConns is %d, below 0", l.maxConns)
	case l.pingEvery < time.Millisecond:
		return nil, fmt.Errorf("transport: PingEvery is %v, less than 1 ms", l.pingEvery)
	}
	return l, nil
}

// TCP is a [Transport] over TCP: MessagePack-RPC in TLS 1.3. Both sides prove an Ed25519 key, and the role that a [Realm]
// gives to it. Nothing else in their certificates is checked.
type TCP struct {
	endpoint
	key     Key
	members *members    // nil: no realm
	client  *tls.Config // nil: no TLS
	server  *tls.Config
	door    *door
	refused rare // logs strangers
	crowded rare // logs connections beyond the limit
}

var _ Transport = (*TCP)(nil)

// NewTCP returns a transport. An error names the invalid field of cfg.
func NewTCP(cfg TCPConfig) (*TCP, error) {
	lim, err := cfg.limits()
	if err != nil {
		return nil, err
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	t := &TCP{door: newDoor(runtime.GOMAXPROCS(0))}
	lim.realm = cfg.realmName()
	t.init(lim)
	if cfg.InsecurePlaintext {
		return t, nil
	}
	id := cfg.Identity
	if id == nil {
		id = NewIdentity()
	}
	var pass []byte
	if cfg.Realm != nil {
		cert, err := cfg.Realm.own(id.Key())
		if err != nil {
			return nil, err
		}
		pass = cert.Raw
		t.members = newMembers(cfg.Realm, cfg.Accept)
	}
	if t.client, t.server, err = tlsConfigs(id, pass); err != nil {
		return nil, err
	}
	t.server.VerifyConnection = func(st tls.ConnectionState) error { return new(Peer).verify(st, t.members) }
	t.key = id.Key()
	return t, nil
}

// realmName returns the name of the realm, "" without one.
func (cfg *TCPConfig) realmName() string {
	if cfg.Realm == nil {
		return ""
	}
	return cfg.Realm.String()
}

// check returns an error if the fields that decide who can connect contradict one another.
func (cfg *TCPConfig) check() error {
	switch {
	case cfg.InsecurePlaintext && cfg.Identity != nil:
		return errors.New("transport: Identity is set, but InsecurePlaintext cannot prove it")
	case cfg.InsecurePlaintext && cfg.Realm != nil:
		return errors.New("transport: Realm is set, but with InsecurePlaintext no peer can prove that it is a member")
	case cfg.Open && cfg.Realm != nil:
		return errors.New("transport: Realm and Open are both set: the one admits members only, the other everybody")
	case cfg.Realm == nil && len(cfg.Accept) > 0:
		return errors.New("transport: Accept is set without Realm")
	case cfg.Realm == nil && !cfg.Open && !cfg.InsecurePlaintext:
		return errors.New("transport: TCPConfig must have a Realm, whose members can connect, or say Open: then everybody can")
	}
	return nil
}

// Key returns the public key of the identity, zero with InsecurePlaintext.
func (t *TCP) Key() Key { return t.key }

// Dial implements [Transport]. If ctx has no deadline, the handshake may take 2 s after the connection is made. With
// InsecurePlaintext, Dial of a Peer with a key fails, since the peer cannot prove it. A link-local IPv6 address needs no zone:
// Dial tries the interfaces over which this process has connections to such addresses, and soon after that all others.
func (t *TCP) Dial(ctx context.Context, to Peer, h Handler) (Conn, error) {
	c, err := t.dial(ctx, to, h)
	if err != nil {
		return nil, dialError(ctx, to, err)
	}
	return c, nil
}

func (t *TCP) dial(ctx context.Context, to Peer, h Handler) (*conn, error) {
	if t.client == nil && !to.Key.IsZero() {
		return nil, Errorf(CodeWrongKey, "expected key %v, but with InsecurePlaintext no peer proves a key", to.Key)
	}
	at, ok := linkLocal(to.Addr)
	if !ok {
		return t.dialAt(ctx, to.Addr, to, h, new(atomic.Bool))
	}
	first, rest := seen.split(at.Addr(), links())
	var won atomic.Bool
	return tryLinks(ctx, first, rest, func(ctx context.Context, zone string) (*conn, error) {
		return t.dialAt(ctx, inZone(at, zone), to, h, &won)
	})
}

// dialAt dials a peer at an address. It fails if won is set when the peer has greeted, and sets it otherwise: of several calls
// for one peer only one succeeds, and only that connection uses h.
func (t *TCP) dialAt(ctx context.Context, addr string, to Peer, h Handler, won *atomic.Bool) (*conn, error) {
	d := net.Dialer{KeepAlive: -1} // the engine sends pings
	base, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return t.dialled(ctx, base, func() (*conn, error) {
		c, err := t.greet(ctx, base, to, h)
		if err == nil && won.Swap(true) {
			return nil, ErrClosed
		}
		if err == nil {
			seen.note(base.RemoteAddr())
		}
		return c, err
	})
}

// greet performs the handshake with a peer that this side has dialled.
func (t *TCP) greet(ctx context.Context, base net.Conn, to Peer, h Handler) (*conn, error) {
	nc, seal := base, (*sealer)(nil)
	if t.client == nil {
		to.Role, to.Services = RoleOpen, "" // nothing is proved
	} else {
		cfg := t.client.Clone()
		cfg.VerifyConnection = func(st tls.ConnectionState) error { return to.verify(st, t.members) }
		v := t.door.enter(ctx, base)
		seal = &sealer{Conn: v}
		tc := tls.Client(seal, cfg)
		err := v.takeTurn() // the dialer begins the handshake
		if err == nil {
			err = tc.Handshake()
		}
		v.computed()
		if err != nil {
			return nil, handshakeError(err, t.lim)
		}
		nc = tc
	}
	c := newConn(nc, base, seal, t.lim, to)
	c.handler = h
	return c, c.greet()
}

// Close closes all listeners and connections of t and waits until their goroutines have ended. Do not call it from a
// handler. It is safe to call several times and from several goroutines.
func (t *TCP) Close() error {
	t.door.close()
	t.close()
	return nil
}

// Listen implements [Transport]. addr is host:port as for [net.Listen]; port 0 selects a free port. At most 2,048
// connections can be in the handshake; beyond that the oldest is closed. accept must not wait for the peer.
func (t *TCP) Listen(addr string, accept func(Conn) Handler) (Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1}
	nl, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("transport: listen at %s: %w", addr, portable(err))
	}
	l := &tcpListener{t: t, nl: nl, gate: gate{accept: accept}}
	if err := t.serve(l, l.run); err != nil {
		nl.Close()
		return nil, fmt.Errorf("transport: listen at %s: %w", addr, err)
	}
	return l, nil
}

type tcpListener struct {
	t  *TCP
	nl net.Listener
	gate
}

func (l *tcpListener) Addr() string { return l.nl.Addr().String() }

func (l *tcpListener) Close() error {
	l.gate.close()
	l.t.unserve(l)
	l.nl.Close()
	return nil
}

func (l *tcpListener) run() {
	wait := 5 * time.Millisecond
	for {
		base, err := l.nl.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Most likely the process has too many open files; others may close some.
			l.t.lim.log.Warn("accept failed", "addr", l.Addr(), "error", err)
			time.Sleep(wait)
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 5 * time.Millisecond
		if l.t.full() {
			base.Close()
			l.t.crowded.warn(l.t.lim.log, "connection refused: too many connections", "peer", base.RemoteAddr().String())
			continue
		}
		if !l.t.add(base) {
			base.Close()
			return
		}
		v := l.t.door.receive(base, l.t.lim.handshake)
		l.t.wg.Add(1)
		go l.serve(base, v)
	}
}

// serve performs the handshake and then reads, on one goroutine: a second one would have to grow a stack of its own.
func (l *tcpListener) serve(base net.Conn, v *visit) {
	t := l.t
	c, first, err := l.handshake(base, v)
	if err != nil {
		level := slog.LevelInfo
		if v.leave() {
			level = slog.LevelDebug // there can be very many
		}
		t.drop(base)
		if CodeOf(err) == CodeNotMember {
			t.refused.warn(t.lim.log, "connection of a stranger refused", "peer", base.RemoteAddr().String(), "error", err)
		} else {
			t.lim.log.Log(context.Background(), level, "connection refused", "peer", base.RemoteAddr().String(), "error", err)
		}
		t.wg.Done()
		return
	}
	seen.note(base.RemoteAddr())
	t.wg.Done() // the connection counts on its own; the goroutine that reads ends that
	t.read(c, first)
}

func (l *tcpListener) handshake(base net.Conn, v *visit) (c *conn, first []byte, err error) {
	t := l.t
	nc, seal, peer := base, (*sealer)(nil), Peer{Addr: base.RemoteAddr().String()}
	if t.server != nil {
		seal = &sealer{Conn: v}
		tc := tls.Server(seal, t.server)
		err := tc.Handshake()
		v.computed()
		if err == nil {
			err = peer.verify(tc.ConnectionState(), t.members)
		}
		if err != nil {
			if foundMessage(err) {
				base.Write(plaintextAlert)
			}
			if CodeOf(err) == CodeNotMember {
				drain(base)
			}
			return nil, nil, handshakeError(err, t.lim)
		}
		nc = tc
	}
	c = newConn(nc, base, seal, t.lim, peer)
	first, err = t.receive(c, &l.gate, func() { v.leave() })
	return c, first, err
}

// drain waits a moment until the peer has read the alert and closes: the system would discard an alert that is on the way if
// this side closed while it had bytes that it has not read.
func drain(base net.Conn) {
	if c, ok := base.(*net.TCPConn); ok && c.CloseWrite() == nil {
		base.SetReadDeadline(time.Now().Add(drainTime))
		io.CopyN(io.Discard, base, minRead)
	}
}

const (
	drainTime = 200 * time.Millisecond
	minRead   = 4 << 10
)

// AdvertiseAddr returns the address at which the process at remote, a host:port, reaches a listener of this machine.
// listenAddr is the address from [Listener].Addr. If its host is unspecified, as after listening at ":0", AdvertiseAddr
// replaces it with the address that the system would use to reach remote. It sends no packet. The result has no zone: the name
// of an interface of this machine means nothing to others. [TCP.Dial] finds theirs.
func AdvertiseAddr(listenAddr, remote string) (string, error) {
	host, port, err := net.SplitHostPort(listenAddr)
	if err != nil {
		return "", fmt.Errorf("transport: advertise %s: %w", listenAddr, err)
	}
	if ip, err := netip.ParseAddr(host); host != "" && (err != nil || !ip.IsUnspecified()) {
		return withoutZone(listenAddr), nil
	}
	c, err := net.Dial("udp", inSomeZone(remote))
	if err != nil {
		return "", fmt.Errorf("transport: advertise %s towards %s: %w", listenAddr, remote, err)
	}
	defer c.Close()
	local, _, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		return "", fmt.Errorf("transport: advertise %s towards %s: %w", listenAddr, remote, err)
	}
	return withoutZone(net.JoinHostPort(local, port)), nil
}
