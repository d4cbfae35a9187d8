// Command tour shows on one machine what roam does: a chat moves from host to host while clients write, over TCP between
// processes that the tour starts and ends itself. Then it counts what each client saw.
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
)

const about = `tour shows on one machine what roam does: a DNS, some hosts and some clients, each in a process of its own, talk over
TCP. The clients write while the chat moves from host to host; in the end it is counted what each of them saw.

The exit status is 1 if a message that was acknowledged was lost, doubled or out of order anywhere, or if the tour could
not be completed.`

func main() {
	if config := os.Getenv(partEnv); config != "" {
		os.Exit(play(config))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// plan is what the flags say.
type plan struct {
	total   time.Duration
	every   time.Duration
	hosts   int
	clients int
	rate    float64
	kill    bool
	json    bool
}

func parse(args []string, w io.Writer) (plan, error) {
	var p plan
	fs := cli.NewFlagSet("tour", about, w)
	fs.DurationVar(&p.total, "for", 15*time.Second, "`time` during which the clients write")
	fs.DurationVar(&p.every, "every", 2*time.Second, "`time` after which the chat moves to another host")
	fs.IntVar(&p.hosts, "hosts", 3, "`number` of hosts")
	fs.IntVar(&p.clients, "clients", 4, "`number` of clients")
	fs.Float64Var(&p.rate, "rate", 200, "`messages` a second, of all clients together")
	fs.BoolVar(&p.kill, "kill", false, "kill the process of the active host in the middle, and start a fresh host in its place")
	fs.BoolVar(&p.json, "json", false, "write the result to standard output as one JSON object, and all else to standard error")
	if err := fs.Parse(args); err != nil {
		return p, err
	}
	err := p.check()
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("%q is not a flag: flags begin with -", fs.Arg(0))
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
		return errors.New("-kill needs at least 2 hosts: somebody must hold a copy")
	case p.clients < 1 || p.clients > 64:
		return fmt.Errorf("-clients is %d, want 1 to 64", p.clients)
	case !(p.rate > 0 && p.rate <= 100_000):
		return fmt.Errorf("-rate is %v, want more than 0 and at most 100000", p.rate)
	}
	return nil
}

func run(args []string, stdout, stderr io.Writer) int {
	p, err := parse(args, stderr)
	if err != nil {
		return cli.Usage(err)
	}
	ctx, stop := cli.Interrupted(context.Background())
	defer stop()
	c, err := newCrew()
	if err != nil {
		fmt.Fprintln(stderr, "tour:", err)
		return 1
	}
	defer c.dismiss()
	out := stdout
	if p.json {
		out = stderr
	}
	t := &tour{
		plan: p, crew: c, out: out, line: newTimeline(out, p.total), hosts: make(map[string]*host), ready: make(map[*member]string),
	}
	if err := t.run(ctx); err != nil {
		if ctx.Err() != nil {
			return 130
		}
		fmt.Fprintln(stderr, "tour:", err)
		return 1
	}
	c.dismiss()
	fmt.Fprintf(out, "\n%s", t.tally.table())
	result := t.tally.all()
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

// tour is the run of a plan. All of it happens on one goroutine, which hears what the processes report.
type tour struct {
	plan
	crew  *crew
	out   io.Writer
	tally *tally
	line  *timeline

	hosts   map[string]*host
	clients []*member
	ready   map[*member]string
	flushed int
	begin   time.Time // of writing; zero before
}

// host is what a host has reported.
type host struct {
	*member
	roleReport
}

// startTime bounds each step of getting started, flushTime what is left to do at the end.
const (
	startTime = 20 * time.Second
	flushTime = 30 * time.Second
	quietTime = 5 * time.Second
)

func (t *tour) run(ctx context.Context) error {
	fmt.Fprintf(t.out, "a DNS, %s and %s, each a process; %g messages/s for %v, a move every %v\n\n",
		plural(t.plan.hosts, "host", "hosts"), plural(t.plan.clients, "client", "clients"), t.rate, t.total, t.every)
	dns, err := t.crew.start(part{Role: "dns", Name: "dns"})
	if err != nil {
		return err
	}
	if err := t.await(ctx, dns); err != nil {
		return err
	}
	at := t.ready[dns]
	for i := range t.plan.hosts {
		h, err := t.addHost(at, i == 0)
		if err != nil {
			return err
		}
		if i == 0 { // the others find the chat created
			if err := t.await(ctx, h); err != nil {
				return err
			}
		}
	}
	names := make([]string, t.plan.clients)
	for i := range names {
		names[i] = fmt.Sprintf("client-%d", i+1)
		m, err := t.crew.start(part{Role: "client", Name: names[i], DNS: at, Rate: t.rate / float64(t.plan.clients)})
		if err != nil {
			return err
		}
		t.clients = append(t.clients, m)
	}
	t.tally = newTally(names)
	if err := t.await(ctx, t.crew.members...); err != nil {
		return err
	}

	t.begin = time.Now()
	for _, c := range t.clients {
		c.tell(cmdWrite)
	}
	if err := t.write(ctx, at); err != nil {
		return err
	}
	for _, c := range t.clients {
		c.tell(cmdStop)
	}
	if err := t.finish(); err != nil {
		return err
	}
	t.line.draw(t.elapsed(), t.progress(), true)
	return nil
}

func (t *tour) elapsed() time.Duration { return time.Since(t.begin) }

func (t *tour) addHost(dns string, serve bool) (*member, error) {
	name := fmt.Sprintf("host-%d", len(t.hosts)+1)
	m, err := t.crew.start(part{Role: "host", Name: name, DNS: dns, Serve: serve, Every: t.every})
	if err == nil {
		t.hosts[name] = &host{member: m}
		t.line.track(name)
	}
	return m, err
}

// await waits until members are ready.
func (t *tour) await(ctx context.Context, ms ...*member) error {
	timeout := time.After(startTime)
	for _, m := range ms {
		for t.ready[m] == "" {
			select {
			case h := <-t.crew.heard:
				if err := t.hear(h); err != nil {
					return err
				}
			case <-timeout:
				return fmt.Errorf("%s has not started within %v\n%s", m.Name, startTime, m.log)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// write lets the clients write for the time, and kills a host in the middle of it if that is the plan. It ends early when
// ctx does.
func (t *tour) write(ctx context.Context, dns string) error {
	end := time.After(t.total)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var middle <-chan time.Time
	if t.kill {
		middle = time.After(t.total / 2)
	}
	for {
		select {
		case h := <-t.crew.heard:
			if err := t.hear(h); err != nil {
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
			if _, err := t.addHost(dns, false); err != nil {
				return err
			}
		case <-tick.C:
		case <-end:
			return nil
		case <-ctx.Done():
			return nil
		}
		t.line.advance(t.elapsed())
		t.line.draw(t.elapsed(), t.progress(), false)
	}
}

// victim is the host that serves, if another one holds a copy: without one a crash loses the state by definition.
func (t *tour) victim() *host {
	var v *host
	for _, h := range t.hosts {
		if h.Role == migrate.Active && h.ISR > 1 && (v == nil || h.Epoch > v.Epoch) {
			v = h
		}
	}
	return v
}

// finish waits until everything that was sent is acknowledged, and everybody has seen everything or nothing comes any more.
func (t *tour) finish() error {
	timeout := time.After(flushTime)
	for t.flushed < len(t.clients) {
		select {
		case h := <-t.crew.heard:
			if err := t.hear(h); err != nil {
				return err
			}
		case <-timeout:
			return fmt.Errorf("not everything that was sent was acknowledged within %v: %s", flushTime, t.progress())
		}
	}
	quiet := time.NewTimer(quietTime)
	for t.tally.all().Lost > 0 {
		select {
		case h := <-t.crew.heard:
			if err := t.hear(h); err != nil {
				return err
			}
			if len(h.Seen) > 0 {
				quiet.Reset(quietTime)
			}
		case <-quiet.C:
			return nil
		}
	}
	return nil
}

// hear takes a report.
func (t *tour) hear(h heard) error {
	m := h.from
	switch {
	case m.killed:
		return nil
	case h.gone:
		return fmt.Errorf("%s has ended (%v)\n%s", m.Name, h.err, m.log)
	case h.Error != "":
		return fmt.Errorf("%s: %s\n%s", m.Name, h.Error, m.log)
	}
	if h.Ready != "" {
		t.ready[m] = h.Ready
	}
	if m.Role == "host" {
		known := t.hosts[m.Name]
		if h.report.Role != nil {
			known.roleReport = *h.report.Role
		}
		at := time.Duration(0)
		if !t.begin.IsZero() {
			at = t.elapsed()
		}
		t.line.set(m.Name, cell(known.roleReport.Role), at)
	}
	if h.Flushed {
		t.flushed++
	}
	if m.Role == "client" {
		return t.tally.add(m.Name, h.report)
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

// progress is a line of at most 79 characters, so that it takes one row of a screen.
func (t *tour) progress() string {
	r := t.tally.all()
	s := fmt.Sprintf("%d sent, %d acknowledged, %d delivered, %s", r.Sent, r.Acknowledged, r.Delivered,
		plural(r.Moves, "move", "moves"))
	if r.Failovers > 0 {
		s += ", " + plural(r.Failovers, "failover", "failovers")
	}
	if n := len(t.tally.order); n > 0 {
		e := t.tally.epochs[t.tally.order[n-1]]
		s += fmt.Sprintf(", pause %.1f ms", summary(slices.Clone(e.pauses)).Longest)
	}
	return s[:min(len(s), 79)]
}
