//go:build unix

package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/roam-go/roam/migrate"
)

// beside is a second service on the same hosts. One client uses it, with one command in flight.
const beside = "beside.example"

// besideRole is the process with that client.
type besideRole struct {
	*child
	c    *migrate.Client
	stop context.CancelFunc
	done chan struct{}

	mu    sync.Mutex // guards what follows
	seen  besideReport
	last  time.Time       // of the latest acknowledgement
	times []time.Duration // of the commands since the last report
}

// besideReport is what the client has seen since the last report.
type besideReport struct {
	Acked uint64        // in all
	Epoch uint64        // of the latest
	Gap   time.Duration // the longest time without an acknowledgement
	P99   time.Duration
}

func (b *besideReport) String() string {
	return fmt.Sprintf("longest time without an acknowledgement %s, p99 %s", ms(b.Gap), ms(b.P99))
}

func (r *besideRole) start(ctx context.Context) (string, error) {
	var err error
	r.c, err = migrate.Dial(ctx, beside, migrate.ClientConfig{Resolver: r.res, Transport: r.transport(), Logger: r.log})
	if err != nil {
		return "", err
	}
	ctx, r.stop = context.WithCancel(context.Background())
	r.done, r.last = make(chan struct{}), time.Now()
	go r.work(ctx)
	return "", nil
}

// work sends commands. Nobody else does, so that each must have the place after the one before.
func (r *besideRole) work(ctx context.Context) {
	defer close(r.done)
	last := Place{}
	for seq := uint32(1); ; seq++ {
		c, began := Ident{1, seq}, time.Now()
		reply, err := r.c.Do(ctx, c.body())
		var a answer
		if err == nil {
			err = a.unmarshal(reply)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.out.send(report{Wrong: fmt.Sprintf("command %d of the other service failed: %v", seq, err)})
			return
		}
		if want := last.next(c); a.Place != want {
			r.out.send(report{Wrong: fmt.Sprintf("command %d of the other service is at %v, not at %v", seq, a.Place, want)})
			return
		}
		last = a.Place
		r.acked(began, a.Epoch)
		time.Sleep(time.Millisecond)
	}
}

func (r *besideRole) acked(began time.Time, epoch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.seen.Gap = max(r.seen.Gap, now.Sub(r.last))
	r.seen.Acked, r.seen.Epoch, r.last = r.seen.Acked+1, epoch, now
	r.times = append(r.times, now.Sub(began))
}

// order reports what was seen since the last order.
func (r *besideRole) order(o *order, rep *report) error {
	if o.Op != "seen" {
		return fmt.Errorf("this client does not handle the order %q", o.Op)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.seen
	b.Gap, b.P99 = max(b.Gap, time.Since(r.last)), spreadOf(r.times).P99
	r.seen.Gap, r.times = 0, nil
	rep.Beside = &b
	return nil
}

func (r *besideRole) close() {
	r.stop()
	<-r.done
	r.c.Close()
}

// stopReport tells how a host's Shutdown ended.
type stopReport struct {
	Took, Late time.Duration // Late is how late a timer of the same process was
	Err        string
}

// shutdown calls Shutdown with a context that ends after timeout.
func (h *hostRole) shutdown(timeout time.Duration) *stopReport {
	rep, late := new(stopReport), make(chan time.Duration, 1)
	began := time.Now()
	go func() {
		time.Sleep(timeout)
		late <- time.Since(began) - timeout
	}()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := h.node.Shutdown(ctx); err != nil {
		rep.Err = err.Error()
	}
	rep.Took = time.Since(began)
	rep.Late = <-late
	return rep
}

// startBeside starts the client of the second service.
func (r *run) startBeside() (*process, error) {
	for _, p := range r.more {
		if p.Role == "beside" {
			return p, nil
		}
	}
	s, err := r.setup("beside", "beside")
	if err != nil {
		return nil, err
	}
	p, err := r.starter.run(s, nil, r.take)
	if err == nil {
		r.more = append(r.more, p)
	}
	return p, err
}

// placeBeside moves the second service to h, and returns when it is active there with the wanted standbys.
func (r *run) placeBeside(h *host) error {
	at := "nowhere"
	if poll(r.ctx, 20*time.Second, func() bool {
		for _, a := range r.hosts {
			rep, err := a.p.ask(order{Op: "state", Service: beside}, 2*time.Second)
			if err != nil || rep.Status.Role != migrate.Active {
				continue
			}
			in := 0
			for _, m := range rep.Status.ISR {
				if o := r.host(m.ID); o != nil && o.p.inc() == m.Inc {
					in++
				}
			}
			if at = a.id; in != len(rep.Status.ISR) || in <= r.cfg.standbys {
				return false
			}
			if a != h {
				a.p.ask(order{Op: "handoff", Service: beside, Target: h.id, Timeout: 5 * time.Second}, 10*time.Second)
				return false
			}
			return true
		}
		return false
	}) {
		return nil
	}
	return fmt.Errorf("the other service is active on %s, or without a standby, and not on %s", at, h.id)
}

const (
	stuckFor = 2 * time.Second
	// stuckGap is how much longer than before the fault the second service may go without an acknowledgement. If it waited
	// for the stuck call, it would be stuckFor, or FailureTimeout (500 ms) and another epoch.
	stuckGap = 400 * time.Millisecond
	// stopIn is the time that a host has for its shutdown, and stopBy when that must be over.
	stopIn, stopBy = time.Second, 1100 * time.Millisecond
)

// stepStuck has a call of the service on one host never return: of the active one, then of a standby. The second service,
// which is active on the same host, must continue as before, and the host must shut down in time. When the process is
// killed, the service continues elsewhere.
func (r *run) stepStuck() error {
	client, err := r.startBeside()
	if err != nil {
		return err
	}
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	victim, _ := r.active()
	kind := "stuck on active"
	if len(r.faults)%4 >= 2 { // a step has two faults
		victim, kind = r.standby(), "stuck on standby"
	}
	if victim == nil {
		return nil
	}
	if err := r.placeBeside(victim); err != nil {
		return err
	}
	seen := func() (*besideReport, error) {
		rep, err := client.ask(order{Op: "seen"}, 5*time.Second)
		if err != nil {
			return nil, err
		}
		return rep.Beside, nil
	}
	if _, err := seen(); err != nil {
		return err
	}
	r.sleep(stuckFor)
	control, err := seen()
	if err != nil {
		return err
	}

	f := r.fault(kind, victim.id, stuckFor)
	if _, err := victim.p.ask(order{Op: "stick"}, 5*time.Second); err != nil {
		return err
	}
	r.sleep(stuckFor)
	during, err := seen()
	if err != nil {
		return err
	}
	r.sayLater("%s: the other service before: %s; beside: %s", kind, control, during)
	if during.Gap > control.Gap+stuckGap || during.Epoch != control.Epoch {
		r.check.violation("%s: the other service did not continue: before, epoch %d, %s; beside, epoch %d, %s",
			f.String(), control.Epoch, control, during.Epoch, during)
	}
	if now := r.meter.highest(); now != f.Epoch {
		r.check.violation("%s: the service has moved, to epoch %d (%s)", f.String(), now, r.describe())
	}
	if kind == "stuck on standby" {
		if err := r.goesOn(f, nil); err != nil {
			return err
		}
	}
	rep, err := victim.p.ask(order{Op: "state"}, 5*time.Second)
	if err != nil {
		return err
	}
	if rep.Busy == 0 {
		return fmt.Errorf("%s: no call of the service runs", f.String()) // no command came: the run proves nothing
	}

	rep, err = victim.p.ask(order{Op: "shutdown", Timeout: stopIn}, 10*time.Second)
	if err != nil {
		r.check.violation("%s: the host does not shut down: %v", f.String(), err)
		return errStuck
	}
	stop := rep.Stop
	r.sayLater("%s: Shutdown returned after %s, a timer was %s late: %s", kind, ms(stop.Took), ms(stop.Late), stop.Err)
	if stop.Took > stopBy+stop.Late || stop.Err == "" {
		r.check.violation("%s: Shutdown took %s, with a timer %s late, and returned %q",
			f.String(), ms(stop.Took), ms(stop.Late), stop.Err)
	}
	end := r.fault("kill, "+kind, victim.id, 0)
	r.killHost(victim)
	if kind == "stuck on active" {
		err = r.takenOver(f, victim)
	} else {
		err = r.goesOn(end, victim)
	}
	if err != nil {
		return err
	}
	if err := r.startHost(victim, false); err != nil {
		return err
	}
	after, err := seen()
	if err != nil {
		return err
	}
	r.sayLater("%s: the other service over shutdown, kill and start: %s", kind, after)
	return nil
}
