// Command chatnode hosts a chat without a user interface, as its active host or as a standby.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/roam-go/roam/examples/internal/cli"
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
)

const about = `chatnode hosts a chat without a user interface. With -s it creates the chat; otherwise it stands by to take it
over.
Without -join it uses the DNS that you have started on this machine; -join takes the code for hosts that a DNS prints.
Ctrl-C, SIGTERM or SIGHUP hands the chat over to another host and exits; a second Ctrl-C exits at once.
If the hosts of the chat are lost except for this one, a message says so; then on Unix, SIGUSR1 continues the chat with the
copy in this process.`

const leaveTimeout = 10 * time.Second

func main() { os.Exit(run()) }

func run() int {
	var f cli.Flags
	fs := cli.NewFlagSet("chatnode", about, os.Stderr)
	f.Register(fs)
	if err := f.Parse(fs, os.Args[1:]); err != nil {
		return cli.ExitStatus(err)
	}
	if f.Guest() {
		fmt.Fprintln(os.Stderr, "chatnode: this is a code for guests, who only talk: to host the chat, use the code for hosts that "+
			"dns prints")
		return 2
	}
	ctx, stop := cli.Interrupted(context.Background(), nil)
	defer stop()
	log := f.Log(os.Stderr, "chatnode") // without -v the events below are enough
	p, err := cli.Start(ctx, f, log)
	if err != nil && ctx.Err() != nil {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chatnode:", f.Explain(err))
		return 1
	}
	n := &eventPrinter{service: f.Service, stop: stop}
	p.Say = func(s string) { n.printf("%s", s) }
	resets := make(chan os.Signal, 1)
	if resetSignal != nil {
		signal.Notify(resets, resetSignal)
	}
	var rec resolver.Record
	if err = p.Listen(migrate.Hooks{Changed: n.changed, Moved: n.moved, Failed: n.failed}); err == nil {
		n.printf("this is %s at %s", p.Node.Self().ID, p.Node.Self().Addr)
		rec, err = p.Host(ctx)
	}
	if err != nil {
		leave(p)
		if ctx.Err() != nil {
			return 0
		}
		fmt.Fprintln(os.Stderr, "chatnode:", f.Explain(err))
		return 1
	}
	switch self := p.Node.Self(); {
	case rec.Active.ID == "":
		n.printf("no host serves %s yet; standing by until a host is started with -s", f.Service)
	case f.Serve && !rec.Active.Same(self):
		n.printf("%s is already served by %s at %s; standing by", f.Service, cli.Printable(rec.Active.ID),
			cli.Printable(rec.Active.Addr))
	}
	if s := p.Unreachable(ctx); s != "" {
		n.printf("%s", s)
	}
	for ctx.Err() == nil {
		select {
		case <-resets:
			n.reset(ctx, p)
		case <-ctx.Done():
		}
	}
	n.printf("leaving; press Ctrl-C to exit at once")
	if err := leave(p); err != nil {
		n.printf("%s", f.Explain(err))
		if !errors.Is(err, migrate.ErrNoTarget) {
			return 1
		}
	}
	return 0
}

func leave(p *cli.Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	return p.Leave(ctx)
}

// eventPrinter prints the events of the host, one line each.
type eventPrinter struct {
	service string
	stop    func() // called when nobody reads the events any more

	mu   sync.Mutex // guards the fields below
	role migrate.Role
	term uint64
}

func (n *eventPrinter) printf(format string, args ...any) {
	_, err := fmt.Printf(time.Now().Format("15:04:05 ")+format+"\n", args...)
	if errors.Is(err, syscall.EPIPE) {
		n.stop()
	}
}

func (n *eventPrinter) changed(st migrate.Status) {
	n.mu.Lock()
	same := st.Role == n.role && (st.Role != migrate.Active || st.Record.Epoch == n.term)
	n.role, n.term = st.Role, st.Record.Epoch
	n.mu.Unlock()
	if same {
		return
	}
	active := cli.Printable(st.Record.Active.ID)
	switch st.Role {
	case migrate.Active:
		n.printf("serving %s (epoch %d)", n.service, st.Record.Epoch)
	case migrate.Standby:
		n.printf("standing by with a copy; %s serves (epoch %d)", active, st.Record.Epoch)
	case migrate.Latent:
		if active != "" {
			n.printf("standing by; %s serves (epoch %d)", active, st.Record.Epoch)
		}
	case migrate.Halted:
		n.printf("halted; see the error above")
	}
}

func (n *eventPrinter) moved(r migrate.Report, err error) {
	if err != nil {
		n.printf("%s", cli.Reason(err))
		return
	}
	n.printf("handed %s over to %s in %v, pause %v", n.service, cli.Printable(r.To.ID),
		(r.Join + r.Prepare + r.Transfer).Round(time.Millisecond),
		r.Pause.Round(10*time.Microsecond))
}

func (n *eventPrinter) failed(service string, err error) {
	n.printf("%s: %s", cli.Printable(service), cli.ExplainFailed(err, resetCommand()))
}

// reset continues the chat with the copy in this process, as the user requested by resetSignal.
func (n *eventPrinter) reset(ctx context.Context, p *cli.Process) {
	if err := p.Reset(ctx); err != nil {
		n.printf("%s", p.Flags.ExplainReset(err))
		return
	}
	n.printf("continued %s with the copy in this process", n.service)
}

// resetCommand returns the command that sends resetSignal to this process, or "" if there is none.
func resetCommand() string {
	if resetSignal == nil {
		return ""
	}
	return fmt.Sprintf("kill -USR1 %d", os.Getpid())
}
