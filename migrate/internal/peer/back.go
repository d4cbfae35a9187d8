package peer

import (
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// A host to which there is no connection yet gets its messages on the connection that it has made. So an answer does not
// wait for the four round trips of a connection. Besides, firewalls often refuse connections to a host that can itself
// connect to others: it can hold a copy of a service nevertheless, and learns that others do not reach it.

const (
	// firstRedial and maxRedial are the pauses between attempts to connect to a host that is sent messages on its own
	// connection. They double.
	firstRedial = 5 * time.Second
	maxRedial   = time.Minute
	// maxReason limits the length of the reason why a host cannot be reached.
	maxReason = 200
)

// backKey identifies a start of a host that has proved a key.
type backKey struct {
	linkKey
	key transport.Key
}

func backKeyOf(h resolver.Host) backKey { return backKey{keyOf(h), h.Key} }

// Arrived records that a host, which has proved its key, takes messages on a connection that it has made.
func (ls *Links) Arrived(from resolver.Host, c transport.Conn) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if !ls.closed {
		ls.back[backKeyOf(from)] = c
	}
}

// Left ends what Arrived began: the connection is closed. If the link used it, the link connects at once, which shows whether
// the host has died.
func (ls *Links) Left(from resolver.Host, c transport.Conn) {
	ls.mu.Lock()
	k := backKeyOf(from)
	if ls.back[k] != c {
		ls.mu.Unlock()
		return
	}
	delete(ls.back, k)
	l := ls.links[k.linkKey]
	ls.mu.Unlock()
	if l != nil {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// backTo returns the connection that a host has made and on which it takes messages; nil if there is none.
func (ls *Links) backTo(to resolver.Host) transport.Conn {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.back[backKeyOf(to)]
}

// Unreachable reports whether a host takes messages only on a connection that it has made, because attempts to connect to it
// have failed.
func (ls *Links) Unreachable(h resolver.Host) bool {
	ls.mu.Lock()
	l := ls.links[keyOf(h)]
	ls.mu.Unlock()
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failing
}

// goBack sends the messages of the queue, and those to come, on the connection that the host has made, and tells it why. It
// returns false if there is none.
func (l *link) goBack(reason error) bool {
	back := l.links.backTo(l.to)
	if back == nil {
		return false
	}
	l.mu.Lock()
	if l.state != dialing {
		l.mu.Unlock()
		return false
	}
	first := !l.failing
	l.failing, l.used = true, time.Now()
	queue := l.queue
	l.queue, l.queueBytes = nil, 0
	for _, params := range queue {
		back.Notify(wire.MethodMsg, params)
	}
	l.mu.Unlock()
	text := reason.Error()
	if params, err := transport.Marshal(wire.UnreachedParams{Reason: text[:min(len(text), maxReason)]}); err == nil {
		back.Notify(wire.MethodUnreached, params)
	}
	if first {
		l.links.cfg.Log.Warn("host cannot be reached; it gets messages on its own connection", "host", l.to.ID,
			"addr", l.to.Addr, "err", reason)
		l.links.cfg.Reset(l.to)
	}
	return true
}

// sendBack sends a message on the connection that the host has made, if there is one. l.mu is held.
func (l *link) sendBack(params []byte) bool {
	back := l.links.backTo(l.to)
	if back == nil || back.Notify(wire.MethodMsg, params) != nil {
		return false
	}
	l.used = time.Now()
	return true
}
