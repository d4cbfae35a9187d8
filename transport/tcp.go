package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"time"
)

// TCPConfig configures a [TCP]. The zero value is valid: TLS with a new identity.
type TCPConfig struct {
	// Identity is the key that this side proves. It defaults to a new one, which no peer knows.
	Identity *Identity

	// InsecurePlaintext disables TLS: no peer proves its identity, and everybody on the path can read and change the
	// messages. Both sides must use the same setting. It cannot be combined with an Identity.
	InsecurePlaintext bool

	// MaxPending limits the bytes that wait to be sent on one connection. Beyond it the connection is closed with
	// [ErrSlowPeer]. It is at least 4 MiB, and defaults to that.
	MaxPending int

	// MaxConns limits the open connections, outbound included; further inbound ones are closed before the handshake. It
	// defaults to 65,536.
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
)

func (cfg *TCPConfig) limits() (*limits, error) {
	l := &limits{
		minVersion: minVersion,
		maxVersion: maxVersion,
		maxMessage: cmp.Or(cfg.maxMessage, defaultMessage),
		maxPending: cmp.Or(cfg.MaxPending, minPending),
		maxConns:   cmp.Or(cfg.MaxConns, 1<<16),
		pingEvery:  cmp.Or(cfg.PingEvery, 5*time.Second),
		handshake:  cmp.Or(cfg.handshakeTimeout, 2*time.Second),
		message:    cmp.Or(cfg.messageTimeout, 10*time.Second),
		log:        cfg.Logger,
	}
	l.writing = l.message
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	switch {
	case l.maxPending < minPending:
		return nil, fmt.Errorf("transport: MaxPending is %d, less than %d", l.maxPending, minPending)
	case l.maxConns < 0:
		return nil, fmt.Errorf("transport: MaxConns is %d, below 0", l.maxConns)
	case l.pingEvery < time.Millisecond:
		return nil, fmt.Errorf("transport: PingEvery is %v, less than 1 ms", l.pingEvery)
	}
	return l, nil
}

// TCP is a [Transport] over TCP: MessagePack-RPC in TLS 1.3. Both sides prove an Ed25519 key; nothing else in their
// certificates is checked.
type TCP struct {
	endpoint
	key    Key
	client *tls.Config // nil: no TLS
	server *tls.Config
	door   *door
}

var _ Transport = (*TCP)(nil)

// NewTCP returns a transport. An error names the invalid field of cfg.
func NewTCP(cfg TCPConfig) (*TCP, error) {
	lim, err := cfg.limits()
	if err != nil {
		return nil, err
	}
	t := &TCP{door: newDoor(runtime.GOMAXPROCS(0))}
	t.init(lim)
	if cfg.InsecurePlaintext {
		if cfg.Identity != nil {
			return nil, errors.New("transport: Identity is set, but InsecurePlaintext cannot prove it")
		}
		return t, nil
	}
	id := cfg.Identity
	if id == nil {
		id = NewIdentity()
	}
	if t.client, t.server, err = tlsConfigs(id); err != nil {
		return nil, err
	}
	t.key = id.Key()
	return t, nil
}

// Key returns the public key of the identity, zero with InsecurePlaintext.
func (t *TCP) Key() Key { return t.key }

// Dial implements [Transport]. If ctx has no deadline, the handshake may take 2 s after the connection is made. With
// InsecurePlaintext, Dial of a Peer with a key fails, since the peer cannot prove it.
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
	d := net.Dialer{KeepAlive: -1} // the engine sends pings
	base, err := d.DialContext(ctx, "tcp", to.Addr)
	if err != nil {
		return nil, err
	}
	return t.dialled(ctx, base, func() (*conn, error) { return t.greet(ctx, base, to, h) })
}

// greet performs the handshake with a peer that this side has dialled.
func (t *TCP) greet(ctx context.Context, base net.Conn, to Peer, h Handler) (*conn, error) {
	nc, seal := base, (*sealer)(nil)
	if t.client != nil {
		cfg := t.client.Clone()
		cfg.VerifyConnection = func(st tls.ConnectionState) error {
			key, err := peerKey(st)
			if err == nil && !to.Key.IsZero() && key != to.Key {
				err = Errorf(CodeWrongKey, "expected key %v, the peer has %v", to.Key, key)
			}
			to.Key = key
			return err
		}
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
		return nil, fmt.Errorf("transport: listen at %s: %w", addr, err)
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
			l.t.lim.log.Info("connection refused: too many connections", "peer", base.RemoteAddr().String())
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
		t.lim.log.Log(context.Background(), level, "connection refused", "peer", base.RemoteAddr().String(), "error", err)
		t.wg.Done()
		return
	}
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
			peer.Key, err = peerKey(tc.ConnectionState())
		}
		if err != nil {
			if foundMessage(err) {
				base.Write(plaintextAlert)
			}
			return nil, nil, handshakeError(err, t.lim)
		}
		nc = tc
	}
	c = newConn(nc, base, seal, t.lim, peer)
	first, err = t.receive(c, &l.gate, func() { v.leave() })
	return c, first, err
}

// AdvertiseAddr returns the address at which the process at remote, a host:port, reaches a listener of this machine.
// listenAddr is the address from [Listener].Addr. If its host is unspecified, as after listening at ":0", AdvertiseAddr
// replaces it with the address that the system would use to reach remote. It sends no packet.
func AdvertiseAddr(listenAddr, remote string) (string, error) {
	host, port, err := net.SplitHostPort(listenAddr)
	if err != nil {
		return "", fmt.Errorf("transport: advertise %s: %w", listenAddr, err)
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return listenAddr, nil
	}
	c, err := net.Dial("udp", remote)
	if err != nil {
		return "", fmt.Errorf("transport: advertise %s towards %s: %w", listenAddr, remote, err)
	}
	defer c.Close()
	local, _, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		return "", fmt.Errorf("transport: advertise %s towards %s: %w", listenAddr, remote, err)
	}
	return net.JoinHostPort(local, port), nil
}
