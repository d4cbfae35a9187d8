package client

// Stats are a client's counters and gauges.
type Stats struct {
	// Sent, Resent and Acknowledged count commands.
	Sent, Resent, Acknowledged uint64
	// Moves and UnplannedMoves count the times that another host, or another term, took up the session.
	Moves, UnplannedMoves uint64
	// Reconnects counts new connections to the same host in the same term.
	Reconnects uint64
	// Events, Gaps and EventsLost count events, gaps and the events in them.
	Events, Gaps, EventsLost uint64

	// QueueLen and QueueBytes measure the unacknowledged commands.
	QueueLen, QueueBytes int
}

// Stats returns the counters and gauges. They include every reply that a call has returned.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.stats
	st.Events, st.Gaps, st.EventsLost = c.feed.taken, c.feed.gaps, c.feed.lost
	if c.err == nil {
		st.QueueLen, st.QueueBytes = c.queue.room.len, c.queue.room.bytes
	}
	return st
}
