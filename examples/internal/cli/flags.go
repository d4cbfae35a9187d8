// Package cli is what the example programs have in common: the flags of a participant, the process behind them, sentences
// for what goes wrong, and texts of others made harmless for a screen.
package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// Flags are those of every participant of a chat.
type Flags struct {
	DNSIP    string
	DNSPort  int
	DNSKey   string
	Service  string
	MinN     int
	Serve    bool
	Reset    bool
	Every    time.Duration
	Standbys int
	Listen   string
	Identity string
	Insecure bool
	Verbose  bool
}

// Register defines the flags, with their defaults.
func (f *Flags) Register(fs *flag.FlagSet) {
	fs.StringVar(&f.DNSIP, "dns_ip", "localhost", "`address` of the DNS")
	fs.IntVar(&f.DNSPort, "dns_port", 8000, "`port` of the DNS")
	fs.StringVar(&f.DNSKey, "dns_key", "", "the `key` that the DNS must prove, as it prints it; empty trusts whoever answers there")
	fs.StringVar(&f.Service, "server_uri", "backend.com", "the `name` of the chat")
	fs.StringVar(&f.Service, "u", "backend.com", "short for -server_uri `name`")
	const minN = "`participants` that must have joined before the chat begins; what is said before waits. It counts where the chat " +
		"is created, with -s"
	fs.IntVar(&f.MinN, "min_n", 0, minN)
	fs.IntVar(&f.MinN, "n", 0, "short for -min_n `participants`")
	fs.BoolVar(&f.Serve, "s", false, "serve: create the chat if nobody serves it yet, and stand by otherwise")
	fs.BoolVar(&f.Reset, "reset", false, "with -s: start a chat anew whose last hosts are gone with all that was said")
	fs.DurationVar(&f.Every, "every", 30*time.Second, "`time` after which the chat moves on to another host; 0: only when its host leaves")
	fs.IntVar(&f.Standbys, "standbys", 1, "`hosts` beside the active one that hold every message, for when it dies; 0: none")
	fs.StringVar(&f.Listen, "listen", ":0", "`address` to listen at for other hosts and clients; port 0 takes a free one")
	fs.StringVar(&f.Identity, "identity", "", "`file` with the key by which others know this process, made if there is none; empty: a new key each time")
	fs.BoolVar(&f.Insecure, "insecure", false, "no encryption and no keys; all processes, the DNS included, must agree on it")
	fs.BoolVar(&f.Verbose, "v", false, "log what goes on to standard error")
}

// Parse reads the arguments; it has told the user what is wrong when it returns an error, for which [Usage] has the exit
// status.
func (f *Flags) Parse(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	err := f.check()
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("%q is not a flag: flags begin with -", fs.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(fs.Output(), "%s: %v (%s -help lists the flags)\n", fs.Name(), err, fs.Name())
	}
	return err
}

func (f *Flags) check() error {
	switch {
	case f.Service == "" || len(f.Service) > 253:
		return errors.New("-server_uri must have 1 to 253 bytes")
	case f.DNSIP == "":
		return errors.New("-dns_ip is empty")
	case f.DNSPort < 1 || f.DNSPort > 65535:
		return fmt.Errorf("-dns_port is %d, want 1 to 65535", f.DNSPort)
	case f.MinN < 0 || f.MinN > 10_000:
		return fmt.Errorf("-min_n is %d, want 0 to 10000", f.MinN)
	case f.Every < 0 || f.Every > 0 && f.Every < 100*time.Millisecond:
		return fmt.Errorf("-every is %v, want 0 or at least 100ms", f.Every)
	case f.Standbys < 0 || f.Standbys > 15:
		return fmt.Errorf("-standbys is %d, want 0 to 15", f.Standbys)
	case f.Reset && !f.Serve:
		return errors.New("-reset goes with -s")
	case f.Insecure && f.Identity != "":
		return errors.New("-identity and -insecure exclude one another: without encryption no key is proved")
	case f.Insecure && f.DNSKey != "":
		return errors.New("-dns_key and -insecure exclude one another: without encryption no key is proved")
	}
	if _, err := transport.ParseKey(f.DNSKey); err != nil {
		return fmt.Errorf("-dns_key %q is not a key: the DNS prints its own when it starts, 43 characters", f.DNSKey)
	}
	if _, port, err := net.SplitHostPort(f.Listen); err != nil || port == "" {
		return fmt.Errorf("-listen %q is not an address such as :0, :7000 or 192.168.1.5:7000", f.Listen)
	}
	return nil
}

// DNS is the address of the DNS.
func (f *Flags) DNS() string { return net.JoinHostPort(f.DNSIP, strconv.Itoa(f.DNSPort)) }

func (f *Flags) policy() migrate.Policy {
	return migrate.Policy{
		Every:  f.Every,
		Copies: f.Standbys + 1,
		// Somebody whose process was killed is gone from the room after this time, and the name is free.
		SessionTimeout: 2 * time.Minute,
	}
}

// NewFlagSet makes a set of flags whose help begins with what the program is.
func NewFlagSet(name, about string, w io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(w)
	fs.Usage = func() {
		fmt.Fprintf(w, "%s\n\nusage: %s [flags]\n\n", about, name)
		fs.PrintDefaults()
	}
	return fs
}

// Usage is the exit status for an error of parsing flags: 0 when the user has asked for help.
func Usage(err error) int {
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	return 2
}
