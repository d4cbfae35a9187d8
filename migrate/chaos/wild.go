//go:build unix

package main

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stepDuty stops the active host half of the time, for 5 to 400 ms at a time.
func (r *run) stepDuty() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	a, st := r.active()
	if a == nil {
		return nil
	}
	const lasts = 4 * time.Second
	turn := r.between(5*time.Millisecond, 400*time.Millisecond)
	r.fault("active runs half of the time", a.id, lasts)
	for end := time.Now().Add(lasts); time.Now().Before(end) && r.ctx.Err() == nil; {
		a.p.signal(syscall.SIGSTOP)
		r.sleep(turn)
		a.p.signal(syscall.SIGCONT)
		r.sleep(turn)
	}
	if _, now := r.active(); now != nil && now.Epoch > st.Epoch+2 {
		r.sayLater("active runs half of the time, in turns of %s: %d terms in %s", ms(turn), now.Epoch-st.Epoch, lasts)
	}
	return nil
}

// stepSwizzle cuts the links between hosts, and to the resolver, one by one, and restores them in another order.
func (r *run) stepSwizzle() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	var pairs [][2]string
	for i, h := range r.hosts {
		pairs = append(pairs, [2]string{h.id, resolverID})
		for _, o := range r.hosts[i+1:] {
			pairs = append(pairs, [2]string{h.id, o.id})
		}
	}
	shuffle := func() { r.rnd.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] }) }
	f := r.fault("ways cut and freed one by one", "", 0)
	shuffle()
	for _, p := range pairs {
		r.net.hold(p[0], p[1], true)
		r.sleep(r.between(0, 400*time.Millisecond))
	}
	shuffle()
	for _, p := range pairs {
		r.net.between(p[0], p[1], func(l *link, _ int) { l.heal() })
		r.sleep(r.between(0, 400*time.Millisecond))
	}
	return r.goesOn(f, nil)
}

// stepNoise delays all links by different times, and resets a connection about every 50 ms.
func (r *run) stepNoise() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	links := r.net.list()
	d := r.duration()
	f := r.fault("all connections delayed and reset", "", d)
	for end := time.Now().Add(d); time.Now().Before(end) && r.ctx.Err() == nil; {
		l := links[r.rnd.IntN(len(links))]
		if r.rnd.IntN(2) == 0 {
			l.sever(false)
		} else {
			l.set(way{delay: r.between(0, 20*time.Millisecond)}, way{delay: r.between(0, 20*time.Millisecond)})
		}
		r.sleep(r.between(0, 50*time.Millisecond))
	}
	r.net.heal()
	return r.goesOn(f, nil)
}

// stepRecords kills the resolver while it writes, and restarts it at once.
func (r *run) stepRecords() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	a, _ := r.active()
	if a == nil {
		return nil
	}
	var wg sync.WaitGroup
	to := r.other(a).id
	f := r.fault("resolver killed while it writes", resolverID, 0)
	wg.Go(func() { r.handoff(to, 10*time.Second) })
	r.sleep(r.between(0, 15*time.Millisecond))
	r.killResolver()
	err := r.startResolver()
	wg.Wait()
	if err != nil {
		r.check.violation("the resolver does not start again after %s: %v", f.String(), err)
		return errStuck
	}
	if err := r.goesOn(f, nil); err != nil {
		return err
	}
	return r.movesAgain("the resolver came back") // hosts announce themselves once a second
}

// stepFile removes or damages the resolver's file. If it is missing, the hosts bring the record back; from a damaged file
// the resolver must not start. Then stepFile restores the file, which may now be an old one.
func (r *run) stepFile() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	file := r.recordsFile()
	harm := []struct {
		kind string
		do   func(b []byte) []byte
	}{
		{"lost", nil},
		{"empty", func(b []byte) []byte { return nil }},
		{"cut", func(b []byte) []byte { return b[:r.rnd.IntN(len(b))] }},
		{"with more behind it", func(b []byte) []byte { return append(b, 0) }},
		{"with a bit wrong", func(b []byte) []byte { b[r.rnd.IntN(len(b))] ^= 1 << r.rnd.IntN(8); return b }},
	}[r.rnd.IntN(5)]
	f := r.fault("resolver's file "+harm.kind, resolverID, 0)
	r.killResolver()
	good, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if harm.do == nil {
		err = os.Remove(file)
	} else {
		err = os.WriteFile(file, harm.do(bytes.Clone(good)), 0o600)
	}
	if err != nil {
		return err
	}
	switch err := r.startResolver(); {
	case harm.do != nil && err == nil:
		r.check.violation("the resolver starts from a damaged file (%s)", harm.kind)
	case harm.do != nil && !strings.Contains(err.Error(), "damaged"):
		r.check.violation("the resolver does not say that its file is damaged (%s): %v", harm.kind, err)
	case harm.do == nil && err != nil:
		return err
	case harm.do == nil:
		if err := r.movesAgain("the resolver came back empty"); err != nil {
			return err
		}
		r.killResolver()
	}
	if err := r.goesOn(f, nil); err != nil {
		return err
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		return err
	}
	if err := r.startResolver(); err != nil {
		return err
	}
	return r.movesAgain("the resolver's file came back")
}

// movesAgain waits until a handoff succeeds.
func (r *run) movesAgain(since string) error {
	began := time.Now()
	again := func() bool {
		r.sleep(50 * time.Millisecond)
		_, err := r.handoff("", 5*time.Second)
		return err == nil
	}
	if !poll(r.ctx, 30*time.Second, again) && r.ctx.Err() == nil {
		r.check.violation("no handoff succeeds within 30 s after %s (%s)", since, r.describe())
		return errStuck
	}
	if took := time.Since(began); took > 2*time.Second {
		r.sayLater("the first handoff succeeded %s after %s", ms(took), since)
	}
	return nil
}

// goesOn waits for acknowledgements of commands sent after f: the other processes continue.
func (r *run) goesOn(f fault, killed *host) error {
	from := time.Now().Add(250 * time.Millisecond).UnixNano()
	return r.await(f, killed, func() bool { return r.meter.last() > from })
}

// list returns all links in a fixed order.
func (n *network) list() []*link {
	var keys [][2]string
	for k := range n.links {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b [2]string) int { return strings.Compare(a[0]+" "+a[1], b[0]+" "+b[1]) })
	links := make([]*link, len(keys))
	for i, k := range keys {
		links[i] = n.links[k]
	}
	return links
}
