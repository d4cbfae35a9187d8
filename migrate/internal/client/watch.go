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
	if l := c.conns.current; l != nil && l.started && l.opened {
		since := w.queriesSince
		if call != nil {
			since = call.queuedAt
		}
		if since.Before(l.lastHeard) {
			since = l.lastHeard
		}
		switch silent := time.Since(since); {
		case silent < silenceLimit:
			w.retry.reset()
			next = silenceLimit - silent
		case !w.checking:
			w.checking = true
			c.spawn(c.checkHost)
			next = silenceLimit + w.retry.next()
		}
	}
	w.timer.Reset(next)
}

// checkHost asks the resolver for the active host, and then waits for a while until it names another host.
func (c *Client) checkHost() {
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
	c.watch.checking = false
	c.mu.Unlock()
}
