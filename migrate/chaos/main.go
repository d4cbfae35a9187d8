//go:build unix

// Command chaos runs a service on real processes under load. It kills, stops, partitions and restarts them at random
// moments, and checks the observations of the clients.
//
// It starts itself as a resolver, as hosts and as processes with clients, which communicate over TCP. The clients write
// unique commands, listen to events and send queries. The parent collects their observations, and checks that every
// acknowledged command is in the log exactly once, in an order consistent with real time. The exit status is 1 after a
// violation, and 2 if the run proves nothing, for example because the load before a fault was too low.
//
//	go run ./migrate/chaos -scenario kill -count 100
//	go run ./migrate/chaos -scenario mixed -for 10m -seed 7
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	sigStop = syscall.SIGSTOP
	sigCont = syscall.SIGCONT
)

// config holds the flags.
type config struct {
	scenario  string
	lasts     time.Duration
	count     int
	hosts     int
	standbys  int
	procs     int
	clients   int
	idle      int
	strangers int
	rate      float64
	minRate   float64
	down      time.Duration
	seed      uint64
	events    int
	ballast   int
	apply     time.Duration
	stall     time.Duration
	proxies   bool
	insecure  bool
	durable   bool
	only      string
	nice      int
	dir       string
	keep      bool
	json      bool

	patience time.Duration // limit of the wait for the wanted load
}

func main() {
	if os.Getenv(roleEnv) != "" {
		os.Exit(childMain())
	}
	cfg, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(0)
		}
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(runMain(ctx, cfg, os.Stdout, os.Stderr))
}

func parse(args []string, out io.Writer) (config, error) {
	var cfg config
	fs := flag.NewFlagSet("chaos", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.StringVar(&cfg.scenario, "scenario", "mixed", "the `kind` of faults, see below")
	fs.DurationVar(&cfg.lasts, "for", 0, "end after this `time`; 0: after -count faults")
	fs.IntVar(&cfg.count, "count", 0, "end after this `number` of faults; 0: after -for, or 10 faults without -for")
	fs.IntVar(&cfg.hosts, "hosts", 3, "`number` of hosts")
	fs.IntVar(&cfg.standbys, "standbys", 1, "`number` of standbys")
	fs.IntVar(&cfg.procs, "procs", 2, "`number` of processes with clients")
	fs.IntVar(&cfg.clients, "clients", 8, "`number` of clients that write, listen and send queries")
	fs.IntVar(&cfg.idle, "idle", 0, "`number` of clients that only follow the service; herd: 10000 if 0")
	fs.IntVar(&cfg.strangers, "strangers", 10000, "strangers: `number` of connections")
	fs.Float64Var(&cfg.rate, "rate", 2000, "`number` of commands a second of all clients together")
	fs.Float64Var(&cfg.minRate, "min-rate", 1000, "`number` of acknowledged commands a second required before each fault")
	fs.DurationVar(&cfg.down, "down", time.Minute, "resolver: `time` that it is down")
	fs.Uint64Var(&cfg.seed, "seed", 0, "`number` that seeds the random choices; 0: a random one")
	fs.IntVar(&cfg.events, "events", 4<<20, "`bytes` of events kept for clients that come back")
	fs.IntVar(&cfg.ballast, "state", 256<<10, "`bytes` of state besides that of the commands")
	fs.DurationVar(&cfg.apply, "apply", 0, "`time` that the service takes for each command")
	fs.DurationVar(&cfg.stall, "stall", 0, "`time` that it takes for one command in a thousand besides")
	fs.BoolVar(&cfg.proxies, "proxies", false, "put proxies between all processes; partition, slow and mixed always do")
	fs.BoolVar(&cfg.insecure, "insecure", false, "no TLS")
	fs.BoolVar(&cfg.durable, "durable", false, "give each host a directory; power always does")
	fs.StringVar(&cfg.only, "only", "", "partition, flood, names: only faults with this `text` in their name")
	fs.IntVar(&cfg.nice, "nice", 0, "flood: the `niceness` of the flooding process")
	fs.StringVar(&cfg.dir, "dir", "", "`directory` for logs, keys and records; empty: a temporary one")
	fs.BoolVar(&cfg.keep, "keep", false, "keep the temporary directory after a successful run")
	fs.BoolVar(&cfg.json, "json", false, "print the result as JSON")
	fs.Usage = func() {
		fmt.Fprintln(out, "chaos runs a service on real processes, breaks them, and checks the clients' observations. Scenarios:")
		for _, name := range slices.Sorted(maps.Keys(scenarios)) {
			fmt.Fprintf(out, "  %-10s %s\n", name, scenarios[name].about)
		}
		fmt.Fprintln(out, "Flags:")
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		return cfg, err
	}
	if fs.NArg() > 0 {
		err := fmt.Errorf("chaos: %q is not a flag", fs.Arg(0))
		fmt.Fprintln(out, err)
		return cfg, err
	}
	return cfg, cfg.validate(out)
}

func (cfg *config) validate(out io.Writer) error {
	bad := func(format string, args ...any) error {
		err := fmt.Errorf("chaos: "+format, args...)
		fmt.Fprintln(out, err)
		return err
	}
	sc, ok := scenarios[cfg.scenario]
	switch {
	case cfg.scenario == "partition" && !slices.ContainsFunc(cuts, func(c cut) bool {
		return strings.Contains(c.kind, cfg.only)
	}):
		return bad("-only is %q, but no fault has that in its name", cfg.only)
	case cfg.scenario == "names" && !slices.ContainsFunc(namesFaults, func(k string) bool { return strings.Contains(k, cfg.only) }):
		return bad("-only is %q, want a part of one of %s", cfg.only, strings.Join(namesFaults, ", "))
	case !ok:
		return bad("-scenario is %q, want one of %s", cfg.scenario, strings.Join(slices.Sorted(maps.Keys(scenarios)), ", "))
	case cfg.hosts < 2:
		return bad("-hosts is %d, want 2 or more", cfg.hosts)
	case cfg.standbys < 1 || cfg.standbys >= cfg.hosts:
		return bad("-standbys is %d, want 1 to %d, less than -hosts", cfg.standbys, cfg.hosts-1)
	case cfg.procs < 1 || cfg.clients < cfg.procs:
		return bad("-clients is %d and -procs %d, want at least one client for each process", cfg.clients, cfg.procs)
	case cfg.scenario == "slow" && cfg.procs < 2:
		return bad("-procs is %d, want 2 or more for slow: one is stopped", cfg.procs)
	}
	cfg.patience = 20 * time.Second
	if cfg.seed == 0 {
		cfg.seed = rand.Uint64N(1<<32) + 1
	}
	switch {
	case sc.once, (cfg.scenario == "herd" || cfg.scenario == "resolver") && cfg.lasts == 0 && cfg.count == 0:
		cfg.count = 1
	case cfg.count == 0 && cfg.lasts == 0:
		cfg.count = 10
	}
	cfg.proxies = cfg.proxies || sc.proxies
	cfg.durable = cfg.durable || cfg.scenario == "power"
	if cfg.scenario == "herd" && cfg.idle == 0 {
		cfg.idle = 10000
	}
	return nil
}

// runMain executes a whole run and returns the exit status.
func runMain(ctx context.Context, cfg config, out, progress io.Writer) int {
	began := time.Now()
	sayf := func(format string, args ...any) {
		fmt.Fprintf(progress, "%7.1fs %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	dir, err := makeDir(cfg.dir)
	if err != nil {
		sayf("%v", err)
		return 2
	}
	temporary := cfg.dir == ""
	cfg.dir = dir
	res, err := execute(ctx, cfg, sayf)
	if cfg.json {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		enc.Encode(res)
	} else {
		res.print(out)
	}
	status := 0
	switch {
	case len(res.Violations) > 0:
		status = 1
	case err != nil:
		status = 2
	}
	if err != nil {
		sayf("%v", err)
	}
	if temporary && status == 0 && !cfg.keep {
		os.RemoveAll(dir)
	} else {
		sayf("logs are in %s", dir)
	}
	return status
}

// execute runs a scenario. After an error the run proves nothing; the result has the observations until then.
func execute(ctx context.Context, cfg config, sayf func(string, ...any)) (*result, error) {
	sc := scenarios[cfg.scenario]
	res := &result{Scenario: cfg.scenario, Seed: cfg.seed}
	began := time.Now()
	c, err := newCluster(cfg, sayf)
	if err != nil {
		return res, err
	}
	defer c.close()
	sayf("scenario %s, seed %d", cfg.scenario, cfg.seed)
	if err := c.start(ctx); err != nil {
		return res, err
	}
	faultLog, err := os.Create(filepath.Join(cfg.dir, "faults.log"))
	if err != nil {
		return res, err
	}
	defer faultLog.Close()
	r := &run{cluster: c, ctx: ctx, faultLog: faultLog}
	if cfg.lasts > 0 {
		var cancel context.CancelFunc
		r.ctx, cancel = context.WithTimeout(ctx, cfg.lasts)
		defer cancel()
	}
	sayf("%d hosts, %d clients and %d idle ones in %d processes", cfg.hosts, cfg.clients, cfg.idle, cfg.procs)
	said := time.Now()
	var failed error
	for n := 0; (cfg.count == 0 || n < cfg.count) && r.ctx.Err() == nil && len(c.check.violations()) == 0; {
		before := r.count()
		if failed = sc.step(r); failed != nil {
			break
		}
		if !sc.once && r.count() == before {
			r.sleep(10 * time.Millisecond) // the hosts had changed before the step chose one: it is taken again
			continue
		}
		n++
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			sayf("%d of %d; %.0f commands/s; epoch %d; machine's load %s",
				n, cfg.count, c.meter.rate(time.Second), c.meter.highest(), loadAverage())
		}
	}
	if r.ctx.Err() != nil && (errors.Is(failed, r.ctx.Err()) || ctx.Err() == nil && !errors.Is(failed, errLoad)) {
		failed = nil // the time is over
	}
	if c.net != nil {
		c.net.heal()
	}
	if c.lan != nil {
		c.lan.heal()
	}
	if failed == nil || errors.Is(failed, errLoad) {
		if err := c.settle(context.Background(), res); err != nil && failed == nil {
			failed = err
		}
		c.quit(res)
	}
	res.Took = time.Since(began)
	res.Load = loadAverage()
	r.conclude(res)
	return res, failed
}

// conclude fills the result.
func (r *run) conclude(res *result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.check
	k.mu.Lock()
	defer k.mu.Unlock()
	res.analyse(r.faults, k.acks, func(from, to int64) {
		fmt.Fprintf(r.faultLog, "time=%s silence of %s\n", logTime(from), ms(time.Duration(to-from)))
	})
	res.Commands = len(k.log)
	res.Gaps = k.gaps
	res.Violations = k.wrong
	res.Extra = r.extra
	if r.cfg.scenario == "names" {
		res.Extra = append(res.Extra, r.names.String())
	}
	m := &r.moves
	res.Handoffs = handoffResult{
		Done: len(m.all), Failed: len(m.failed), Errors: m.errs,
		Pause: spreadOf(m.pause), Won: spreadOf(m.won), Transfer: spreadOf(m.transfer), All: spreadOf(m.all),
		Prepare: spreadOf(m.prepare), Join: spreadOf(m.join), FailedAfter: spreadOf(m.failed),
	}
	pauses := make(map[string][]time.Duration)
	r.cluster.mu.Lock()
	defer r.cluster.mu.Unlock()
	for _, m := range r.cluster.moves {
		kind := "unplanned"
		if m.Planned {
			kind = "planned"
		}
		pauses[kind] = append(pauses[kind], m.Pause)
	}
	res.ClientPause = spreads(pauses)
	res.Notes = r.notes
}

// logTime formats a time like the children's logs.
func logTime(t int64) string { return time.Unix(0, t).UTC().Format("2006-01-02T15:04:05.000Z") }

func (r *result) print(w io.Writer) {
	p := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	p("scenario %s, seed %d: %s, machine's load %s", r.Scenario, r.Seed, r.Took.Round(time.Millisecond), r.Load)
	p("%d commands in the log, %d queries; latency %s; %d gaps in events, all reported", r.Commands, r.Queries, r.Latency,
		r.Gaps)
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		p("%5d x %s", r.Faults[kind], kind)
		p("        longest time without an acknowledgement: %s", r.Silence[kind])
		if s := r.New[kind]; s.N > 0 {
			p("        to the first acknowledgement of a later epoch: %s", s)
		}
	}
	if h := &r.Handoffs; h.Done+h.Failed > 0 {
		p("handoffs: %d done, %d failed", h.Done, h.Failed)
		p("        pause at the hosts %s", h.Pause)
		p("        transfer %s; prepare %s; join %s; all %s", h.Transfer, h.Prepare, h.Join, h.All)
		if h.Failed > 0 {
			p("        failed after %s", h.FailedAfter)
			for _, e := range slices.Sorted(maps.Keys(h.Errors)) {
				p("        %d x %s", h.Errors[e], e)
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(r.ClientPause)) {
		p("pause seen by clients, %s: %s", kind, r.ClientPause[kind])
	}
	for _, s := range r.Extra {
		p("%s", s)
	}
	for _, s := range slices.Sorted(maps.Keys(r.Notes)) {
		p("hosts reported %d x: %s", r.Notes[s], s)
	}
	p("after healing: in sync after %s, %d equal replicas after %s; %d processes closed without a leak",
		ms(r.InSync), r.Replicas, ms(r.Equal), r.Closed)
	for _, s := range r.Violations {
		p("VIOLATION (seed %d): %s", r.Seed, s)
	}
	p("%d violations", len(r.Violations))
}

// loadAverage returns the machine's load average, if the system reports it.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	f := strings.Fields(string(b))
	return strings.Join(f[:min(3, len(f))], " ")
}
