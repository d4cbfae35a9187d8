//go:build unix

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// namesFaults are the faults of the name service: it starts without records, with an older copy of its file, or a second
// process with such a copy takes its address while it still serves the connections that it has.
var namesFaults = []string{"empty", "older", "clone"}

const (
	// namesWithin is how soon a handoff must succeed after the name service has returned.
	namesWithin = 5 * time.Second
	// keepPast is the number of older copies of the resolver's file.
	keepPast = 20
)

// names is what the scenario names remembers between its steps.
type names struct {
	past   [][]byte // older copies of the resolver's file
	copies int      // number of files of clones so far
	took   []time.Duration
	killed int // steps in which a member of the in-sync set was killed
	resets int
}

func (s *names) String() string {
	return fmt.Sprintf("first handoff after the name service's return: %s; a member killed in %d steps, %d resets",
		spreadOf(s.took), s.killed, s.resets)
}

// namesStep is a step of the scenario. One goroutine carries out the plan; only a handoff runs beside.
type namesStep struct {
	*run
	plan    []planned
	back    time.Time // when the name service was back with its final records; zero: not yet
	since   time.Time // when that, and the return of all members, was the case
	down    []*host   // killed and not started again
	members int       // number of killed hosts that may have been members of the in-sync set

	nextMove, lastMove time.Time // the next attempt, and when the last one that succeeded ended
	moving             bool
	moves              chan error
}

// planned is an action at a time.
type planned struct {
	at time.Time
	do func() error
}

func (n *namesStep) in(d time.Duration, do func() error) {
	n.plan = append(n.plan, planned{time.Now().Add(d), do})
	slices.SortStableFunc(n.plan, func(a, b planned) int { return a.at.Compare(b.at) })
}

// stepNames kills the name service and starts it with other records. Meanwhile the service moves, hosts are killed and
// started again, and newcomers call Host. A handoff must succeed soon after the name service has returned and the killed
// members of the in-sync set have restarted. Members without a directory come back without their copy; then a person decides
// if a host asks for that, and stepNames resets the service there.
func (r *run) stepNames() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	if err := r.rememberRecords(); err != nil {
		return err
	}
	r.cluster.mu.Lock()
	clear(r.alone)
	r.cluster.mu.Unlock()
	kinds := slices.DeleteFunc(slices.Clone(namesFaults), func(k string) bool { return !strings.Contains(k, r.cfg.only) })
	kind := kinds[r.rnd.IntN(len(kinds))]
	n := &namesStep{run: r, moves: make(chan error, 1), nextMove: time.Now()}
	at := r.between(500*time.Millisecond, 2500*time.Millisecond)
	lasts := r.between(0, 1500*time.Millisecond)
	n.in(at, func() error { return n.spoil(kind, lasts) })
	around := func() time.Duration { return at + r.between(-500*time.Millisecond, lasts+1500*time.Millisecond) }
	which := r.rnd.IntN(5) // with directories, 4 kills both
	if which%2 == 0 {
		n.in(around(), func() error { return n.kill(true) })
	}
	if which == 1 || which == 4 {
		n.in(around(), func() error { return n.kill(false) })
	}
	if r.rnd.IntN(2) == 0 {
		n.in(around(), n.newcomer)
	}
	err := n.loop()
	if n.moving {
		<-n.moves
	}
	for _, h := range n.down { // after an error
		if err := n.restart(h, false); err != nil {
			return err
		}
	}
	return err
}

// loop carries out the plan, and requests handoffs until one succeeds after the plan.
func (n *namesStep) loop() error {
	for decided := false; ; time.Sleep(2 * time.Millisecond) {
		now := time.Now()
		if len(n.plan) > 0 && !now.Before(n.plan[0].at) {
			do := n.plan[0].do
			n.plan = n.plan[1:]
			if err := do(); err != nil {
				return err
			}
			continue
		}
		n.move(now)
		over := len(n.plan) == 0 && !n.back.IsZero()
		switch {
		case over && n.lastMove.After(n.since):
			n.names.took = append(n.names.took, n.lastMove.Sub(n.since))
			if n.members > 0 {
				n.names.killed++
			}
			return nil
		case over && now.Sub(n.since) > namesWithin && n.members > 0 && !n.cfg.durable && !decided:
			decided = true
			if err := n.decide(); err != nil {
				return err
			}
		case over && now.Sub(n.since) > namesWithin:
			n.check.violation("no handoff succeeds within %s after the name service's return (%s)", namesWithin, n.describe())
			return errStuck
		}
	}
}

// move requests a handoff if it is time for one, and receives the outcome of the last.
func (n *namesStep) move(now time.Time) {
	select {
	case err := <-n.moves:
		n.moving = false
		pause := n.between(100*time.Millisecond, 1500*time.Millisecond)
		if err == nil {
			n.lastMove = now
		} else if !n.back.IsZero() {
			pause = 100 * time.Millisecond
		}
		n.nextMove = now.Add(pause)
	default:
	}
	a, _ := n.active()
	if n.moving || a == nil || now.Before(n.nextMove) {
		return
	}
	n.moving = true
	p := a.p
	go func() {
		_, err := n.handoffFrom(p, "", 2*time.Second)
		n.moves <- err
	}()
}

// rememberRecords keeps a copy of the resolver's file.
func (r *run) rememberRecords() error {
	b, err := os.ReadFile(r.recordsFile())
	if err != nil {
		return err
	}
	s := &r.names
	if n := len(s.past); n > 0 && bytes.Equal(s.past[n-1], b) {
		return nil
	}
	s.past = append(s.past, b)
	if len(s.past) > keepPast {
		s.past = s.past[1:]
	}
	return nil
}

func (r *run) recordsFile() string { return filepath.Join(r.cfg.dir, r.records) }

// spoil kills the name service, and plans its return with other records after a time.
func (n *namesStep) spoil(kind string, lasts time.Duration) error {
	if err := n.rememberRecords(); err != nil {
		return err
	}
	past := n.names.past
	old := past[n.rnd.IntN(len(past))]
	n.fault("name service "+kind, resolverID, lasts)
	returned := func() error {
		n.back, n.since = time.Now(), time.Now()
		return nil
	}
	if kind == "clone" {
		first := n.resolver
		n.more = append(n.more, first)
		if _, err := first.ask(order{Op: "unlisten"}, 5*time.Second); err != nil {
			return err
		}
		n.names.copies++
		n.records = fmt.Sprintf("records-%d", n.names.copies)
		if err := os.WriteFile(n.recordsFile(), old, 0o600); err != nil {
			return err
		}
		if err := n.startResolver(); err != nil {
			return err
		}
		n.in(lasts, func() error {
			first.kill()
			n.more = slices.DeleteFunc(n.more, func(p *process) bool { return p == first })
			return returned()
		})
		return nil
	}
	n.killResolver()
	var err error
	if kind == "empty" {
		err = os.Remove(n.recordsFile())
	} else {
		err = os.WriteFile(n.recordsFile(), old, 0o600)
	}
	if err != nil {
		return err
	}
	n.in(lasts, func() error {
		if err := n.startResolver(); err != nil {
			return err
		}
		return returned()
	})
	return nil
}

// kill kills the active host, or a standby, and plans its return. Without directories, at most one member is killed in a
// step: two could hold the last copies.
func (n *namesStep) kill(active bool) error {
	h, kind := n.standby(), "kill standby"
	if active {
		h, _ = n.active()
		kind = "kill active"
	}
	if h == nil || slices.Contains(n.down, h) || !n.cfg.durable && (n.members > 0 || n.inSync() != "") {
		return nil
	}
	n.members++
	n.end(h, kind)
	return nil
}

// newcomer kills a host that holds no copy that counts, and plans that it comes back and calls Host.
func (n *namesStep) newcomer() error {
	_, st := n.active()
	if st == nil {
		return nil
	}
	if n.moving { // to that host, perhaps
		n.in(20*time.Millisecond, n.newcomer)
		return nil
	}
	for _, h := range n.hosts {
		if !slices.Contains(n.down, h) && !slices.ContainsFunc(st.ISR, func(m member) bool { return m.ID == h.id }) {
			n.end(h, "newcomer")
			return nil
		}
	}
	return nil
}

func (n *namesStep) end(h *host, kind string) {
	n.fault(kind, h.id, 0)
	n.killHost(h)
	n.down = append(n.down, h)
	calls := kind == "newcomer" || n.rnd.IntN(2) == 0
	n.in(n.between(0, 2*time.Second), func() error {
		if err := n.restart(h, calls); err != nil {
			return err
		}
		if kind != "newcomer" {
			n.since = time.Now()
		}
		return nil
	})
}

func (n *namesStep) restart(h *host, calls bool) error {
	n.down = slices.DeleteFunc(slices.Clone(n.down), func(o *host) bool { return o == h })
	return n.startHostAs(h, false, calls)
}

// decide does what a host reports that a person must do: it resets the service there. The clients receive ErrStateLost, so
// new ones come. They must see all that the former ones saw.
func (n *namesStep) decide() error {
	n.cluster.mu.Lock()
	var ask []*host
	for _, h := range n.hosts {
		if n.alone[h.id] != "" && h.p.latest() != nil {
			ask = append(ask, h)
		}
	}
	n.cluster.mu.Unlock()
	if len(ask) == 0 {
		if !n.copyLeft(nil) {
			return fmt.Errorf("%w (%s)", errLastCopy, n.describe())
		}
		n.check.violation("no handoff succeeds within %s after the name service's return, and no host says what to do (%s)",
			namesWithin, n.describe())
		return errStuck
	}
	for _, p := range n.clients {
		p.kill()
		n.check.forget(p.First, p.Writers)
	}
	n.check.expectReset()
	var errs []string
	for _, h := range ask {
		_, err := h.p.ask(order{Op: "reset", Timeout: 10 * time.Second}, 15*time.Second)
		if err == nil {
			n.names.resets++
			for i, p := range n.clients {
				if n.clients[i], err = n.startClients(p.ID, p.Writers, p.Idle); err != nil {
					return err
				}
			}
			n.since = time.Now()
			return nil
		}
		errs = append(errs, err.Error())
	}
	n.check.violation("a reset fails on each host that asks for it: %s (%s)", strings.Join(errs, "; "), n.describe())
	return errStuck
}
