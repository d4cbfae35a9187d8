// Command tour demonstrates roam on one machine. A chat moves between hosts while clients send messages. The tour starts all
// processes itself; they communicate over TCP. At the end it verifies what each client received.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/roam-go/roam/examples/internal/cli"
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

const about = `tour demonstrates roam on one machine: a DNS, hosts and clients, each in a separate process, communicate over
TCP. The clients send messages while the chat moves between the hosts. At the end, tour counts what each client received.

The exit status is 1 if an acknowledged message was lost, duplicated or reordered at any client, or if the tour could not
be completed.`

func main() {
	if config := os.Getenv(childEnv); config != "" {
		os.Exit(runChild(config))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// plan holds the values of the flags.
type plan struct {
	total   time.Duration
	every   time.Duration
	hosts   int
	clients int
	rate    float64
	kill    bool
	json    bool

	moves int // the least number of moves; set by tests, which must not depend on the speed of the machine
}

func parse(args []string, w io.Writer) (plan, error) {
	var p plan
	fs := cli.NewFlagSet("tour", about, w)
	fs.DurationVar(&p.total, "for", 15*time.Second, "`time` for which the clients send messages")
	fs.DurationVar(&p.every, "every", 2*time.Second, "`time` between two moves of the chat")
	fs.IntVar(&p.hosts, "hosts", 3, "`number` of hosts")
	fs.IntVar(&p.clients, "clients", 4, "`number` of clients")
	fs.Float64Var(&p.rate, "rate", 200, "`messages` per second, of all clients together")
	fs.BoolVar(&p.kill, "kill", false, "kill the active host halfway through, and start a new host")
	fs.BoolVar(&p.json, "json", false, "write the result to standard output as a JSON object, and everything else to "+
		"standard error")
	if err := fs.Parse(args); err != nil {
		return p, err
	}
	err := p.check()
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q: flags begin with -", fs.Arg(0))
	}
	if err != nil {
		fmt.Fprintln(w, "tour:", err)
	}
	return p, err
}

func (p plan) check() error {
	switch {
	case p.total < time.Second || p.total > time.Hour:
		return fmt.Errorf("-for is %v, want 1s to 1h", p.total)
	case p.every < 100*time.Millisecond:
		return fmt.Errorf("-every is %v, want at least 100ms", p.every)
	case p.hosts < 1 || p.hosts > 32:
		return fmt.Errorf("-hosts is %d, want 1 to 32", p.hosts)
	case p.kill && p.hosts < 2:
		return errors.New("-kill needs at least 2 hosts: a standby must hold a copy")
	case p.clients < 1 || p.clients > 64:
		return fmt.Errorf("-clients is %d, want 1 to 64", p.clients)
	case !(p.rate > 0 && p.rate <= 100_000):
		return fmt.Errorf("-rate is %v, want above 0 and at most 100000", p.rate)
	}
	return nil
}

func run(args []string, stdout, stderr io.Writer) int {
	p, err := parse(args, stderr)
	if err != nil {
		return cli.ExitStatus(err)
	}
	return p.run(stdout, stderr)
}

// run executes the plan and returns the exit status.
func (p plan) run(stdout, stderr io.Writer) int {
	running, end := context.WithCancel(context.Background())
	defer end()
	ctx, stop := cli.Interrupted(running, nil)
	defer stop()
	c, err := newSupervisor()
	if err != nil {
		fmt.Fprintln(stderr, "tour:", err)
		return 1
	}
	defer c.stop()
	out := stdout
	if p.json {
		out = stderr
	}
	t := &tour{
		plan: p, supervisor: c, out: out, line: newTimeline(out,
			p.total), hosts: make(map[string]*host), ready: make(map[*child]string),
	}
	if err := t.run(ctx); err != nil {
		if ctx.Err() != nil {
			return 130
		}
		fmt.Fprintln(stderr, "tour:", err)
		return 1
	}
	c.stop()
	fmt.Fprintf(out, "\n%s", t.tally.table())
	result := t.tally.all()
	result.Seconds = t.wrote.Seconds()
	if p.json {
		if err := json.NewEncoder(stdout).Encode(result); err != nil {
			fmt.Fprintln(stderr, "tour:", err)
			return 1
		}
	}
	if !result.clean() {
		return 1
	}
	return 0
}

// tour executes a plan. It runs on one goroutine, which receives the reports of the children.
type tour struct {
	plan
	supervisor *supervisor
	out        io.Writer
	tally      *tally
	line       *timeline

	hosts   map[string]*host
	clients []*child
	ready   map[*child]string // what each child reported as Ready
	flushed int               // clients whose messages are all acknowledged
	begin   time.Time         // start of sending; zero before
	wrote   time.Duration     // for which the clients have sent
}

// host is a host and its last reported role.
type host struct {
	*child
	roleReport
}

// startTimeout bounds each step of the start; lateTimeout, the wait for a kill or moves that have not happened in time;
// flushTimeout, the acknowledgements at the end; quietTimeout, the wait for the next message when some have not arrived.
const (
	startTimeout = 20 * time.Second
	lateTimeout  = 30 * time.Second
	flushTimeout = 30 * time.Second
	quietTimeout = 5 * time.Second
)

func (t *tour) run(ctx context.Context) error {
	fmt.Fprintf(t.out, "a DNS, %s and %s, each in a process; %g messages/s for %v, a move every %v\n\n",
		cli.Plural(t.plan.hosts, "host", "hosts"), cli.Plural(t.plan.clients, "client", "clients"), t.rate, t.total, t.every)
	dns, err := t.supervisor.start(childConfig{Role: "dns", Name: "dns"})
	if err != nil {
		return err
	}
	if err := t.await(ctx, dns); err != nil {
		return err
	}
	for i := range t.plan.hosts {
		h, err := t.addHost(i == 0)
		if err != nil {
			return err
		}
		if i == 0 { // it creates the chat
			if err := t.await(ctx, h); err != nil {
				return err
			}
		}
	}
	names := make([]string, t.plan.clients)
	for i := range names {
		names[i] = fmt.Sprintf("client-%d", i+1)
		m, err := t.supervisor.start(childConfig{Role: "client", Name: names[i], Rate: t.rate / float64(t.plan.clients)})
		if err != nil {
			return err
		}
		t.clients = append(t.clients, m)
	}
	t.tally = newTally(names)
	if err := t.await(ctx, t.supervisor.children...); err != nil {
		return err
	}

	t.begin = time.Now()
	for _, c := range t.clients {
		c.send(cmdWrite)
	}
	if err := t.write(ctx); err != nil {
		return err
	}
	for _, c := range t.clients {
		c.send(cmdStop)
	}
	t.wrote = t.elapsed()
	if err := t.finish(); err != nil {
		return err
	}
	t.line.draw(t.elapsed(), t.progress(), true)
	return nil
}

func (t *tour) elapsed() time.Duration { return time.Since(t.begin) }

func (t *tour) addHost(serve bool) (*child, error) {
	name := fmt.Sprintf("host-%d", len(t.hosts)+1)
	m, err := t.supervisor.start(childConfig{Role: "host", Name: name, Serve: serve, Every: t.every})
	if err == nil {
		t.hosts[name] = &host{child: m}
		t.line.track(name)
	}
	return m, err
}

// await waits until the given children are ready.
func (t *tour) await(ctx context.Context, ms ...*child) error {
	timeout := time.After(startTimeout)
	for _, m := range ms {
		for t.ready[m] == "" {
			select {
			case r := <-t.supervisor.reports:
				if err := t.handle(r); err != nil {
					return err
				}
			case <-timeout:
				return fmt.Errorf("%s did not start within %v\n%s", m.Name, startTimeout, m.log)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// write waits while the clients send, draws the timeline, and kills a host halfway through if planned. On a slow machine it
// takes longer than planned: until the host is killed, and until the chat has moved often enough. It returns early when ctx
// ends.
func (t *tour) write(ctx context.Context) error {
	end, late := time.After(t.total), time.After(t.total+lateTimeout)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var middle <-chan time.Time
	if t.kill {
		middle = time.After(t.total / 2)
	}
	for over := false; !over || middle != nil || t.tally.all().Moves < t.moves; {
		select {
		case r := <-t.supervisor.reports:
			if err := t.handle(r); err != nil {
				return err
			}
			continue
		case <-middle:
			h := t.victim()
			if h == nil {
				middle = time.After(20 * time.Millisecond)
				continue
			}
			middle = nil
			h.kill()
			t.line.set(h.Name, dead, t.elapsed())
			if _, err := t.addHost(false); err != nil {
				return err
			}
		case <-tick.C:
		case <-end:
			over = true
		case <-late:
			if middle != nil {
				return fmt.Errorf("no standby was in sync within %v, so no host was killed: %s", t.elapsed(), t.progress())
			}
			return fmt.Errorf("the chat did not move %d times within %v: %s", t.moves, t.elapsed(), t.progress())
		case <-ctx.Done():
			return nil
		}
		t.line.advance(t.elapsed())
		t.line.draw(t.elapsed(), t.progress(), false)
	}
	return nil
}

// victim returns the active host if a standby is in sync, because otherwise a crash loses the state by definition.
func (t *tour) victim() *host {
	var v *host
	for _, h := range t.hosts {
		if h.Role == migrate.Active && h.ISR > 1 && (v == nil || h.Epoch > v.Epoch) {
			v = h
		}
	}
	return v
}

// finish waits until all messages are acknowledged, and until all have arrived or no more arrive.
func (t *tour) finish() error {
	timeout := time.After(flushTimeout)
	for t.flushed < len(t.clients) {
		select {
		case r := <-t.supervisor.reports:
			if err := t.handle(r); err != nil {
				return err
			}
		case <-timeout:
			return fmt.Errorf("messages were not acknowledged within %v: %s", flushTimeout, t.progress())
		}
	}
	quiet := time.NewTimer(quietTimeout)
	for t.tally.all().Lost > 0 {
		select {
		case r := <-t.supervisor.reports:
			if err := t.handle(r); err != nil {
				return err
			}
			if len(r.Seen) > 0 {
				quiet.Reset(quietTimeout)
			}
		case <-quiet.C:
			return nil
		}
	}
	return nil
}

// handle processes a report.
func (t *tour) handle(r childReport) error {
	m := r.from
	switch {
	case m.killed:
		return nil
	case r.exited:
		return fmt.Errorf("%s has exited (%v)\n%s", m.Name, r.err, m.log)
	case r.Error != "":
		return fmt.Errorf("%s: %s\n%s", m.Name, r.Error, m.log)
	}
	if r.Ready != "" {
		t.ready[m] = r.Ready
	}
	if m.Role == "dns" && r.Ready != "" {
		key, err := transport.ParseKey(r.Key)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		t.supervisor.dns = transport.Peer{Addr: r.Ready, Key: key}
	}
	if m.Role == "host" {
		known := t.hosts[m.Name]
		if r.report.Role != nil {
			known.roleReport = *r.report.Role
		}
		at := time.Duration(0)
		if !t.begin.IsZero() {
			at = t.elapsed()
		}
		t.line.set(m.Name, cell(known.roleReport.Role), at)
	}
	if r.Flushed {
		t.flushed++
	}
	if m.Role == "client" {
		return t.tally.add(m.Name, r.report)
	}
	return nil
}

func cell(r migrate.Role) byte {
	switch r {
	case migrate.Active, migrate.Recovering:
		return active
	case migrate.Standby:
		return standby
	default:
		return latent
	}
}

// progress returns a status line of at most 79 characters, which fits one row of a terminal.
func (t *tour) progress() string {
	r := t.tally.all()
	s := fmt.Sprintf("%d sent, %d acknowledged, %d delivered, %s", r.Sent, r.Acknowledged, r.Delivered,
		cli.Plural(r.Moves, "move", "moves"))
	if r.Failovers > 0 {
		s += ", " + cli.Plural(r.Failovers, "failover", "failovers")
	}
	if n := len(t.tally.order); n > 0 {
		e := t.tally.epochs[t.tally.order[n-1]]
		s += fmt.Sprintf(", pause %.1f ms", summary(slices.Clone(e.pauses)).Longest)
	}
	return s[:min(len(s), 79)]
}
