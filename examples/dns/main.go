// Command dns is the name service of the examples. It maps the name of a chat to its hosts.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/roam-go/roam/examples/internal/cli"
	"github.com/roam-go/roam/resolver"
)

const about = `dns is the name service of the examples. It maps the name of a chat to its hosts.

By default it accepts connections from this machine only. For a network, use -ip 0.0.0.0, and start all other programs, also
those on this machine, with -dns_ip set to this machine's network address. Anyone who can connect can host a chat.`

func main() { os.Exit(run()) }

func run() int {
	fs := cli.NewFlagSet("dns", about, os.Stderr)
	ip := fs.String("ip", "localhost", "`address` to listen on")
	port := fs.Int("port", 8000, "`port` to listen on; 0 chooses a free port")
	state := fs.String("state", "", "`file` that keeps the names across restarts; \"\" keeps them in memory; defaults to "+
		"roam/dns-PORT.records in the user's configuration directory, with -port 0 to none")
	identity := fs.String("identity", "", "`file` with the key of this DNS, created if it does not exist; defaults to the "+
		"-state file name with suffix .key, or to a new key at each start")
	insecure := fs.Bool("insecure", false, "disable encryption and keys; all processes must use the same setting")
	verbose := fs.Bool("v", false, "log to standard error")
	if err := fs.Parse(os.Args[1:]); err != nil {
		return cli.ExitStatus(err)
	}
	switch {
	case fs.NArg() > 0:
		return fail(2, "unexpected argument %q: flags begin with -", fs.Arg(0))
	case *port < 0 || *port > 65535:
		return fail(2, "-port is %d, want 0 to 65535", *port)
	case *insecure && *identity != "":
		return fail(2, "-identity and -insecure are mutually exclusive: without encryption there are no keys")
	}
	if !cli.Given(fs, "state") {
		file, err := defaultState(*port)
		if err != nil {
			return fail(1, "%s; set another file with -state, or none with -state \"\"", cli.Reason(err))
		}
		*state = file
	}
	if *identity == "" && *state != "" && !*insecure {
		*identity = *state + ".key"
	}
	log := (&cli.Flags{Verbose: *verbose}).Logger(os.Stderr)
	tr, err := cli.NewTransport(*identity, *insecure, log)
	if err != nil {
		return fail(1, "%s", cli.Reason(err))
	}
	defer tr.Close()
	empty := true
	if *state != "" {
		_, err := os.Stat(*state)
		empty = errors.Is(err, os.ErrNotExist)
	}
	server, err := resolver.NewServer(resolver.ServerConfig{Transport: tr, File: *state, Logger: log})
	if err != nil {
		return fail(1, "%s", cli.Reason(err))
	}
	defer server.Close()
	addr := net.JoinHostPort(*ip, strconv.Itoa(*port))
	at, err := server.Listen(addr)
	if err != nil {
		return fail(1, "%s", cli.ExplainListen(err, addr, "-ip and -port"))
	}

	fmt.Printf("dns: listening on %s\n", at)
	if key := tr.Key(); !key.IsZero() {
		fmt.Printf("dns: key %s (pin it with -dns_key)\n", key)
	}
	if empty {
		fmt.Println("dns: no names are known yet; services that are running bring theirs back")
	}
	if *state == "" {
		fmt.Println("dns: names are kept in memory only; -state FILE keeps them across restarts")
	} else {
		fmt.Printf("dns: names are kept in %s\n", *state)
	}
	if host, p, err := net.SplitHostPort(at); err == nil {
		if own := addresses(net.ParseIP(host)); len(own) > 0 {
			fmt.Printf("dns: start the other programs with -dns_ip %s -dns_port %s\n", own[0], p)
		}
	}

	ctx, stop := cli.Interrupted(context.Background())
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- server.Wait() }()
	select {
	case <-ctx.Done():
		return 0
	case err := <-failed:
		return fail(1, "%s", cli.Reason(err))
	}
}

// defaultState returns the default file for names, and creates its directory. The port tells several DNSs of one user apart.
// If the port is chosen anew at each start, or the user has no configuration directory, there is no default.
func defaultState(port int) (string, error) {
	dir, err := os.UserConfigDir()
	if port == 0 || err != nil {
		return "", nil
	}
	dir = filepath.Join(dir, "roam")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return filepath.Join(dir, fmt.Sprintf("dns-%d.records", port)), nil
}

// addresses returns the network addresses of a listener on ip; none if it is reachable from this machine only.
func addresses(ip net.IP) []string {
	if ip == nil || ip.IsLoopback() {
		return nil
	}
	if !ip.IsUnspecified() {
		return []string{ip.String()}
	}
	var own []string
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			own = append(own, n.IP.String())
		}
	}
	return own
}

func fail(status int, format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "dns: "+format+"\n", args...)
	return status
}
