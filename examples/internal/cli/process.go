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

// Process is a process's part in a chat: one identity, one way to the DNS and, unless it is a client only, a host.
type Process struct {
	Flags     Flags
	Transport *transport.TCP
	Resolver  *resolver.Client
	ID        string        // of the host; "" for one made from the key
	Node      *migrate.Node // nil before Listen
	Log       *slog.Logger
}

const (
	dnsTimeout    = 3 * time.Second
	presenceDelay = time.Second // within which a host that serves has told the DNS that it is there
	hostTimeout   = 15 * time.Second
)

// Start makes the transport and connects to the DNS. Its errors are for [Flags.Explain].
func Start(ctx context.Context, f Flags, log *slog.Logger) (*Process, error) {
	p := &Process{Flags: f, Log: log}
	var err error
	if p.Transport, err = NewTransport(f.Identity, f.Insecure, log); err != nil {
		return nil, err
	}
	key, err := transport.ParseKey(f.DNSKey)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	p.Resolver, err = resolver.Dial(ctx, resolver.ClientConfig{
		Transport: p.Transport, Server: transport.Peer{Addr: f.DNS(), Key: key}, Logger: log,
	})
	if err != nil {
		p.Transport.Close()
		return nil, &noDNS{err}
	}
	return p, nil
}

// NewTransport makes a TCP transport with the identity in a file, or with a new one where there is no file.
func NewTransport(identity string, insecure bool, log *slog.Logger) (*transport.TCP, error) {
	cfg := transport.TCPConfig{InsecurePlaintext: insecure, Logger: log}
	if identity != "" {
		id, err := transport.LoadIdentity(identity)
		if err != nil {
			return nil, err
		}
		cfg.Identity = id
	}
	return transport.NewTCP(cfg)
}

// Listen makes the process's node, which begins to host with Host.
func (p *Process) Listen(hooks migrate.Hooks) error {
	// Others reach this machine at the address under which the DNS sees it.
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

// Host makes the node a host of the chat: with -s one that creates the chat if nobody serves it. It returns the record of
// who serves it now; the zero Record if nobody does yet.
func (p *Process) Host(ctx context.Context) (resolver.Record, error) {
	var rec resolver.Record
	room, err := chatcore.New(chatcore.Config{MinParticipants: p.Flags.MinN})
	if err != nil {
		return rec, err
	}
	host := p.Node.Standby
	switch {
	case p.Flags.Reset:
		host = p.Node.Reset
	case p.Flags.Serve:
		host = p.Node.Host
	}
	ctx, cancel := context.WithTimeout(ctx, hostTimeout)
	defer cancel()
	if _, err := host(ctx, p.Flags.Service, room, p.Flags.policy()); err != nil {
		return rec, err
	}
	rec, err = p.Resolver.Get(ctx, p.Flags.Service)
	if errors.Is(err, resolver.ErrNotFound) {
		return resolver.Record{}, nil
	}
	return rec, err
}

// Why says in a sentence why the chat cannot be joined, as far as the DNS knows; "" if nothing is known to be wrong.
func (p *Process) Why(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	name := p.Flags.Service
	rec, err := p.Resolver.Get(ctx, name)
	switch {
	case errors.Is(err, resolver.ErrNotFound), err == nil && rec.Active.ID == "":
		return fmt.Sprintf("nobody serves %s yet: waiting until a host or a console is started with -s", name)
	case err != nil:
		return fmt.Sprintf("the DNS at %s does not answer: waiting for it", p.Flags.DNS())
	}
	m, err := p.present(ctx, rec)
	switch {
	case err != nil:
		return ""
	case m.ID != "":
		return fmt.Sprintf("%s is served by %s at %s, which does not answer yet: if it never does, a firewall is between, or "+
			"it was started with -dns_ip localhost on another machine", name, Printable(m.ID), Printable(m.Addr))
	}
	return fmt.Sprintf("%s was last served by %s, which is gone with all that was said: waiting until it is started anew with "+
		"-s -reset", name, Printable(rec.Active.ID))
}

// present returns a host that holds the chat and that the DNS knows to be there, the zero Host if there is none. A host may
// have begun to serve a moment before it tells the DNS that it is there, so that this asks more than once.
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

// Unreachable warns when some hosts of the chat have an address that works on their own machine only and others do not, so
// that they are on several machines; "" if all is well.
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
	return fmt.Sprintf("%s is known by the address %s, which other machines cannot reach: start it, too, with -dns_ip set to the "+
		"address that the DNS has in the network", Printable(local.ID), Printable(local.Addr))
}

// Leave hands over what this process serves, and closes it. ctx bounds the handing over.
func (p *Process) Leave(ctx context.Context) error {
	var err error
	if p.Node != nil {
		err = p.Node.Shutdown(ctx)
	}
	p.Resolver.Close()
	p.Transport.Close()
	return err
}

// Interrupted returns a context that ends with the first Ctrl-C or SIGTERM; after it, the second ends the process at once.
func Interrupted(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// Logger logs to w if verbose, and nowhere otherwise.
func (f *Flags) Logger(w *os.File) *slog.Logger {
	if !f.Verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
