package transport

// shareFrom is the size in bytes from which one copy of a notification serves all connections. Smaller ones are copied to
// each, so that they can be written together with what else waits there.
const shareFrom = 8 << 10

// manyConns are so many that the sender leaves TLS to others: to encrypt for one after the other would take it so long that
// there is more to send by then, and less would be written at a time.
const manyConns = 8

// NotifyAll sends the same notification on many connections: like [Conn].Notify on each of them, but it is checked and
// encoded once, and a large one is held in memory once however many wait to be sent. Those on which it can't be sent are
// passed over: their handlers learn why they ended.
func NotifyAll(conns []Conn, method string, params []byte) {
	var shared *conn // under whose limits the frame was made
	var frame []byte
	for _, cc := range conns {
		c, ok := cc.(*conn)
		if !ok {
			_ = cc.Notify(method, params)
			continue
		}
		if shared == nil || c.lim.maxMessage < shared.lim.maxMessage {
			if c.checkOut(method, params) != nil {
				continue
			}
			shared = c
		}
		if frame == nil {
			frame = appendNotify(newShared(2+5+len(method)+max(len(params), 1)), method, params)
		}
		_ = c.notifyFrame(frame, len(conns) >= manyConns)
	}
}

// newShared makes the place for a frame of at most n bytes that is in the queues of several connections. Its capacity is
// one that no pool has, so that putChunk leaves it alone.
func newShared(n int) []byte { return make([]byte, 0, n&^3+6) }

// notifyFrame sends a frame that many others get, too.
func (c *conn) notifyFrame(frame []byte, many bool) error {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return c.callErr
	}
	h := usual
	if many && c.seal != nil {
		h = patient
	}
	if len(frame) < shareFrom {
		c.out = append(c.room(len(frame)), frame...)
	} else {
		c.enqueue(frame)
	}
	return c.kick(h)
}
