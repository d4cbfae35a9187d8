package client

import (
	"context"
	"time"
)

// silenceLimit is how long a host may leave a request unanswered before the client asks the resolver about it.
const silenceLimit = 300 * time.Millisecond

// watchdog detects a host that does not answer. Its timer runs only while a request is unanswered. Client.mu guards it.
type watchdog struct {
	check    func() // what the timer calls
	timer    *time.Timer
	armed    bool
	checking bool    // the resolver is being asked about a silent host
	retry    backoff // between two checks in a row, on top of silenceLimit

	queries      int       // under way
	queriesSince time.Time // when the first of them began
}

// arm starts the timer, unless it runs.
func (w *watchdog) arm() {
	if w.armed {
		return
	}
	w.armed = true
	if w.timer == nil {
		w.timer = time.AfterFunc(silenceLimit, w.check)
		return
	}
	w.timer.Reset(silenceLimit)
}

func (w *watchdog) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// beginQuery and endQuery count the queries under way.
func (w *watchdog) beginQuery() {
	if w.queries == 0 {
		w.queriesSince = time.Now()
	}
	w.queries++
}

func (w *watchdog) endQuery() { w.queries-- }

// watchAnswers arms the watchdog. c.mu is held.
func (c *Client) watchAnswers() {
	if c.err == nil {
		c.watch.arm()
	}
}

// checkSilence asks the resolver about a host that is silent although a request is waiting: another host may have
// replaced it without this client noticing. The watchdog's timer calls it.
func (c *Client) checkSilence() {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, call := &c.watch, c.queue.oldest()
	if c.err != nil || call == nil && w.queries == 0 {
		w.armed = false
		return
	}
	next := silenceLimit
	switch silent, served := c.silence(); {
	case !served:
	case silent < silenceLimit:
		w.retry.reset()
		next = silenceLimit - silent
	case !w.checking:
		w.checking = true
		c.spawn(c.checkHost)
		next = silenceLimit + w.retry.next()
	}
	w.timer.Reset(next)
}

// silence is how long the host has been silent that a request waits for; false if there is none. c.mu is held.
func (c *Client) silence() (d time.Duration, ok bool) {
	l, call := c.conns.current, c.queue.oldest()
	if c.err != nil || l == nil || !l.started || !l.opened || call == nil && c.watch.queries == 0 {
		return 0, false
	}
	since := c.watch.queriesSince
	if call != nil {
		since = call.queuedAt
	}
	if since.Before(l.lastHeard) {
		since = l.lastHeard
	}
	return time.Since(since), true
}

// checkHost asks the resolver for the active host, and then waits for a while until it names another host. It repeats that
// without a pause while the resolver, like the host, gives no answer.
func (c *Client) checkHost() {
	for {
		rec, err := c.getRecord(c.ctx)
		if err == nil {
			c.learn(rec, nil)
			ctx, cancel := context.WithTimeout(c.ctx, maxBackoff)
			if rec, err = c.resolver.Watch(ctx, c.service, rec.Version); err == nil {
				c.learn(rec, nil)
			}
			cancel()
		}
		c.mu.Lock()
		if silent, ok := c.silence(); !ok || silent < silenceLimit || !waited(err) {
			c.watch.checking = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
	}
}
