package transport

import (
	"crypto/tls"
	"io"
	"time"

	"github.com/roam-go/roam/transport/internal/mp"
)

// The versions of the protocol that this package speaks. PROTOCOL.md has their history.
const (
	minVersion = 1
	maxVersion = 1
)

// The dialer's first call is hello with [min, max, features]; the answer is [version, features]. Features are names for
// later extensions. A peer ignores unknown ones, and further values in either array.

func appendHello(b []byte, lo, hi uint64) []byte {
	return append(mp.AppendUint(mp.AppendUint(append(b, 0x93), lo), hi), emptyArray...)
}

func appendWelcome(b []byte, version uint64) []byte {
	return append(mp.AppendUint(append(b, 0x92), version), emptyArray...)
}

// takeVersions reads the n numbers at the front of a hello or a welcome. An array of features follows them.
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

// greet is the dialer's part of the greeting. It runs before the reading goroutine starts. The caller has set a deadline.
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
		return Errorf(CodeBadMessage, "transport: %s sent another message before its answer to %s", c.peer.Addr, methodHello)
	}
	if m.failed() {
		if e := parseError(m.fault.of(frame)); e.Code == CodeVersion || e.Code == CodeBadMessage {
			return e
		}
		return nil // a peer that implements only MessagePack-RPC
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

// welcome is the listener's part. It appends the answer to the buffer but keeps flushing set, so nothing is written before
// release. A peer whose first message is another one is served in version 1; welcome returns that message.
func (c *conn) welcome() (first []byte, err error) {
	c.flushing = true
	c.rd.limit = readFirst
	frame, err := c.next()
	if c.foundTLS(err) {
		err := Errorf(CodeBadMessage, "transport: %s speaks TLS, this side does not: %s", c.peer.Addr, askPlaintext)
		c.refuse(0, err) // the peer's TLS finds a message instead of a record, which handshakeError explains
		return nil, err
	}
	if err != nil {
		return nil, c.greetError(err)
	}
	m := c.rd.msg
	if m.kind != kindCall || string(m.method.of(frame)) != methodHello {
		if c.lim.minVersion > 1 {
			return nil, Errorf(CodeVersion, "transport: %s does not announce its protocol version", c.peer.Addr)
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

// release writes the answer, and the messages sent while accept ran.
func (c *conn) release() {
	if c.raw != nil {
		c.flushInline()
	} else {
		go c.flush(outgoing{})
	}
}

// foundTLS reports whether reading the first message failed with err because the peer speaks TLS: the message begins like a
// handshake or alert record.
func (c *conn) foundTLS(err error) bool {
	b := c.rd.buf[c.rd.r:c.rd.w]
	return err != nil && c.seal == nil && len(b) > 1 && (b[0] == 0x15 || b[0] == 0x16) && b[1] == 3
}

// refuse answers a hello with an error, before the connection is closed.
func (c *conn) refuse(id uint64, err error) {
	c.count()
	c.nc.Write(appendErrorReply(nil, id, err, c.lim.maxMessage-maxEnvelope))
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		io.CopyN(io.Discard, c.nc, readDrain) // until the peer has read it, or the deadline of the handshake
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
	case refusedPass(err):
		return c.lim.refusedPass(c.realmOfPeer())
	}
	return err
}

// realmOfPeer returns the realm that the peer's pass names, or "".
func (c *conn) realmOfPeer() string {
	if tc, ok := c.nc.(*tls.Conn); ok {
		if certs := tc.ConnectionState().PeerCertificates; len(certs) > 0 {
			return realmIn(certs[0])
		}
	}
	return ""
}

// handshakeBy returns the deadline of a handshake that begins now.
func (l *limits) handshakeBy() time.Time { return time.Now().Add(l.handshake) }
