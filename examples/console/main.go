// Command console is a chat in the terminal. It is a client and, unless -client_only is set, also a host of the chat.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"sync/atomic"

	"github.com/roam-go/roam/examples/internal/cli"
	"github.com/roam-go/roam/migrate"
)

const about = `console is a chat in the terminal. Each line that you enter is sent to all participants; /help lists the
commands.

Every participant's process can also be the server: the chat moves between them, and continues when one leaves or crashes.
Start the first process with -s. With -client_only this process does not host the chat. If only this process still holds the
chat, the console reports that, and /reset continues it.

Without -join, console uses the DNS that you have started on this machine. On other machines, -join takes a code that dns
prints. With a code for guests this process only talks, as with -client_only.

If the input or output is not a terminal, console reads and writes lines, or writes JSON objects with -json. At the end of
the input it waits until the room has accepted all lines, and leaves. The exit status is 0 if all were accepted, 1 if not,
and 2 for invalid flags.`

func main() { os.Exit(run()) }

// config holds the values of the flags.
type config struct {
	cli.Flags
	name       string
	clientOnly bool
	json       bool
}

func parse(args []string, w io.Writer) (config, error) {
	var cfg config
	fs := cli.NewFlagSet("console", about, w)
	cfg.Register(fs)
	fs.StringVar(&cfg.name, "name", login(), "your `name` in the chat")
	fs.BoolVar(&cfg.clientOnly, "client_only", false, "do not host the chat in this process")
	fs.BoolVar(&cfg.json, "json", false, "write one JSON object per line: kind (message, private, joined, left, moved, gap, "+
		"error), from, text, seq; for moved: epoch, host, pause_ms")
	if err := cfg.Parse(fs, args); err != nil {
		return cfg, err
	}
	err := error(nil)
	switch {
	case cfg.Guest() && cfg.Serve:
		err = errors.New("-s needs the code for hosts that dns prints: this one is for guests, who only talk")
	case cfg.clientOnly && cfg.Serve:
		err = errors.New("-s and -client_only are mutually exclusive")
	case cfg.name == "":
		err = errors.New("-name is empty")
	}
	if err != nil {
		fmt.Fprintln(w, "console:", err)
	}
	cfg.clientOnly = cfg.clientOnly || cfg.Guest()
	return cfg, err
}

// login returns the login name of the user.
func login() string {
	if u, err := user.Current(); err == nil {
		return filepath.Base(filepath.ToSlash(u.Username))
	}
	return "somebody"
}

func run() int {
	cfg, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		return cli.ExitStatus(err)
	}
	c := &console{config: cfg}
	ctx, stop := cli.Interrupted(context.Background(), c.resetTerminal)
	defer stop()

	logTo := &output{}
	logTo.Store(os.Stderr)
	log := cfg.Log(logTo, "console")
	p, err := cli.Start(ctx, cfg.Flags, log)
	if err != nil && ctx.Err() != nil {
		return 1
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "console:", cfg.Explain(err))
		return 1
	}
	c.process, c.local, c.stop = p, &localHost{process: p}, stop
	status := 1
	if err := c.host(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "console:", cfg.Explain(err))
	} else if err == nil {
		status = c.chat(ctx, logTo)
	}
	stop() // from now on Ctrl-C exits at once
	leaving, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	if err := p.Leave(leaving); err != nil {
		fmt.Fprintln(os.Stderr, "console:", cfg.Explain(err))
		if !errors.Is(err, migrate.ErrNoTarget) {
			status = 1
		}
	}
	return status
}

// output is a writer that can be replaced.
type output struct{ atomic.Value }

func (o *output) Store(w io.Writer) { o.Value.Store(&w) }
func (o *output) Write(b []byte) (int, error) {
	return (*o.Load().(*io.Writer)).Write(b)
}

// console is a run of the program.
type console struct {
	config
	process *cli.Process
	local   *localHost
	stop    func()
	notes   []string // shown once there is a screen

	terminal atomic.Pointer[terminal] // nil without a terminal
}

// resetTerminal restores the terminal at once.
func (c *console) resetTerminal() {
	if t := c.terminal.Load(); t != nil {
		t.reset()
	}
}

// host makes this process a host of the chat, unless -client_only is set or the user is a guest.
func (c *console) host(ctx context.Context) error {
	if c.Guest() {
		c.notes = append(c.notes, "you joined with a code for guests: you can talk, and this process does not host the chat")
	}
	if c.clientOnly {
		return nil
	}
	c.process.Say = c.local.failures.say
	if err := c.process.Listen(migrate.Hooks{Failed: c.local.failures.report}); err != nil {
		return err
	}
	rec, err := c.process.Host(ctx)
	if err != nil {
		return err
	}
	switch self := c.process.Node.Self(); {
	case rec.Active.Same(self):
		c.notes = append(c.notes, fmt.Sprintf("this process serves %s", c.Service))
	case c.Serve && rec.Active.ID != "":
		c.notes = append(c.notes, fmt.Sprintf("%s is already served by %s at %s; this process stands by", c.Service,
			cli.Printable(rec.Active.ID), cli.Printable(rec.Active.Addr)))
	}
	if w := c.process.Unreachable(ctx); w != "" {
		c.notes = append(c.notes, w)
	}
	return nil
}

// chat joins the chat, runs it until the end of the input, and returns the exit status.
func (c *console) chat(ctx context.Context, logTo *output) int {
	var (
		s          screen
		lines      = make(chan string, 16)
		done       = make(chan struct{})
		quit       = make(chan struct{}) // closed when the user quits at the terminal
		inputEnded = c.stop
		readFailed atomic.Bool // the input ended with an error
	)
	defer close(done)
	interactive := !c.json && isTerminal(os.Stdin, os.Stdout)
	if interactive {
		t, err := newTerminal(c.Service, c.name, os.Stdin, os.Stdout)
		if err != nil {
			fmt.Fprintln(os.Stderr, "console: cannot use the terminal:", err)
			return 1
		}
		c.terminal.Store(t)
		defer t.close()
		logTo.Store(t)
		s = t
		inputEnded = func() { t.close(); c.stop() }
		go func() {
			t.read(lines, done, c.stop)
			close(quit)
		}()
	} else {
		s = &plain{service: c.Service, json: c.json, out: os.Stdout, err: os.Stderr, unread: c.stop}
		inputEnded = func() {}
		go func() {
			defer close(lines)
			if err := readLines(os.Stdin, lines, done); err != nil {
				readFailed.Store(true)
				s.fail("cannot read the input: " + cli.Reason(err))
			}
		}()
	}
	for _, n := range c.notes {
		s.note(n)
	}
	c.local.failures.showOn(s)
	for allFailed := 0; ; {
		client, err := join(ctx, c.process, c.name, s, quit)
		if err != nil {
			inputEnded()
			select {
			case <-quit:
				return 0
			default:
			}
			if ctx.Err() != nil {
				if interactive {
					return 0
				}
				return 1
			}
			s.fail(c.Explain(err))
			return 1
		}
		if interactive {
			s.note("joined " + c.Service + " as " + client.Name() + "; /help lists the commands")
		}
		failed, err := runChat(ctx, client, c.Service, c.local, s, !interactive, lines, inputEnded)
		allFailed += failed
		if err == nil {
			if (allFailed > 0 || readFailed.Load()) && !interactive {
				return 1
			}
			return 0
		}
		text, ok := canRejoin(err)
		s.fail(text)
		again := c.local.continued.Swap(false) || interactive // without a terminal, only after a /reset of this process
		if !ok || !again {
			inputEnded()
			return 1
		}
	}
}
