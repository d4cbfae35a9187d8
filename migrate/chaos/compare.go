//go:build unix

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// turn is one of several conditions whose effects on other clients are compared. The first is the undisturbed one.
type turn struct {
	name  string
	begin func() error
	end   func() error
}

// compare runs turns of 2 s, several times, and reports the latency of commands in each, except those of one process, if
// any. Turns alternate, so that other load on the machine affects all of them. The p99 of a turn is the median over its
// repetitions.
func (r *run) compare(what string, but *process, turns ...turn) error {
	const (
		rounds = 5
		span   = 2 * time.Second
	)
	p99s := make([][]time.Duration, len(turns))
	all := make([][]time.Duration, len(turns))
	cpu := make([]map[string]time.Duration, len(turns))
	for i := range cpu {
		cpu[i] = make(map[string]time.Duration)
	}
	for round := range rounds {
		for j := range turns {
			i := (j + round) % len(turns) // so that each turn follows each other one
			t := turns[i]
			if err := r.ready(r.ctx); err != nil {
				return err
			}
			if t.begin != nil {
				r.fault(what+": "+t.name, "", span)
				if err := t.begin(); err != nil {
					return err
				}
				r.sleep(span / 8) // warm up
			}
			before, from := r.cpu(), time.Now()
			r.sleep(span)
			to := time.Now()
			for who, used := range r.cpu() {
				cpu[i][who] += (used - before[who]) / rounds
			}
			if t.end != nil {
				if err := t.end(); err != nil {
					return err
				}
			}
			r.sleep(span / 8)
			if err := r.ready(r.ctx); err != nil { // until all sent commands are acknowledged
				return err
			}
			d := r.latencies(from.UnixNano(), to.UnixNano(), but)
			all[i] = append(all[i], d...)
			p99s[i] = append(p99s[i], spreadOf(d).P99)
		}
	}
	medians := make([]time.Duration, len(turns))
	for i, t := range turns {
		slices.Sort(p99s[i])
		medians[i] = p99s[i][rounds/2]
		against := ""
		for j, o := range turns[:i] {
			against += fmt.Sprintf(", %s against %s", change(medians[j], medians[i]), o.name)
		}
		var used []string
		for _, who := range []string{"active", "standby", "clients", "others"} {
			used = append(used, fmt.Sprintf("%s %.0f%%", who, 100*float64(cpu[i][who])/float64(span)))
		}
		r.sayLater("%s: %s: p99 %s%s; %s; processor: %s", what, t.name, ms(medians[i]), against, spreadOf(all[i]),
			strings.Join(used, ", "))
	}
	return nil
}

// cpu returns the processor time used so far, by kind of process.
func (r *run) cpu() map[string]time.Duration {
	a, s := r.hosts[0], r.hosts[0]
	if now, _ := r.active(); now != nil {
		a = now
	}
	if now := r.standby(); now != nil {
		s = now
	}
	used := make(map[string]time.Duration)
	for _, p := range r.processes() {
		who := "others"
		switch {
		case p == a.p:
			who = "active"
		case p == s.p:
			who = "standby"
		case p.Role == "clients":
			who = "clients"
		}
		used[who] += p.cpu()
	}
	return used
}

// cpu returns the processor time of the process, if the system reports it.
func (p *process) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, b, _ = bytes.Cut(b, []byte(") ")) // after the name
	f := strings.Fields(string(b))
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func change(a, b time.Duration) string {
	return fmt.Sprintf("%+.0f%%", 100*(float64(b)/float64(a)-1))
}

// latencies returns the latencies of the commands sent in an interval, except those of one process, if any.
func (r *run) latencies(from, to int64, but *process) []time.Duration {
	r.check.mu.Lock()
	defer r.check.mu.Unlock()
	acks := r.check.acks
	var d []time.Duration
	for i := len(acks) - 1; i >= 0 && acks[i].Done > from-int64(time.Minute); i-- {
		a := &acks[i]
		mine := but != nil && a.Client >= but.First && cmp.Less(a.Client, but.First+uint32(but.Writers))
		if a.Seq != 0 && !mine && a.Invoked >= from && a.Invoked < to {
			d = append(d, time.Duration(a.Done-a.Invoked))
		}
	}
	return d
}
