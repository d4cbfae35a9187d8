package sim

import (
	"fmt"
	"hash/fnv"
	"slices"
	"testing"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
)

// A service that is slow, or does not return, is not a reason to replace a host: where nothing else is wrong, neither the epoch nor
// the in-sync set changes.
func TestSlowService(t *testing.T) {
	const ms = time.Millisecond
	for _, l := range []load{
		{kind: loadEven, time: 5 * ms, calls: 20 * ms},
		{kind: loadEven, time: 100 * ms},
		{kind: loadRandom, time: 20 * ms, calls: 500 * ms},
		{kind: loadSpell, time: 100 * ms, from: 3 * time.Second, to: 12 * time.Second},
		{kind: loadHost, time: 20 * ms, host: 0},
		{kind: loadHost, time: 20 * ms, host: 1},
		{kind: loadHost, time: 20 * ms, host: 2},
		{kind: loadStuck, time: ms, from: 5 * time.Second, host: 0},
		{kind: loadStuck, time: ms, from: 5 * time.Second, host: 1},
		{kind: loadStuck, time: ms, from: 5 * time.Second, host: 2},
	} {
		for seed := range uint64(5) {
			t.Run(fmt.Sprintf("%s/%v/%c/%d", l.kind, l.time, 'a'+l.host, seed), func(t *testing.T) {
				slowService(t, seed, l)
			})
		}
	}
}

func slowService(t *testing.T, seed uint64, l load) {
	w := newWorld(Options{Seed: seed, shape: func(p *profile) {
		*p = profile{
			hosts: 3, clients: 2, window: 4, think: 20 * time.Millisecond, body: 40, reads: 0.2, slowClient: time.Second,
			latency: time.Millisecond, jitter: time.Millisecond, nameTime: 2 * time.Millisecond, fetch: 2 * time.Millisecond,
			load: l, cfg: core.Config{Standbys: 2},
		}
	}})
	defer func() {
		if v := recover(); v != nil {
			t.Fatalf("seed %d, at %v: %v", seed, w.now, v)
		}
	}()
	for _, h := range w.hosts {
		h.start()
	}
	w.create()
	for _, c := range w.clients {
		c.begin()
	}
	if !w.until(4*time.Second, w.staffed) {
		t.Fatalf("not staffed: %s", w.why)
	}
	rec := w.res.truth()
	was := w.stats.Commands
	w.until(w.now+20*time.Second, func() bool {
		if r := w.res.truth(); r.Version != rec.Version {
			t.Fatalf("at %v the record has changed from %s to %s", w.now, describeRecord(&rec), describeRecord(&r))
		}
		return false
	})
	if n := w.stats.Commands - was; n < 20 && l.kind != loadStuck {
		t.Errorf("%d commands were acknowledged", n)
	}
}

// Healing ends a slow restore that is under way.
func TestHealSlowRestore(t *testing.T) {
	for seed := range uint64(5) {
		w := newWorld(Options{Seed: seed, shape: func(p *profile) {
			*p = profile{
				hosts: 2, clients: 1, window: 1, think: 20 * time.Millisecond, body: 40, slowClient: time.Second,
				latency: time.Millisecond, jitter: time.Millisecond, nameTime: 2 * time.Millisecond, fetch: 2 * time.Millisecond,
				restore: 100 * time.Hour, cfg: core.Config{Standbys: 1, KeepBytes: 1},
			}
		}})
		for _, h := range w.hosts {
			h.start()
		}
		w.create()
		for _, c := range w.clients {
			c.begin()
		}
		fetches := func() bool {
			return slices.ContainsFunc(w.hosts, func(h *host) bool { return h.proc.fetch != nil })
		}
		if !w.until(10*time.Second, fetches) {
			t.Fatalf("seed %d: no host fetches a snapshot", seed)
		}
		w.heal()
		if !w.until(w.now+healBound, w.staffed) {
			t.Errorf("seed %d: not healed: %s", seed, w.why)
		}
	}
}

// The same seed makes the same history.
func TestDeterministic(t *testing.T) {
	history := func(seed uint64) (lines int, sum uint64) {
		h := fnv.New64a()
		if _, err := Run(Options{Seed: seed, Log: func(at time.Duration, line string) {
			lines++
			fmt.Fprintln(h, at, line)
		}}); err != nil {
			t.Fatal(err)
		}
		return lines, h.Sum64()
	}
	for seed := range uint64(8) {
		lines, sum := history(seed)
		if again, want := history(seed); again != lines || want != sum {
			t.Errorf("seed %d: %d lines with sum %x, then %d with %x", seed, lines, sum, again, want)
		}
	}
}
