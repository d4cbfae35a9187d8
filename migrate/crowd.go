package migrate

import (
	"runtime"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// What a host does about thousands of clients, so that they don't keep it from what other hosts wait for.

const (
	// tellAtOnce is how many clients are told something before whatever else is ready to run gets its turn.
	tellAtOnce = 16
	// clientsApart is how much longer the spread is for each client: 1,000 connections a second with TLS are about what a
	// host of several CPUs can bear beside its work.
	clientsApart = time.Millisecond
	// fewClients can come back at the same time after a host was lost.
	fewClients = 128
)

// tell notifies connections, beside the loop if they are many. Each notice is written by a goroutine of its own, so that
// thousands at once would stand in the way of the heartbeats.
func (s *Service) tell(conns []transport.Conn, method string, params []byte) {
	tell := func() {
		for i, conn := range conns {
			if i%tellAtOnce == tellAtOnce-1 {
				runtime.Gosched()
			}
			conn.Notify(method, params)
		}
	}
	if len(conns) >= tellAtOnce {
		s.node.wg.Go(tell)
	} else {
		tell()
	}
}

// tellAll notifies all clients.
func (c *clients) tellAll(method string, params []byte) {
	conns := make([]transport.Conn, 0, len(c.attached))
	for k := range c.attached {
		conns = append(conns, k.from.conn)
	}
	c.s.tell(conns, method, params)
}

// spread is the time over which clients should come back that lose this host and wait for nothing.
func (c *clients) spread() time.Duration {
	return min(time.Duration(max(len(c.attached)-fewClients, 0))*clientsApart, wire.MaxSpread)
}

// callAtOnce is how many clients are called over that have connected ahead, before the first of them has come.
const callAtOnce = 16

// call tells up to n more of the clients that have connected ahead that this host is active. The others go on waiting until
// those have come: to come all at once would only keep each of them without a host for longer.
func (c *clients) call(n int) {
	var conns []transport.Conn
	for ; n > 0 && len(c.untold) > 0; n-- {
		last := len(c.untold) - 1
		if _, ok := c.parked[c.untold[last]]; ok {
			conns = append(conns, c.untold[last].conn)
		}
		c.untold = c.untold[:last]
	}
	if len(conns) > 0 {
		c.tellMoved(conns)
	}
}

// unpark notes that a connection made ahead carries a session, or is closed: another may come.
func (c *clients) unpark(from *inbound) {
	if _, ok := c.parked[from]; ok {
		delete(c.parked, from)
		c.call(1)
	}
}

// tellMoved tells clients who is active.
func (c *clients) tellMoved(conns []transport.Conn) {
	params, err := transport.Marshal(wire.MovedParams{Service: c.s.name, Record: c.s.core.Record()})
	if err == nil {
		c.s.tell(conns, wire.MethodMoved, params)
	}
}

// sayAgain is when a few clients that the new host should have called are told by the old one: their connections to the new
// host may have broken, or strangers may have been called in their place.
const sayAgain = 50 * time.Millisecond

// sayGoodbye tells clients who is active now. Those that have connected ahead are left to the new host, which calls them over
// as it can take them; should it not, they are told later.
func (c *clients) sayGoodbye(rec resolver.Record) {
	var now, later []transport.Conn
	for k, a := range c.attached {
		if a.ready && keyOf(rec.Active) == c.next {
			later = append(later, k.from.conn)
		} else {
			now = append(now, k.from.conn)
		}
	}
	c.tellMoved(now)
	if len(later) > 0 {
		wait := sayAgain
		if len(later) > callAtOnce {
			wait = 2*c.s.node.cfg.FailureTimeout + time.Duration(len(later))*clientsApart/2
		}
		time.AfterFunc(wait, func() {
			c.s.post(item{kind: itemFunc, fn: func() { c.tellMoved(later) }})
		})
	}
}

// tellEvery is how often all clients are told of the spread at most, while more and more come.
const tellEvery = time.Second

// grown tells all clients of the spread, before long, when there are twice as many as when they were last told; those who come
// are told at once. While clients that have connected ahead are called over, there are better things to do.
func (c *clients) grown() {
	if c.telling || !c.crowdGrown() {
		return
	}
	c.telling = true
	time.AfterFunc(tellEvery, func() {
		c.s.post(item{kind: itemFunc, fn: func() {
			c.telling = false
			if !c.crowdGrown() {
				return
			}
			c.told = len(c.attached)
			params, err := transport.Marshal(wire.SpreadParams{Service: c.s.name, SpreadMS: c.spread().Milliseconds()})
			if err == nil {
				c.tellAll(wire.MethodSpread, params)
			}
		}})
	})
}

func (c *clients) crowdGrown() bool {
	return len(c.attached) >= 2*max(c.told, fewClients) && len(c.untold) == 0
}
