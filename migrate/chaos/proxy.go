//go:build unix

package main

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// link is a TCP proxy between two processes, which can cut, hold back and delay each direction.
type link struct {
	addr string // the address that one process dials
	to   string // the address that the other listens at

	mu       sync.Mutex // guards what follows
	listener net.Listener
	conns    map[*linkConn]struct{}
	closed   bool
	ways     [2]way
	changed  chan struct{} // closed and replaced when ways change
	cut      bool

	wg sync.WaitGroup
}

// way is one direction of a link: 0 to the listener, 1 back.
type way struct {
	held  bool          // data waits, as with TCP retransmissions
	delay time.Duration // of each read
	rate  int           // bytes a second; 0: unlimited
}

type linkConn struct {
	ends [2]net.Conn // the dialler, the listener
}

func newLink(to string) (*link, error) {
	l := &link{to: to, conns: make(map[*linkConn]struct{}), changed: make(chan struct{})}
	if err := l.listen("127.0.0.1:0"); err != nil {
		return nil, err
	}
	l.addr = l.listener.Addr().String()
	return l, nil
}

func (l *link) listen(addr string) error {
	nl, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.listener = nl
	l.mu.Unlock()
	l.wg.Go(func() {
		for {
			c, err := nl.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() { l.serve(c.(*net.TCPConn)) })
		}
	})
	return nil
}

// refuse makes the system refuse connections, as for a dead process. Without it dialling succeeds.
func (l *link) refuse(yes bool) error {
	l.mu.Lock()
	nl := l.listener
	if yes {
		l.listener = nil
	}
	l.mu.Unlock()
	switch {
	case yes && nl != nil:
		nl.Close()
	case !yes && nl == nil:
		return l.listen(l.addr)
	}
	return nil
}

// set changes both directions.
func (l *link) set(there, back way) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ways = [2]way{there, back}
	close(l.changed)
	l.changed = make(chan struct{})
}

// sever resets all connections and, with stay, new ones until heal.
func (l *link) sever(stay bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = stay
	for c := range l.conns {
		c.reset()
	}
}

func (l *link) heal() {
	l.mu.Lock()
	l.cut = false
	l.mu.Unlock()
	l.set(way{}, way{})
}

func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	nl := l.listener
	l.mu.Unlock()
	if nl != nil {
		nl.Close()
	}
	l.heal()
	l.sever(true)
	l.wg.Wait()
}

func (c *linkConn) reset() {
	for _, end := range c.ends {
		if tc, ok := end.(*net.TCPConn); ok {
			tc.SetLinger(0)
		}
		end.Close()
	}
}

func (l *link) serve(front *net.TCPConn) {
	back, err := net.DialTimeout("tcp", l.to, 5*time.Second)
	if err != nil {
		front.SetLinger(0)
		front.Close()
		return
	}
	c := &linkConn{[2]net.Conn{front, back}}
	l.mu.Lock()
	if l.cut || l.closed {
		l.mu.Unlock()
		c.reset()
		return
	}
	l.conns[c] = struct{}{}
	l.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { l.copy(c, 0) })
	wg.Go(func() { l.copy(c, 1) })
	wg.Wait()
	l.mu.Lock()
	delete(l.conns, c)
	l.mu.Unlock()
}

// copy copies bytes from ends[dir] to the other end. The end of either side closes both, as the death of a process does.
func (l *link) copy(c *linkConn, dir int) {
	defer c.ends[0].Close()
	defer c.ends[1].Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := c.ends[dir].Read(buf)
		if n > 0 {
			w := l.pass(dir)
			if w.delay > 0 {
				time.Sleep(w.delay)
			}
			if w.rate > 0 {
				time.Sleep(time.Duration(n) * time.Second / time.Duration(w.rate))
			}
			if _, err := c.ends[1-dir].Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			l.pass(dir) // a blackhole hides the end, too
			return
		}
	}
}

// pass waits while a direction is held back.
func (l *link) pass(dir int) way {
	for {
		l.mu.Lock()
		w, changed, closed := l.ways[dir], l.changed, l.closed
		l.mu.Unlock()
		if !w.held || closed {
			return w
		}
		<-changed
	}
}

// network holds the links between all processes.
type network struct {
	links map[[2]string]*link // by dialler and listener
}

func newNetwork() *network { return &network{make(map[[2]string]*link)} }

// via makes the links of a process, and returns the addresses that it dials instead of those of others, by ID.
func (n *network) via(from string, listeners map[string]string) (map[string]string, error) {
	via := make(map[string]string)
	for id, addr := range listeners {
		if id == from {
			continue
		}
		l := n.links[[2]string{from, id}]
		if l == nil {
			var err error
			if l, err = newLink(addr); err != nil {
				return nil, fmt.Errorf("no proxy from %s to %s: %w", from, id, err)
			}
			n.links[[2]string{from, id}] = l
		}
		via[addr] = l.addr
	}
	return via, nil
}

// between calls f for the links between two processes, in both directions of dialling. there is the way of the link that
// leads from a to b.
func (n *network) between(a, b string, f func(l *link, there int)) {
	if l := n.links[[2]string{a, b}]; l != nil {
		f(l, 0)
	}
	if l := n.links[[2]string{b, a}]; l != nil {
		f(l, 1)
	}
}

// hold holds back the traffic from a to b and, if both is set, from b to a.
func (n *network) hold(a, b string, both bool) {
	n.between(a, b, func(l *link, there int) {
		var ways [2]way
		ways[there].held = true
		ways[1-there].held = both
		l.set(ways[0], ways[1])
	})
}

// refuse makes a process's address refuse connections, as after its death.
func (n *network) refuse(id string, yes bool) error {
	for ends, l := range n.links {
		if ends[1] == id {
			if err := l.refuse(yes); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *network) heal() {
	for _, l := range n.links {
		l.heal()
	}
}

func (n *network) close() {
	for _, l := range n.links {
		l.close()
	}
}
