package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// limitFiles sets the limit of a running program on open files.
func (p *program) limitFiles(n uint64) {
	p.t.Helper()
	limit := syscall.Rlimit{Cur: n, Max: n}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(p.cmd.Process.Pid), syscall.RLIMIT_NOFILE,
		uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	require.Zero(p.t, errno, "prlimit: %v", errno)
}

// besiege opens connections to dns, each with another key, until it does not answer or there are most of them, and keeps
// those that dns admits. It returns their number, and that of the refused ones.
func besiege(g *target, most int) (admitted, refused int) {
	g.t.Helper()
	for range most {
		tr, err := transport.NewTCP(transport.TCPConfig{Open: true})
		require.NoError(g.t, err)
		g.t.Cleanup(func() { tr.Close() })
		switch _, err := tr.Dial(g.t.Context(), transport.Peer{Addr: g.dnsAddr}, nil); {
		case errors.Is(err, transport.ErrNotMember):
			refused++
		case err != nil:
			return admitted, refused
		default:
			admitted++
		}
	}
	return admitted, refused
}

// besiegeSilently opens connections to dns that stay silent, until end.
func besiegeSilently(g *target, n int) (end func()) {
	g.t.Helper()
	var conns []net.Conn
	for range n {
		conn, err := net.Dial("tcp", g.dnsAddr)
		require.NoError(g.t, err)
		conns = append(conns, conn)
	}
	end = func() {
		for _, c := range conns {
			c.Close()
		}
	}
	g.t.Cleanup(end)
	return end
}

// change creates a record.
func (a *attacker) change(name string) error {
	_, err := a.names.CompareAndSwap(soon(a.t), 0, resolver.Record{
		Name: name, Epoch: 1, Nonce: 1, Active: a.host, Proposer: a.host, ISR: []resolver.Host{a.host},
	})
	return err
}

// Connections use up the file descriptors that dns has for them. It makes the changes of members meanwhile, and admits others
// when it has closed the silent connections. Without a realm it admits all that prove any key, until nobody else gets in.
func TestAttackDescriptors(t *testing.T) {
	t.Parallel()
	const limit, most = 256, 300
	g, open := startTarget(t), startTarget(t, "-open")
	realm, _ := g.realm(transport.RoleHost)
	cfg := transport.TCPConfig{Realm: realm}
	member, other := newAttacker(g, cfg), stranger(open) // these two do not attack
	require.NoError(t, member.change("before.com"))
	require.NoError(t, other.change("before.com"))
	g.dns.limitFiles(limit)
	open.dns.limitFiles(limit)

	end := besiegeSilently(g, most)
	g.dns.awaitError("connection refused: too many connections")
	require.NoError(t, member.change("during.com"))
	require.NoError(t, newAttacker(g, cfg).change("new.com"))
	end()
	admitted, refused := besiege(g, most)
	require.Zero(t, admitted)
	require.Equal(t, most, refused)
	require.NoError(t, member.change("after.com"))
	g.works()

	admitted, _ = besiege(open, most)
	require.NotZero(t, admitted)
	require.Less(t, admitted, limit)
	require.NoError(t, other.change("during.com"))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := stranger(open).names.Get(ctx, chatName)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// listeners returns the addresses at which a process listens for TCP connections.
func listeners(t *testing.T, pid int) (addrs []string) {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	require.NoError(t, err)
	var sockets []string
	for _, fd := range fds {
		to, _ := os.Readlink(fd)
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			sockets = append(sockets, strings.TrimSuffix(inode, "]"))
		}
	}
	require.NotEmpty(t, sockets)
	for _, file := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
		if os.IsNotExist(err) {
			continue // no IPv6
		}
		require.NoError(t, err)
		for _, l := range strings.Split(string(b), "\n") {
			// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
			f := strings.Fields(l)
			const listen = "0A"
			if len(f) < 10 || f[3] != listen || !slices.Contains(sockets, f[9]) {
				continue
			}
			host, port, _ := strings.Cut(f[1], ":")
			ip, err := hex.DecodeString(host)
			require.NoError(t, err)
			for i := 0; i < len(ip); i += 4 { // words in the order of a little-endian machine
				slices.Reverse(ip[i : i+4])
			}
			addrs = append(addrs, net.JoinHostPort(net.IP(ip).String(), port))
		}
	}
	return addrs
}

func onLoopback(t *testing.T, p *program, want int) {
	t.Helper()
	addrs := listeners(t, p.cmd.Process.Pid)
	require.Len(t, addrs, want, "%s: %q", p.name, addrs)
	for _, a := range addrs {
		host, _, err := net.SplitHostPort(a)
		require.NoError(t, err)
		require.True(t, net.ParseIP(host).IsLoopback(), "%s listens at %s", p.name, a)
	}
}

// While the DNS is on this machine only, no program listens at other addresses.
func TestListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	g := startTarget(t)
	onLoopback(t, g.dns, 1)
	onLoopback(t, g.node, 1)
	onLoopback(t, g.alice, 1) // for private messages
	bob := g.start("console", with(g.flags, "-name", "bob")...)
	bob.await("bob joined")
	onLoopback(t, bob, 1) // for these and as a host

	// Not every name of the loopback interface looks like one.
	dns := g.start("dns", "-ip", "::1", "-port", "0")
	_, code, _ := strings.Cut(dns.await("-join roam-host"), "-join ")
	carol := g.start("console", "-join", code, "-dns_ip", "::1%lo", "-s", "-name", "carol")
	carol.await("carol joined")
	onLoopback(t, carol, 1)

	// A port alone does not change that.
	dora := g.start("console", with(g.flags, "-name", "dora", "-listen", ":0")...)
	dora.await("dora joined")
	onLoopback(t, dora, 1)
}
