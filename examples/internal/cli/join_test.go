package cli

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

var (
	someRealm = transport.NewRealm()
	someDNS   = transport.Peer{Addr: "10.0.0.1:9000", Key: transport.NewIdentity().Key()}
)

func codeOf(t *testing.T, realm *transport.Realm, role transport.Role, dns transport.Peer) string {
	t.Helper()
	code, err := realm.Code(role, dns)
	require.NoError(t, err)
	return code
}

// useConfig sets the configuration directory of the user.
func useConfig(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"XDG_CONFIG_HOME", "HOME", "AppData"} {
		t.Setenv(name, dir)
	}
}

func TestJoin(t *testing.T) {
	host, guest := codeOf(t, someRealm, transport.RoleHost, someDNS), codeOf(t, someRealm, transport.RoleGuest, someDNS)
	file := filepath.Join(t.TempDir(), "code")
	require.NoError(t, WriteCode(file, guest))
	for arg, isGuest := range map[string]bool{host: false, guest: true, file: true} {
		f, out, err := parse(t, "-join "+arg)
		require.NoError(t, err)
		require.Empty(t, out)
		require.Equal(t, "10.0.0.1:9000", f.DNS())
		require.Equal(t, someDNS.Key, f.serverKey)
		require.Equal(t, someRealm.String(), f.realm.String())
		require.Equal(t, isGuest, f.Guest())
		require.Equal(t, ":0", f.Listen)
	}

	// Flags override the code's address, part by part, and a code may have none.
	f, _, err := parse(t, "-dns_ip 10.0.0.2 -join "+host)
	require.NoError(t, err)
	require.Equal(t, "10.0.0.2:9000", f.DNS())
	f, _, err = parse(t, "-dns_port 8000 -listen :7000 -join "+host)
	require.NoError(t, err)
	require.Equal(t, "10.0.0.1:8000", f.DNS())
	require.Equal(t, ":7000", f.Listen)
	f, _, err = parse(t, "-dns_key "+someDNS.Key.String()+" -join "+codeOf(t, someRealm, transport.RoleHost, transport.Peer{}))
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:8000", f.DNS())
	require.Equal(t, someDNS.Key, f.serverKey)
	require.Equal(t, "127.0.0.1:0", f.Listen, "the DNS is on this machine")
}

func TestBadJoin(t *testing.T) {
	code := codeOf(t, someRealm, transport.RoleHost, someDNS)
	file := filepath.Join(t.TempDir(), "code")
	require.NoError(t, WriteCode(file, code))
	require.NoError(t, os.Chmod(file, 0o644))
	other := transport.NewIdentity().Key().String()
	for args, part := range map[string]string{
		"-join " + code[:len(code)-4]:           "a part of it is missing",
		"-join oam" + code:                      "neither a code nor the name of a file",
		"-join " + file:                         "other users can read " + file,
		"-join " + code + " -dns_key " + other:  "-dns_key contradicts the code",
		"-join " + code + " -open":              "-join",
		"-dns_ip 10.0.0.1":                      "on another machine: copy a line that dns prints at its start (-join CODE)",
		"-dns_ip example.com -dns_key " + other: "on another machine",
	} {
		_, out, err := parse(t, args)
		require.Error(t, err, args)
		require.Contains(t, out, part)
		require.Equal(t, 1, strings.Count(out, "\n"), "%q", out)
		require.NotContains(t, out, code[10:40], "the code is a secret")
	}
}

func TestCodeOfLocalDNS(t *testing.T) {
	useConfig(t)
	_, out, err := parse(t, "")
	require.Error(t, err)
	require.Contains(t, out, "you have started no DNS with port 8000 on this machine")
	require.Contains(t, out, "-join CODE")
	require.Contains(t, out, "-open")

	file, err := JoinFile(8000)
	require.NoError(t, err)
	dns := someDNS
	dns.Addr = "127.0.0.1:8000"
	require.NoError(t, WriteCode(file, codeOf(t, someRealm, transport.RoleHost, dns)))
	own := "127.0.0.1"
	all, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range all {
		if n := a.(*net.IPNet); n.IP.IsGlobalUnicast() {
			own = n.IP.String()
		}
	}
	for _, ip := range []string{"", "127.0.0.1", "localhost", "::1", own} {
		args := ""
		if ip != "" {
			args = "-dns_ip " + ip
		}
		f, _, err := parse(t, args)
		require.NoError(t, err, ip)
		require.Equal(t, someDNS.Key, f.serverKey)
		require.Equal(t, someRealm.String(), f.realm.String())
		if ip != "" {
			require.Equal(t, ip, f.DNSIP)
		}
	}
	_, _, err = parse(t, "-dns_port 8001")
	require.Error(t, err, "the file of another DNS")
	f, out, err := parse(t, "-open")
	require.NoError(t, err)
	require.Nil(t, f.realm)
	require.Equal(t, "test: warning: -open: everybody who can connect can host the chat, and so read and change it\n", out)
	_, out, err = parse(t, "-insecure")
	require.NoError(t, err)
	require.Contains(t, out, "warning: -insecure")

	require.NoError(t, os.Chmod(file, 0o640))
	_, out, err = parse(t, "")
	require.Error(t, err)
	require.Contains(t, out, "other users can read "+file)
}

func TestWriteCode(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "code")
	for _, code := range []string{"one", "two"} {
		require.NoError(t, WriteCode(file, code))
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, code+"\n", string(b))
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.EqualValues(t, 0o600, info.Mode().Perm())
	}
	files, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	require.Len(t, files, 1, "no temporary file is left")
	require.Error(t, WriteCode(filepath.Join(file, "x"), "three"))
}

// Each error comes at once, in one line.
func TestOtherRealm(t *testing.T) {
	ours, key := serveDNS(t, someRealm, false)
	explain := func(f Flags) string {
		t.Helper()
		begin := time.Now()
		_, err := Start(t.Context(), f, quiet)
		require.Error(t, err)
		require.Less(t, time.Since(begin), dnsTimeout)
		s := f.Explain(err)
		require.NotContains(t, s, "\n")
		return s
	}
	stranger := codeOf(t, transport.NewRealm(), transport.RoleHost, transport.Peer{Addr: ours.DNS(), Key: key})
	f, _, err := parse(t, "-join "+stranger)
	require.NoError(t, err)
	require.Contains(t, explain(f), "is not the DNS of the code in -join (it does not belong to the same realm)")
	f.codeFile, f.Join = "/some/file", ""
	require.Contains(t, explain(f), "is not the DNS of the code in /some/file")

	f, _, err = parse(t, "-join "+codeOf(t, someRealm, transport.RoleGuest, transport.Peer{Addr: ours.DNS(), Key: someDNS.Key}))
	require.NoError(t, err)
	require.Contains(t, explain(f), "is not the DNS of the code in -join (it has another key)")

	_, port, err := net.SplitHostPort(ours.DNS())
	require.NoError(t, err)
	f, _, err = parse(t, "-open -dns_port "+port)
	require.NoError(t, err)
	require.Contains(t, explain(f), "admits only processes with its code. Copy a line that it prints")

	// Our code, and a DNS without a realm at the address.
	open, key := serveDNS(t, nil, false)
	f, _, err = parse(t, "-join "+codeOf(t, someRealm, transport.RoleHost, transport.Peer{Addr: open.DNS(), Key: key}))
	require.NoError(t, err)
	require.Contains(t, explain(f), "restarted with -open")

	require.Contains(t, f.Explain(&noDNS{syscall.ECONNREFUSED}), "from its own machine only")
	refused := transport.Errorf(transport.CodeNotMember, "not a member")
	require.Contains(t, f.Explain(refused), "is not a member of the same realm")
	guest, _, err := parse(t, "-join "+codeOf(t, someRealm, transport.RoleGuest, someDNS))
	require.NoError(t, err)
	require.Contains(t, guest.Explain(refused), "this needs the code for hosts")
	_, err = Start(t.Context(), Flags{DNSIP: "127.0.0.1", DNSPort: 1}, quiet)
	require.Error(t, err, "neither a realm nor -open")
	require.False(t, errors.As(err, new(*noDNS)), "nothing is dialled")
}
