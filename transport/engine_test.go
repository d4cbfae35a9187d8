package transport

import (
	"bytes"
	"fmt"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// served is a host that listens, as a foreign client finds it.
type served struct {
	net    *Memory
	closed chan error // the error passed to Closed
	got    chan string
}

func serve(t *testing.T, cfg TCPConfig) *served {
	s := &served{net: NewMemory(), closed: make(chan error, 100), got: make(chan string, 1000)}
	a, err := s.net.HostWith("a", cfg)
	require.NoError(t, err)
	_, err = a.Listen("a:1", func(Conn) Handler {
		return testHandler{
			handle: func(_ Conn, r *Request) {
				s.got <- r.Method
				if r.Method == "echo" {
					r.Reply(r.Params, nil)
				}
			},
			closed: func(_ Conn, err error) { s.closed <- err },
		}
	})
	require.NoError(t, err)
	t.Cleanup(func() { a.Close(); s.net.Host("raw").Close() })
	return s
}

// dial connects without a word.
func (s *served) dial(t *testing.T) *memConn {
	c, _, err := s.net.connect(t.Context(), s.net.Host("raw"), Peer{Addr: "a:1"})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// helloFrame is a whole greeting.
var helloFrame = appendCall(nil, 1, methodHello, appendHello(nil, 1, 1))

func (s *served) greeted(t *testing.T) *memConn {
	c := s.dial(t)
	_, err := c.Write(helloFrame)
	require.NoError(t, err)
	require.Equal(t, appendReply(nil, 1, appendWelcome(nil, 1)), read(t, c, 7))
	return c
}

func read(t *testing.T, c io.Reader, n int) []byte {
	b := make([]byte, n)
	_, err := io.ReadFull(c, b)
	require.NoError(t, err)
	return b
}

func TestBadMessagesEndTheConnection(t *testing.T) {
	for name, c := range map[string]struct {
		in   []byte
		want string
	}{
		"nil":           {[]byte{0xc0}, "nil instead of a message"},
		"ext":           {[]byte{0xd4}, "extension type 0xd4 instead of a message"},
		"map":           {[]byte{0x83}, "begins with 0x83"},
		"number":        {[]byte{5}, "begins with 0x05"},
		"TLS":           {[]byte{0x16, 3, 1}, "begins with 0x16"},
		"HTTP":          {[]byte("GET / HTTP/1.1\r\n"), "begins with 0x47"},
		"short array":   {[]byte{0x92}, "array of 2 values"},
		"unknown type":  {[]byte{0x93, 4, 0xa1, 'a', 0x90}, "unknown type 4"},
		"never used":    {[]byte{0x93, 2, 0xa1, 'a', 0xc1}, "byte 0xc1"},
		"deep":          {append([]byte{0x93, 2, 0xa1, 'a'}, nested(17)...), "nested deeper"},
		"large":         {[]byte{0x93, 2, 0xa1, 'a', 0xc6, 0x00, 0x10, 0x00, 0x00}, "more than 1048576 bytes"},
		"4 GiB":         {[]byte{0x93, 2, 0xa1, 'a', 0xc6, 0xff, 0xff, 0xff, 0xff}, "more than 1048576 bytes"},
		"4 G values":    {[]byte{0xdd, 0xff, 0xff, 0xff, 0xff}, "more than 1048576 bytes"},
		"empty array":   {append(appendNotify(nil, "a", nil), 0x90), "array of 0 values"},
		"nil params":    {[]byte{0x93, 2, 0xa1, 'a', 0xc0}, "nil or an extension"},
		"ext as params": {[]byte{0x93, 2, 0xa1, 'a', 0xd4, 0, 0}, "nil or an extension"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := serve(t, TCPConfig{Open: true})
				conn := s.greeted(t)
				_, err := conn.Write(append(appendNotify(nil, "first", nil), c.in...))
				require.NoError(t, err)
				require.Equal(t, "first", <-s.got)
				err = <-s.closed
				require.ErrorIs(t, err, ErrBadMessage)
				require.ErrorContains(t, err, c.want)
				_, err = conn.Read(make([]byte, 1))
				require.Error(t, err)
				require.Empty(t, s.closed, "Closed twice")
			})
		})
	}
}

func TestFirstMessage(t *testing.T) {
	refused := func(name string, cfg TCPConfig, in []byte, want string) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := serve(t, cfg)
				conn := s.dial(t)
				start := time.Now()
				_, err := conn.Write(in)
				require.NoError(t, err)
				answer, _ := io.ReadAll(conn)
				require.Contains(t, string(answer), want)
				require.LessOrEqual(t, time.Since(start), 2*time.Second)
				synctest.Wait()
				require.Empty(t, s.got)
				require.Empty(t, s.closed, "the handler saw a connection that was not accepted")
			})
		})
	}
	refused("silence", TCPConfig{Open: true}, nil, "")
	refused("half", TCPConfig{Open: true}, helloFrame[:5], "")
	refused("garbage", TCPConfig{Open: true}, []byte("\x16\x03\x01"), "")
	refused("large", TCPConfig{Open: true}, append([]byte{0x93, 2, 0xa1, 'a', 0xc5, 0x10, 0x00}, make([]byte, 4096)...), "")
	refused("newer", TCPConfig{Open: true}, appendCall(nil, 1, methodHello, appendHello(nil, 2, 3)),
		"the dialer speaks 2 to 3, the listener 1 to 1")
	refused("malformed", TCPConfig{Open: true}, appendCall(nil, 1, methodHello, []byte{0x92, 1, 1}), "malformed roam.hello")
	refused("malformed features", TCPConfig{Open: true}, appendCall(nil, 1, methodHello, []byte{0x93, 1, 1, 1}), "malformed roam.hello")

	t.Run("foreign", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := serve(t, TCPConfig{Open: true})
			conn := s.dial(t)
			for i := range 3 {
				call := appendCall(nil, uint64(i), "echo", []byte{0x91, byte(i)})
				_, err := conn.Write(call)
				require.NoError(t, err)
				want := appendReply(nil, uint64(i), []byte{0x91, byte(i)})
				require.Equal(t, want, read(t, conn, len(want)))
			}
		})
	})
	t.Run("later hello", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := serve(t, TCPConfig{Open: true})
			conn := s.greeted(t)
			_, err := conn.Write(helloFrame)
			require.NoError(t, err)
			b := make([]byte, 200)
			n, err := conn.Read(b)
			require.NoError(t, err)
			require.Contains(t, string(b[:n]), "not the first message")
			require.Empty(t, s.got)
		})
	})
	t.Run("more features", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := serve(t, TCPConfig{Open: true})
			conn := s.dial(t)
			params, err := Marshal([]any{0, 9, []string{"x", "y"}, "later"})
			require.NoError(t, err)
			_, err = conn.Write(appendCall(nil, 1, methodHello, params))
			require.NoError(t, err)
			require.Equal(t, appendReply(nil, 1, appendWelcome(nil, 1)), read(t, conn, 7))
		})
	})
}

// dialRaw makes a dialer greet a peer made by hand, and returns how that went.
func dialRaw(t *testing.T, answer func(c *memConn)) error {
	n := NewMemory()
	up, down := n.stream(n.link("b", "a")), n.stream(n.link("a", "b"))
	here := &memConn{net: n, in: down, out: up, local: "b:1", remote: "a:1"}
	far := &memConn{net: n, in: up, out: down, local: "a:1", remote: "b:1"}
	go func() {
		read(t, far, len(helloFrame))
		answer(far)
	}()
	lim, err := (&TCPConfig{Open: true}).limits()
	require.NoError(t, err)
	here.SetDeadline(lim.handshakeBy())
	defer far.Close()
	defer here.Close()
	return newConn(here, here, nil, lim, Peer{Addr: "a:1"}).greet()
}

func TestAnswerToHello(t *testing.T) {
	for name, c := range map[string]struct {
		answer []byte
		is     error
		text   string
	}{
		"welcome":      {appendReply(nil, 1, appendWelcome(nil, 1)), nil, ""},
		"older peer":   {appendErrorReply(nil, 1, Errorf(CodeNoMethod, "what?"), 100), nil, ""},
		"foreign peer": {[]byte{0x94, 1, 1, 0xa5, 'w', 'h', 'a', 't', '?', 0xc0}, nil, ""},
		"version 2": {appendReply(nil, 1, appendWelcome(nil, 2)), ErrVersion,
			"chose protocol version 2, this side speaks 1 to 1"},
		"none":         {appendErrorReply(nil, 1, Errorf(CodeVersion, "none in common"), 100), ErrVersion, "none in common"},
		"another id":   {appendReply(nil, 2, appendWelcome(nil, 1)), ErrBadMessage, "another message"},
		"notification": {appendNotify(nil, "x", nil), ErrBadMessage, "another message"},
		"malformed":    {appendReply(nil, 1, []byte{0x91, 1}), ErrBadMessage, "malformed"},
		"no features":  {appendReply(nil, 1, []byte{0x92, 1, 1}), ErrBadMessage, "malformed"},
		"garbage":      {[]byte("HTTP/1.1 400 Bad Request"), ErrBadMessage, "no array"},
		"end":          {nil, ErrClosed, "refused"},
		"large":        {append([]byte{0x94, 1, 1, 0xc0, 0xc5, 0x10, 0}, make([]byte, 4096)...), ErrBadMessage, "4096"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := dialRaw(t, func(far *memConn) {
					far.Write(c.answer)
					if c.answer == nil {
						far.Close()
					}
				})
				if c.is == nil {
					require.NoError(t, err)
					return
				}
				require.ErrorIs(t, err, c.is)
				require.ErrorContains(t, err, c.text)
			})
		})
	}
	t.Run("silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			require.ErrorIs(t, dialRaw(t, func(*memConn) {}), ErrTimeout)
		})
	})
}

// A message byte by byte arrives whole, and one that takes too long ends the connection, however often a byte comes.
func TestSlowMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, TCPConfig{Open: true})
		conn := s.greeted(t)
		for _, b := range appendCall(nil, 5, "echo", []byte{0x91, 7}) {
			time.Sleep(500 * time.Millisecond)
			_, err := conn.Write([]byte{b})
			require.NoError(t, err)
		}
		want := appendReply(nil, 5, []byte{0x91, 7})
		require.Equal(t, want, read(t, conn, len(want)))

		start := time.Now()
		slow := appendNotify(nil, "slow", append([]byte{0xc4, 100}, make([]byte, 100)...))
		for _, b := range slow {
			if _, err := conn.Write([]byte{b}); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		err := <-s.closed
		require.ErrorIs(t, err, ErrTimeout)
		require.ErrorContains(t, err, "not completed a message within 10s")
		require.InDelta(t, 10, time.Since(start).Seconds(), 1.5)
	})
}

func TestKeepalive(t *testing.T) {
	t.Run("silent peer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := serve(t, TCPConfig{Open: true})
			conn := s.greeted(t)
			start := time.Now()
			ping := appendCall(nil, 1, methodPing, nil)
			require.Equal(t, ping, read(t, conn, len(ping)))
			require.Equal(t, 5*time.Second, time.Since(start))
			require.ErrorIs(t, <-s.closed, ErrTimeout)
			require.Equal(t, 15*time.Second, time.Since(start))
		})
	})
	t.Run("peer that answers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := serve(t, TCPConfig{Open: true, PingEvery: time.Second})
			conn := s.greeted(t)
			for i := range uint64(100) {
				ping := appendCall(nil, i+1, methodPing, nil)
				require.Equal(t, ping, read(t, conn, len(ping)))
				time.Sleep(1900 * time.Millisecond)
				_, err := conn.Write(appendReply(nil, i+1, nil))
				require.NoError(t, err)
			}
			require.Empty(t, s.closed)
		})
	})
	t.Run("both idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := NewMemory()
			c := memPair(t, n, echo)
			before := n.Stats().Messages
			time.Sleep(time.Hour)
			_, err := c.Call(t.Context(), "echo", nil)
			require.NoError(t, err)
			pings := n.Stats().Messages - before
			require.InDelta(t, 3600/5*2, pings, 3600/5)
		})
	})
	t.Run("busy", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := NewMemory()
			c := memPair(t, n, echo)
			before := n.Stats().Messages
			for range 100 {
				time.Sleep(time.Second)
				_, err := c.Call(t.Context(), "echo", nil)
				require.NoError(t, err)
			}
			require.EqualValues(t, 200, n.Stats().Messages-before, "pings beside calls")
		})
	})
	t.Run("handler that blocks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := memPair(t, NewMemory(), testHandler{handle: func(_ Conn, r *Request) {
				time.Sleep(14 * time.Second)
				r.Reply(nil, nil)
			}})
			for range 3 {
				_, err := c.Call(t.Context(), "block", nil)
				require.NoError(t, err)
			}
		})
	})
}

// A process that was stopped for a while does not take its peers for dead before it has listened again.
func TestPauseOfTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, TCPConfig{Open: true})
		base := s.greeted(t)
		lim, err := (&TCPConfig{Open: true}).limits()
		require.NoError(t, err)
		c := newConn(base, base, nil, lim, Peer{Addr: "a:1"})
		now := time.Now()
		paused := func(waiting, armed time.Duration) error {
			c.rd.waiting, c.rd.armed, c.rd.pinged = now.Add(-waiting), now.Add(-armed), false
			return c.tick(now)
		}
		require.NoError(t, paused(time.Minute, 55*time.Second))
		require.True(t, c.rd.pinged)
		require.ErrorIs(t, paused(15*time.Second, 0), ErrTimeout)
		require.NoError(t, paused(0, time.Minute)) // the handler took a minute
		require.False(t, c.rd.pinged)
		require.Equal(t, now.Add(5*time.Second), c.rd.armed)
		c.rd.started = now.Add(-time.Minute)
		require.NoError(t, paused(time.Minute, 55*time.Second))
		c.rd.started = now.Add(-10 * time.Second)
		require.ErrorIs(t, paused(5*time.Second, 0), ErrTimeout) // a message was on its way for long enough
		synctest.Wait()
	})
}

// Who is still greeting when the listener closes is not accepted.
func TestListenerCloseInGreeting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewMemory()
		l, err := n.Host("a").Listen("a:1", func(Conn) Handler {
			t.Error("accepted")
			return echo
		})
		require.NoError(t, err)
		defer n.Host("a").Close()
		raw, _, err := n.connect(t.Context(), n.Host("raw"), Peer{Addr: "a:1"})
		require.NoError(t, err)
		defer raw.Close()
		synctest.Wait()
		require.NoError(t, l.Close())
		_, err = raw.Write(helloFrame)
		require.NoError(t, err)
		_, err = io.ReadAll(raw)
		require.NoError(t, err)
	})
}

// Close ends calls even while the handler, on the goroutine that would hand out replies, is stuck.
func TestCloseEndsCallsBesideTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewMemory()
		accepted := make(chan Conn, 1)
		_, err := n.Host("a").Listen("a:1", func(c Conn) Handler { accepted <- c; return testHandler{} })
		require.NoError(t, err)
		defer n.Host("a").Close()
		stuck := make(chan struct{})
		c, err := n.Host("b").Dial(t.Context(), Peer{Addr: "a:1"},
			testHandler{handle: func(Conn, *Request) { <-stuck }})
		require.NoError(t, err)
		defer n.Host("b").Close()
		defer close(stuck)
		require.NoError(t, (<-accepted).Notify("block", nil))
		ended := make(chan error, 1)
		go func() { _, err := c.Call(t.Context(), "never", nil); ended <- err }()
		synctest.Wait()
		require.Empty(t, ended)
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-ended, ErrClosed)
	})
}

func TestPeerDisappears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, TCPConfig{Open: true})
		conn := s.greeted(t)
		_, err := conn.Write(appendNotify(nil, "half", nil)[:3])
		require.NoError(t, err)
		conn.Close()
		require.Equal(t, io.ErrUnexpectedEOF, <-s.closed)

		conn = s.greeted(t)
		conn.Close()
		require.Equal(t, io.EOF, <-s.closed)

		s.greeted(t)
		s.net.Cut("a", "raw")
		require.ErrorIs(t, <-s.closed, syscall.ECONNRESET)
	})
}

func TestRepliesOfTheForeign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewMemory()
		conns := make(chan Conn, 1)
		_, err := n.Host("a").Listen("a:1", func(c Conn) Handler { conns <- c; return testHandler{} })
		require.NoError(t, err)
		raw, _, err := n.connect(t.Context(), n.Host("raw"), Peer{Addr: "a:1"})
		require.NoError(t, err)
		defer n.Host("a").Close()
		defer raw.Close()
		_, err = raw.Write(helloFrame)
		require.NoError(t, err)
		read(t, raw, 7)
		c := <-conns
		got := make(chan string, 10)
		for range 4 {
			c.Go("m", nil, func(result []byte, err error) { got <- fmt.Sprintf("%x %v", result, err) })
		}
		read(t, raw, 4*len(appendCall(nil, 1, "m", nil)))
		for _, r := range [][]byte{
			appendReply(nil, 77, []byte{1}),                                       // never called
			{0x94, 1, 2, 0xa3, 'b', 'a', 'd', 0xc0},                               // a string
			{0x94, 1, 1, 0x92, 1, 0xa4, 'v', 'i', 'm', ':', 0xc0},                 // as Neovim does
			appendReply(nil, 1, []byte{9}),                                        // a second reply
			{0xdc, 0, 4, 0xd0, 1, 0xcf, 0, 0, 0, 0, 0, 0, 0, 3, 0xc0, 0x92, 1, 2}, // wide forms
			{0x94, 1, 4, 0x81, 0xa4, 'c', 'o', 'd', 'e', 0xcd, 3, 232, 0xc0},
		} {
			_, err := raw.Write(r)
			require.NoError(t, err)
		}
		for _, want := range []string{" bad", " vim:", "920102 <nil>", " peer answered error 1000 without a text"} {
			require.Equal(t, want, <-got)
		}
		require.Empty(t, got)
	})
}

// Nothing is handled any more once Close has returned on the reading goroutine.
func TestNothingAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var handled, closed int
		n := NewMemory()
		_, err := n.Host("a").Listen("a:1", func(Conn) Handler {
			return testHandler{
				handle: func(c Conn, _ *Request) { handled++; c.Close() },
				closed: func(_ Conn, err error) { closed++; require.Equal(t, ErrClosed, err) },
			}
		})
		require.NoError(t, err)
		raw, _, err := n.connect(t.Context(), n.Host("raw"), Peer{Addr: "a:1"})
		require.NoError(t, err)
		_, err = raw.Write(bytes.Repeat(appendNotify(nil, "n", nil), 50))
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, 1, handled)
		require.Equal(t, 1, closed)
		start := time.Now()
		raw.Write(bytes.Repeat(appendNotify(nil, "n", nil), 50)) // and does not read nor close
		n.Host("a").Close()
		require.LessOrEqual(t, time.Since(start), closeGrace)
		raw.Close()
	})
}

// A second reply is not sent, no matter which goroutine makes it.
func TestOneReplyOnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewMemory()
		_, err := n.Host("a").Listen("a:1", func(Conn) Handler {
			return testHandler{handle: func(_ Conn, r *Request) {
				for range 3 {
					go r.Reply(nil, nil)
				}
			}}
		})
		require.NoError(t, err)
		defer n.Host("a").Close()
		raw, _, err := n.connect(t.Context(), n.Host("raw"), Peer{Addr: "a:1"})
		require.NoError(t, err)
		defer raw.Close()
		_, err = raw.Write(append(helloFrame, appendCall(nil, 2, "m", nil)...))
		require.NoError(t, err)
		synctest.Wait()
		b := make([]byte, 100)
		k, err := raw.Read(b)
		require.NoError(t, err)
		want := append(appendReply(nil, 1, appendWelcome(nil, 1)), appendReply(nil, 2, nil)...)
		for k < len(want) {
			m, err := raw.Read(b[k:])
			require.NoError(t, err)
			k += m
		}
		require.Equal(t, want, b[:k])
		raw.SetReadDeadline(time.Now().Add(time.Millisecond))
		k, err = raw.Read(b)
		require.True(t, isTimeout(err), "% x", b[:k])
	})
}

// The memory of a receiver is bounded by the bytes that have arrived, not by the announced size.
func TestBufferGrowsWithWhatCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewMemory()
		var c *conn
		_, err := n.Host("a").Listen("a:1", func(accepted Conn) Handler { c = accepted.(*conn); return testHandler{} })
		require.NoError(t, err)
		defer n.Host("a").Close()
		raw, _, err := n.connect(t.Context(), n.Host("raw"), Peer{Addr: "a:1"})
		require.NoError(t, err)
		defer raw.Close()
		_, err = raw.Write(append(helloFrame, 0x93, 2, 0xa1, 'a', 0xc6, 0, 0x0f, 0, 0)) // almost 1 MiB to come
		require.NoError(t, err)
		synctest.Wait()
		require.LessOrEqual(t, len(c.rd.buf), readFirst)
		const came = 70_000
		_, err = raw.Write(make([]byte, came))
		require.NoError(t, err)
		synctest.Wait()
		require.Greater(t, len(c.rd.buf), came)
		require.LessOrEqual(t, len(c.rd.buf), 8*came)
	})
}

// FuzzEngine throws bytes at a listener: whatever they are, the connection ends or waits, and nothing panics.
func FuzzEngine(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
		f.Add(append(bytes.Clone(helloFrame), s...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			s := serve(t, TCPConfig{Open: true})
			conn := s.dial(t)
			half := len(b) / 2
			conn.Write(b[:half])
			synctest.Wait()
			conn.Write(b[half:])
			synctest.Wait()
			conn.Close()
			synctest.Wait()
			require.LessOrEqual(t, len(s.closed), 1)
		})
	})
}
