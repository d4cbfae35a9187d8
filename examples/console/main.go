// Command console is a chat in a terminal: a client and, unless -client_only is given, a host that the chat can move to.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"sync/atomic"

	"github.com/roam-go/roam/examples/internal/cli"
	"github.com/roam-go/roam/migrate"
)

const about = `console is a chat in a terminal. What you type is said to all; /help lists the commands.

Every participant's process can also be the server: the chat moves between them, and goes on when one leaves or dies. Start
the first one with -s. With -client_only this process takes part in the chat, and does not host it.

With its input or output piped, lines come in and lines go out, or JSON objects with -json; at the end of the input it waits
until the room has taken everything, and leaves. The exit status is 0 if it took everything, 1 if not, 2 for wrong flags.`

func main() { os.Exit(run()) }

// config is what the flags say.
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
	fs.BoolVar(&cfg.json, "json", false, "write one JSON object a line: kind (message, private, joined, left, moved, gap, error), from, text, "+
		"seq; for moved epoch, host, pause_ms")
	if err := cfg.Parse(fs, args); err != nil {
		return cfg, err
	}
	err := error(nil)
	switch {
	case cfg.clientOnly && cfg.Serve:
		err = errors.New("-s and -client_only exclude one another")
	case cfg.name == "":
		err = errors.New("-name is empty")
	}
	if err != nil {
		fmt.Fprintln(w, "console:", err)
	}
	return cfg, err
}

// login is the name that this user has on this machine.
func login() string {
	if u, err := user.Current(); err == nil {
		return filepath.Base(filepath.ToSlash(u.Username))
	}
	return "somebody"
}

func run() int {
	cfg, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		return cli.Usage(err)
	}
	ctx, stop := cli.Interrupted(context.Background())
	defer stop()

	logTo := &output{}
	logTo.Store(os.Stderr)
	log := slog.New(slog.DiscardHandler)
	if cfg.Verbose {
		log = slog.New(slog.NewTextHandler(logTo, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	p, err := cli.Start(ctx, cfg.Flags, log)
	if err != nil {
		fmt.Fprintln(os.Stderr, "console:", cfg.Explain(err))
		return 1
	}
	c := &console{config: cfg, process: p, stop: stop}
	status := 1
	if err := c.host(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "console:", cfg.Explain(err))
	} else {
		status = c.talk(ctx, logTo)
	}
	stop() // from now on Ctrl-C ends at once
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

// console is the program from its start to its end.
type console struct {
	config
	process *cli.Process
	stop    func()
	notes   []string // for the screen, when there is one
}

// host makes this process a host, unless it is to be a client only.
func (c *console) host(ctx context.Context) error {
	if c.clientOnly {
		return nil
	}
	if err := c.process.Listen(migrate.Hooks{}); err != nil {
		return err
	}
	rec, err := c.process.Host(ctx)
	if err != nil {
		return err
	}
	switch self := c.process.Node.Self(); {
	case rec.Active.Same(self):
		c.notes = append(c.notes, fmt.Sprintf("this process serves %s now", c.Service))
	case c.Serve && rec.Active.ID != "":
		c.notes = append(c.notes, fmt.Sprintf("%s is served already, by %s at %s: this process stands by for it", c.Service,
			cli.Printable(rec.Active.ID), cli.Printable(rec.Active.Addr)))
	}
	if w := c.process.Unreachable(ctx); w != "" {
		c.notes = append(c.notes, w)
	}
	return nil
}

// talk joins the chat and takes part in it until the end of the input, and returns the exit status.
func (c *console) talk(ctx context.Context, logTo *output) int {
	var (
		s     screen
		lines = make(chan string, 16)
		done  = make(chan struct{})
		quit  = make(chan struct{}) // closed when the person at the terminal wants to leave
		last  = c.stop              // called when everything to say is there
		cut   atomic.Bool           // the input could not be read to its end
	)
	defer close(done)
	interactive := !c.json && isTerminal(os.Stdin, os.Stdout)
	if interactive {
		t, err := newTerminal(c.Service, c.name, os.Stdin, os.Stdout)
		if err != nil {
			fmt.Fprintln(os.Stderr, "console: the terminal cannot be used:", err)
			return 1
		}
		defer t.close()
		logTo.Store(t)
		s = t
		last = func() { t.close(); c.stop() }
		go func() {
			t.read(lines, done)
			close(quit)
		}()
	} else {
		s = &plain{service: c.Service, json: c.json, out: os.Stdout, err: os.Stderr}
		last = func() {}
		go func() {
			defer close(lines)
			if err := readLines(os.Stdin, lines, done); err != nil {
				cut.Store(true)
				s.fail("the input cannot be read any further: " + cli.Reason(err))
			}
		}()
	}
	for _, n := range c.notes {
		s.note(n)
	}
	self := ""
	if c.process.Node != nil {
		self = c.process.Node.Self().ID
	}
	for {
		client, err := join(ctx, c.process, c.name, s, quit)
		if err != nil {
			last()
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
			s.note("you are in " + c.Service + " as " + client.Name() + "; /help lists the commands")
		}
		refused, err := converse(ctx, client, c.Service, self, s, !interactive, lines, last)
		if err == nil {
			if (refused > 0 || cut.Load()) && !interactive {
				return 1
			}
			return 0
		}
		text, ok := again(err)
		s.fail(text)
		if !ok || !interactive {
			last()
			return 1
		}
	}
}
