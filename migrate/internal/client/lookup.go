package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

const resolveTimeout = time.Second // for one question to the resolver

// getRecord asks the resolver once.
func (c *Client) getRecord(ctx context.Context) (resolver.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	return c.resolver.Get(ctx, c.service)
}

// lookUp asks the resolver once for the active host. It reports whether the resolver has answered with a record.
func (c *Client) lookUp(ctx context.Context) bool {
	rec, err := c.getRecord(ctx)
	c.noteResolver(ctx, err)
	if err != nil {
		return false
	}
	c.learn(rec, nil)
	return true
}

// followResolver asks the resolver for the active host, and learns each change, until ctx ends.
func (c *Client) followResolver(ctx context.Context) {
	c.mu.Lock()
	opened := c.session.opened
	c.mu.Unlock()
	if opened && !sleep(ctx, rand.N(herdSpread)) {
		return
	}
	for retry := newBackoff(); ctx.Err() == nil; {
		rec, err := c.getRecord(ctx)
		for err == nil || errors.Is(err, resolver.ErrNotFound) {
			c.noteResolver(ctx, err)
			if err == nil {
				c.learn(rec, nil)
			}
			var next resolver.Record
			next, err = c.resolver.Watch(ctx, c.service, rec.Version)
			if err == nil && next.Version == rec.Version || errors.Is(err, resolver.ErrNotFound) {
				break // a resolver whose Watch does not wait is asked like one that fails
			}
			if err == nil {
				rec = next
				retry.reset()
			}
		}
		if err != nil {
			c.noteResolver(ctx, err)
		}
		if waited(err) {
			continue
		}
		if !sleep(ctx, retry.next()) {
			return
		}
	}
}

// waited reports whether a question to the resolver has had no answer within resolveTimeout, which is pause enough: the next
// one is answered as soon as the resolver can be reached again.
func waited(err error) bool { return errors.Is(err, context.DeadlineExceeded) }

// noteResolver remembers the resolver's last error. It ends a client that has not begun if a further attempt would fail, too.
func (c *Client) noteResolver(ctx context.Context, err error) {
	c.mu.Lock()
	final := transport.IsFinal(err) && !c.session.opened
	if ctx.Err() == nil {
		c.search.lastErr.resolver = err
	}
	c.mu.Unlock()
	if final {
		c.end(fmt.Errorf("migrate: service %s: %w", c.service, err))
	}
}
