package sim

import (
	"math/rand/v2"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
)

// load says how long the service takes. The zero value is a service that takes no time.
type load struct {
	kind     loadKind
	time     time.Duration // for an entry, on average
	calls    time.Duration // for a snapshot or a query, on average
	host     int           // the host that is slow or stuck
	from, to time.Duration // when it is
}

type loadKind uint8

const (
	loadNone   loadKind = iota
	loadEven            // each entry takes the same time
	loadRandom          // or a random one
	loadSpell           // the service is slow for a while, on all hosts
	loadHost            // it is slow on one host
	loadStuck           // at some moment it does not return any more on one host, until the process is started again
)

func (k loadKind) String() string {
	return [...]string{"no", "even", "random", "spell", "host", "stuck"}[k]
}

// newLoad draws a load for a number of hosts and a time.
func newLoad(r *rand.Rand, hosts int, d time.Duration) load {
	const ms = time.Millisecond
	if r.IntN(5) < 3 {
		return load{}
	}
	l := load{
		kind:  loadKind(1 + r.IntN(5)),
		time:  []time.Duration{ms / 5, ms, 5 * ms, 20 * ms, 100 * ms}[r.IntN(5)],
		calls: []time.Duration{0, ms, 20 * ms, 200 * ms, 2000 * ms}[r.IntN(5)],
		host:  r.IntN(hosts),
		from:  time.Duration(r.Int64N(int64(d))),
	}
	l.to = l.from + time.Duration(r.Int64N(int64(d)))
	return l
}

// serviceTime is how long the service on p takes to apply e, or for something else if e is the zero entry.
func (p *proc) serviceTime(e core.Entry) (d time.Duration, stuck bool) {
	w := p.w
	l := &w.prof.load
	now := w.now >= l.from && w.now < l.to && !w.healed
	switch here := p.host.index == l.host; l.kind {
	case loadNone:
		return 0, false
	case loadEven:
		d = l.time
	case loadRandom:
		d = w.exp(l.time)
	case loadSpell:
		if d = l.time / 20; now {
			d = 5 * l.time
		}
	case loadHost:
		if here {
			d = 5 * l.time
		}
	case loadStuck:
		if here && w.now >= l.from && !w.healed {
			return 0, true
		}
		d = w.exp(l.time / 5)
	}
	if e.Index == 0 {
		d = w.exp(l.calls)
	}
	return d, false
}
