package transport

// shareFrom is the size in bytes from which all connections share one copy of a notification. Smaller ones are copied to
// each connection's buffer, so that they are written together with other waiting bytes.
const shareFrom = 8 << 10

// manyConns is the number of connections from which the sender leaves encryption to other goroutines. Encrypting for one
// connection after the other would take so long that more messages arrive, and each write would carry fewer of them.
const manyConns = 8

// NotifyAll implements [Broadcaster].
func (*conn) NotifyAll(conns []Conn, method string, params []byte) {
	var shared *conn // whose limits the frame satisfies
	var f *frame
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
		if f == nil {
			f = &frame{bytes: appendNotify(newShared(2+5+len(method)+max(len(params), 1)), method, params)}
			f.refs.Store(1)
			defer f.drop()
		}
		_ = c.notifyFrame(f, len(conns) >= manyConns)
	}
}

// newShared returns a buffer for a frame of at most n bytes that several connections queue. No pool has its capacity, so
// putChunk ignores it.
func newShared(n int) []byte { return make([]byte, 0, n&^3+6) }

// notifyFrame sends a frame that other connections share.
func (c *conn) notifyFrame(f *frame, many bool) error {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return c.callErr
	}
	h := usual
	if many && c.seal != nil {
		h = patient
	}
	if len(f.bytes) < shareFrom {
		c.out = append(c.room(len(f.bytes)), f.bytes...)
	} else {
		c.enqueue(f)
	}
	return c.kick(h)
}
