//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// run is a running scenario.
type run struct {
	*cluster
	ctx      context.Context // ends with the run's time
	faultLog io.Writer       // in the format of the children's logs

	mu     sync.Mutex // guards what follows
	faults []fault
	moves  handoffs
	extra  []string

	names names // of the scenario names; belongs to its goroutine
}

// handoffs collects the results of the requested handoffs.
type handoffs struct {
	pause, won, transfer, all, prepare, join []time.Duration
	failed                                   []time.Duration
	errs                                     map[string]int
}

// scenarios are the scenarios by name. Each step causes one fault, or none if no host is in the role that it needs just then,
// and returns when the next may come.
var scenarios = map[string]struct {
	about   string
	proxies bool
	once    bool // a step is the whole run, not one fault
	lan     bool // needs network namespaces
	step    func(*run) error
}{
	"kill":      {"SIGKILL of the active host, which is replaced by a new process", false, false, false, (*run).stepKill},
	"standby":   {"SIGKILL of a standby, which is replaced by a new process", false, false, false, (*run).stepKillStandby},
	"client":    {"SIGKILL of a process with clients, which is replaced by a new one", false, false, false, (*run).stepKillClients},
	"stop":      {"SIGSTOP of a host for 0.1 to 5 s, then SIGCONT", false, false, false, (*run).stepStop},
	"handoff":   {"planned handoff to a random host", false, false, false, (*run).stepHandoff},
	"trap":      {"source or target of a handoff killed right before or after the record changes", false, false, false, (*run).stepTrap},
	"duty":      {"active host stopped half of the time", false, false, false, (*run).stepDuty},
	"swizzle":   {"links between hosts and to the resolver cut one by one, restored in another order", true, false, false, (*run).stepSwizzle},
	"noise":     {"everything delayed, connections reset all the time", true, false, false, (*run).stepNoise},
	"records":   {"resolver killed while it writes, started again at once", false, false, false, (*run).stepRecords},
	"file":      {"resolver's file lost or damaged, later restored", false, false, false, (*run).stepFile},
	"strangers": {"-strangers connections to the active host that never say a word", false, true, false, (*run).strangers},
	"badmove":   {"handoff to a host that dies or hangs, or without the resolver", false, false, false, (*run).stepBadMove},
	"partition": {"hosts cut off from one another, from the resolver, from all, one way or both", true, false, false, (*run).stepPartition},
	"netns":     {"hosts or the resolver unplugged or unreachable, in network namespaces; needs root", false, false, true, (*run).stepLAN},
	"names":     {"resolver started empty, with an older file, or beside a copy of itself, while hosts die", false, false, false, (*run).stepNames},
	"resolver":  {"resolver killed, away for -down, started again", false, false, false, (*run).stepResolver},
	"herd":      {"-idle clients over a planned move and a SIGKILL", false, false, false, (*run).stepHerd},
	"power":     {"SIGKILL of all hosts at once, which restart with their directories", false, false, false, (*run).stepPower},
	"flood":     {"a client that sends a hundred times the load of others, evenly and in large batches", false, true, false, (*run).flood},
	"slow":      {"clients that don't read, a standby behind a slow link", true, true, false, (*run).slow},
	"stuck":     {"a call of the service that never returns, on one host, beside another service", false, false, false, (*run).stepStuck},
	"mixed":     {"all of the above but herd, names, power, slow and stuck, in random order, and handoffs at the same time", true, false, false, (*run).stepMixed},
}

// fault records a fault that is about to begin.
func (r *run) fault(kind, target string, lasts time.Duration) fault {
	f := fault{Kind: kind, Target: target, At: time.Now().UnixNano(), Lasted: lasts, Epoch: r.meter.highest()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, f)
	fmt.Fprintf(r.faultLog, "time=%s %s\n", logTime(f.At), f.String())
	return f
}

// count returns the number of faults so far.
func (r *run) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.faults)
}

func (r *run) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.ctx.Done():
	}
}

func (r *run) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(r.rnd.Int64N(int64(hi-lo)))
}

func (r *run) sayLater(format string, args ...any) {
	r.mu.Lock()
	r.extra = append(r.extra, fmt.Sprintf(format, args...))
	r.mu.Unlock()
	r.sayf(format, args...)
}

// awaitEpoch waits for the acknowledgement of a command in a later epoch.
func (r *run) awaitEpoch(after uint32, timeout time.Duration) bool {
	return poll(context.Background(), timeout, func() bool { return r.meter.highest() > after })
}

// errLastCopy ends a run that cannot continue: the killed host had just removed its silent standby. That loses the state by
// design, since a standby that is not in sync cannot take over.
var errLastCopy = errors.New("the killed host held the last copy")

// takenOver waits until another host serves after f.
func (r *run) takenOver(f fault, killed *host) error {
	return r.await(f, killed, func() bool { return r.meter.highest() > f.Epoch })
}

// await waits until the service has recovered from f, as ok reports.
func (r *run) await(f fault, killed *host, ok func() bool) error {
	const patience = 15 * time.Second
	if poll(context.Background(), patience, ok) {
		return nil
	}
	if !r.copyLeft(killed) {
		return fmt.Errorf("%w: %s (%s)", errLastCopy, f.String(), r.describe())
	}
	r.check.violation("nobody serves within %s after %s (%s)", patience, f.String(), r.describe())
	return errStuck
}

// copyLeft reports whether a host other than killed reports that it is in the in-sync set.
func (r *run) copyLeft(killed *host) bool {
	return slices.ContainsFunc(r.hosts, func(h *host) bool {
		st := h.p.latest()
		return h != killed && st != nil &&
			slices.ContainsFunc(st.ISR, func(m member) bool { return m.ID == h.id && m.Inc == h.p.inc() })
	})
}

var errStuck = errors.New("the service does not recover")

func (r *run) stepKill() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	r.sleep(r.between(0, 200*time.Millisecond))
	a, _ := r.active()
	if a == nil || r.inSync() != "" {
		return nil // another one is taken
	}
	f := r.fault("kill active", a.id, 0)
	r.killHost(a)
	if err := r.takenOver(f, a); err != nil {
		return err
	}
	r.sleep(r.between(0, 200*time.Millisecond))
	return r.startHost(a, false)
}

func (r *run) stepKillStandby() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	s := r.standby()
	if s == nil {
		return nil
	}
	r.fault("kill standby", s.id, 0)
	r.killHost(s)
	r.sleep(r.between(0, 200*time.Millisecond))
	return r.startHost(s, false)
}

// stepKillClients kills a process with clients while they work. The log must have each of their commands at most once.
func (r *run) stepKillClients() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	i := r.rnd.IntN(len(r.clients))
	p := r.clients[i]
	r.sleep(r.between(0, 200*time.Millisecond))
	r.fault("kill clients", p.ID, 0)
	p.kill()
	r.check.forget(p.First, p.Writers)
	n, err := r.startClients(p.ID, p.Writers, p.Idle)
	if err == nil {
		r.clients[i] = n
	}
	return err
}

// duration returns 0.1 to 5 s, with a median of 0.7 s.
func (r *run) duration() time.Duration {
	return time.Duration(float64(100*time.Millisecond) * math.Pow(50, r.rnd.Float64()))
}

func (r *run) stepStop() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	h, _ := r.active()
	kind := "stop active"
	if r.rnd.IntN(3) == 0 {
		h, kind = r.standby(), "stop standby"
	}
	if h == nil {
		return nil
	}
	d := r.duration()
	if d >= 500*time.Millisecond {
		kind += ", 0.5 s and more"
	}
	f := r.fault(kind, h.id, d)
	h.p.signal(syscall.SIGSTOP)
	r.sleep(d)
	h.p.signal(syscall.SIGCONT)
	if strings.HasPrefix(kind, "stop active") && d > 1500*time.Millisecond && !r.awaitEpoch(f.Epoch, 15*time.Second) {
		r.check.violation("nobody has taken over within 15 s after %s (%s)", f.String(), r.describe())
		return errStuck
	}
	return nil
}

// handoff requests a handoff from the active host and returns the host's error.
func (r *run) handoff(target string, timeout time.Duration) (time.Duration, error) {
	a, _ := r.active()
	if a == nil {
		return 0, nil
	}
	return r.handoffFrom(a.p, target, timeout)
}

// handoffFrom requests a handoff from a process.
func (r *run) handoffFrom(p *process, target string, timeout time.Duration) (time.Duration, error) {
	began := time.Now()
	rep, err := p.ask(order{Op: "handoff", Target: target, Timeout: timeout}, timeout+10*time.Second)
	took := time.Since(began)
	r.mu.Lock()
	defer r.mu.Unlock()
	m := &r.moves
	if err != nil {
		if m.errs == nil {
			m.errs = make(map[string]int)
		}
		s := err.Error()
		if len(s) > 160 {
			s = s[:160]
		}
		m.errs[s]++
		m.failed = append(m.failed, took)
		return took, err
	}
	m.all = append(m.all, took)
	m.pause = append(m.pause, rep.Move.Pause)
	m.won = append(m.won, rep.Move.Won)
	m.transfer = append(m.transfer, rep.Move.Transfer)
	m.prepare = append(m.prepare, rep.Move.Prepare)
	m.join = append(m.join, rep.Move.Join)
	return took, nil
}

func (r *run) stepHandoff() error {
	a, _ := r.active()
	if a == nil || r.meter.rate(250*time.Millisecond) < r.cfg.minRate {
		if err := r.ready(r.ctx); err != nil {
			return err
		}
		if a, _ = r.active(); a == nil {
			return nil
		}
	}
	to := r.other(a).id
	r.fault("handoff", to, 0)
	if _, err := r.handoff(to, 10*time.Second); err != nil {
		r.sleep(50 * time.Millisecond)
	}
	r.sleep(r.between(0, 10*time.Millisecond))
	return nil
}

// stepBadMove requests a handoff that cannot succeed.
func (r *run) stepBadMove() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	a, st := r.active()
	if a == nil {
		return nil
	}
	t := r.other(a)
	role := "latent target"
	if slices.ContainsFunc(st.ISR, func(m member) bool { return m.ID == t.id }) {
		role = "standby target"
	}
	var (
		undo func() error
		kind string
		do   func()
	)
	switch r.rnd.IntN(4) {
	case 0:
		kind = "handoff, " + role + " killed"
		do = func() { r.killHost(t) }
		undo = func() error { return r.startHost(t, false) }
	case 1:
		kind = "handoff, " + role + " stopped"
		do = func() { t.p.signal(syscall.SIGSTOP) }
		undo = func() error { t.p.signal(syscall.SIGCONT); return nil }
	case 2:
		kind = "handoff, resolver killed"
		do = r.killResolver
		undo = r.startResolver
	case 3:
		kind = "handoff, resolver stopped"
		do = func() { r.resolver.signal(syscall.SIGSTOP) }
		undo = func() error { r.resolver.signal(syscall.SIGCONT); return nil }
	}
	during := r.rnd.IntN(2) == 0 // during the handoff, rather than before
	r.fault(kind, t.id, 0)
	if !during {
		do()
	}
	done := make(chan struct{})
	var (
		took time.Duration
		err  error
	)
	go func() {
		defer close(done)
		took, err = r.handoff(t.id, 10*time.Second)
	}()
	if during {
		r.sleep(r.between(0, 20*time.Millisecond))
		do()
	}
	<-done
	if err != nil && took > time.Second {
		r.sayLater("%s: the error came after %s: %v", kind, ms(took), err)
	}
	return undo()
}

func (r *run) stepResolver() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	down := r.cfg.down
	end := time.Now().Add(down)
	r.fault("resolver away", resolverID, down)
	r.killResolver()
	for time.Now().Before(end) && r.ctx.Err() == nil {
		if took, err := r.handoff("", 10*time.Second); err == nil {
			r.sayLater("resolver away: a handoff succeeded")
		} else if took > time.Second {
			r.sayLater("resolver away: a handoff's error came after %s: %v", ms(took), err)
		}
		r.sleep(min(5*time.Second, time.Until(end)))
	}
	if err := r.startResolver(); err != nil {
		return err
	}
	return r.movesAgain("the resolver was back")
}

func (r *run) stepMixed() error {
	var wg sync.WaitGroup
	defer wg.Wait()
	steps := []func() error{r.stepKill, r.stepKill, r.stepKillStandby, r.stepStop, r.stepPartition, r.stepBadMove, r.stepHandoff, r.stepHandoff, r.stepBlink, r.stepKillClients,
		r.stepTrap, r.stepDuty, r.stepSwizzle, r.stepNoise, r.stepRecords, r.stepFile}
	n := r.rnd.IntN(len(steps))
	if (n == 3 || n == 4) && r.rnd.IntN(2) == 0 { // not deadly
		after := r.between(0, time.Second)
		wg.Go(func() {
			r.sleep(after)
			r.handoff("", 5*time.Second)
		})
	}
	return steps[n]()
}

// stepBlink restarts the resolver, and sometimes the active host with it.
func (r *run) stepBlink() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	d := r.between(0, 2*time.Second)
	a, _ := r.active()
	if a == nil {
		return nil
	}
	kind := "resolver away"
	both := r.rnd.IntN(3) == 0
	if both {
		kind = "resolver away, active killed"
	}
	f := r.fault(kind, a.id, d)
	r.killResolver()
	if both {
		r.sleep(r.between(0, 50*time.Millisecond))
		r.killHost(a)
	}
	r.sleep(d)
	if err := r.startResolver(); err != nil || !both {
		return err
	}
	if err := r.takenOver(f, a); err != nil {
		return err
	}
	return r.startHost(a, false)
}
