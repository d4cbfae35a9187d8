package transport

// Lender is a [Conn] whose handler may run code that takes an unknown time on the reading goroutine, and be relieved of
// reading when it has taken too long. It is optional: where a Conn is no Lender, such code runs on a goroutine of its own,
// which costs a change of goroutines for every message.
//
// The connections of [TCP] and [Memory] are Lenders.
type Lender interface {
	// Turn identifies the call of [Handler].Handle that is under way. It may be called only by that Handle.
	Turn() uint64

	// Release lets another goroutine read on, and call the handler with the next messages, if the call of Handle that turn
	// identifies has not returned. It reports whether it did so; then the goroutine of that call belongs to the handler, which
	// must not use anything that it keeps for the reading goroutine. It may be called from any goroutine.
	Release(turn uint64) bool
}

func (c *conn) Turn() uint64 { return c.turn.Load() }

// Release takes the odd number that handle has set for its call and makes it even, as handle does when it returns: one of
// the two succeeds.
func (c *conn) Release(turn uint64) bool {
	if turn&1 == 0 || !c.turn.CompareAndSwap(turn, turn+1) {
		return false
	}
	go c.owner.read(c, nil)
	return true
}

// handle calls the handler, and returns false if another goroutine reads on meanwhile: then nothing of c.rd may be touched.
func (c *conn) handle(r *Request) bool {
	turn := c.turn.Add(1)
	c.handler.Handle(c, r)
	return c.turn.CompareAndSwap(turn, turn+1)
}
