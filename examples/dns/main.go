// Command dns is the name service of the examples: it maps the name of a chat to the host that serves it.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/roam-go/roam/examples/internal/cli"
	"github.com/roam-go/roam/resolver"
)

const about = `dns is the name service of the examples: it maps the name of a chat to the host that serves it.

It listens on this machine only. For a network: -ip 0.0.0.0, and everybody, also on this machine, starts with -dns_ip
set to this machine's address in the network.`

func main() { os.Exit(run()) }

func run() int {
	fs := cli.NewFlagSet("dns", about, os.Stderr)
	ip := fs.String("ip", "localhost", "`address` to listen at")
	port := fs.Int("port", 8000, "`port` to listen at; 0 takes a free one")
	state := fs.String("state", "", "`file` in which the names are kept over a restart; empty: in memory only")
	identity := fs.String("identity", "", "`file` with the key by which clients know this DNS, made if there is none; empty: beside -state if "+
		"that is set, and otherwise a new key each time")
	insecure := fs.Bool("insecure", false, "no encryption and no keys; all processes must agree on it")
	verbose := fs.Bool("v", false, "log what goes on to standard error")
	if err := fs.Parse(os.Args[1:]); err != nil {
		return cli.Usage(err)
	}
	switch {
	case fs.NArg() > 0:
		return wrong(2, "%q is not a flag: flags begin with -", fs.Arg(0))
	case *port < 0 || *port > 65535:
		return wrong(2, "-port is %d, want 0 to 65535", *port)
	case *insecure && *identity != "":
		return wrong(2, "-identity and -insecure exclude one another: without encryption no key is proved")
	case *identity == "" && *state != "" && !*insecure:
		*identity = *state + ".key"
	}
	log := (&cli.Flags{Verbose: *verbose}).Logger(os.Stderr)
	tr, err := cli.NewTransport(*identity, *insecure, log)
	if err != nil {
		return wrong(1, "%s", cli.Reason(err))
	}
	defer tr.Close()
	server, err := resolver.NewServer(resolver.ServerConfig{Transport: tr, File: *state, Logger: log})
	if err != nil {
		return wrong(1, "%s", cli.Reason(err))
	}
	defer server.Close()
	addr := net.JoinHostPort(*ip, strconv.Itoa(*port))
	at, err := server.Listen(addr)
	if err != nil {
		return wrong(1, "%s", cli.ExplainListen(err, addr, "-ip and -port"))
	}

	fmt.Printf("dns: listening at %s\n", at)
	if key := tr.Key(); !key.IsZero() {
		fmt.Printf("dns: key %s (others can insist on it with -dns_key)\n", key)
	}
	if *state == "" {
		fmt.Println("dns: names are kept in memory only; -state FILE keeps them over a restart")
	}
	if host, p, err := net.SplitHostPort(at); err == nil {
		if own := addresses(net.ParseIP(host)); len(own) > 0 {
			fmt.Printf("dns: everybody in the network starts with -dns_ip %s -dns_port %s\n", own[0], p)
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
		return wrong(1, "%s", cli.Reason(err))
	}
}

// addresses are those under which others in the network reach a listener at ip; none if it is for this machine only.
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

func wrong(status int, format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "dns: "+format+"\n", args...)
	return status
}
