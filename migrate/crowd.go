package migrate

import (
	"runtime"
	"time"

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
	if len(conns) > 4*tellAtOnce {
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
	return min(time.Duration(max(len(c.attached)-fewClients, 0))*clientsApart, maxSpread)
}

// grown tells all clients of the spread when there are twice as many as when they were last told.
func (c *clients) grown() {
	if n := len(c.attached); n < 2*max(c.told, fewClients) {
		return
	}
	c.told = len(c.attached)
	params, err := transport.Marshal(spreadParams{Service: c.s.name, SpreadMS: c.spread().Milliseconds()})
	if err == nil {
		c.tellAll(methodSpread, params)
	}
}
