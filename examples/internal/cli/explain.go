package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// noDNS is the error of connecting to the DNS.
type noDNS struct{ error }

func (e *noDNS) Unwrap() error { return e.error }

// Explain says in a sentence what an error means for the person at the keyboard, and what helps.
func (f *Flags) Explain(err error) string {
	if _, ok := errors.AsType[*noDNS](err); ok {
		return f.explainDNS(err)
	}
	switch {
	case errors.Is(err, migrate.ErrNoHost):
		return fmt.Sprintf("the hosts that last served %s are gone with all that was said there. If they cannot come back, start the chat "+
			"anew, empty, with -s -reset.", f.Service)
	case errors.Is(err, migrate.ErrExists):
		return fmt.Sprintf("%s is alive, so there is nothing to reset. Start with -s alone to stand by for it.", f.Service)
	case errors.Is(err, migrate.ErrNoTarget):
		return fmt.Sprintf("The chat %s has ended: nobody else was there to take it over.", f.Service)
	case errors.Is(err, chatcore.ErrNameTaken):
		return Printable(reason(err, chatcore.CodeNameTaken)) + ". Choose another one with -name; if it was yours until just now, it is free " +
			"again within two minutes, or at once with the -identity that it was used with."
	case errors.Is(err, chatcore.ErrBadName):
		return Printable(reason(err, chatcore.CodeBadName)) + ". Choose another one with -name."
	case errors.Is(err, chatcore.ErrFull):
		return Printable(reason(err, chatcore.CodeFull)) + ". Try again when somebody has left."
	}
	if s := explainListen(err, f.Listen, "-listen"); s != "" {
		return s
	}
	return Printable(err.Error())
}

func (f *Flags) explainDNS(err error) string {
	at := f.DNS()
	remedy := fmt.Sprintf("Start it there with \"go run ./examples/dns -port %d\", or say where it is with -dns_ip and -dns_port.", f.DNSPort)
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return fmt.Sprintf("no machine called %s is known. Give the address of the DNS's machine with -dns_ip.", f.DNSIP)
	}
	switch {
	case errors.Is(err, transport.ErrWrongKey):
		return fmt.Sprintf("whoever answers at %s does not have the key given with -dns_key: it is not the DNS that you meant, or it was "+
			"started again without the -identity that it had. %s", at, "Look at what it printed when it started.")
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("no DNS at %s. %s", at, remedy)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, transport.ErrTimeout):
		return fmt.Sprintf("no DNS answers at %s: the machine is off, or a firewall is between. %s", at, remedy)
	}
	other := "with"
	if f.Insecure {
		other = "without"
	}
	return fmt.Sprintf("whoever listens at %s is no DNS that this process could speak with: it may have been started %s -insecure, which "+
		"all must agree on, or it is another program (%s)", at, other, Printable(err.Error()))
}

// explainListen is a sentence for an error of listening at addr, given by a flag; "" for other errors.
func explainListen(err error, addr, flag string) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Sprintf("the port of %s is in use: another program, perhaps this one started twice, listens there. Choose another one "+
			"with %s.", addr, flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("%s is not an address of this machine. Choose one that is with %s, or leave it out.", addr, flag)
	case errors.Is(err, syscall.EACCES):
		return fmt.Sprintf("this user may not listen at %s. Choose a port above 1023 with %s.", addr, flag)
	}
	return ""
}

// ExplainListen is a sentence for an error of listening at addr, given by a flag.
func ExplainListen(err error, addr, flag string) string {
	if s := explainListen(err, addr, flag); s != "" {
		return s
	}
	return Printable(err.Error())
}

// reason is the message of the error with a code in err's tree, without the name of the package that made it.
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

// Reason is what an error says, made harmless and without the names of packages in front.
func Reason(err error) string {
	s := err.Error()
	if t, ok := errors.AsType[*transport.Error](err); ok {
		s = t.Message
	}
	for _, p := range []string{"chat: ", "migrate: "} {
		s = strings.TrimPrefix(s, p)
	}
	return Printable(s)
}
