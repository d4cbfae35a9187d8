package transport

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type testHandler struct {
	handle func(Conn, *Request)
	closed func(Conn, error)
}

func (h testHandler) Handle(c Conn, r *Request) {
	if h.handle != nil {
		h.handle(c, r)
	}
}

func (h testHandler) Closed(c Conn, err error) {
	if h.closed != nil {
		h.closed(c, err)
	}
}

var echo = testHandler{handle: func(_ Conn, r *Request) { r.Reply(r.Params, nil) }}

func newTCP(t testing.TB, cfg TCPConfig) *TCP {
	tr, err := NewTCP(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { tr.Close() })
	return tr
}

func listenEcho(t testing.TB, tr *TCP) string {
	l, err := tr.Listen("127.0.0.1:0", func(Conn) Handler { return echo })
	require.NoError(t, err)
	return l.Addr()
}

func TestTCPConfig(t *testing.T) {
	for want, cfg := range map[string]TCPConfig{
		"MaxPending is 1000, less":     {MaxPending: 1000},
		"MaxBuffered is 1, less than ": {MaxBuffered: 1},
		"MaxConns is -1":               {MaxConns: -1},
		"PingEvery is 1ns":             {PingEvery: 1},
		"Identity is set, but":         {Identity: NewIdentity(), InsecurePlaintext: true},
		"MaxPending is 1, less than ":  {MaxPending: 1},
	} {
		_, err := NewTCP(cfg)
		require.ErrorContains(t, err, want)
	}
	require.True(t, newTCP(t, TCPConfig{InsecurePlaintext: true}).Key().IsZero())
	require.False(t, newTCP(t, TCPConfig{Open: true}).Key().IsZero())
}

func TestTCPKeys(t *testing.T) {
	a := newTCP(t, TCPConfig{Open: true})
	addr := listenEcho(t, a)
	b := newTCP(t, TCPConfig{Open: true})
	other := NewIdentity().Key()
	_, err := b.Dial(t.Context(), Peer{Addr: addr, Key: other}, nil)
	require.ErrorIs(t, err, ErrWrongKey)
	require.ErrorContains(t, err, other.String())
	require.ErrorContains(t, err, a.Key().String())
	require.ErrorContains(t, err, addr)

	plain := newTCP(t, TCPConfig{InsecurePlaintext: true})
	_, err = plain.Dial(t.Context(), Peer{Addr: addr, Key: a.Key()}, nil)
	require.ErrorIs(t, err, ErrWrongKey)
	require.ErrorContains(t, err, "InsecurePlaintext")
}

// Two sides that do not agree on TLS find out at the dial, and both say why.
func TestTCPMixedSecurity(t *testing.T) {
	const hint = "does one of the two use InsecurePlaintext?"
	for _, listening := range []bool{false, true} {
		logged := make(chan string, 1)
		log := slog.New(slog.NewTextHandler(lines(logged), nil))
		there, here := TCPConfig{Open: true, Logger: log, InsecurePlaintext: listening}, TCPConfig{Open: true, InsecurePlaintext: !listening}
		_, err := newTCP(t, here).Dial(t.Context(), Peer{Addr: listenEcho(t, newTCP(t, there))}, nil)
		require.ErrorContains(t, err, hint)
		require.Equal(t, here.InsecurePlaintext, errors.Is(err, ErrClosed), "%v", err)
		require.Contains(t, <-logged, hint)
	}

	// Who speaks another protocol altogether, or says nothing, gives no reason to say so.
	for name, answer := range map[string]string{"HTTP": "HTTP/1.1 400 Bad Request\r\n\r\n", "nothing": ""} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.ReadAtLeast(c, make([]byte, 4096), 1)
				io.WriteString(c, answer)
				c.Close()
			}
		}()
		for _, plain := range []bool{false, true} {
			_, err := newTCP(t, TCPConfig{Open: true, InsecurePlaintext: plain}).Dial(t.Context(), Peer{Addr: l.Addr().String()}, nil)
			require.Error(t, err, name)
			require.NotContains(t, err.Error(), "InsecurePlaintext", name)
		}
	}
	for _, plain := range []bool{false, true} {
		logged := make(chan string, 1)
		log := slog.New(slog.NewTextHandler(lines(logged), nil))
		c, err := net.Dial("tcp", listenEcho(t, newTCP(t, TCPConfig{Open: true, InsecurePlaintext: plain, Logger: log})))
		require.NoError(t, err)
		_, err = io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
		require.NoError(t, err)
		answer, _ := io.ReadAll(c)
		require.Empty(t, answer)
		c.Close()
		require.NotContains(t, <-logged, "InsecurePlaintext")
	}
}

// lines is a writer of a log.
type lines chan<- string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

// Only TLS 1.3 with an Ed25519 certificate gets as far as a message.
func TestTCPRefusesOtherTLS(t *testing.T) {
	addr := listenEcho(t, newTCP(t, TCPConfig{Open: true}))
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ec.Public(), ec)
	require.NoError(t, err)
	wrongKind := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: ec}
	good, _, err := tlsConfigs(NewIdentity(), nil)
	require.NoError(t, err)
	for name, cfg := range map[string]*tls.Config{
		"TLS 1.2":        {MaxVersion: tls.VersionTLS12, Certificates: good.Certificates, NextProtos: good.NextProtos},
		"no certificate": {NextProtos: good.NextProtos},
		"ECDSA":          {Certificates: []tls.Certificate{wrongKind}, NextProtos: good.NextProtos},
		"another ALPN":   {Certificates: good.Certificates, NextProtos: []string{"h2"}},
	} {
		cfg.InsecureSkipVerify = true
		c, err := tls.Dial("tcp", addr, cfg)
		if err == nil {
			c.Write(helloFrame)
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		require.Error(t, err, name)
	}
	good.InsecureSkipVerify = true
	c, err := tls.Dial("tcp", addr, good)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write(helloFrame)
	require.NoError(t, err)
	read(t, c, 7)
}

// Connections that never finish their greeting end by themselves, and keep nobody else out.
func TestTCPHandshakeTimeout(t *testing.T) {
	for _, plain := range []bool{true, false} {
		cfg := TCPConfig{Open: true, InsecurePlaintext: plain, handshakeTimeout: 300 * time.Millisecond}
		a := newTCP(t, cfg)
		a.door.limit = 64
		addr := listenEcho(t, a)
		var wg sync.WaitGroup
		for range 2 * a.door.limit {
			c, err := net.Dial("tcp", addr)
			require.NoError(t, err)
			wg.Go(func() {
				defer c.Close()
				c.SetReadDeadline(time.Now().Add(20 * time.Second))
				if _, err := io.ReadAll(c); isTimeout(err) {
					t.Error("still open")
				}
			})
		}
		b := newTCP(t, TCPConfig{Open: true, InsecurePlaintext: plain, handshakeTimeout: 20 * time.Second})
		c, err := b.Dial(t.Context(), Peer{Addr: addr}, nil)
		require.NoError(t, err)
		_, err = c.Call(t.Context(), "echo", nil)
		require.NoError(t, err)
		wg.Wait()
	}
}

// Connections beyond the limit are refused, earlier ones stay open, and a place that becomes free is used.
func TestTCPMaxConns(t *testing.T) {
	server, client := newTCP(t, TCPConfig{Open: true, MaxConns: 3}), newTCP(t, TCPConfig{Open: true})
	to := Peer{Addr: listenEcho(t, server), Key: server.Key()}
	first, err := client.Dial(t.Context(), to, nil)
	require.NoError(t, err)
	for range 2 { // a silent peer has a place, too
		idle, err := net.Dial("tcp", to.Addr)
		require.NoError(t, err)
		defer idle.Close()
	}
	require.Eventually(t, func() bool { return server.full() }, 5*time.Second, time.Millisecond)
	_, err = client.Dial(t.Context(), to, nil)
	require.Error(t, err)
	require.NotErrorIs(t, err, syscall.ECONNREFUSED, "it is not a sign that the process is gone")
	_, err = first.Call(t.Context(), "echo", nil)
	require.NoError(t, err)
	first.Close()
	require.Eventually(t, func() bool { return !server.full() }, 5*time.Second, time.Millisecond)
	again, err := client.Dial(t.Context(), to, nil)
	require.NoError(t, err)
	again.Close()
}

// Inbound connections leave files for other uses, whatever MaxConns is. Those beyond are refused such that a client tries
// again.
func TestTCPSparesFiles(t *testing.T) {
	var files atomic.Uint64
	files.Store(40)
	server, client := newTCP(t, TCPConfig{Open: true}), newTCP(t, TCPConfig{Open: true})
	server.lim.files = files.Load
	to := Peer{Addr: listenEcho(t, server), Key: server.Key()}
	for range 8 {
		_, err := client.Dial(t.Context(), to, nil)
		require.NoError(t, err)
	}
	_, err := client.Dial(t.Context(), to, nil)
	require.Error(t, err)
	require.False(t, IsFinal(err), "%v", err)
	_, err = server.Dial(t.Context(), Peer{Addr: listenEcho(t, client)}, nil)
	require.NoError(t, err, "it can dial")
	files.Store(1000)
	_, err = client.Dial(t.Context(), to, nil)
	require.NoError(t, err)

	for _, tt := range []struct {
		most, want int
		files      uint64
	}{{100, 100, manyFiles}, {1 << 16, 3584, 4096}, {1 << 16, 224, 256}, {1 << 16, 1, 32}, {1 << 16, 1, 0},
		{1 << 16, 1 << 16, math.MaxUint64}} {
		require.Equal(t, tt.want, places(tt.most, tt.files))
	}
}

func TestTCPClose(t *testing.T) {
	a, b := newTCP(t, TCPConfig{Open: true}), newTCP(t, TCPConfig{Open: true})
	addr := listenEcho(t, a)
	c, err := b.Dial(t.Context(), Peer{Addr: addr}, nil)
	require.NoError(t, err)
	silent, err := net.Dial("tcp", addr) // in its handshake
	require.NoError(t, err)
	defer silent.Close()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { a.Close() })
	}
	wg.Wait()
	_, err = c.Call(t.Context(), "echo", nil)
	require.Error(t, err)
	_, err = a.Dial(t.Context(), Peer{Addr: addr}, nil)
	require.Error(t, err)
	_, err = a.Listen("127.0.0.1:0", func(Conn) Handler { return nil })
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, b.Close())
	_, err = b.Dial(t.Context(), Peer{Addr: addr}, nil)
	require.Error(t, err)
}

// Close gives a peer that reads nothing a second, no more.
func TestTCPCloseWithStuckPeer(t *testing.T) {
	for _, plain := range []bool{true, false} {
		a := newTCP(t, TCPConfig{Open: true, InsecurePlaintext: plain})
		stuck := make(chan struct{})
		l, err := a.Listen("127.0.0.1:0", func(Conn) Handler {
			return testHandler{handle: func(Conn, *Request) { <-stuck }}
		})
		require.NoError(t, err)
		b := newTCP(t, TCPConfig{Open: true, InsecurePlaintext: plain, MaxPending: 1 << 30})
		c, err := b.Dial(t.Context(), Peer{Addr: l.Addr()}, nil)
		require.NoError(t, err)
		p := append([]byte{0xc6, 0, 8, 0, 0}, make([]byte, 1<<19)...)
		for range 64 {
			require.NoError(t, c.Notify("n", p))
		}
		start := time.Now()
		require.NoError(t, b.Close())
		require.Less(t, time.Since(start), 4*time.Second) // a second, and a busy machine
		close(stuck)
	}
}

// A peer that is still sending when it is answered for the last time gets the answer and a proper end.
func TestTCPCloseIsClean(t *testing.T) {
	a := newTCP(t, TCPConfig{InsecurePlaintext: true})
	l, err := a.Listen("127.0.0.1:0", func(Conn) Handler {
		return testHandler{handle: func(c Conn, r *Request) {
			r.Reply(nil, nil)
			c.Close()
		}}
	})
	require.NoError(t, err)
	c, err := net.Dial("tcp", l.Addr())
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write(append(appendCall(nil, 7, "last", nil), make([]byte, 1<<20)...))
	require.NoError(t, err)
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, appendReply(nil, 7, nil), got)
}

// A dial that is cancelled in its handshake leaves nothing behind.
func TestTCPDialCancelled(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	for _, plain := range []bool{true, false} {
		b := newTCP(t, TCPConfig{Open: true, InsecurePlaintext: plain, handshakeTimeout: time.Minute})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		_, err = b.Dial(ctx, Peer{Addr: l.Addr().String()}, nil)
		require.ErrorIs(t, err, context.Canceled)
		require.Empty(t, b.conns)
	}
}

// The socket's clock may be a moment ahead of the context's.
func TestDialError(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	late := &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	require.ErrorIs(t, dialError(ctx, Peer{}, late), context.DeadlineExceeded)
	require.NotErrorIs(t, dialError(t.Context(), Peer{}, late), context.DeadlineExceeded)
	require.ErrorIs(t, dialError(ctx, Peer{}, ErrWrongKey), ErrWrongKey)
	cancel()
	require.ErrorIs(t, dialError(ctx, Peer{}, late), context.Canceled)
	require.ErrorIs(t, dialError(ctx, Peer{}, ErrClosed), ErrClosed)
}

func TestAdvertiseAddr(t *testing.T) {
	for in, want := range map[string]string{
		"0.0.0.0:7000":   "127.0.0.1:7000",
		"[::]:7000":      "127.0.0.1:7000",
		":7000":          "127.0.0.1:7000",
		"10.0.0.1:7000":  "10.0.0.1:7000",
		"host-a:7000":    "host-a:7000",
		"127.0.0.1:7000": "127.0.0.1:7000",
	} {
		got, err := AdvertiseAddr(in, "127.0.0.1:8000")
		require.NoError(t, err)
		require.Equal(t, want, got, in)
	}
	_, err := AdvertiseAddr("nonsense", "127.0.0.1:8000")
	require.ErrorContains(t, err, "nonsense")
	_, err = AdvertiseAddr(":1", "nonsense")
	require.ErrorContains(t, err, "nonsense")
}

func TestIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "id.pem")
	var wg sync.WaitGroup
	keys := make(chan Key, 8)
	for range 8 { // the first one creates it, and all get the same
		wg.Go(func() {
			id, err := LoadIdentity(path)
			if err != nil {
				t.Error(err)
				return
			}
			keys <- id.Key()
		})
	}
	wg.Wait()
	first := <-keys
	for len(keys) > 0 {
		require.Equal(t, first, <-keys)
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	if runtime.GOOS != "windows" {
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1, "temporary files are left")

	id, err := LoadIdentity(path)
	require.NoError(t, err)
	key := id.Key()
	require.True(t, ed25519.Verify(key[:], []byte("m"), ed25519.Sign(id.key, []byte("m"))))
	parsed, err := ParseKey(key.String())
	require.NoError(t, err)
	require.Equal(t, key, parsed)
	for _, s := range []string{"x", key.String() + "A", strings.Repeat("!", 43), key.String()[:42]} {
		_, err := ParseKey(s)
		require.Error(t, err, s)
	}
	zero, err := ParseKey("")
	require.NoError(t, err)
	require.True(t, zero.IsZero())

	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(ec)
	require.NoError(t, err)
	for name, data := range map[string][]byte{
		"empty":   {},
		"torn":    whole[:len(whole)/2],
		"flipped": []byte(strings.Replace(string(whole), "M", "!", 1)),
		"twice":   append(whole, whole...),
		"other":   []byte("hello"),
		"ECDSA":   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		"no key":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der[:20]}),
	} {
		require.NoError(t, os.WriteFile(path, data, 0o600))
		_, err := LoadIdentity(path)
		require.ErrorContains(t, err, path, name)
		now, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, data, now, "%s: the file was changed", name)
	}
	path = filepath.Join(t.TempDir(), "no", "key")
	_, err = LoadIdentity(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "create "+path+": ")
	require.NotContains(t, err.Error(), ".key", "the name of a temporary file")
}

// An idle connection costs little, so that a process can have many.
func TestIdleConnectionIsSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("many connections")
	}
	const n = 50
	for _, plain := range []bool{true, false} {
		a, b := newTCP(t, TCPConfig{Open: true, InsecurePlaintext: plain}), newTCP(t, TCPConfig{Open: true, InsecurePlaintext: plain})
		addr := listenEcho(t, a)
		measure := func() uint64 {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapInuse + m.StackInuse
		}
		// Not runtime.NumGoroutine, which may count dozens that have just ended.
		alive := func() int {
			buf := make([]byte, 1<<20)
			return strings.Count(string(buf[:runtime.Stack(buf, true)]), "\n\ngoroutine ") + 1
		}
		before, goroutines := measure(), alive()
		for range n {
			c, err := b.Dial(t.Context(), Peer{Addr: addr}, nil)
			require.NoError(t, err)
			_, err = c.Call(t.Context(), "echo", nil)
			require.NoError(t, err)
		}
		per := int(measure()-before) / (2 * n)
		t.Logf("plain=%v: %d bytes an end", plain, per)
		require.Less(t, per, map[bool]int{true: 16 << 10, false: 64 << 10}[plain])
		require.LessOrEqual(t, alive()-goroutines, 2*n+5, "goroutines")
	}
}

// answering is TLS that answers by itself while it is read, as to a request for new keys.
type answering struct {
	net.Conn
	seal   *sealer
	answer []byte
}

func (a answering) Read(b []byte) (int, error) {
	n, err := a.Conn.Read(b)
	if err == nil {
		a.seal.Write(a.answer)
	}
	return n, err
}

// What TLS writes while it is read is written to the socket, though nobody sends anything.
func TestTLSAnswersByItself(t *testing.T) {
	_, there, done := readAnswering(t, []byte("answer"))
	_, err := there.Write([]byte{0x93, 0x02}) // the beginning of a notification
	require.NoError(t, err)
	got := make([]byte, len("answer"))
	there.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err = io.ReadFull(there, got)
	require.NoError(t, err)
	require.Equal(t, "answer", string(got))
	there.Close()
	require.Error(t, <-done)
}

// A peer that asks TLS for answers and does not read them is cut off.
func TestTLSAnswersAreBounded(t *testing.T) {
	c, there, done := readAnswering(t, make([]byte, chunkLarge))
	for _, b := range [][]byte{{0x93, 0x02}, {0xd9, 0xff}, {'x'}, {'y'}} { // the beginning of a notification
		there.Write(b)
	}
	require.Error(t, <-done)
	require.ErrorIs(t, c.err, ErrSlowPeer)
}

// readAnswering reads a connection whose TLS gives an answer each time that something has come from there.
func readAnswering(t *testing.T, answer []byte) (c *conn, there net.Conn, done <-chan error) {
	here, there := net.Pipe()
	seal := &sealer{Conn: here}
	lim, err := new(TCPConfig).limits()
	require.NoError(t, err)
	c = newConn(answering{here, seal, answer}, here, seal, lim, Peer{})
	seal.hold()
	c.rd.limit = lim.maxMessage
	ended := make(chan error, 1)
	go func() {
		_, err := c.next()
		ended <- err
	}()
	return c, there, ended
}

// counting counts the bytes that have arrived.
type counting struct {
	net.Conn
	n atomic.Int64
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// TLS notifies the peer that a connection was closed, so that it knows that nothing was cut off.
func TestTLSSaysThatItCloses(t *testing.T) {
	accepted := make(chan Conn, 1)
	l, err := newTCP(t, TCPConfig{Open: true}).Listen("127.0.0.1:0", func(c Conn) Handler { accepted <- c; return echo })
	require.NoError(t, err)
	base, err := net.Dial("tcp", l.Addr())
	require.NoError(t, err)
	defer base.Close()
	client, _, err := tlsConfigs(NewIdentity(), nil)
	require.NoError(t, err)
	count := &counting{Conn: base}
	c := tls.Client(count, client)
	_, err = c.Write([]byte{0x93, 0x02, 0xa1, 'x', 0x90}) // a notification: this peer does not greet
	require.NoError(t, err)
	server := <-accepted
	before := count.n.Load()
	server.Close()
	_, err = c.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	require.Greater(t, count.n.Load(), before)
}
