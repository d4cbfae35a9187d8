package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// Process is a participant's process: its identity, its connection to the DNS, and its host unless it is only a client.
type Process struct {
	Flags     Flags
	Transport *transport.TCP
	Resolver  *resolver.Client
	ID        string        // of the host; defaults to one derived from the key
	Node      *migrate.Node // nil before Listen
	Log       *slog.Logger
}

const (
	dnsTimeout    = 3 * time.Second
	presenceDelay = time.Second // after which an active host has announced itself to the DNS
	hostTimeout   = 15 * time.Second
)

// Start creates the transport and connects to the DNS that [Flags.FindDNS] has found. [Flags.Explain] describes its errors.
func Start(ctx context.Context, f Flags, log *slog.Logger) (*Process, error) {
	p := &Process{Flags: f, Log: log}
	var err error
	p.Transport, err = NewTransport(f.Identity, transport.TCPConfig{
		Realm: f.realm, Open: f.Open, InsecurePlaintext: f.Insecure, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	p.Resolver, err = resolver.Dial(ctx, resolver.ClientConfig{
		Transport: p.Transport, Server: transport.Peer{Addr: f.DNS(), Key: f.serverKey}, Logger: log,
	})
	if err != nil {
		p.Transport.Close()
		return nil, &noDNS{err}
	}
	// The address of the DNS may be a name of this machine.
	if addr, err := transport.AdvertiseAddr(listenAll, f.DNS()); err == nil && f.anywhere {
		if host, _, err := net.SplitHostPort(addr); err == nil && isLoopback(host) {
			p.Flags.Listen = listenLocal
		}
	}
	return p, nil
}

// NewTransport creates a TCP transport. Its identity is loaded from the file, or new if identity is empty.
func NewTransport(identity string, cfg transport.TCPConfig) (*transport.TCP, error) {
	if identity != "" {
		id, err := transport.LoadIdentity(identity)
		if err != nil {
			return nil, err
		}
		cfg.Identity = id
	}
	return transport.NewTCP(cfg)
}

// Listen creates the process's node. Host starts hosting.
func (p *Process) Listen(hooks migrate.Hooks) error {
	// Advertise the local address used to reach the DNS.
	addr, err := transport.AdvertiseAddr(p.Flags.Listen, p.Flags.DNS())
	if err != nil {
		return err
	}
	p.Node, err = migrate.NewNode(migrate.NodeConfig{
		Resolver: p.Resolver, Transport: p.Transport, ID: p.ID, Listen: p.Flags.Listen, Advertise: addr, Hooks: hooks,
		Logger: p.Log,
	})
	return err
}

// Host makes the node a host of the chat. With -s it creates the chat if no host serves it. Host returns the chat's record,
// or the zero Record if there is none yet.
func (p *Process) Host(ctx context.Context) (resolver.Record, error) {
	host := p.Node.Standby
	switch {
	case p.Flags.Reset:
		host = p.Node.Reset
	case p.Flags.Serve:
		host = p.Node.Host
	}
	ctx, cancel := context.WithTimeout(ctx, hostTimeout)
	defer cancel()
	if _, err := p.hostBy(ctx, host); err != nil {
		return resolver.Record{}, err
	}
	rec, err := p.Resolver.Get(ctx, p.Flags.Service)
	if errors.Is(err, resolver.ErrNotFound) {
		return resolver.Record{}, nil
	}
	return rec, err
}

// hosting is a method of a node: Host, Standby or Reset.
type hosting func(context.Context, string, func() migrate.Migratable, migrate.Policy) (*migrate.Service, error)

// hostBy calls host for the chat, with a room and a policy made from the flags.
func (p *Process) hostBy(ctx context.Context, host hosting) (*migrate.Service, error) {
	room, err := chatcore.New(chatcore.Config{MinParticipants: p.Flags.MinN})
	if err != nil {
		return nil, err
	}
	return host(ctx, p.Flags.Service, room, p.Flags.policy())
}

// Diagnose explains why the chat cannot be joined, based on the DNS. It returns "" if no cause is known.
func (p *Process) Diagnose(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	name := p.Flags.Service
	rec, err := p.Resolver.Get(ctx, name)
	switch {
	case errors.Is(err, resolver.ErrNotFound), err == nil && rec.Active.ID == "":
		return fmt.Sprintf("no host serves %s yet: waiting until a host or a console is started with -s", name)
	case err != nil:
		return fmt.Sprintf("the DNS at %s does not answer: waiting for it", p.Flags.DNS())
	}
	m, err := p.present(ctx, rec)
	switch {
	case err != nil:
		return ""
	case m.ID != "":
		return fmt.Sprintf("%s is served by %s at %s, which does not answer yet; a firewall may block the connection, or the "+
			"host is on another machine and listens on a loopback address", name, Printable(m.ID), Printable(m.Addr))
	}
	return fmt.Sprintf("%s was last served by %s, which is lost with all messages: waiting until the chat is restarted with "+
		"-s -reset", name, Printable(rec.Active.ID))
}

// present returns a host in sync that has announced itself to the DNS, or the zero Host if there is none. A host may become
// active shortly before its first announcement, so present retries for a while.
func (p *Process) present(ctx context.Context, rec resolver.Record) (resolver.Host, error) {
	again := time.NewTicker(presenceDelay / 5)
	defer again.Stop()
	for late := time.After(presenceDelay); ; {
		hosts, err := p.Resolver.Hosts(ctx, p.Flags.Service)
		if err != nil {
			return resolver.Host{}, err
		}
		for _, m := range rec.ISR {
			if slices.ContainsFunc(hosts, m.Same) {
				return m, nil
			}
		}
		select {
		case <-again.C:
		case <-late:
			return resolver.Host{}, nil
		case <-ctx.Done():
			return resolver.Host{}, ctx.Err()
		}
	}
}

// Unreachable returns a warning if some hosts of the chat have a loopback address and others do not, which means that the
// hosts are on several machines. Otherwise it returns "".
func (p *Process) Unreachable(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	hosts, err := p.Resolver.Hosts(ctx, p.Flags.Service)
	if err != nil {
		return ""
	}
	return unreachable(hosts)
}

func unreachable(hosts []resolver.Host) string {
	var local *resolver.Host
	others := false
	for i, h := range hosts {
		host, _, err := net.SplitHostPort(h.Addr)
		if err != nil {
			continue
		}
		if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
			local = &hosts[i]
		} else {
			others = true
		}
	}
	if local == nil || !others {
		return ""
	}
	return fmt.Sprintf("%s has the address %s, which other machines cannot reach: restart it with -dns_ip set to the network "+
		"address of the DNS", Printable(local.ID), Printable(local.Addr))
}

// Leave hands over the chat if this process serves it, and closes the process's connections. ctx bounds the handover.
func (p *Process) Leave(ctx context.Context) error {
	var err error
	if p.Node != nil {
		err = p.Node.Shutdown(ctx)
	}
	p.Resolver.Close()
	p.Transport.Close()
	return err
}

// Interrupted returns a context that ends on the first Ctrl-C or SIGTERM. A second signal terminates the process.
func Interrupted(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// Logger returns a logger that writes to w if Verbose is set, and discards otherwise.
func (f *Flags) Logger(w *os.File) *slog.Logger {
	if !f.Verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
