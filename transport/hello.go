package transport

import (
	"io"
	"time"

	"github.com/roam-go/roam/transport/internal/mp"
)

// The versions of the protocol that this package speaks. The history is in the package's documentation.
const (
	minVersion = 1
	maxVersion = 1
)

// The dialer's first call is hello with [min, max, features], and the answer is [version, features]. Features are names,
// for what comes later: a peer ignores those that it does not know. Further values in either array are ignored, too.

func appendHello(b []byte, lo, hi uint64) []byte {
	return append(mp.AppendUint(mp.AppendUint(append(b, 0x93), lo), hi), emptyArray...)
}

func appendWelcome(b []byte, version uint64) []byte {
	return append(mp.AppendUint(append(b, 0x92), version), emptyArray...)
}

// takeVersions reads the n numbers at the front of a hello or a welcome, which holds an array of features after them.
func takeVersions(b []byte, n int) ([2]uint64, error) {
	var v [2]uint64
	count, b, ok := mp.TakeArray(b)
	ok = ok && count > uint64(n)
	for i := range n {
		if ok {
			v[i], b, ok = mp.TakeUint(b)
		}
	}
	if ok {
		_, _, ok = mp.TakeArray(b)
	}
	if !ok {
		return v, Errorf(CodeBadMessage, "transport: malformed %s", methodHello)
	}
	return v, nil
}

// greet is the dialer's half. It runs before the reading goroutine starts, and under a deadline that the caller has set.
func (c *conn) greet() error {
	params := appendHello(nil, c.lim.minVersion, c.lim.maxVersion)
	c.lastID = 1
	c.count()
	if _, err := c.nc.Write(appendCall(nil, c.lastID, methodHello, params)); err != nil {
		return c.greetError(err)
	}
	c.rd.limit = readFirst
	frame, err := c.next()
	if c.foundTLS(err) {
		return Errorf(CodeClosed, "transport: %s refused the connection: it speaks TLS, this side does not: %s",
			c.peer.Addr, askPlaintext)
	}
	if err != nil {
		return c.greetError(err)
	}
	m := c.rd.msg
	if m.kind != kindReply || m.id != c.lastID {
		return Errorf(CodeBadMessage, "transport: %s sent something else before its answer to %s", c.peer.Addr, methodHello)
	}
	if m.failed() {
		if e := parseError(m.fault.of(frame)); e.Code == CodeVersion || e.Code == CodeBadMessage {
			return e
		}
		return nil // a peer that knows MessagePack-RPC only
	}
	v, err := takeVersions(m.body.of(frame), 1)
	if err != nil {
		return err
	}
	if v[0] < c.lim.minVersion || v[0] > c.lim.maxVersion {
		return Errorf(CodeVersion, "transport: %s chose protocol version %d, this side speaks %d to %d",
			c.peer.Addr, v[0], c.lim.minVersion, c.lim.maxVersion)
	}
	return nil
}

// welcome is the listener's half. It puts the answer into the sending buffer and leaves the flush open, so that nothing is
// written before release is called. A peer whose first message is anything else is served in version 1, and that message
// is returned.
func (c *conn) welcome() (first []byte, err error) {
	c.flushing = true
	c.rd.limit = readFirst
	frame, err := c.next()
	if c.foundTLS(err) {
		err := Errorf(CodeBadMessage, "transport: %s speaks TLS, this side does not: %s", c.peer.Addr, askPlaintext)
		c.refuse(0, err) // its TLS sees a message in place of a record, which handshakeError knows
		return nil, err
	}
	if err != nil {
		return nil, c.greetError(err)
	}
	m := c.rd.msg
	if m.kind != kindCall || string(m.method.of(frame)) != methodHello {
		if c.lim.minVersion > 1 {
			return nil, Errorf(CodeVersion, "transport: %s does not say which version it speaks", c.peer.Addr)
		}
		return frame, nil
	}
	v, err := takeVersions(m.body.of(frame), 2)
	if err != nil {
		c.refuse(m.id, err)
		return nil, err
	}
	version := min(v[1], c.lim.maxVersion)
	if version < max(v[0], c.lim.minVersion) {
		err := Errorf(CodeVersion, "transport: no protocol version in common: the dialer speaks %d to %d, the listener %d to %d",
			v[0], v[1], c.lim.minVersion, c.lim.maxVersion)
		c.refuse(m.id, err)
		return nil, err
	}
	c.count()
	c.out = appendReply(c.room(maxEnvelope), m.id, appendWelcome(nil, version))
	return nil, nil
}

// release lets the answer out, and what was sent while accept ran.
func (c *conn) release() {
	if c.raw != nil {
		c.flushInline()
	} else {
		go c.flush(outgoing{})
	}
}

// foundTLS reports whether err, of the first message, is that there is TLS on a connection that has none: the message begins
// as a record with a handshake or an alert does.
func (c *conn) foundTLS(err error) bool {
	b := c.rd.buf[c.rd.r:c.rd.w]
	return err != nil && c.seal == nil && len(b) > 1 && (b[0] == 0x15 || b[0] == 0x16) && b[1] == 3
}

// refuse answers a hello with an error, before the connection is closed.
func (c *conn) refuse(id uint64, err error) {
	c.count()
	c.nc.Write(appendErrorReply(nil, id, err, c.lim.maxMessage-maxEnvelope))
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		io.CopyN(io.Discard, c.nc, readDrain) // until the peer has read it; the handshake's deadline holds
	}
}

func (c *conn) count() {
	if c.lim.messages != nil {
		c.lim.messages.Add(1)
	}
}

func (c *conn) greetError(err error) error {
	switch {
	case isTimeout(err):
		return Errorf(CodeTimeout, "transport: %s did not finish the handshake in %v", c.peer.Addr, c.lim.handshake)
	case err == io.EOF, err == io.ErrUnexpectedEOF:
		return Errorf(CodeClosed, "transport: %s refused the connection", c.peer.Addr)
	}
	return err
}

// handshakeBy is when a handshake that begins now must be over.
func (l *limits) handshakeBy() time.Time { return time.Now().Add(l.handshake) }
