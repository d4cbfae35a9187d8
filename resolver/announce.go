package resolver

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/roam-go/roam/transport"
)

// Announce implements [Resolver]. It does not resend a list of services that the server knows. If the connection breaks
// later, the client repeats the announcement for the rest of the ttl.
func (c *Client) Announce(ctx context.Context, h Host, services []string, ttl time.Duration) error {
	if err := CheckAnnouncement(h, services, ttl); err != nil {
		return err
	}
	if ttl == 0 {
		services = nil
	} else {
		services = slices.Clone(services)
		slices.Sort(services)
		services = slices.Compact(services)
	}
	sent := listSent{host: h, digest: digestOf(services), services: services}
	what := "announce host " + h.ID

	begin := time.Now()
	c.mu.Lock()
	if until := begin.Add(ttl); until.After(c.present) {
		c.present = until
	}
	old, ok := c.known[h.ID]
	c.mu.Unlock()
	if ok && old.same(&sent) && ttl > 0 {
		data, err := c.call(ctx, what, methodAnnounce, sent.renewal(ttl))
		if err != nil {
			return err
		}
		known, err := isKnown(data)
		if err != nil {
			return fmt.Errorf("resolver: %s: the answer: %w", what, err)
		}
		if known {
			c.extend(&sent, begin.Add(ttl))
			return nil
		}
	}

	parts, err := sent.parts(ttl)
	if err != nil {
		return fmt.Errorf("resolver: %s: %w", what, err)
	}
	// The parts of two lists of one host must not mix, and renewAll must not repeat an old list after a new one.
	select {
	case c.list <- struct{}{}:
		defer func() { <-c.list }()
	case <-ctx.Done():
		return fmt.Errorf("resolver: %s: %w", what, ctx.Err())
	}
	c.mu.Lock()
	delete(c.known, h.ID)
	c.mu.Unlock()
	// If the connection breaks, the list is sent again from the start.
	var used *clientConn
	_, err = c.retry(ctx, what, func(conn *clientConn) (result []byte, err error) {
		used, begin = conn, time.Now()
		return c.sendParts(ctx, conn, parts)
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && ttl > 0 && len(c.known) < maxKnown {
		sent.until = begin.Add(ttl)
		c.known[h.ID] = sent
		if c.conn != used { // it has broken since
			c.renewSoon()
		}
	}
	return err
}

// renewal returns the call that renews an announcement.
func (l *listSent) renewal(ttl time.Duration) announceParams {
	return announceParams{Host: l.host, TTL: wireTTL(ttl), Digest: l.digest[:], Part: partRenew, Services: []string{}}
}

// isKnown decodes the answer to a renewal: whether the server knows the list of services.
func isKnown(data []byte) (known bool, err error) {
	err = transport.Unmarshal(data, &known)
	return known, err
}

// parts returns the calls that announce the whole list, all over one connection. If ttl is 0, they withdraw it.
func (l *listSent) parts(ttl time.Duration) (parts [][]byte, err error) {
	p := announceParams{Host: l.host, TTL: wireTTL(ttl), Digest: l.digest[:]}
	for services, last := l.services, false; !last; {
		var n int
		n, last = nextPart(services)
		p.Part, p.Services = partMore, append([]string{}, services[:n]...)
		if last {
			p.Part = partLast
		}
		services = services[n:]
		part, err := transport.Marshal(p)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// sendParts sends a list. The caller holds c.list.
func (c *Client) sendParts(ctx context.Context, conn *clientConn, parts [][]byte) (result []byte, err error) {
	for _, part := range parts {
		if result, err = c.attempt(ctx, conn, methodAnnounce, part); err != nil {
			return nil, err
		}
	}
	return result, nil
}

// extend notes that the server has renewed an announcement.
func (c *Client) extend(sent *listSent, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l, ok := c.known[sent.host.ID]; ok && l.same(sent) && until.After(l.until) {
		l.until = until
		c.known[sent.host.ID] = l
	}
}

// renewSoon starts renewAll unless it runs or there is nothing to renew. The caller holds c.mu.
func (c *Client) renewSoon() {
	if c.closed || c.renewing || len(c.known) == 0 {
		return
	}
	c.renewing = true
	c.wait.Go(c.renewAll)
}

// renewAll repeats the announcements after the connection was lost, because the server may have restarted. It ends when the
// present connection has carried all that have not expired.
func (c *Client) renewAll() {
	for failed := 0; ; failed++ {
		pause(failed, c.maxPause(), nil, c.stopped.Done())
		hosts, until := c.unexpired()
		var conn *clientConn
		var err error
		if len(hosts) > 0 {
			conn, err = c.renewOver(hosts, until)
		}
		c.mu.Lock()
		if c.closed || len(hosts) == 0 || conn != nil && conn == c.conn ||
			transport.IsFinal(err) {
			c.renewing = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		if conn == nil {
			failed = -1 // the next dial pauses
		}
	}
}

// unexpired returns the IDs of the hosts whose announcement has not expired, and when the last of them does.
func (c *Client) unexpired() (hosts []string, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for id, l := range c.known {
		if l.until.After(now) {
			hosts = append(hosts, id)
			if l.until.After(until) {
				until = l.until
			}
		}
	}
	return hosts, until
}

// renewOver repeats the announcements of hosts over the connection that it returns. It gives up at until.
func (c *Client) renewOver(hosts []string, until time.Time) (*clientConn, error) {
	ctx, cancel := context.WithDeadline(c.stopped, until)
	defer cancel()
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range hosts {
		if err := c.renewHost(ctx, conn, id); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Warn("host not announced again", "host", id, "err", err)
		}
	}
	return conn, nil
}

// renewHost repeats an announcement for the rest of its ttl, unless it was replaced or withdrawn.
func (c *Client) renewHost(ctx context.Context, conn *clientConn, id string) error {
	select {
	case c.list <- struct{}{}:
		defer func() { <-c.list }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	sent, ok := c.known[id]
	c.mu.Unlock()
	ttl := time.Until(sent.until)
	if !ok || ttl <= 0 {
		return nil
	}
	params, err := transport.Marshal(sent.renewal(ttl))
	if err != nil {
		return err
	}
	data, err := c.attempt(ctx, conn, methodAnnounce, params)
	if err != nil {
		return err
	}
	if known, err := isKnown(data); known || err != nil {
		return err
	}
	parts, err := sent.parts(ttl)
	if err != nil {
		return err
	}
	_, err = c.sendParts(ctx, conn, parts)
	return err
}

// nextPart returns how many of the services fit in the next part of an announcement, and whether it is the last.
func nextPart(services []string) (n int, last bool) {
	size := 0
	for ; n < len(services) && n < partNames; n++ {
		if size += len(services[n]) + 3; size > partBytes {
			break
		}
	}
	return n, n == len(services)
}

// digestOf returns a digest of a sorted list of services.
func digestOf(services []string) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, name := range services {
		h.Write(append([]byte(name), 0)) // No name contains a zero byte.
	}
	h.Sum(sum[:0])
	return sum
}
