//go:build unix

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// lan gives each process its own network namespace, with an address and a cable to a bridge in a further namespace. Cut
// traffic is lost silently, as with a pulled cable. It needs root and iproute2, and does not affect the machine's own
// network.
type lan struct {
	id    string
	addrs map[string]string // by process
	undo  []func()          // restores the cuts
}

func newLAN(ids []string) (*lan, error) {
	l := &lan{id: fmt.Sprintf("roam-%d", os.Getpid()), addrs: make(map[string]string)}
	cmds := []string{
		"netns add " + l.ns("lan"),
		"-n " + l.ns("lan") + " link add br0 type bridge",
		"-n " + l.ns("lan") + " link set br0 up",
	}
	for i, id := range ids {
		l.addrs[id] = fmt.Sprintf("10.77.0.%d", i+1)
		cmds = append(cmds,
			"netns add "+l.ns(id),
			"link add eth0 netns "+l.ns(id)+" type veth peer name port-"+id+" netns "+l.ns("lan"),
			"-n "+l.ns("lan")+" link set port-"+id+" master br0 up",
			"-n "+l.ns(id)+" address add "+l.addrs[id]+"/24 dev eth0",
			"-n "+l.ns(id)+" link set lo up",
			"-n "+l.ns(id)+" link set eth0 up",
		)
	}
	for _, c := range cmds {
		if err := ip(c); err != nil {
			l.close()
			return nil, err
		}
	}
	return l, nil
}

func (l *lan) ns(id string) string { return l.id + "-" + id }

func ip(args string) error {
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, out)
	}
	return nil
}

// addr returns the address for a process to listen at, which is alone in its namespace.
func (l *lan) addr(id string) string { return net.JoinHostPort(l.addrs[id], "7000") }

// enter returns the command that runs another one in a process's namespace.
func (l *lan) enter(id string) []string {
	if l == nil {
		return nil
	}
	return []string{"ip", "netns", "exec", l.ns(id)}
}

// cut runs a command that cuts a link, and stores the one that undoes it.
func (l *lan) cut(do, undo string) error {
	l.undo = append(l.undo, func() { ip(undo) })
	return ip(do)
}

// unplug disconnects a process.
func (l *lan) unplug(id string) error {
	port := "-n " + l.ns("lan") + " link set port-" + id
	return l.cut(port+" down", port+" up")
}

// swallow drops the packets from one process to another.
func (l *lan) swallow(from, to string) error {
	route := " blackhole " + l.addrs[to] + "/32"
	return l.cut("-n "+l.ns(from)+" route add"+route, "-n "+l.ns(from)+" route del"+route)
}

func (l *lan) heal() {
	for _, f := range l.undo {
		f()
	}
	l.undo = nil
}

func (l *lan) close() {
	ip("netns del " + l.ns("lan"))
	for id := range l.addrs {
		ip("netns del " + l.ns(id))
	}
}

// lanCuts are ways to cut off a, the active host, and s, a standby.
var lanCuts = []struct {
	kind string
	do   func(r *run, a, s *host) error
}{
	{"active unplugged", func(r *run, a, s *host) error { return r.lan.unplug(a.id) }},
	{"standby unplugged", func(r *run, a, s *host) error { return r.lan.unplug(s.id) }},
	{"resolver unplugged", func(r *run, a, s *host) error { return r.lan.unplug(resolverID) }},
	{"what active sends to standby is lost", func(r *run, a, s *host) error { return r.lan.swallow(a.id, s.id) }},
	{"what standby sends to active is lost", func(r *run, a, s *host) error { return r.lan.swallow(s.id, a.id) }},
	{"what active sends to hosts and resolver is lost", func(r *run, a, s *host) error {
		for _, h := range r.hosts {
			if h != a {
				if err := r.lan.swallow(a.id, h.id); err != nil {
					return err
				}
			}
		}
		return r.lan.swallow(a.id, resolverID)
	}},
}

// stepLAN drops the packets between some of the processes for 0.1 to 5 s.
func (r *run) stepLAN() error {
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	a, _ := r.active()
	s := r.standby()
	if a == nil || s == nil {
		return nil
	}
	c := lanCuts[r.rnd.IntN(len(lanCuts))]
	d := r.duration()
	kind := c.kind
	if d >= 500*time.Millisecond {
		kind += ", 0.5 s and more"
	}
	f := r.fault(kind, a.id+" "+s.id, d)
	err := c.do(r, a, s)
	if err == nil {
		r.sleep(d)
	}
	r.lan.heal()
	if err != nil {
		return err
	}
	return r.goesOn(f, nil)
}
