package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
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
	Warnings  *slog.Logger // see Flags.Warnings

	// Say shows a sentence to the user, from any goroutine; nil: nobody reads it. It is set before Listen.
	Say func(string)

	port   onePort // of Node and the chat's client
	copies *copies // nil: not watched
}

const (
	dnsTimeout    = 3 * time.Second
	presenceDelay = time.Second // after which an active host has announced itself to the DNS
	hostTimeout   = 15 * time.Second
)

// Start creates the transport and connects to the DNS that [Flags.FindDNS] has found. [Flags.Explain] describes its errors.
func Start(ctx context.Context, f Flags, log *slog.Logger) (*Process, error) {
	p := &Process{Flags: f, Log: log, Warnings: f.Warnings}
	if p.Warnings == nil {
		p.Warnings = log
	}
	var err error
	p.Transport, err = NewTransport(f.Identity, transport.TCPConfig{
		Realm: f.realm, Open: f.Open, InsecurePlaintext: f.Insecure, Logger: p.Warnings,
	})
	if err != nil {
		return nil, err
	}
	p.port.Transport = p.Transport
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	p.Resolver, err = resolver.Dial(ctx, resolver.ClientConfig{
		Transport: p.Transport, Server: transport.Peer{Addr: f.DNS(), Key: f.serverKey}, Logger: p.Warnings,
	})
	if err != nil {
		p.Transport.Close()
		return nil, &noDNS{err}
	}
	// The address of the DNS may be a name of this machine.
	if addr, err := transport.AdvertiseAddr(listenAll, f.DNS()); err == nil && f.anywhere {
		if host, _, err := net.SplitHostPort(addr); err == nil && isLoopback(host) {
			p.Flags.listenLocally()
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
	addr, err := advertise(p.Flags.Listen, p.Flags.DNS())
	if err != nil {
		return err
	}
	if p.Say != nil && p.Flags.Standbys > 0 {
		p.copies = &copies{service: p.Flags.Service, others: p.otherHosts, say: p.Say}
		then := hooks.Changed
		hooks.Changed = func(st migrate.Status) {
			p.copies.changed(st)
			if then != nil {
				then(st)
			}
		}
	}
	p.Node, err = migrate.NewNode(migrate.NodeConfig{
		Resolver: p.Resolver, Transport: p.port.as(asHost), ID: p.ID, Listen: p.Flags.Listen, Advertise: addr, Hooks: hooks,
		Logger: p.Log,
	})
	return err
}

// ClientTransport is the transport of the chat's client. It listens on the port of the node, if there is one.
func (p *Process) ClientTransport() transport.Transport { return p.port.as(asClient) }

// advertise returns the address to advertise for a listener at listen: the local address used to reach the DNS if it listens on
// all, and otherwise "" for its own. That is an IP address, while listen may be a name that means another machine elsewhere.
func advertise(listen, dns string) (string, error) {
	host, _, err := net.SplitHostPort(listen)
	if err == nil && host != "" && !parseIP(host).IsUnspecified() {
		return "", nil
	}
	return transport.AdvertiseAddr(listen, dns)
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
	case m.ID != "" && linkLocal(m.Addr):
		return fmt.Sprintf("%s is served by %s at %s, which does not answer yet; only machines on the same link can reach that "+
			"address, and a firewall may block the connection", name, Printable(m.ID), Printable(m.Addr))
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
		if parseIP(host).IsLoopback() {
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

func linkLocal(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && parseIP(host).IsLinkLocalUnicast()
}

// Leave hands over the chat if this process serves it, and closes the process's connections. ctx bounds the handover.
func (p *Process) Leave(ctx context.Context) error {
	var err error
	if p.copies != nil {
		p.copies.close()
	}
	if p.Node != nil {
		err = p.Node.Shutdown(ctx)
	}
	p.Resolver.Close()
	p.Transport.Close()
	return err
}
