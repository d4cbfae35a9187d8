package cli

import (
	"bytes"
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

func parse(t *testing.T, args string) (Flags, string, error) {
	t.Helper()
	var f Flags
	var out bytes.Buffer
	fs := NewFlagSet("test", "about it", &out)
	f.Register(fs)
	err := f.Parse(fs, strings.Fields(args))
	return f, out.String(), err
}

func TestDefaults(t *testing.T) {
	f, _, err := parse(t, "-open")
	require.NoError(t, err)
	require.Equal(t, Flags{
		Open: true, DNSIP: "127.0.0.1", DNSPort: 8000, Service: "backend.com", Every: 30 * time.Second, Standbys: 1,
		Listen: "127.0.0.1:0",
	}, f)
	require.Equal(t, "127.0.0.1:8000", f.DNS())
	require.Equal(t, 2, f.policy().Copies)
}

func TestFlags(t *testing.T) {
	id := transport.NewIdentity().Key()
	key := id.String()
	for _, args := range []string{
		"-s --dns_ip 10.0.0.1 --dns_port 9000 --server_uri x.org --min_n 3 --every 5s --standbys 0 --listen :7000 --dns_key " +
			key,
		"-s -dns_ip=10.0.0.1 -dns_port=9000 -u=x.org -n=3 -every=5s -standbys=0 -listen=:7000 -dns_key=" + key,
	} {
		f, _, err := parse(t, "-open "+args)
		require.NoError(t, err)
		require.Equal(t, Flags{
			DNSIP: "10.0.0.1", DNSPort: 9000, DNSKey: key, Service: "x.org", MinN: 3, Serve: true, Every: 5 * time.Second,
			Listen: ":7000", Open: true, serverKey: id, anywhere: true,
		}, f)
		require.Equal(t, 1, f.policy().Copies)
	}
	f, _, err := parse(t, "-open -dns_ip ::1")
	require.NoError(t, err)
	require.Equal(t, "[::1]:8000", f.DNS())
}

func TestBadFlags(t *testing.T) {
	for args, part := range map[string]string{
		"-u=":                            "-server_uri",
		"-u " + strings.Repeat("x", 300): "-server_uri",
		"-dns_ip=":                       "-dns_ip",
		"-dns_port 0":                    "-dns_port is 0",
		"-dns_port 70000":                "-dns_port is 70000",
		"-dns_port x":                    "-dns_port",
		"-n -1":                          "-min_n is -1",
		"-every -1s":                     "-every",
		"-every 1ms":                     "-every is 1ms",
		"-standbys 16":                   "-standbys is 16",
		"-reset":                         "-reset requires -s",
		"-insecure -identity x":          "-insecure",
		"-dns_key abc":                   "-dns_key",
		"-listen 8000":                   "-listen",
		"-listen localhost:":             "-listen",
		"serve":                          `unexpected argument "serve"`,
		"-nonsense":                      "-nonsense",
		"-join x -open":                  "-join",
		"-join x -insecure":              "-join",
	} {
		_, out, err := parse(t, args)
		require.Error(t, err, args)
		require.Contains(t, out, part, args)
		require.Equal(t, 2, ExitStatus(err))
	}
	_, out, err := parse(t, "-help")
	require.ErrorIs(t, err, flag.ErrHelp)
	require.Zero(t, ExitStatus(err))
	require.Contains(t, out, "about it")
	require.Contains(t, out, "-dns_port port")
}
