package main

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// Strangers, in no realm or in another one, are refused in the handshake by dns and by the host of the chat, whatever they
// want. Their errors and the logs name the realm.
func TestStrangersCallNothing(t *testing.T) {
	t.Parallel()
	g := startTarget(t)
	realm, _ := g.realm(transport.RoleHost)
	other := transport.NewRealm()
	began := time.Now()
	for name, cfg := range map[string]transport.TCPConfig{"none": {Open: true}, "another": {Realm: other}} {
		a := newAttacker(g, cfg)
		call := func(addr, method string) error {
			conn, err := a.tr.Dial(soon(t), transport.Peer{Addr: addr}, nil)
			if err != nil {
				return err
			}
			_, err = conn.Call(soon(t), method, nil)
			conn.Close()
			return err
		}
		for what, try := range map[string]func() error{
			"get": func() error {
				_, err := a.names.Get(soon(t), chatName)
				return err
			},
			"hosts": func() error {
				_, err := a.names.Hosts(soon(t), chatName)
				return err
			},
			"watch": func() error {
				_, err := a.names.Watch(soon(t), chatName, 0)
				return err
			},
			"announce": func() error {
				return a.names.Announce(soon(t), a.host, []string{chatName}, time.Minute)
			},
			"compare-and-swap": func() error {
				_, err := a.names.CompareAndSwap(soon(t), 0, resolver.Record{
					Name: "other.com", Epoch: 1, Nonce: 1, Active: a.host, Proposer: a.host, ISR: []resolver.Host{a.host},
				})
				return err
			},
			"client": func() error {
				_, err := migrate.Dial(soon(t), chatName, migrate.ClientConfig{Resolver: a.names, Transport: a.tr})
				return err
			},
			"open":  func() error { return call(g.node1, "roam.open") },
			"query": func() error { return call(g.node1, "roam.query") },
			"hello": func() error { return call(g.node1, "roam.host") },
			"bulk":  func() error { return call(g.node1, "roam.bulk.pull") },
		} {
			err := try()
			require.ErrorIs(t, err, transport.ErrNotMember, "%s: %s", name, what)
			require.ErrorContains(t, err, realm.String(), "%s: %s", name, what)
		}
	}
	for _, p := range []*program{g.dns, g.node} {
		p.awaitError("connection of a stranger refused")
		p.awaitError("realm " + realm.String())
		lines := strings.Count(p.stderr(), "connection of a stranger refused")
		require.LessOrEqual(t, lines, 1+int(time.Since(began)/time.Second), "at most one line a second")
	}
	g.works()
}

// A spy is a name service of an attacker. It records the methods that are called there, and answers from the real dns if it
// relays.
type spy struct {
	*attacker
	relay bool

	mu      sync.Mutex
	methods []string
	up      transport.Conn // to dns
}

// spyAt makes a name service that listens at addr, and returns its port.
func (a *attacker) spyAt(addr string, relay bool) (s *spy, port string) {
	a.t.Helper()
	s = &spy{attacker: a, relay: relay}
	var l transport.Listener
	require.Eventually(a.t, func() (ok bool) { // a process that was there may not have ended yet
		var err error
		l, err = a.tr.Listen(addr, func(transport.Conn) transport.Handler { return s })
		return err == nil
	}, patience, 10*time.Millisecond)
	a.t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr())
	require.NoError(a.t, err)
	return s, port
}

func (s *spy) Closed(transport.Conn, error) {}

func (s *spy) Handle(_ transport.Conn, r *transport.Request) {
	s.mu.Lock()
	s.methods = append(s.methods, r.Method)
	s.mu.Unlock()
	if !s.relay {
		r.Reply(nil, resolver.ErrNotFound)
		return
	}
	params := slices.Clone(r.Params)
	go func() { r.Reply(s.forward(r.Method, params)) }()
}

func (s *spy) forward(method string, params []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s.mu.Lock()
	if s.up == nil {
		var err error
		if s.up, err = s.tr.Dial(ctx, transport.Peer{Addr: s.dns}, nil); err != nil {
			s.mu.Unlock()
			return nil, err
		}
	}
	up := s.up
	s.mu.Unlock()
	return up.Call(ctx, method, params)
}

// heard returns the methods that were called.
func (s *spy) heard() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.methods)
}

// lure starts the programs, with flags that lead them to a spy, and returns what they write when they give up.
func (g *target) lure(flags ...string) (errs []string) {
	g.t.Helper()
	for name, args := range map[string][]string{"chatnode": {"-s"}, "console": {"-name", "bob"}} {
		p := g.start(name, with(flags, args...)...)
		require.Equal(g.t, 1, p.end(), p.stderr())
		require.Empty(g.t, p.all)
		errs = append(errs, p.stderr())
	}
	return errs
}

// A relay between the programs and dns, with a certificate of its own, is found at first contact: the code has the key of
// dns. A guest's certificate is not enough.
func TestAttackInTheMiddle(t *testing.T) {
	t.Parallel()
	g := startTarget(t)
	guests, _ := g.realm(transport.RoleGuest)
	for want, cfg := range map[string]transport.TCPConfig{
		"it has another key": {Realm: guests}, "it does not belong to the same realm": {Open: true},
	} {
		s, port := newAttacker(g, cfg).spyAt("127.0.0.1:0", true)
		for _, text := range g.lure("-join", g.code(transport.RoleHost), "-dns_port", port) {
			require.Contains(t, text, "is not the DNS of the code in -join ("+want)
		}
		require.Empty(t, s.heard())
	}

	open := startTarget(t, "-open")
	s, port := stranger(open).spyAt("127.0.0.1:0", true)
	p := open.start("console", "-open", "-dns_port", port, "-client_only", "-name", "bob")
	open.alice.await("bob joined")
	p.say("hello")
	p.await("bob: hello")
	require.Contains(t, s.heard(), "resolver.get")
	i := slices.Index(open.flags, "-dns_key")
	for _, text := range open.lure("-open", "-dns_port", port, "-dns_key", open.flags[i+1]) {
		require.Contains(t, text, "does not have the key given with -dns_key")
	}
}

// Another process takes the port of dns, which has ended: the programs refuse it, those that run and those that start. Also if
// it is a member of the realm.
func TestAttackPortOfDNS(t *testing.T) {
	t.Parallel()
	g := startTarget(t)
	realm, self := g.realm(transport.RoleHost)
	require.NoError(t, g.dns.cmd.Process.Kill())
	<-g.dns.ended
	s, port := newAttacker(g, transport.TCPConfig{Realm: realm}).spyAt(self.Addr, false)
	for _, text := range g.lure("-dns_port", port) {
		require.Contains(t, text, "the process at "+self.Addr+" is not the DNS of the code in ")
		require.Contains(t, text, "it has another key")
	}
	g.node.awaitError("expected key " + self.Key.String() + ", the peer has ")
	require.Empty(t, s.heard())
	g.speaks() // the chat continues without dns

	open := startTarget(t, "-open")
	require.NoError(t, open.dns.cmd.Process.Kill())
	<-open.dns.ended
	s, port = stranger(open).spyAt(open.dnsAddr, false)
	open.start("console", "-open", "-dns_port", port, "-client_only").awaitError("no host serves " + chatName + " yet")
	require.NotEmpty(t, s.heard())
}

// Something else listens at the same port of ::1, which the name localhost may mean.
func TestAttackLocalhost(t *testing.T) {
	t.Parallel()
	g := startTarget(t)
	_, port, _ := strings.Cut(g.dnsAddr, ":")
	l, err := net.Listen("tcp", "[::1]:"+port)
	if err != nil {
		t.Skip("no IPv6: " + err.Error())
	}
	contacts := make(chan struct{}, 100)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				close(contacts)
				return
			}
			conn.Close()
			contacts <- struct{}{}
		}
	}()
	g.works()
	g.start("chatnode", g.flags...).await("standing by")
	l.Close()
	for range contacts {
		require.Fail(t, "a program has connected to [::1]")
	}

	// A user who asks for it gets there, and the key shows what it is. With -open and no key nothing does.
	s, _ := stranger(g).spyAt("[::1]:"+port, false)
	for _, text := range g.lure("-dns_ip", "::1", "-dns_port", port) {
		require.Contains(t, text, "is not the DNS of the code in ")
	}
	require.Empty(t, s.heard())
	g.start("console", "-open", "-dns_ip", "::1", "-dns_port", port, "-client_only").awaitError("no host serves " + chatName + " yet")
	require.NotEmpty(t, s.heard())
}
