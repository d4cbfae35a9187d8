package migrate

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// Policy says when a service moves, where to, and how many hosts hold a copy. The zero Policy moves only on demand and
// at shutdown, and keeps one standby.
type Policy struct {
	// Every is the time after which the active host hands the service to another, counted from when it became active; 0:
	// never by timer. With no other host present nothing happens until the next turn.
	Every time.Duration

	// Copies is the number of hosts, the active one included, that hold every acknowledged command: all but one of them can
	// die at once without loss. It is at most 16 and defaults to 2. With 1 there is no standby: a crash of the host loses the
	// state (planned moves do not).
	Copies int

	// MinInSync is how many hosts, the active included, must hold a command before it is acknowledged, from 2 to
	// Copies. Then no crash of MinInSync - 1 hosts at once loses anything, whatever happened before; the price is
	// that the service stands still while fewer are there: commands wait, as queries do, and [Status].Suspended is true,
	// until the host that is away is heard again, has been started anew and taken a copy, or another one has taken its
	// place. The in-sync set never shrinks below it, so that a standby that leaves waits for another one to come.
	// 0 and 1: the service goes on with the hosts that are there, be it one alone.
	MinInSync int

	// Rank puts the hosts that could take the service in the order of preference, best first, in place; it may drop
	// some by returning a shorter slice. nil: random order. It is called on a goroutine of its own.
	Rank func(candidates []resolver.Host) []resolver.Host

	// SessionTimeout is how long a client may be away before its session ends. 0 stands for 1 h.
	SessionTimeout time.Duration

	// EventBytes bounds the events kept for clients that resume, by the sum of their bodies. 0 stands for 16 MiB.
	EventBytes int

	// Spread is the time over which clients connect to the next host ahead of a move, at most; the service goes on
	// meanwhile. Below it that is a millisecond a client. 0 stands for 10 s.
	Spread time.Duration
}

func shuffle(hs []resolver.Host) []resolver.Host {
	rand.Shuffle(len(hs), func(i, j int) { hs[i], hs[j] = hs[j], hs[i] })
	return hs
}

func (p *Policy) validate() error {
	bad := func(field, why string) error {
		return transport.Errorf(CodeConfig, "migrate: Policy.%s %s", field, why)
	}
	switch {
	case p.Every < 0:
		return bad("Every", fmt.Sprintf("is %v, below 0", p.Every))
	case p.Every > 0 && p.Every < 10*time.Millisecond:
		return bad("Every", fmt.Sprintf("is %v, less than 10 ms", p.Every))
	case p.Copies < 0 || p.Copies > 16:
		return bad("Copies", fmt.Sprintf("is %d, not 1 to 16", p.Copies))
	case p.SessionTimeout < 0:
		return bad("SessionTimeout", fmt.Sprintf("is %v, below 0", p.SessionTimeout))
	case p.EventBytes < 0:
		return bad("EventBytes", fmt.Sprintf("is %d, below 0", p.EventBytes))
	case p.Spread < 0:
		return bad("Spread", fmt.Sprintf("is %v, below 0", p.Spread))
	}
	if p.Copies == 0 {
		p.Copies = 2
	}
	if p.MinInSync < 0 || p.MinInSync > p.Copies {
		return bad("MinInSync", fmt.Sprintf("is %d, not 0 to Copies, which is %d", p.MinInSync, p.Copies))
	}
	if p.SessionTimeout == 0 {
		p.SessionTimeout = time.Hour
	}
	if p.Spread == 0 {
		p.Spread = 10 * time.Second
	}
	return nil
}
