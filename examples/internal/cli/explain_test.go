package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// Each cause of a missing connection to the DNS has its own sentence. "Another program" answers only if a connection was made.
func TestExplainDNS(t *testing.T) {
	f := Flags{DNSIP: "::1", DNSPort: 8000, Open: true}
	dial := func(err error) error {
		return fmt.Errorf("transport: dial [::1]:8000: %w", &net.OpError{Op: "dial", Net: "tcp", Err: err})
	}
	sys := func(e syscall.Errno) error { return dial(os.NewSyscallError("connect", e)) }
	for part, err := range map[string]error{
		"no DNS at [::1]:8000. Start it":                 sys(syscall.ECONNREFUSED),
		"no machine answers at [::1]:8000":               sys(syscall.EHOSTUNREACH),
		"no network that leads to [::1]:8000":            sys(syscall.ENETUNREACH),
		"a firewall blocks the connection":               sys(syscall.ETIMEDOUT),
		"does not permit a connection to [::1]:8000":     sys(syscall.EACCES),
		"no DNS answers at":                              dial(context.DeadlineExceeded),
		"unknown host ::1":                               dial(&net.DNSError{Err: "no such host", IsNotFound: true}),
		"cannot be looked up now (server misbehaving)":   dial(&net.DNSError{Err: "server misbehaving"}),
		"cannot connect to a DNS at [::1]:8000 (strange": dial(errors.New("strange")),
		"has another version of this program":            transport.Errorf(transport.CodeVersion, "version 9"),
		"or another program (EOF)":                       errors.New("EOF"),
	} {
		s := f.Explain(&noDNS{err})
		require.Contains(t, s, part)
		if part != "or another program (EOF)" {
			require.NotContains(t, s, "-insecure", "%v", err)
		}
	}
	looked := fmt.Errorf("listen: %w", &net.DNSError{Err: "no such host", IsNotFound: true})
	require.Contains(t, ExplainListen(looked, "nosuch:0", "-listen"), "the address of nosuch:0 cannot be looked up (no such host)")
}
