package cli

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// The address of the DNS as people type it.
func TestAddressOfDNS(t *testing.T) {
	for typed, want := range map[string]string{
		"::1":                   "[::1]:8000",
		"[::1]":                 "[::1]:8000",
		"[::1]:9000":            "[::1]:9000",
		"::1%lo":                "[::1%lo]:8000",
		"[::1%lo]":              "[::1%lo]:8000",
		"fe80::1%eth0":          "[fe80::1%eth0]:8000",
		"[fe80::1%eth0]:9000":   "[fe80::1%eth0]:9000",
		"fe80::1":               "[fe80::1]:8000",
		"10.0.0.1":              "10.0.0.1:8000",
		"10.0.0.1:9000":         "10.0.0.1:9000",
		"example.com":           "example.com:8000",
		"example.com:9000":      "example.com:9000",
		"localhost:9000":        "localhost:9000",
		"::ffff:10.0.0.1":       "[::ffff:10.0.0.1]:8000",
		"localhost:8000":        "localhost:8000",
		"printer_2.example.com": "printer_2.example.com:8000",
	} {
		f, _, err := parse(t, "-open -dns_ip "+typed)
		require.NoError(t, err, typed)
		require.Equal(t, want, f.DNS(), typed)
	}
	f, _, err := parse(t, "-open -dns_ip [::1]:9000 -dns_port 9000")
	require.NoError(t, err)
	require.Equal(t, "[::1]:9000", f.DNS())

	for args, part := range map[string]string{
		"-dns_ip [::1":                       "no closing bracket",
		"-dns_ip [::1]x":                     "only :PORT may follow the brackets",
		"-dns_ip [10.0.0.1]":                 "brackets are for IPv6 addresses",
		"-dns_ip [[::1]]":                    "brackets are for IPv6 addresses",
		"-dns_ip :9000":                      "names no host",
		"-dns_ip http://10.0.0.1":            "neither a name nor an IP address",
		"-dns_ip a:b:c":                      "neither a name nor an IP address",
		"-dns_ip 10.0.0.1:x":                 `the port "x", want 1 to 65535`,
		"-dns_ip 10.0.0.1:0":                 `the port "0", want 1 to 65535`,
		"-dns_ip 10.0.0.1:70000":             `the port "70000"`,
		"-dns_ip 10.0.0.1:9000 -dns_port 80": "but -dns_port is 80: omit one of them",
	} {
		_, out, err := parse(t, "-open "+args)
		require.Error(t, err, args)
		require.Contains(t, out, part, args)
	}
}

// A port in -dns_ip overrides the code's, as -dns_port does.
func TestPortOfDNSOverridesCode(t *testing.T) {
	code := codeOf(t, someRealm, transport.RoleHost, someDNS)
	f, _, err := parse(t, "-dns_ip 10.0.0.2:7000 -join "+code)
	require.NoError(t, err)
	require.Equal(t, "10.0.0.2:7000", f.DNS())
	f, _, err = parse(t, "-dns_ip 10.0.0.2 -join "+code)
	require.NoError(t, err)
	require.Equal(t, "10.0.0.2:9000", f.DNS())
}

func TestListenAddress(t *testing.T) {
	for typed, want := range map[string]string{
		":0": ":0", ":7000": ":7000", "0.0.0.0:7000": "0.0.0.0:7000", "192.0.2.1": "192.0.2.1:0", "::1": "[::1]:0",
		"[::1]": "[::1]:0", "[::1]:7000": "[::1]:7000", "fe80::1%eth0": "[fe80::1%eth0]:0",
		"[fe80::1%eth0]:0": "[fe80::1%eth0]:0", "localhost:0": "localhost:0", "::": "[::]:0",
	} {
		got, err := listenAddress(typed)
		require.NoError(t, err, typed)
		require.Equal(t, want, got, typed)
	}
	for _, typed := range []string{"7000", "localhost", "localhost:", ":", ":x", ":70000", "[::1", "a:b:c", "http://x:1"} {
		_, err := listenAddress(typed)
		require.ErrorContains(t, err, "is not an address such as", typed)
	}
}

// A process that listens at a name announces an IP address: elsewhere the name may mean another machine.
func TestAdvertisesNoName(t *testing.T) {
	f, _ := serveDNS(t, nil, false)
	f.Listen = "localhost:0"
	host, _, err := net.SplitHostPort(start(t, f).Node.Self().Addr)
	require.NoError(t, err)
	require.True(t, parseIP(host).IsLoopback(), "%s", host)
}

// Nothing is looked up, and nothing listens on other addresses, where the DNS has a loopback address, however it is written.
func TestLocalDNSListensLocally(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "127.1.2.3:8000", "[::1]", "[::1%lo]:8000", "::ffff:127.0.0.1", "localhost"} {
		f, _, err := parse(t, "-open -dns_ip "+ip)
		require.NoError(t, err)
		require.Equal(t, "127.0.0.1:0", f.Listen, ip)
		f, _, err = parse(t, "-open -listen :7000 -dns_ip "+ip)
		require.NoError(t, err)
		require.Equal(t, "127.0.0.1:7000", f.Listen, ip)
		f, _, err = parse(t, "-open -listen 0.0.0.0:7000 -dns_ip "+ip)
		require.NoError(t, err)
		require.Equal(t, "0.0.0.0:7000", f.Listen, "what was given stays")
	}
	for _, ip := range []string{"10.0.0.1", "fe80::1%lo", "example.com"} {
		f, _, err := parse(t, "-open -dns_ip "+ip)
		require.NoError(t, err)
		require.Equal(t, listenAll, f.Listen, ip)
	}
}
