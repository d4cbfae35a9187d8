package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// codes parses the codes that a DNS has printed: the code for hosts is that of realm.
func codes(t *testing.T, lines []string) (realm *transport.Realm, self transport.Peer) {
	t.Helper()
	var found []*transport.Realm
	for _, l := range lines {
		_, code, ok := strings.Cut(l, " -join ")
		if !ok {
			continue
		}
		r, dns, err := transport.ParseCode(code)
		require.NoError(t, err, l)
		found, self = append(found, r), dns
	}
	require.Len(t, found, 2, "%q", lines)
	require.Equal(t, transport.RoleHost, found[0].Role())
	require.Equal(t, transport.RoleGuest, found[1].Role())
	require.Equal(t, found[0].String(), found[1].String())
	require.Contains(t, strings.Join(lines, "\n"), "secret")
	return found[0], self
}

// failDNS starts a DNS that exits at once, and returns its exit status and what it has written.
func failDNS(t *testing.T, config string, args ...string) (status int, out string) {
	t.Helper()
	cmd := command(config, args...)
	cmd.Stderr = nil
	b, err := cmd.CombinedOutput()
	require.Error(t, err, "%s", b)
	return cmd.ProcessState.ExitCode(), string(b)
}

func TestCodes(t *testing.T) {
	config, port := t.TempDir(), freePort(t)
	lines, stop := startDNS(t, config, "-port", port)
	realm, self := codes(t, lines)
	require.Equal(t, "127.0.0.1:"+port, self.Addr)
	id, err := transport.LoadIdentity(filepath.Join(config, "roam", "dns-"+port+".records.key"))
	require.NoError(t, err)
	require.Equal(t, id.Key(), self.Key)
	kept, err := transport.LoadRealm(filepath.Join(config, "roam", "dns-"+port+".records.realm"))
	require.NoError(t, err)
	require.Equal(t, kept.String(), realm.String())

	// The other programs of the user find the code for hosts in a file.
	file := filepath.Join(config, "roam", "dns-"+port+".join")
	left, dns, err := transport.ReadCode(file) // fails if others can read it
	require.NoError(t, err)
	require.Equal(t, transport.RoleHost, left.Role())
	require.Equal(t, realm.String(), left.String())
	require.Equal(t, self, dns)
	stop()

	// Port 0, and a network address.
	lines, stop = startDNS(t, config, "-port", "0", "-ip", "0.0.0.0")
	_, self = codes(t, lines)
	ip, actual, err := net.SplitHostPort(self.Addr)
	require.NoError(t, err)
	require.Contains(t, lines[0], ":"+actual)
	require.NotEqual(t, "0", actual)
	require.False(t, net.ParseIP(ip).IsUnspecified())
	require.FileExists(t, filepath.Join(config, "roam", "dns-"+actual+".join"))
	stop()

	// Without a realm there is no code, and the one of before is removed.
	open, stop := startDNS(t, config, "-port", port, "-open")
	require.NotContains(t, strings.Join(open, "\n"), "roam-")
	require.Contains(t, open, fmt.Sprintf("dns: start the other programs with -open -dns_ip 127.0.0.1 -dns_port %s -dns_key %s",
		port, id.Key()))
	require.NoFileExists(t, file)
	stop()
}

func TestRealmFile(t *testing.T) {
	config, port := t.TempDir(), freePort(t)
	file := filepath.Join(t.TempDir(), "secret")
	start := func() string {
		lines, stop := startDNS(t, config, "-port", port, "-state", filepath.Join(config, "names"), "-realm", file)
		stop()
		realm, _ := codes(t, lines)
		return realm.String()
	}
	first := start()
	require.Equal(t, first, start())
	require.NoError(t, os.Remove(file))
	require.NotEqual(t, first, start())
	require.NoFileExists(t, filepath.Join(config, "names.realm"))

	require.NoError(t, os.Chmod(file, 0o644))
	status, out := failDNS(t, config, "-port", port, "-realm", file)
	require.Equal(t, 1, status)
	require.Contains(t, out, "other users can read "+file)
	guest, err := transport.NewRealm().Code(transport.RoleGuest, transport.Peer{})
	require.NoError(t, err)
	require.NoError(t, os.Chmod(file, 0o600))
	require.NoError(t, os.WriteFile(file, []byte(guest), 0o600))
	status, out = failDNS(t, config, "-port", port, "-realm", file)
	require.Equal(t, 1, status)
	require.Contains(t, out, "only a code for guests")
	for _, without := range []string{"-open", "-insecure"} {
		status, out = failDNS(t, config, without, "-realm", file)
		require.Equal(t, 2, status)
		require.Contains(t, out, "-realm is mutually exclusive")
	}
}

// A realm that ends with its DNS leaves no code behind.
func TestTemporaryCode(t *testing.T) {
	config := t.TempDir()
	cmd := command(config, "-port", "0", "-state", filepath.Join(t.TempDir(), "names"))
	lines, _ := startCommand(t, cmd)
	_, self := codes(t, lines)
	_, port, err := net.SplitHostPort(self.Addr)
	require.NoError(t, err)
	file := filepath.Join(config, "roam", "dns-"+port+".join")
	require.FileExists(t, file)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait())
	require.NoFileExists(t, file)
}

// A DNS that cannot leave its code says so and runs.
func TestCodeNotLeft(t *testing.T) {
	config := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(config, nil, 0o600))
	dir := t.TempDir()
	cmd := command(config, "-port", "0", "-state", filepath.Join(dir, "names"))
	var errors bytes.Buffer
	cmd.Stderr = &errors
	lines, stop := startCommand(t, cmd)
	stop()
	codes(t, lines)
	require.NotContains(t, strings.Join(lines, "\n"), "need no code")
	require.Contains(t, errors.String(), "dns: programs on this machine need -join as well: ")
}

func TestWarns(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, used, _ := net.SplitHostPort(l.Addr().String()) // the DNS exits at once
	for _, flag := range []string{"-open", "-insecure"} {
		_, out := failDNS(t, t.TempDir(), flag, "-port", used)
		require.Contains(t, out, "dns: warning: "+flag+": everybody who can connect can host the chat")
	}
}
