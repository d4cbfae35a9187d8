package migrate

import (
	"slices"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
)

// guests are the hosts that may send messages about the service. They belong to the loop.
type guests struct {
	*site
	core  *core.Core
	known []resolver.Host
}

// maxKnown limits the hosts that a service remembers.
const maxKnown = 256

// introduce remembers hosts that the resolver or a known host has named: those in the record, and those that were invited. All
// other hosts are strangers, whatever they claim to be.
func (g *guests) introduce(hosts ...resolver.Host) {
	for _, h := range hosts {
		if h.Same(g.node.self) {
			continue
		}
		if len(g.known) >= maxKnown {
			g.known = nil
			g.introduce(g.core.Record().ISR...)
		}
		if i := slices.IndexFunc(g.known, h.Same); i >= 0 {
			g.known[i] = h
		} else {
			g.known = append(g.known, h)
		}
	}
}

// knows reports whether h may send messages about the service and has proved its key.
func (g *guests) knows(h resolver.Host) bool {
	i := slices.IndexFunc(g.known, h.Same)
	return i >= 0 && g.known[i].Key == h.Key
}
