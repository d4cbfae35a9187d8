package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"time"
)

// TCPConfig configures a [TCP]. The zero value is a working configuration: TLS with an identity made for the occasion.
type TCPConfig struct {
	// Identity is the key that this side proves. nil: a new one, which nobody knows from before.
	Identity *Identity

	// InsecurePlaintext switches TLS off: no peer proves who it is, and everybody on the way can read and change what is
	// said. Both sides must agree on it. An Identity is then an error.
	InsecurePlaintext bool

	// MaxMessage is the largest message, in bytes, envelope included, that is sent or accepted: 512 to 1 GiB. 0 stands
	// for 1 MiB.
	MaxMessage int

	// MaxPending bounds the bytes that wait to be sent on one connection; past it the connection is closed with
	// [ErrSlowPeer]. It is at least MaxMessage. 0 stands for 4 MiB, or MaxMessage if that is larger.
	MaxPending int

	// MaxConns is how many connections the transport has, those included that it dialled, before it closes what others
	// dial at once, without a handshake. Those that are there are not affected. 0 stands for 65,536.
	MaxConns int

	// PingEvery is how long a peer may be silent before it is asked for a sign of life; after three times as long without
	// one the connection is closed with [ErrTimeout]. At least 1 ms. 0 stands for 5 s.
	PingEvery time.Duration

	// HandshakeTimeout bounds TLS and the greeting that follows, or the first message of a peer that does not greet. It
	// does not hold for a dial whose context has a deadline: where many dial at once they wait for one another, and who
	// gives up early only makes it longer. 0 stands for 2 s.
	HandshakeTimeout time.Duration

	// MessageTimeout bounds the time from a message's first byte to its last, and the time a write may wait for a peer
	// that reads nothing. 0 stands for 10 s.
	MessageTimeout time.Duration

	// Logger is told of connections that were refused or broke the protocol; nil discards.
	Logger *slog.Logger
}

func (cfg *TCPConfig) limits() (*limits, error) {
	l := &limits{
		maxMessage: cfg.MaxMessage,
		maxPending: cfg.MaxPending,
		maxConns:   cfg.MaxConns,
		pingEvery:  cfg.PingEvery,
		handshake:  cfg.HandshakeTimeout,
		message:    cfg.MessageTimeout,
		writing:    cfg.MessageTimeout,
		log:        cfg.Logger,
	}
	return l, l.fill()
}

// fill puts the defaults where there is zero, and checks what is not.
func (l *limits) fill() error {
	l.minVersion, l.maxVersion = minVersion, maxVersion
	if l.maxMessage == 0 {
		l.maxMessage = 1 << 20
	}
	if l.maxPending == 0 {
		l.maxPending = max(4<<20, l.maxMessage)
	}
	if l.maxConns == 0 {
		l.maxConns = 1 << 16
	}
	if l.pingEvery == 0 {
		l.pingEvery = 5 * time.Second
	}
	if l.handshake == 0 {
		l.handshake = 2 * time.Second
	}
	if l.message == 0 {
		l.message = 10 * time.Second
		l.writing = l.message
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	switch {
	case l.maxMessage < 512 || l.maxMessage > 1<<30:
		return fmt.Errorf("transport: MaxMessage is %d, not 512 to 1 GiB", l.maxMessage)
	case l.maxPending < l.maxMessage:
		return fmt.Errorf("transport: MaxPending is %d, less than MaxMessage (%d)", l.maxPending, l.maxMessage)
	case l.maxConns < 0:
		return fmt.Errorf("transport: MaxConns is %d, below 0", l.maxConns)
	case l.pingEvery < time.Millisecond:
		return fmt.Errorf("transport: PingEvery is %v, less than 1 ms", l.pingEvery)
	case l.handshake < 0:
		return fmt.Errorf("transport: HandshakeTimeout is %v, below 0", l.handshake)
	case l.message < 0:
		return fmt.Errorf("transport: MessageTimeout is %v, below 0", l.message)
	}
	return nil
}

// TCP is a [Transport] over TCP: MessagePack-RPC in TLS 1.3, where both sides prove an Ed25519 key and nothing else about
// a certificate counts. The format is described in the package's documentation.
type TCP struct {
	endpoint
	key    Key
	client *tls.Config // nil: no TLS
	server *tls.Config
	door   *door
}

var _ Transport = (*TCP)(nil)

// NewTCP makes a transport. An error names the field of cfg that is wrong.
func NewTCP(cfg TCPConfig) (*TCP, error) {
	lim, err := cfg.limits()
	if err != nil {
		return nil, err
	}
	t := &TCP{door: newDoor(runtime.GOMAXPROCS(0))}
	t.init(lim)
	if cfg.InsecurePlaintext {
		if cfg.Identity != nil {
			return nil, errors.New("transport: Identity is set, but with InsecurePlaintext nothing proves it")
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

// Key is the public key of the identity; zero with InsecurePlaintext.
func (t *TCP) Key() Key { return t.key }

// Dial implements [Transport]. It takes as long as ctx allows; where ctx has no deadline, HandshakeTimeout bounds what
// comes after reaching the peer. With InsecurePlaintext a Peer with a key is refused, since nothing would be proved.
func (t *TCP) Dial(ctx context.Context, to Peer, h Handler) (Conn, error) {
	c, err := t.dial(ctx, to, h)
	if err != nil {
		return nil, dialError(ctx, to, err)
	}
	return c, nil
}

func (t *TCP) dial(ctx context.Context, to Peer, h Handler) (*conn, error) {
	if t.client == nil && !to.Key.IsZero() {
		return nil, Errorf(CodeWrongKey, "key %v is wanted, but with InsecurePlaintext no peer proves one", to.Key)
	}
	d := net.Dialer{KeepAlive: -1} // the engine has its own
	base, err := d.DialContext(ctx, "tcp", to.Addr)
	if err != nil {
		return nil, err
	}
	return t.dialled(ctx, base, func() (*conn, error) { return t.greet(ctx, base, to, h) })
}

// greet shakes hands with a peer that this side has dialled.
func (t *TCP) greet(ctx context.Context, base net.Conn, to Peer, h Handler) (*conn, error) {
	nc, seal := base, (*sealer)(nil)
	if t.client != nil {
		cfg := t.client.Clone()
		cfg.VerifyConnection = func(st tls.ConnectionState) error {
			key, err := peerKey(st)
			if err == nil && !to.Key.IsZero() && key != to.Key {
				err = Errorf(CodeWrongKey, "key %v is wanted, the peer has %v", to.Key, key)
			}
			to.Key = key
			return err
		}
		v := t.door.enter(ctx, base)
		seal = &sealer{Conn: v}
		tc := tls.Client(seal, cfg)
		err := v.takeTurn() // the first word is ours
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

// Close closes all listeners and connections of t and waits until their goroutines have ended. It must not be called from
// a handler. It is safe to call twice and from many goroutines.
func (t *TCP) Close() error {
	t.door.close()
	t.close()
	return nil
}

// Listen implements [Transport]: addr is host:port as for [net.Listen]; port 0 picks one. Connections that shake hands take
// turns in computing, as many at a time as there are CPUs; of more than 2,048 that are not through, the
// oldest is closed. accept must not wait for the peer.
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
			// Out of files, most likely: others may close some.
			l.t.lim.log.Warn("accept failed", "addr", l.Addr(), "error", err)
			time.Sleep(wait)
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 5 * time.Millisecond
		if l.t.full() {
			base.Close()
			l.t.lim.log.Info("connection refused: there are as many as allowed", "peer", base.RemoteAddr().String())
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

// serve shakes hands with a peer, and then reads what it sends: another goroutine for that would have to grow a stack of its
// own.
func (l *tcpListener) serve(base net.Conn, v *visit) {
	t := l.t
	c, first, err := l.handshake(base, v)
	if err != nil {
		level := slog.LevelInfo
		if v.leave() {
			level = slog.LevelDebug // there can be very many of these
		}
		t.drop(base)
		t.lim.log.Log(context.Background(), level, "connection refused", "peer", base.RemoteAddr().String(), "error", err)
		t.wg.Done()
		return
	}
	t.wg.Done() // the connection has a place of its own, which goes to who reads on
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

// AdvertiseAddr is the address at which the process at remote can reach a listener of this machine. listenAddr is
// [Listener.Addr]: where its host is unspecified, as after listening at ":0", it is replaced by the address that the system
// would use towards remote, a host:port. No packet is sent.
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
