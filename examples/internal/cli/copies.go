package cli

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
)

// copies notices when the host of this process serves the chat and no other host holds a copy, although one could, or one
// did before.
type copies struct {
	service string
	others  func() bool  // other hosts of the chat have announced themselves; may block
	say     func(string) // shows a sentence to the user

	mu     sync.Mutex  // guards the fields below
	timer  *time.Timer // runs while no other host holds a copy; nil: one does, or this host does not serve
	had    bool        // another host has held a copy while this one served
	told   bool        // the user knows
	closed bool
}

// aloneAfter is how long another host may take to get a copy. It also is the time between two looks for other hosts.
const aloneAfter = 5 * time.Second

// changed is called when the chat's status on this host has changed.
func (c *copies) changed(st migrate.Status) {
	if c.note(st) {
		c.say(fmt.Sprintf("another host holds a copy of %s again", c.service))
	}
}

// note implements changed. It returns true if the user can be told that there is a copy again.
func (c *copies) note(st migrate.Status) (again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case st.Role != migrate.Active:
		c.rest()
		c.had, c.told = false, false
	case len(st.Record.ISR) > 1:
		c.rest()
		again = c.told
		c.had, c.told = true, false
	case c.timer == nil && !c.closed:
		c.timer = time.AfterFunc(aloneAfter, c.alone)
	}
	return again
}

// rest stops the timer; c.mu is held.
func (c *copies) rest() {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}

// alone is called when no other host has held a copy for a while.
func (c *copies) alone() {
	c.mu.Lock()
	could := c.had
	c.mu.Unlock()
	if !could {
		could = c.others()
	}
	c.mu.Lock()
	tell := c.timer != nil && could && !c.told
	if tell {
		c.told = true
	} else if c.timer != nil && !c.told {
		c.timer.Reset(aloneAfter)
	}
	c.mu.Unlock()
	if tell {
		c.say(fmt.Sprintf("no other host holds a copy of %s: if this process fails, its messages are lost", c.service))
	}
}

func (c *copies) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rest()
	c.closed = true
}

// otherHosts reports whether other hosts of the chat have announced themselves.
func (p *Process) otherHosts() bool {
	ctx, cancel := context.WithTimeout(context.Background(), dnsTimeout)
	defer cancel()
	hosts, err := p.Resolver.Hosts(ctx, p.Flags.Service)
	self := p.Node.Self()
	return err == nil && slices.ContainsFunc(hosts, func(h resolver.Host) bool { return !h.Same(self) })
}
