// Command dns is the name service of the examples. It maps the name of a chat to its hosts. It makes a realm, and prints the
// codes with which other programs join it.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/roam-go/roam/examples/internal/cli"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

const about = `dns is the name service of the examples. It maps the name of a chat to its hosts.

At its start it prints two codes: with the first, a program can host the chat, with the second one only talk. Copy one of them
to each other machine, and start the programs there with -join. The codes are secrets. Your own programs on this machine find
theirs without -join. By default nobody else can take part; with -open, everybody who can connect can host the chat.

By default dns accepts connections from this machine only. For a network, set -ip to this machine's network address, or to
0.0.0.0.`

func main() { os.Exit(run()) }

func run() int {
	fs := cli.NewFlagSet("dns", about, os.Stderr)
	ip := fs.String("ip", "127.0.0.1", "`address` to listen on, also as HOST:PORT")
	port := fs.Int("port", 8000, "`port` to listen on; 0 chooses a free port")
	state := fs.String("state", "", "`file` that keeps the names across restarts; \"\" keeps them in memory; defaults to "+
		"roam/dns-PORT.records in the user's configuration directory, with -port 0 to none")
	identity := fs.String("identity", "", "`file` with the key of this DNS, created if it does not exist; defaults to the "+
		"-state file name with suffix .key, or to a new key at each start")
	realmFile := fs.String("realm", "", "`file` with the secret of the realm, created if it does not exist; defaults to the "+
		"-state file name with suffix .realm, or to a new realm at each start. With a new one, all codes change")
	open := fs.Bool("open", false, "make no realm: everybody who can connect can host the chat; all processes must use the same "+
		"setting")
	insecure := fs.Bool("insecure", false, "like -open, and disable encryption and keys; all processes must use the same setting")
	verbose := fs.Bool("v", false, "log everything to standard error, not only warnings")
	if err := fs.Parse(os.Args[1:]); err != nil {
		return cli.ExitStatus(err)
	}
	switch {
	case fs.NArg() > 0:
		return fail(2, "unexpected argument %q: flags begin with -", fs.Arg(0))
	case *port < 0 || *port > 65535:
		return fail(2, "-port is %d, want 0 to 65535", *port)
	case *realmFile != "" && (*open || *insecure):
		return fail(2, "-realm is mutually exclusive with -open and -insecure, which make no realm")
	case *insecure && *identity != "":
		return fail(2, "-identity and -insecure are mutually exclusive: without encryption there are no keys")
	}
	if _, err := cli.SplitAddress("ip", ip, "port", port, cli.Given(fs, "port"), 0); err != nil {
		return fail(2, "%s", err)
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
	log := cli.NewLogger(os.Stderr, "dns", *verbose)
	cfg := transport.TCPConfig{Open: *open, InsecurePlaintext: *insecure, Logger: log}
	if *open || *insecure {
		cli.WarnOpen(os.Stderr, "dns", *insecure)
	} else {
		if *realmFile == "" && *state != "" {
			*realmFile = *state + ".realm"
		}
		realm, err := loadRealm(*realmFile)
		if err != nil {
			return fail(1, "%s", cli.Reason(err))
		}
		cfg.Realm = realm
	}
	tr, err := cli.NewTransport(*identity, cfg)
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
	ctx, stop := cli.Interrupted(context.Background(), nil)
	defer stop()
	addr := net.JoinHostPort(*ip, strconv.Itoa(*port))
	at, err := server.Listen(addr)
	if err != nil {
		return fail(1, "%s", cli.ExplainListen(err, addr, "-ip and -port"))
	}

	fmt.Printf("dns: listening on %s\n", at)
	host, listenPort, err := net.SplitHostPort(at)
	if err != nil {
		return fail(1, "%s", cli.Reason(err))
	}
	self := transport.Peer{Addr: net.JoinHostPort(reachable(host), listenPort), Key: tr.Key()}
	if cfg.Realm == nil {
		printFlags(self, *insecure)
	} else if err = printCodes(cfg.Realm, self); err != nil {
		return fail(1, "%s", cli.Reason(err))
	}
	// A code that the next start of this program would change must not stay behind.
	defer leaveCode(cfg.Realm, self, *port == 0 || *realmFile == "")()
	if empty {
		fmt.Println("dns: no names are known yet; services that are running bring theirs back")
	}
	if *state == "" {
		fmt.Println("dns: names are kept in memory only; -state FILE keeps them across restarts")
	} else {
		fmt.Printf("dns: names are kept in %s\n", *state)
	}

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

// reachable returns the address at which others reach a listener: its own, or the best address of this machine if it listens on
// all of them. It has no zone, which only this machine knows.
func reachable(host string) string {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if !ip.IsUnspecified() {
		return ip.WithZone("").String()
	}
	all, _ := net.InterfaceAddrs()
	return best(all, ip.Is4())
}

// best returns the best of the addresses of a machine: an IPv4 address, then an IPv6 address, then a link-local one, which
// only reaches machines on the same link.
func best(all []net.Addr, only4 bool) string {
	found, rank := "127.0.0.1", 0
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok || only4 && n.IP.To4() == nil {
			continue
		}
		r := 0
		switch {
		case n.IP.IsGlobalUnicast() && n.IP.To4() != nil:
			r = 3
		case n.IP.IsGlobalUnicast():
			r = 2
		case n.IP.IsLinkLocalUnicast():
			r = 1
		}
		if r > rank {
			found, rank = n.IP.String(), r
		}
	}
	return found
}

func fail(status int, format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "dns: "+format+"\n", args...)
	return status
}
