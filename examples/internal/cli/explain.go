package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// noDNS is an error of connecting to the DNS.
type noDNS struct{ error }

func (e *noDNS) Unwrap() error { return e.error }

// Explain describes an error to the user and suggests a remedy.
func (f *Flags) Explain(err error) string {
	if _, ok := errors.AsType[*noDNS](err); ok {
		return f.explainDNS(err)
	}
	switch {
	case errors.Is(err, migrate.ErrNoHost) && strings.Contains(err.Error(), "Node.Reset on host"):
		return Reason(err) + ". That call is /reset in the console on that host; a chatnode calls it on SIGUSR1."
	case errors.Is(err, migrate.ErrNoHost):
		return fmt.Sprintf("%s. If the hosts that hold %s cannot come back, they are lost, and its messages with them: then restart "+
			"the chat, empty, with -s -reset.", Reason(err), f.Service)
	case errors.Is(err, migrate.ErrExists):
		return fmt.Sprintf("%s is being served, so there is nothing to reset. Use -s alone to stand by.", f.Service)
	case errors.Is(err, migrate.ErrNoTarget):
		return fmt.Sprintf("the chat %s has ended: no other host could take it over.", f.Service)
	case errors.Is(err, transport.ErrNotMember) && f.Guest():
		return "this needs the code for hosts, the first of the two that dns prints (-join CODE)."
	case errors.Is(err, transport.ErrNotMember):
		return fmt.Sprintf("a process of %s is not a member of the same realm. Restart those that were started with an old code, "+
			"or with -open, with the code that dns prints now (%s)", f.Service, Reason(err))
	case errors.Is(err, chatcore.ErrNameTaken):
		return Printable(reason(err, chatcore.CodeNameTaken)) + ". Choose another name with -name. If you used this name " +
			"before, it becomes free within two minutes, or at once with the same -identity."
	case errors.Is(err, chatcore.ErrBadName):
		return Printable(reason(err, chatcore.CodeBadName)) + ". Choose another name with -name."
	case errors.Is(err, chatcore.ErrFull):
		return Printable(reason(err, chatcore.CodeFull)) + ". Try again later."
	}
	if s := explainListen(err, f.Listen, "-listen"); s != "" {
		return s
	}
	return Printable(err.Error())
}

func (f *Flags) explainDNS(err error) string {
	at := f.DNS()
	remedy := fmt.Sprintf("Start it with \"go run ./examples/dns -port %d\", or set its address with -dns_ip and -dns_port.",
		f.DNSPort)
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return fmt.Sprintf("unknown host %s. Set the address of the DNS with -dns_ip.", f.DNSIP)
		}
		return fmt.Sprintf("the address of %s cannot be looked up now (%s). Try again, or set the IP address of the DNS with "+
			"-dns_ip.", f.DNSIP, Printable(dns.Err))
	}
	switch {
	case errors.Is(err, transport.ErrNotMember) && f.realm == nil:
		return fmt.Sprintf("the DNS at %s admits only processes with its code. Copy a line that it prints at its start (-join "+
			"CODE), and omit -open.", at)
	case errors.Is(err, transport.ErrNotMember), errors.Is(err, transport.ErrWrongKey) && f.DNSKey == "":
		code := "in -join"
		if f.codeFile != "" {
			code = "in " + f.codeFile
		}
		return fmt.Sprintf("the process at %s is not the DNS of the code %s (%s). It is the DNS of somebody else, or it was "+
			"restarted with -open or without its -state. If you trust it, copy a line that it prints at its start (-join CODE).",
			at, code, difference(err))
	case errors.Is(err, transport.ErrWrongKey):
		return fmt.Sprintf("the process at %s does not have the key given with -dns_key: it is another DNS, or it was restarted "+
			"without its -identity. Compare with the key that it printed at the start.", at)
	case errors.Is(err, transport.ErrVersion):
		return fmt.Sprintf("the DNS at %s has another version of this program (%s). Use the same one on all machines.", at,
			Reason(err))
	case errors.Is(err, syscall.ECONNREFUSED) && f.Join != "" && isLoopback(f.DNSIP):
		return fmt.Sprintf("no DNS at %s. The DNS with this code can be reached from its own machine only: there, restart it with "+
			"-ip set to its network address, and copy the new line.", at)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("no DNS at %s. %s", at, remedy)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, transport.ErrTimeout), errors.Is(err, syscall.ETIMEDOUT):
		return fmt.Sprintf("no DNS answers at %s: the machine is off, or a firewall blocks the connection. %s", at, remedy)
	case errors.Is(err, syscall.EHOSTUNREACH):
		return fmt.Sprintf("no machine answers at %s: it is off, or -dns_ip is wrong. %s", at, remedy)
	case errors.Is(err, syscall.ENETUNREACH):
		return fmt.Sprintf("this machine has no network that leads to %s. Check its network connection, and -dns_ip.", at)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("this machine does not permit a connection to %s: a firewall on it may block it, or -dns_ip is not the "+
			"address of one machine.", at)
	case !reached(err):
		return fmt.Sprintf("cannot connect to a DNS at %s (%s). %s", at, cause(err), remedy)
	}
	other := "with"
	if f.Insecure {
		other = "without"
	}
	return fmt.Sprintf("cannot communicate with the process at %s: it may be a DNS started %s -insecure (all processes must "+
		"use the same setting), or another program (%s)", at, other, Printable(err.Error()))
}

// reached reports whether an error arose on a connection, and not while it was made.
func reached(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return !ok || op.Op != "dial"
}

// cause returns the text of an error of dialling without the addresses in front.
func cause(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		err = op.Err
	}
	return Reason(err)
}

// difference describes how a process differs from the DNS of the code.
func difference(err error) string {
	if errors.Is(err, transport.ErrWrongKey) {
		return "it has another key"
	}
	return "it does not belong to the same realm"
}

// explainListen describes an error of listening on addr, which the flag sets; it returns "" for other errors.
func explainListen(err error, addr, flag string) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Sprintf("the address of %s cannot be looked up (%s). Choose an address of this machine with %s.", addr,
			Printable(dns.Err), flag)
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Sprintf("the port of %s is in use by another program or by a second instance of this one. Choose another "+
			"port with %s.", addr, flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("%s is not an address of this machine. Choose another address with %s, or omit it.", addr, flag)
	case errors.Is(err, syscall.EACCES):
		return fmt.Sprintf("no permission to listen on %s. Choose a port above 1023 with %s.", addr, flag)
	}
	return ""
}

// ExplainListen describes an error of listening on addr, which the flag sets.
func ExplainListen(err error, addr, flag string) string {
	if s := explainListen(err, addr, flag); s != "" {
		return s
	}
	return Printable(err.Error())
}

// reason returns the message of the error with the given code in err's tree, without the package prefix.
func reason(err error, code transport.Code) string {
	for e := err; ; {
		t, ok := errors.AsType[*transport.Error](e)
		if !ok {
			return err.Error()
		}
		if t.Code == code {
			return strings.TrimPrefix(t.Message, "chat: ")
		}
		if e = errors.Unwrap(t); e == nil {
			return err.Error()
		}
	}
}

// Reason returns the escaped message of an error without package prefixes.
func Reason(err error) string {
	s := err.Error()
	if t, ok := errors.AsType[*transport.Error](err); ok {
		s = t.Message
	}
	for _, p := range []string{"chat: ", "migrate: ", "transport: realm: "} {
		s = strings.TrimPrefix(s, p)
	}
	return Printable(s)
}
