package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLinkLocal(t *testing.T) {
	for addr, want := range map[string]string{
		"[fe80::1]:80":           "[fe80::1]:80",
		"[fe80::1%no such if]:0": "[fe80::1]:0", // an address from another machine
		"[::1]:80":               "",
		"[fd00::1]:80":           "",
		"169.254.1.1:80":         "",
		"[::ffff:169.254.1.1]:1": "",
		"box.lan:80":             "",
		"[fe80::1]":              "",
		"[fe80::1]:http":         "",
	} {
		at, ok := linkLocal(addr)
		require.Equal(t, want != "", ok, addr)
		if ok {
			require.Equal(t, want, at.String())
		}
	}
	all, err := net.Interfaces()
	require.NoError(t, err)
	for _, i := range all {
		_, ok := linkLocal("[fe80::1%" + i.Name + "]:80")
		require.False(t, ok, "the caller has chosen the interface")
	}
	for addr, want := range map[string]string{
		"[fe80::1%eth0]:80": "[fe80::1]:80", "[fe80::1]:80": "[fe80::1]:80", "[::1%lo]:80": "[::1]:80", "10.0.0.1:80": "10.0.0.1:80",
		"box.lan:80": "box.lan:80", "nonsense": "nonsense",
	} {
		require.Equal(t, want, withoutZone(addr))
	}
}

func TestZonesOfConnections(t *testing.T) {
	var z zones
	a, b := netip.MustParseAddr("fe80::a"), netip.MustParseAddr("fe80::b")
	split := func(ip netip.Addr) string {
		first, rest := z.split(ip, []string{"eth0", "eth1", "wlan0"})
		return strings.Join(first, " ") + "|" + strings.Join(rest, " ")
	}
	require.Equal(t, "|eth0 eth1 wlan0", split(a))
	z.note(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)})
	require.Equal(t, "|eth0 eth1 wlan0", split(a))
	z.note(&net.TCPAddr{IP: a.AsSlice(), Zone: "wlan0"})
	require.Equal(t, "wlan0|eth0 eth1", split(b), "the address was learned over it")
	z.note(&net.TCPAddr{IP: b.AsSlice(), Zone: "eth0"})
	require.Equal(t, "wlan0|eth0 eth1", split(a))
	require.Equal(t, "eth0|eth1 wlan0", split(b))
	require.Equal(t, "eth0 wlan0|eth1", split(netip.MustParseAddr("fe80::c")))
	for range maxRecent {
		z.note(&net.TCPAddr{IP: b.AsSlice(), Zone: "eth1"})
	}
	require.Equal(t, []string{"eth1", "eth0", "wlan0"}, z.recent)
}

// link is how an interface answers a dial.
type link struct {
	after time.Duration
	err   error
}

func TestTryLinks(t *testing.T) {
	const never = time.Hour
	strange := errors.New("strange")
	for name, tc := range map[string]struct {
		first, rest []string
		links       map[string]link
		conn        string
		err         error
		dialled     string
		took        time.Duration
	}{
		"no link": {err: errNoLink},
		"one":     {rest: []string{"a"}, links: map[string]link{"a": {}}, conn: "a", dialled: "a"},
		"side by side": {rest: []string{"a", "b"}, links: map[string]link{"a": {after: never}, "b": {after: time.Second}},
			conn: "b", dialled: "a b", took: time.Second},
		"the likely one": {first: []string{"b"}, rest: []string{"a"}, links: map[string]link{"a": {}, "b": {after: linkHeadStart / 2}},
			conn: "b", dialled: "b", took: linkHeadStart / 2},
		"the likely one is late": {first: []string{"b"}, rest: []string{"a"}, links: map[string]link{"a": {}, "b": {after: never}},
			conn: "a", dialled: "a b", took: linkHeadStart},
		"the likely one fails": {first: []string{"b"}, rest: []string{"a"}, links: map[string]link{"a": {}, "b": {err: strange}},
			conn: "a", dialled: "a b"},
		"refused": {first: []string{"b"}, rest: []string{"a"},
			links: map[string]link{"a": {after: never}, "b": {err: syscall.ECONNREFUSED}},
			err:   syscall.ECONNREFUSED, dialled: "a b", took: linkGrace},
		"refused on another link": {rest: []string{"a", "b"},
			links: map[string]link{"a": {err: syscall.ECONNREFUSED}, "b": {after: linkGrace / 2}},
			conn:  "b", dialled: "a b", took: linkGrace / 2},
		"refused at last": {rest: []string{"a", "b"},
			links: map[string]link{"a": {err: strange}, "b": {err: syscall.ECONNREFUSED, after: 1}},
			err:   syscall.ECONNREFUSED, dialled: "a b", took: 1},
		"all fail": {rest: []string{"a", "b"}, links: map[string]link{"a": {err: strange}, "b": {err: strange, after: 1}},
			err: strange, dialled: "a b", took: 1},
		"canceled": {rest: []string{"a", "b"}, links: map[string]link{"a": {after: never}, "b": {after: never}},
			err: context.DeadlineExceeded, dialled: "a b", took: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				dialled := make(map[string]bool)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				start := time.Now()
				conn, err := tryLinks(ctx, tc.first, tc.rest, func(ctx context.Context, zone string) (string, error) {
					mu.Lock()
					dialled[zone] = true
					mu.Unlock()
					select {
					case <-time.After(tc.links[zone].after):
						return zone, tc.links[zone].err
					case <-ctx.Done():
						return "", ctx.Err()
					}
				})
				if tc.err != nil {
					require.ErrorIs(t, err, tc.err)
				} else {
					require.NoError(t, err)
					require.Equal(t, tc.conn, conn)
				}
				require.Equal(t, tc.took, time.Since(start))
				for _, zone := range strings.Fields(tc.dialled) {
					require.True(t, dialled[zone], zone)
				}
				require.Len(t, dialled, len(strings.Fields(tc.dialled)))
			})
		})
	}
}

// A listener at a link-local address is reached without a zone, and announced without one.
func TestDialLinkLocal(t *testing.T) {
	zone, ip := "", netip.Addr{}
	for _, name := range links() {
		i, err := net.InterfaceByName(name)
		require.NoError(t, err)
		addrs, err := i.Addrs()
		require.NoError(t, err)
		for _, a := range addrs {
			if n := a.(*net.IPNet); n.IP.To4() == nil && n.IP.IsLinkLocalUnicast() {
				zone, ip = name, netip.MustParseAddr(n.IP.String())
			}
		}
	}
	if zone == "" {
		t.Skip("no interface has a link-local IPv6 address")
	}
	tr, err := NewTCP(TCPConfig{Open: true})
	require.NoError(t, err)
	defer tr.Close()
	l, err := tr.Listen(inZone(netip.AddrPortFrom(ip, 0), zone), func(Conn) Handler { return new(dropAll) })
	require.NoError(t, err)
	defer l.Close()
	announced, err := AdvertiseAddr(l.Addr(), "192.0.2.1:1")
	require.NoError(t, err)
	require.NotContains(t, announced, "%")

	for _, addr := range []string{announced, announced, strings.Replace(announced, "]", "%elsewhere]", 1)} {
		h := new(dropAll)
		c, err := tr.Dial(t.Context(), Peer{Addr: addr, Key: tr.Key()}, h)
		require.NoError(t, err, addr)
		require.Equal(t, addr, c.Peer().Addr)
		require.NoError(t, c.Close())
	}
	first, _ := seen.split(ip, links())
	require.Equal(t, []string{zone}, first)

	// Towards a link-local address, the announced address is that of the interface, without its name.
	got, err := AdvertiseAddr("[::]:7", announced)
	require.NoError(t, err)
	require.Equal(t, netip.AddrPortFrom(ip, 7).String(), got)

	require.NoError(t, l.Close())
	_, err = tr.Dial(t.Context(), Peer{Addr: announced}, nil)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// dropAll is a handler that answers nothing.
type dropAll struct{}

func (*dropAll) Handle(Conn, *Request) {}
func (*dropAll) Closed(Conn, error)    {}
