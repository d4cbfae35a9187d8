package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// startRealm starts a DNS and returns the two codes that it prints.
func startRealm(t *testing.T) (host, guest string) {
	t.Helper()
	dns := start(t, "dns", "-port", "0")
	code := func(role string) string {
		_, c, _ := strings.Cut(dns.await("-join roam-"+role), "-join ")
		return c
	}
	return code("host"), code("guest")
}

// Codes suffice to take part from another machine, which has no file of the DNS.
func TestCodesSuffice(t *testing.T) {
	host, guest := startRealm(t)
	other := func(name, code string, args ...string) *program {
		t.Helper()
		file := filepath.Join(t.TempDir(), "code")
		require.NoError(t, os.WriteFile(file, []byte(code+"\n"), 0o600))
		setConfigDir(t, t.TempDir()) // as on another machine
		return start(t, name, with(args, "-join", file)...)
	}
	node := other("chatnode", host, "-s", "-every", "0")
	node.await("serving backend.com")
	alice := other("console", host, "-name", "alice", "-every", "0")
	alice.await("alice joined")
	guests := []*program{other("console", guest, "-name", "bob"), other("console", guest, "-name", "carol")}
	bob, carol := guests[0], guests[1]
	bob.await("bob joined")
	carol.await("carol joined")
	for _, g := range guests {
		g.awaitError("console: you joined with a code for guests")
		require.Equal(t, 1, strings.Count(g.stderr(), "\n"), "%q", g.stderr())
	}
	bob.say("hello")
	for _, p := range []*program{alice, bob, carol} {
		p.await("bob: hello")
	}
	bob.say("/msg alice from a guest")
	alice.await(`bob \(private\): from a guest`)
	alice.say("/msg bob to a guest")
	bob.await(`alice \(private\): to a guest`)
	carol.say("/msg bob among guests")
	bob.await(`carol \(private\): among guests`)

	// The chat moves to alice's process when its host leaves, and never to a guest's.
	require.NoError(t, node.cmd.Process.Signal(os.Interrupt))
	bob.await("backend.com moved to host-")
	bob.say("still here")
	alice.await("bob: still here")
	alice.say("/where")
	alice.await("served by this process")
	require.NoError(t, alice.stdin.Close())
	require.Zero(t, alice.end())
	require.Contains(t, alice.stderr(), "has ended: no other host")

	serve := other("console", guest, "-s", "-name", "dora")
	require.Equal(t, 2, serve.end())
	require.Equal(t, "console: -s needs the code for hosts that dns prints: this one is for guests, who only talk\n", serve.stderr())
	stand := other("chatnode", guest)
	require.Equal(t, 2, stand.end())
	require.Contains(t, stand.stderr(), "chatnode: this is a code for guests")
}

// Members of no realm or another one are refused, and see why in one line.
func TestStrangers(t *testing.T) {
	host, _ := startRealm(t)
	_, dns, err := transport.ParseCode(host)
	require.NoError(t, err)
	_, port, _ := strings.Cut(dns.Addr, ":")
	stranger, err := transport.NewRealm().Code(transport.RoleHost, dns)
	require.NoError(t, err)
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"-join", stranger}, 1, "is not the DNS of the code in -join (it does not belong to the same realm)"},
		{[]string{"-join", host, "-dns_key", transport.NewIdentity().Key().String()}, 2, "-dns_key contradicts the code"},
		{[]string{"-open", "-dns_port", port}, 1, "admits only processes with its code"},
	} {
		for name, args := range map[string][]string{"chatnode": {"-s"}, "console": {"-name", "eve"}} {
			p := start(t, name, with(c.args, args...)...)
			require.Equal(t, c.status, p.end(), p.stderr())
			require.Contains(t, p.stderr(), c.want)
			lines := strings.Split(strings.TrimSpace(p.stderr()), "\n")
			if c.args[0] == "-open" {
				require.Equal(t, name+": warning: -open: everybody who can connect can host the chat, and so read and change it",
					lines[0])
				lines = lines[1:]
			}
			require.Len(t, lines, 1, "%q", lines)
			require.Empty(t, p.all)
		}
	}

	// A code of this machine that another DNS has made stale.
	dir := configDir(t)
	file := filepath.Join(dir, "roam", "dns-"+port+".join")
	require.NoError(t, os.WriteFile(file, []byte(stranger), 0o600))
	p := start(t, "console", "-dns_port", port, "-name", "eve")
	require.Equal(t, 1, p.end())
	require.Contains(t, p.stderr(), "is not the DNS of the code in "+file)
}

// Without a realm everybody may host, and each program warns of that.
func TestOpen(t *testing.T) {
	dns := start(t, "dns", "-port", "0", "-open")
	_, flags, _ := strings.Cut(dns.await("start the other programs with"), " with ")
	dns.awaitError("dns: warning: -open")
	node := start(t, "chatnode", with(strings.Fields(flags), "-s")...)
	node.await("serving backend.com")
	alice := start(t, "console", with(strings.Fields(flags), "-name", "alice", "-client_only")...)
	alice.say("anybody?")
	alice.await("alice: anybody?")
	alice.awaitError("console: warning: -open")
}
