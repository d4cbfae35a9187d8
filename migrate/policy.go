package migrate

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// Policy configures when a service moves, where to, and how many hosts hold a copy. With the zero Policy, a service moves
// only on demand and at shutdown, and has one standby.
//
// Each host applies the Policy that its own program has passed, while it is active. Pass equal policies on all hosts of a
// service: otherwise its guarantees change with each move. If Copies or MinInSync differ, both hosts report that to
// [Hooks].Failed and the log when one joins the other, or takes over while the other is in sync, once for each pair of
// policies. A host that becomes active reports it again if its predecessor had another policy. A host does not know the
// policies that others had before it started.
type Policy struct {
	// Every is the time after which the active host hands the service over, counted from when it became active. With 0, no
	// timer moves the service. If no other host is present, nothing happens until the timer fires again.
	Every time.Duration

	// Copies is the number of hosts, including the active one, that hold every acknowledged command. All but one of them can
	// die at once without loss. It is at most 16 and defaults to 2. With 1 there is no standby: a crash of the host loses the
	// state, but planned moves do not.
	Copies int

	// MinInSync is the minimum number of hosts, including the active one, that must hold a command before it is acknowledged,
	// at most Copies. With 2 or more, a crash of MinInSync - 1 hosts at once never loses an acknowledged command. In return,
	// the service is unavailable while fewer hosts are in sync: commands and queries wait, and [Status].Suspended is true,
	// until the missing host is heard again, has restarted and fetched a copy, or another host has replaced it. The in-sync set
	// never shrinks below MinInSync, so a standby that leaves waits until another one has joined. With 0 or 1, the service
	// continues with the present hosts, even with one. Only the active host's MinInSync counts: a host with a lower one that
	// becomes active may shrink the in-sync set at once.
	MinInSync int

	// Rank sorts the hosts that could take the service, best first, in place. It may exclude hosts by returning a shorter
	// slice. It defaults to a random order. It is called on a separate goroutine.
	Rank func(candidates []resolver.Host) []resolver.Host

	// SessionTimeout is how long a client may be disconnected before its session expires. Moves of the service do not extend
	// that; time without an active host does not count. A session expires at most a quarter of SessionTimeout late, and up to
	// half of it later for each crash of an active host meanwhile. It defaults to 1 h.
	SessionTimeout time.Duration

	// SessionsPerKey limits the open sessions of one client key, so that one client cannot take the places of all others: a
	// service has at most 65,536 sessions. Beyond it, Dial returns [ErrQuota]. Sessions of clients without a key are not
	// limited. Only the active host's limit counts, and only for new sessions. It defaults to 16,384.
	SessionsPerKey int

	// EventBytes limits the total size of the events kept for clients that resume. It defaults to 16 MiB.
	EventBytes int

	// MaxState limits the bytes of a copy that this host fetches from another one: the state as Snapshot writes it, with the
	// sessions and events. It protects the host's memory and disk from an active host that sends a snapshot without end. A host
	// does not join with a larger copy: [Hooks].Failed reports it. It defaults to 1 GiB; raise it on all hosts before the state
	// grows beyond it, because otherwise no host can join.
	MaxState int64

	// Spread limits the time over which clients connect to the next host ahead of a move: one millisecond per client, up to
	// Spread. The service continues meanwhile. It defaults to 10 s.
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
	case p.SessionsPerKey < 0:
		return bad("SessionsPerKey", fmt.Sprintf("is %d, below 0", p.SessionsPerKey))
	case p.EventBytes < 0:
		return bad("EventBytes", fmt.Sprintf("is %d, below 0", p.EventBytes))
	case p.MaxState < 0:
		return bad("MaxState", fmt.Sprintf("is %d, below 0", p.MaxState))
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
	if p.MaxState == 0 {
		p.MaxState = 1 << 30
	}
	if p.Spread == 0 {
		p.Spread = 10 * time.Second
	}
	return nil
}
