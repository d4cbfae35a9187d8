package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// serveDNS starts a DNS with the realm, or an open one if realm is nil, and returns flags that refer to it.
func serveDNS(t *testing.T, realm *transport.Realm, insecure bool) (Flags, transport.Key) {
	t.Helper()
	cfg := transport.TCPConfig{Realm: realm, Open: realm == nil, InsecurePlaintext: insecure, Logger: quiet}
	tr, err := NewTransport("", cfg)
	require.NoError(t, err)
	s, err := resolver.NewServer(resolver.ServerConfig{Transport: tr})
	require.NoError(t, err)
	t.Cleanup(func() {
		s.Close()
		tr.Close()
	})
	addr, err := s.Listen("127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	args := "-open -dns_port " + port
	if insecure {
		args = "-insecure -dns_port " + port
	}
	if realm != nil {
		code, err := realm.Code(transport.RoleHost, transport.Peer{Addr: addr, Key: tr.Key()})
		require.NoError(t, err)
		args = "-join " + code
	}
	f, _, err := parse(t, args)
	require.NoError(t, err)
	return f, tr.Key()
}

// start starts a process that is stopped at the end of the test.
func start(t *testing.T, f Flags) *Process {
	t.Helper()
	p, err := Start(t.Context(), f, quiet)
	require.NoError(t, err)
	t.Cleanup(func() {
		if p.Node != nil {
			p.Node.Close()
		}
		p.Leave(context.Background())
	})
	require.NoError(t, p.Listen(migrate.Hooks{}))
	return p
}

func TestHostAndStandBy(t *testing.T) {
	f, _ := serveDNS(t, transport.NewRealm(), false)
	require.Contains(t, start(t, f).Diagnose(t.Context()), "no host serves backend.com yet")

	f.Serve = true
	first := start(t, f)
	rec, err := first.Host(t.Context())
	require.NoError(t, err)
	require.True(t, rec.Active.Same(first.Node.Self()))
	require.NotContains(t, rec.Active.Addr, ":0", "the bound port is advertised")
	require.Contains(t, first.Diagnose(t.Context()), "does not answer yet")

	second := start(t, f)
	rec, err = second.Host(t.Context())
	require.NoError(t, err)
	require.True(t, rec.Active.Same(first.Node.Self()), "the second host stands by")

	f.Reset = true
	_, err = start(t, f).Host(t.Context())
	require.Contains(t, f.Explain(err), "backend.com is being served")
}

func TestLostHosts(t *testing.T) {
	f, _ := serveDNS(t, transport.NewRealm(), false)
	f.Serve = true
	first := start(t, f)
	_, err := first.Host(t.Context())
	require.NoError(t, err)
	first.Node.Close() // simulates a crash

	second := start(t, f)
	require.Contains(t, second.Diagnose(t.Context()), "lost with all messages")
	_, err = second.Host(t.Context())
	require.ErrorIs(t, err, migrate.ErrNoHost)
	require.Contains(t, f.Explain(err), "-s -reset")
	require.Contains(t, f.Explain(err), "was last held by host "+first.Node.Self().ID, "the reason is told")

	f.Reset = true
	third := start(t, f)
	rec, err := third.Host(t.Context())
	require.NoError(t, err)
	require.True(t, rec.Active.Same(third.Node.Self()))
	err = third.Leave(t.Context())
	require.Contains(t, f.Explain(err), "has ended: no other host")
}

func TestNoDNS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	f := Flags{DNSIP: "127.0.0.1", DNSPort: port, Open: true}
	_, err = Start(t.Context(), f, quiet)
	require.Error(t, err)
	require.Contains(t, f.Explain(err), fmt.Sprintf("no DNS at 127.0.0.1:%d. Start it with", port))
	require.Contains(t, f.Explain(err), fmt.Sprintf("-port %d", port))

	f.DNSIP = "host.invalid"
	require.Contains(t, f.Explain(&noDNS{&net.DNSError{IsNotFound: true}}), "unknown host host.invalid")
	require.Contains(t, f.Explain(&noDNS{context.DeadlineExceeded}), "firewall")
}

func TestAnotherDNS(t *testing.T) {
	f, _ := serveDNS(t, nil, false)
	f.DNSKey = transport.NewIdentity().Key().String()
	require.NoError(t, f.FindDNS(nil))
	_, err := Start(t.Context(), f, quiet)
	require.ErrorIs(t, err, transport.ErrWrongKey)
	require.Contains(t, f.Explain(err), "-dns_key")

	for _, insecure := range []bool{false, true} {
		f, _ := serveDNS(t, nil, insecure)
		f.Insecure, f.Open = !insecure, insecure
		_, err := Start(t.Context(), f, quiet)
		require.Error(t, err)
		require.Contains(t, f.Explain(err), map[bool]string{false: "without -insecure", true: "with -insecure"}[insecure])
	}
}

func TestExplain(t *testing.T) {
	f := Flags{Service: "x.org", Listen: ":7000"}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	tr, err := NewTransport("", transport.TCPConfig{Open: true})
	require.NoError(t, err)
	defer tr.Close()
	_, err = tr.Listen(l.Addr().String(), nil)
	require.Contains(t, f.Explain(err), "in use")
	require.Contains(t, ExplainListen(err, "localhost:8000", "-port"), "the port of localhost:8000 is in use")
	require.Contains(t, ExplainListen(err, "localhost:8000", "-port"), "with -port")
	require.Contains(t, f.Explain(syscall.EADDRNOTAVAIL), "not an address of this machine")
	require.Contains(t, f.Explain(syscall.EACCES), "above 1023")

	taken := fmt.Errorf("chat: join: %w", transport.Errorf(chatcore.CodeNameTaken, "chat: the name \"bob\x1b\" is taken"))
	require.Contains(t, f.Explain(taken), "the name \"bob␛\" is taken. Choose another name with -name")
	require.Contains(t, f.Explain(transport.Errorf(chatcore.CodeBadName, "chat: the name is empty")),
		"the name is empty. Choose another")
	require.Contains(t, f.Explain(transport.Errorf(chatcore.CodeFull, "chat: the room is full")), "Try again later")
	require.Equal(t, "what␛ever", f.Explain(errors.New("what\x1bever")))
	require.Equal(t, "the text is empty", Reason(fmt.Errorf("say: %w", transport.Errorf(chatcore.CodeBadText,
		"chat: the text is empty"))))
}

func TestUnreachable(t *testing.T) {
	local := resolver.Host{ID: "near", Addr: "127.0.0.1:1"}
	lan := resolver.Host{ID: "far", Addr: "192.168.1.5:1"}
	require.Empty(t, unreachable(nil))
	require.Empty(t, unreachable([]resolver.Host{local, local}))
	require.Empty(t, unreachable([]resolver.Host{lan, lan}))
	require.Contains(t, unreachable([]resolver.Host{lan, local}), "near has the address 127.0.0.1:1")
}

func TestInterrupted(t *testing.T) {
	ctx, stop := Interrupted(t.Context(), nil)
	require.NoError(t, ctx.Err())
	stop()
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("the context has not ended")
	}
}
