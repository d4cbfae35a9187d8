package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// town is an in-memory network with a DNS that can lose its records, and processes.
type town struct {
	t       *testing.T
	network *transport.Memory
	dns     *resolver.Server
	ends    []func()

	mu     sync.Mutex
	failed map[string][]error // by host
}

// inTown runs f in a synctest bubble.
func inTown(t *testing.T, f func(*testing.T, *town)) {
	synctest.Test(t, func(t *testing.T) {
		w := &town{t: t, network: transport.NewMemory(), failed: make(map[string][]error)}
		w.startDNS()
		f(t, w)
		for _, end := range w.ends {
			end()
		}
		w.dns.Close()
		w.network.Host("dns").Close()
	})
}

func (w *town) startDNS() {
	s, err := resolver.NewServer(resolver.ServerConfig{Transport: w.network.Host("dns")})
	require.NoError(w.t, err)
	_, err = s.Listen("dns:1")
	require.NoError(w.t, err)
	w.dns = s
}

// process starts the process of a host. With copies, the chat has as many in-sync hosts.
func (w *town) process(name string, copies int, serve bool) *Process {
	w.t.Helper()
	tr := w.network.Host(name)
	names, err := resolver.Dial(w.t.Context(), resolver.ClientConfig{Transport: tr, Server: transport.Peer{Addr: "dns:1"}})
	require.NoError(w.t, err)
	p := &Process{Flags: Flags{Service: "x.org", Standbys: copies - 1, Serve: serve, DNSIP: "dns", DNSPort: 1}, Resolver: names}
	p.Node, err = migrate.NewNode(migrate.NodeConfig{
		ID: name, Resolver: names, Transport: tr, Listen: name + ":1",
		Hooks: migrate.Hooks{Failed: func(_ string, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.failed[name] = append(w.failed[name], err)
		}},
	})
	require.NoError(w.t, err)
	w.ends = append(w.ends, func() {
		p.Node.Close()
		names.Close()
		tr.Close()
	})
	_, err = p.Host(w.t.Context())
	require.NoError(w.t, err)
	return p
}

// lastFailure returns the last failure that a host has reported.
func (w *town) lastFailure(host string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	require.NotEmpty(w.t, w.failed[host])
	return w.failed[host][len(w.failed[host])-1]
}

// say says something in the chat, from the machine of a host, and returns all texts seen until then.
func (w *town) say(host string, text string) (texts []string) {
	w.t.Helper()
	names, err := resolver.Dial(w.t.Context(), resolver.ClientConfig{
		Transport: w.network.Host(host), Server: transport.Peer{Addr: "dns:1"},
	})
	require.NoError(w.t, err)
	defer names.Close()
	c, err := chatcore.Join(w.t.Context(), "x.org", chatcore.ClientConfig{
		Name: "ann", Resolver: names, Transport: w.network.Host(host), Listen: host + ":0",
	})
	require.NoError(w.t, err)
	defer c.Close()
	require.NoError(w.t, c.Say(w.t.Context(), text))
	for m, err := range c.Messages(w.t.Context()) {
		require.NoError(w.t, err)
		if m.Kind == chatcore.KindMessage {
			texts = append(texts, m.Text)
		}
		if m.Text == text {
			break
		}
	}
	require.NoError(w.t, c.Leave(w.t.Context()))
	return texts
}

// loseRecord lets the DNS lose its records, and the active host a die before it has restored them.
func (w *town) loseRecord(a *Process) {
	w.dns.Close()
	a.Node.Close()
	w.startDNS()
	time.Sleep(20 * time.Second)
}

func TestResetContinuesWithTheCopy(t *testing.T) {
	inTown(t, func(t *testing.T, w *town) {
		a := w.process("a", 2, true)
		b := w.process("b", 2, true)
		require.Equal(t, []string{"before"}, w.say("client", "before"))
		time.Sleep(time.Second)
		require.Equal(t, migrate.Standby, b.status().Role)
		c := w.process("c", 2, false) // comes when the chat has its copies

		for _, p := range []struct {
			of   *Process
			want error
			text string
		}{
			{&Process{Flags: b.Flags}, errNotHost, "with -client_only this process holds no copy of x.org"},
			{c, errNoCopy, "this process holds no copy of x.org to continue with. If no host holds one"},
			{a, errServing, "this process serves x.org"},
			{b, migrate.ErrExists, "service x.org is active on host a"},
		} {
			err := p.of.Reset(t.Context())
			require.ErrorIs(t, err, p.want)
			require.Contains(t, b.Flags.ExplainReset(err), p.text)
		}
		require.Equal(t, migrate.Active, a.status().Role)

		w.loseRecord(a)
		failed := ExplainFailed(w.lastFailure("b"), "/reset")
		require.Contains(t, failed, "the resolver has lost the record of service x.org")
		require.True(t, strings.HasSuffix(failed, " that it holds (/reset calls it)"), failed)
		require.False(t, strings.HasPrefix(failed, "migrate:"), failed)
		require.NotContains(t, ExplainFailed(w.lastFailure("b"), ""), "calls it")
		require.Equal(t, "odd␊", ExplainFailed(errors.New("odd\n"), "/reset"))

		require.ErrorIs(t, c.Reset(t.Context()), errNoCopy)
		require.Equal(t, migrate.Standby, b.status().Role)
		_, err := b.Resolver.Get(t.Context(), "x.org")
		require.ErrorIs(t, err, resolver.ErrNotFound, "host c has not begun an empty chat")

		require.NoError(t, b.Reset(t.Context()))
		require.Equal(t, migrate.Active, b.status().Role)
		require.Equal(t, []string{"before", "after"}, w.say("client", "after"))
		require.ErrorIs(t, b.Reset(t.Context()), errServing, "the chat is reset once")
	})
}

// A host whose copy ends earlier than another's is referred to that host. So is a newcomer.
func TestResetRefersToTheBetterCopy(t *testing.T) {
	f := Flags{Service: "x.org"}
	held := transport.Errorf(migrate.CodeNoHost, "migrate: host c holds its state: Node.Reset on host c continues")
	for _, text := range []string{f.ExplainReset(held), f.Explain(fmt.Errorf("x: %w", held))} {
		require.Equal(t, "host c holds its state: Node.Reset on host c continues. That call is /reset in the console on "+
			"that host; a chatnode calls it on SIGUSR1.", text)
	}
	other := transport.Errorf(migrate.CodeNoHost, "migrate: lost; Node.Reset starts it without its state")
	require.Contains(t, f.Explain(other), "with -s -reset")
}

func TestExplainReset(t *testing.T) {
	f := Flags{Service: "x.org", DNSIP: "::1", DNSPort: 8}
	require.Contains(t, f.ExplainReset(fmt.Errorf("resolver: %w", context.DeadlineExceeded)),
		"cannot continue x.org: the DNS at [::1]:8, or another host, has not answered in time")
	require.Equal(t, "cannot continue x.org: no␛", f.ExplainReset(transport.Errorf(resolver.CodeRefused, "no\x1b")))
	realm, err := transport.NewRealm().Code(transport.RoleGuest, transport.Peer{Addr: "127.0.0.1:1"})
	require.NoError(t, err)
	f.Join = realm
	require.NoError(t, f.FindDNS(nil))
	require.Contains(t, f.ExplainReset(errNotHost), "you joined with a code for guests")
}

// A process whose DNS does not answer gives up in time.
func TestResetTimesOut(t *testing.T) {
	inTown(t, func(t *testing.T, w *town) {
		w.process("a", 2, true)
		b := w.process("b", 2, false)
		time.Sleep(time.Second)
		w.network.Isolate("b")
		began := time.Now()
		err := b.Reset(t.Context())
		require.Equal(t, hostTimeout, time.Since(began))
		require.Contains(t, b.Flags.ExplainReset(err), "has not answered in time")
	})
}
