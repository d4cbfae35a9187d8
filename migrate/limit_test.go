package migrate

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// The limits beside the benchmarks are what net alone can do: frames of 4 bytes length, 8 bytes id, and a body.

const (
	limitHead   = 12
	limitBuffer = limitHead + 64<<10
)

func limitFrame(id uint64, n int) []byte {
	f := make([]byte, limitHead+n)
	binary.BigEndian.PutUint32(f, uint32(n))
	binary.BigEndian.PutUint64(f[4:], id)
	return f
}

func limitID(frame []byte) uint64 { return binary.BigEndian.Uint64(frame[4:]) }

func readLimitFrame(r *bufio.Reader, buf []byte) ([]byte, error) {
	head, err := r.Peek(limitHead)
	if err != nil {
		return nil, err
	}
	buf = buf[:limitHead+binary.BigEndian.Uint32(head)]
	_, err = io.ReadFull(r, buf)
	return buf, err
}

// limitNet is how the parts of a limit reach one another: TCP, with a configuration TLS in it.
type limitNet struct{ cfg *tls.Config }

// newLimitNet has TLS, if it is secure, as roam has it: version 1.3, both sides prove an Ed25519 key.
func newLimitNet(secure bool) (n limitNet, err error) {
	if !secure {
		return n, nil
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return n, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	n.cfg = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}},
		MinVersion:   tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert,
		InsecureSkipVerify: true, SessionTicketsDisabled: true,
	}
	return n, err
}

// listen is at a free port of this machine. Connections shake hands when they are first read or written.
func (n limitNet) listen() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil && n.cfg != nil {
		l = tls.NewListener(l, n.cfg)
	}
	return l, err
}

func (n limitNet) dial(addr string) (net.Conn, error) {
	if n.cfg == nil {
		return net.Dial("tcp", addr)
	}
	return tls.Dial("tcp", addr, n.cfg)
}

// benchNet is newLimitNet for a benchmark.
func benchNet(b *testing.B, secure bool) limitNet {
	n, err := newLimitNet(secure)
	require.NoError(b, err)
	return n
}

// serveLimit answers each frame with itself. With through it forwards each to another such server first, as an active host
// does to its standby: all clients' over one connection, as a host must that has many, unless own gives each client one.
func serveLimit(n limitNet, through string, own bool) (net.Listener, error) {
	l, err := n.listen()
	if err != nil {
		return nil, err
	}
	var link *limitLink
	if through != "" && !own {
		if link, err = dialLimitLink(n, through); err != nil {
			l.Close()
			return nil, err
		}
		l = limitListener{l, link.c}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r, buf := bufio.NewReader(c), make([]byte, limitBuffer)
				next := net.Conn(nil)
				var back *bufio.Reader
				if through != "" && own {
					if next, err = n.dial(through); err != nil {
						return
					}
					defer next.Close()
					back = bufio.NewReader(next)
				}
				for {
					f, err := readLimitFrame(r, buf)
					switch {
					case err != nil:
						return
					case link != nil:
						link.forward(c, f)
						continue
					case next != nil:
						next.Write(f)
						if f, err = readLimitFrame(back, buf); err != nil {
							return
						}
					}
					c.Write(f)
				}
			}()
		}
	}()
	return l, nil
}

// limitListener closes the connection to the server behind it as well.
type limitListener struct {
	net.Listener
	through net.Conn
}

func (l limitListener) Close() error {
	l.through.Close()
	return l.Listener.Close()
}

// limitLink carries the frames of many clients to a server and the answers back. Who finds nobody writing writes for all.
type limitLink struct {
	c        net.Conn
	mu       sync.Mutex
	last     uint64
	from     map[uint64]limitSender
	out, old []byte
	writing  bool
}

type limitSender struct {
	c  net.Conn
	id uint64
}

func dialLimitLink(n limitNet, addr string) (*limitLink, error) {
	c, err := n.dial(addr)
	if err != nil {
		return nil, err
	}
	l := &limitLink{c: c, from: make(map[uint64]limitSender)}
	go func() { // ends with the connection
		r, buf := bufio.NewReaderSize(c, 64<<10), make([]byte, limitBuffer)
		for {
			f, err := readLimitFrame(r, buf)
			if err != nil {
				return
			}
			l.mu.Lock()
			to := l.from[limitID(f)]
			delete(l.from, limitID(f))
			l.mu.Unlock()
			binary.BigEndian.PutUint64(f[4:], to.id)
			to.c.Write(f)
		}
	}()
	return l, nil
}

func (l *limitLink) forward(c net.Conn, f []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	l.from[l.last] = limitSender{c, limitID(f)}
	binary.BigEndian.PutUint64(f[4:], l.last)
	l.out = append(l.out, f...)
	if l.writing {
		return
	}
	for l.writing = true; len(l.out) > 0; {
		b := l.out
		l.out = l.old[:0]
		l.mu.Unlock()
		l.c.Write(b)
		l.mu.Lock()
		l.old = b
	}
	l.writing = false
}

// rawLimit is serveLimit for a benchmark in one process.
func rawLimit(b *testing.B, n limitNet, through string, own bool) (addr string) {
	l, err := serveLimit(n, through, own)
	require.NoError(b, err)
	b.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// bareClient has a connection to itself: who writes waits for the answer on it.
func bareClient(b *testing.B, n limitNet, addr string) func() {
	c, err := n.dial(addr)
	require.NoError(b, err)
	b.Cleanup(func() { c.Close() })
	msg, r, buf := limitFrame(1, 64), bufio.NewReader(c), make([]byte, limitBuffer)
	return func() {
		c.Write(msg)
		if _, err := readLimitFrame(r, buf); err != nil {
			b.Error(err)
		}
	}
}

// sharedClient is a client as one must be that hears from its server unasked: a goroutine of its own reads.
func sharedClient(b *testing.B, n limitNet, addr string, size int) func() {
	c, err := n.dial(addr)
	require.NoError(b, err)
	answers := make(chan []byte)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r := bufio.NewReader(c); ; {
			f, err := readLimitFrame(r, make([]byte, limitHead+size))
			if err != nil {
				close(answers)
				return
			}
			answers <- f
		}
	}()
	b.Cleanup(func() { c.Close(); <-done })
	msg := limitFrame(1, size)
	return func() {
		c.Write(msg)
		if _, ok := <-answers; !ok {
			b.Error("the connection has ended")
		}
	}
}
