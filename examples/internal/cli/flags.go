// Package cli contains the common parts of the example programs: the flags of a participant, its process, explanations of
// errors, and the escaping of foreign text for a terminal.
package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// Flags are the common flags of all participants in a chat.
type Flags struct {
	Join     string
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
	Open     bool
	Insecure bool
	Verbose  bool

	// Warnings logs the warnings of the transport and the resolver, such as those about refused strangers. Log sets it; nil:
	// they go where all else is logged.
	Warnings *slog.Logger

	// Set by FindDNS.
	realm     *transport.Realm // nil with Open or Insecure
	serverKey transport.Key    // zero: not known
	codeFile  string           // the file in which the code was found without Join
	anywhere  bool             // Listen is a port of all addresses

	portGiven bool // DNSIP had a port
}

// Register defines the flags with their defaults.
func (f *Flags) Register(fs *flag.FlagSet) {
	fs.StringVar(&f.Join, "join", "", "`code` that dns prints, or the name of a file with it, because other users of this "+
		"machine can see arguments; not needed where you have started the DNS yourself")
	fs.StringVar(&f.DNSIP, "dns_ip", "127.0.0.1", "`address` of the DNS, also as HOST:PORT; overrides the code's")
	fs.IntVar(&f.DNSPort, "dns_port", 8000, "`port` of the DNS; overrides the code's")
	fs.StringVar(&f.DNSKey, "dns_key", "", "required `key` of the DNS; contained in the code, and for -open printed by dns")
	fs.StringVar(&f.Service, "server_uri", "backend.com", "the `name` of the chat")
	fs.StringVar(&f.Service, "u", "backend.com", "short for -server_uri `name`")
	const minN = "number of `participants` that must join before the chat begins; messages are held until then. Used only " +
		"when the chat is created with -s"
	fs.IntVar(&f.MinN, "min_n", 0, minN)
	fs.IntVar(&f.MinN, "n", 0, "short for -min_n `participants`")
	fs.BoolVar(&f.Serve, "s", false, "serve: create the chat if no host serves it yet, otherwise stand by")
	fs.BoolVar(&f.Reset, "reset", false, "with -s: restart a chat whose hosts are lost; all its messages are lost")
	fs.DurationVar(&f.Every, "every", 30*time.Second,
		"`time` between moves of the chat to another host; 0: it moves only when its host leaves")
	fs.IntVar(&f.Standbys, "standbys", 1, "number of standby `hosts` that hold a copy of the chat; with 0, a crash of the "+
		"host loses the chat")
	fs.StringVar(&f.Listen, "listen", "", "`address` to listen on for other hosts, clients and private messages: one port for "+
		"all of them, as in :7000; port 0 chooses a free one. Defaults to :0. If the DNS has a loopback address, :PORT means "+
		"127.0.0.1:PORT")
	fs.StringVar(&f.Identity, "identity", "", "`file` with the key of this process, created if it does not exist; empty: a "+
		"new key at each start")
	fs.BoolVar(&f.Open, "open", false, "use a DNS that was started with -open: everybody who can connect can host the chat")
	fs.BoolVar(&f.Insecure, "insecure", false, "like -open, and disable encryption and keys; all processes, including the "+
		"DNS, must use the same setting")
	fs.BoolVar(&f.Verbose, "v", false, "log everything to standard error, not only warnings")
}

// Parse parses and validates the arguments, and calls [Flags.FindDNS]. It prints any error before returning it; [ExitStatus]
// returns the exit status for the error.
func (f *Flags) Parse(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	err := f.check(Given(fs, "dns_port"))
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q: flags begin with -", fs.Arg(0))
	}
	if err == nil {
		err = f.FindDNS(func(name string) bool { return Given(fs, name) || name == "dns_port" && f.portGiven })
	}
	switch {
	case err != nil:
		fmt.Fprintf(fs.Output(), "%s: %s (%s -help lists the flags)\n", fs.Name(), Printable(err.Error()), fs.Name())
	case f.Open || f.Insecure:
		WarnOpen(fs.Output(), fs.Name(), f.Insecure)
	}
	return err
}

// check validates the flags, and splits the address of the DNS. portGiven reports whether its port was given on its own.
func (f *Flags) check(portGiven bool) error {
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
		return errors.New("-reset requires -s")
	case f.Join != "" && (f.Open || f.Insecure):
		return errors.New("-join is for the members of a realm; with -open and -insecure there is none")
	case f.Insecure && f.Identity != "":
		return errors.New("-identity and -insecure are mutually exclusive: without encryption there are no keys")
	case f.Insecure && f.DNSKey != "":
		return errors.New("-dns_key and -insecure are mutually exclusive: without encryption there are no keys")
	}
	if _, err := transport.ParseKey(f.DNSKey); err != nil {
		return fmt.Errorf("-dns_key %q is not a key: it has 43 characters, and the DNS prints its key at the start", f.DNSKey)
	}
	var err error
	if f.portGiven, err = SplitAddress("dns_ip", &f.DNSIP, "dns_port", &f.DNSPort, portGiven, 1); err != nil {
		return err
	}
	if f.Listen != "" {
		f.Listen, err = listenAddress(f.Listen)
	}
	return err
}

// Log returns the logger of a program, which without Verbose discards everything, and sets Warnings.
func (f *Flags) Log(w io.Writer, program string) *slog.Logger {
	f.Warnings = NewLogger(w, program, f.Verbose)
	if f.Verbose {
		return f.Warnings
	}
	return slog.New(slog.DiscardHandler)
}

// DNS returns the address of the DNS.
func (f *Flags) DNS() string { return net.JoinHostPort(f.DNSIP, strconv.Itoa(f.DNSPort)) }

func (f *Flags) policy() migrate.Policy {
	return migrate.Policy{
		Every:  f.Every,
		Copies: f.Standbys + 1,
		// After this time, a participant whose process was killed leaves the room, and the name becomes free.
		SessionTimeout: 2 * time.Minute,
	}
}

// NewFlagSet creates a flag set whose help starts with the text about.
func NewFlagSet(name, about string, w io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(w)
	fs.Usage = func() {
		fmt.Fprintf(w, "%s\n\nusage: %s [flags]\n\n", about, name)
		fs.PrintDefaults()
	}
	return fs
}

// Given reports whether the command line contains a flag.
func Given(fs *flag.FlagSet, name string) (given bool) {
	fs.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}

// ExitStatus returns the exit status for an error of Parse: 0 if the user requested help.
func ExitStatus(err error) int {
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	return 2
}
