package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// A link-local IPv6 address such as fe80::1 is unique on one link only. Its zone, the interface that leads to the link, has a
// name that only one machine knows. So an address that others shall dial has no zone, and a machine that dials one without
// a zone finds the interface itself: it prefers those over which it has connections, and tries the others beside them.
const (
	linkHeadStart = 100 * time.Millisecond // for the interfaces over which there are connections
	linkGrace     = 100 * time.Millisecond // for the other interfaces, when the address has refused the connection on one
)

// errNoLink means that an address is link-local, but this machine has no link.
var errNoLink error = &net.OpError{
	Op: "dial", Net: "tcp", Err: errors.New("no interface that is up has a link-local IPv6 address"),
}

// linkLocal returns the address of addr if it is link-local and has no zone, or one that is not an interface of this machine.
func linkLocal(addr string) (at netip.AddrPort, ok bool) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return at, false
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.Is6() || ip.Is4In6() || !ip.IsLinkLocalUnicast() || isInterface(ip.Zone()) {
		return at, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return netip.AddrPortFrom(ip.WithZone(""), uint16(n)), err == nil
}

// isInterface reports whether zone is the name or the index of an interface of this machine.
func isInterface(zone string) bool {
	if zone == "" {
		return false
	}
	_, err := net.InterfaceByName(zone)
	if n, nerr := strconv.Atoi(zone); err != nil && nerr == nil {
		_, err = net.InterfaceByIndex(n)
	}
	return err == nil
}

// inZone returns the address with a zone, for a dialer.
func inZone(at netip.AddrPort, zone string) string {
	return netip.AddrPortFrom(at.Addr().WithZone(zone), at.Port()).String()
}

// withoutZone returns addr without its zone, if it has one.
func withoutZone(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() == "" {
		return addr
	}
	return net.JoinHostPort(ip.WithZone("").String(), port)
}

// links returns the interfaces that lead to a link.
func links() (zones []string) {
	all, _ := net.Interfaces()
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, _ := i.Addrs()
		if slices.ContainsFunc(addrs, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && n.IP.To4() == nil && n.IP.IsLinkLocalUnicast()
		}) {
			zones = append(zones, i.Name)
		}
	}
	return zones
}

// seen has the zones of the connections of this process.
var seen zones

// zones remembers over which interfaces connections to link-local addresses were made.
type zones struct {
	mu     sync.Mutex // guards the fields below
	of     map[netip.Addr]string
	recent []string // the latest first
}

const (
	maxSeen   = 1024 // addresses
	maxRecent = 4    // zones
)

// note remembers the zone of a connection.
func (z *zones) note(remote net.Addr) {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok || tcp.Zone == "" {
		return
	}
	ip := tcp.AddrPort().Addr().WithZone("")
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.of == nil || len(z.of) >= maxSeen {
		z.of = make(map[netip.Addr]string)
	}
	z.of[ip] = tcp.Zone
	recent := append([]string{tcp.Zone}, slices.DeleteFunc(z.recent, func(s string) bool { return s == tcp.Zone })...)
	z.recent = recent[:min(len(recent), maxRecent)]
}

// split divides the links of this machine into those to try first for an address, and the others: first are the interface over
// which the address has answered, or else those of the latest connections.
func (z *zones) split(ip netip.Addr, links []string) (first, rest []string) {
	z.mu.Lock()
	likely := z.recent
	if zone, ok := z.of[ip]; ok {
		likely = []string{zone}
	}
	z.mu.Unlock()
	for _, zone := range links {
		if slices.Contains(likely, zone) {
			first = append(first, zone)
		} else {
			rest = append(rest, zone)
		}
	}
	return first, rest
}

// inSomeZone returns addr in the most likely zone, if it needs one.
func inSomeZone(addr string) string {
	at, ok := linkLocal(addr)
	if !ok {
		return addr
	}
	first, rest := seen.split(at.Addr(), links())
	for _, zone := range append(first, rest...) {
		return inZone(at, zone)
	}
	return addr
}

// tryLinks calls dial for the zones in first, side by side, and a moment later also for those in rest. When one succeeds, it ends
// the others and returns. dial must return soon after its context ends, and must not succeed twice. If all fail, an error that
// is a refusal precedes others: there is a machine with the address on that link.
func tryLinks[C any](ctx context.Context, first, rest []string, dial func(ctx context.Context, zone string) (C, error)) (C, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn C
		err  error
	}
	var found result
	found.err = errNoLink
	results, pending, done := make(chan result), 0, false
	begin := func(zones []string) {
		pending += len(zones)
		for _, zone := range zones {
			go func() {
				c, err := dial(ctx, zone)
				results <- result{c, err}
			}()
		}
	}
	begin(first)
	if len(first) == 0 {
		begin(rest)
		rest = nil
	}
	late := time.NewTimer(linkHeadStart)
	defer late.Stop()
	var enough <-chan time.Time
	for pending > 0 {
		select {
		case r := <-results:
			pending--
			switch {
			case done:
			case r.err == nil:
				found, done, rest = r, true, nil
				cancel()
			case found.err == errNoLink, errors.Is(r.err, syscall.ECONNREFUSED):
				found = r
			}
			if !done && enough == nil && errors.Is(r.err, syscall.ECONNREFUSED) {
				grace := time.NewTimer(linkGrace)
				defer grace.Stop()
				enough = grace.C
			}
			if pending == 0 {
				begin(rest)
				rest = nil
			}
		case <-late.C:
			begin(rest)
			rest = nil
		case <-enough:
			cancel()
		}
	}
	return found.conn, found.err
}
