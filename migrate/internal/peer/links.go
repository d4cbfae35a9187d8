package peer

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// Config configures [Links]. All fields are required.
type Config struct {
	// Context ends when the host stops: then nothing is dialled any more.
	Context context.Context
	// Self returns this host, as it introduces itself to others.
	Self func() resolver.Host

	Transport transport.Transport
	// FailureTimeout bounds the first attempt to connect to a host; later ones may take up to four times as long. For a host
	// that is far, or was never connected, all have at least the time that takes.
	FailureTimeout time.Duration
	Log            *slog.Logger

	// Go starts a goroutine, or reports false if the host is closed. It is called with a lock held, and must not call the
	// Links.
	Go func(func()) bool
	// Down is called when a host's address refuses connections: its process has died. A host that is only silent is not
	// reported. Reset is called when a new connection to a host is in use: messages sent before it may be lost. Both are called
	// without a lock held.
	Down, Reset func(resolver.Host)
	// Accept returns the handler of the messages that a host sends on a link's own connection, because it does not reach this
	// host: that is reported to Unreached, with the host's reason.
	Accept    func(resolver.Host, transport.Conn) transport.Handler
	Unreached func(from resolver.Host, reason string)
}

// Links holds a host's links to other hosts. It is safe for concurrent use.
type Links struct {
	cfg   Config
	trips trips

	mu     sync.Mutex // guards the fields below
	links  map[linkKey]*link
	back   map[backKey]transport.Conn // connections that other hosts have made, and on which they take messages
	closed bool
}

// linkKey identifies a start of a host and its address. Services may know different addresses of a restarted host for a
// while, and the link to one address must not replace the link to another.
type linkKey struct {
	id          string
	incarnation uint64
	addr        string
}

func keyOf(h resolver.Host) linkKey { return linkKey{h.ID, h.Incarnation, h.Addr} }

// New returns Links without a connection.
func New(cfg Config) *Links {
	return &Links{cfg: cfg, links: make(map[linkKey]*link), back: make(map[backKey]transport.Conn)}
}

// messageBuffers holds buffers for encoded messages.
var messageBuffers = sync.Pool{New: func() any { return new([]byte) }}

// maxPooled is the size up to which a buffer is used again.
const maxPooled = 64 << 10

// Send sends a service's message to a host, connecting first if there is no connection. It does not block, and drops the
// message when too many wait for the connection.
func (ls *Links) Send(to resolver.Host, service string, m core.Msg) {
	buf := messageBuffers.Get().(*[]byte)
	params, err := wire.AppendMsgParams((*buf)[:0], service, m)
	if err != nil {
		ls.cfg.Log.Error("message not sent", "service", service, "to", to.ID, "err", err)
		return
	}
	if l := ls.link(to); l != nil {
		l.send(params)
	}
	if cap(params) <= maxPooled {
		*buf = params
		messageBuffers.Put(buf)
	}
}

// Open connects to a host before the first message for it.
func (ls *Links) Open(to resolver.Host) {
	if l := ls.link(to); l != nil {
		l.open()
	}
}

// Probe checks whether a host that has closed its own connection is still there, if there is a link to it: the link connects
// again, unless it is connected, and Down reports the host if it has died.
func (ls *Links) Probe(to resolver.Host) {
	ls.mu.Lock()
	l := ls.links[keyOf(to)]
	ls.mu.Unlock()
	if l != nil {
		l.open()
	}
}

// link returns the link to a host, or nil after Close.
func (ls *Links) link(to resolver.Host) *link {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.closed {
		return nil
	}
	l := ls.links[keyOf(to)]
	if l == nil {
		l = &link{links: ls, to: to, wake: make(chan struct{}, 1)}
		ls.links[keyOf(to)] = l
	}
	return l
}

// remove removes a link that is given up.
func (ls *Links) remove(l *link) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.links[keyOf(l.to)] == l {
		delete(ls.links, keyOf(l.to))
	}
}

// Close closes all links; from then on nothing is sent. Attempts to connect end with Config.Context.
func (ls *Links) Close() {
	ls.mu.Lock()
	ls.closed = true
	links := slices.Collect(maps.Values(ls.links))
	ls.links, ls.back = nil, nil
	ls.mu.Unlock()
	for _, l := range links {
		l.close()
	}
}

// Connect dials a host, which must prove the key that to names, and exchanges hellos with it. The error is [ErrOtherStart]
// if another process answers at the host's address. The caller closes the connection; Close does not.
func (ls *Links) Connect(ctx context.Context, to resolver.Host, h transport.Handler) (transport.Conn, error) {
	conn, err := ls.cfg.Transport.Dial(ctx, transport.Peer{Addr: to.Addr, Key: to.Key, Role: transport.RoleHost}, h)
	if err != nil {
		return nil, err
	}
	if err := ls.greet(ctx, conn, to); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// greet exchanges hellos with the host at the other end of a connection.
func (ls *Links) greet(ctx context.Context, conn transport.Conn, to resolver.Host) error {
	params, err := transport.Marshal(wire.HostHello{Host: ls.cfg.Self()})
	if err != nil {
		return err
	}
	began := time.Now()
	reply, err := conn.Call(ctx, wire.MethodHello, params)
	if err != nil {
		return err
	}
	ls.trips.measured(to.ID, time.Since(began))
	var hello wire.HostHello
	if err := msgpack.UnmarshalSmall(reply, &hello); err != nil {
		return err
	}
	if !hello.Host.Same(to) {
		return fmt.Errorf("at %s, instead of host %s: %w", to.Addr, to.ID, ErrOtherStart)
	}
	return nil
}
