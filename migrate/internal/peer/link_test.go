package peer

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// What waits for a connection is bounded in bytes as well as in number.
func TestLinkQueue(t *testing.T) {
	for size, want := range map[int]int{1: maxQueue, 1 << 20: 4} {
		l := &link{links: New(Config{}), state: dialing}
		for range 2 * maxQueue {
			l.send(make([]byte, size))
		}
		require.Equal(t, want, len(l.queue)) // which would be printed as a whole
		l.close()
		require.Zero(t, l.queueBytes)
	}
}

// bench is a host "a" with links, and a host "b" that it sends to.
type bench struct {
	t      *testing.T
	net    *transport.Memory
	links  *Links
	dials  atomic.Int32
	cancel context.CancelFunc
	wg     sync.WaitGroup
	self   resolver.Host // b
	other  chan transport.Conn
	got    chan string // services of messages that were received
	linked chan struct{}
	events chan string

	mu     sync.Mutex // guards the fields below
	closed bool
}

// countedDials counts the dials, and fails those that fail says.
type countedDials struct {
	transport.Transport
	b    *bench
	fail func(dial int) error
}

func (c *countedDials) Dial(ctx context.Context, to transport.Peer, h transport.Handler) (transport.Conn, error) {
	n := int(c.b.dials.Add(1))
	if c.fail != nil {
		if err := c.fail(n); err != nil {
			return nil, err
		}
	}
	return c.Transport.Dial(ctx, to, h)
}

func newBench(t *testing.T, fail func(dial int) error) *bench {
	b := &bench{t: t, net: transport.NewMemory(), got: make(chan string, 1000), linked: make(chan struct{}, 1000), events: make(chan string, 1000),
		other: make(chan transport.Conn, 100)}
	tr := b.net.Host("b")
	_, err := tr.Listen("b:1", func(c transport.Conn) transport.Handler {
		b.other <- c
		return b
	})
	require.NoError(t, err)
	b.self = resolver.Host{ID: "b", Incarnation: 7, Addr: "b:1", Key: tr.Key()}
	ctx, cancel := context.WithCancel(t.Context())
	b.cancel = cancel
	from := b.net.Host("a")
	b.links = New(Config{
		Context: ctx, Self: func() resolver.Host { return resolver.Host{ID: "a", Incarnation: 1, Addr: "a:1", Key: from.Key()} },
		Transport: &countedDials{from, b, fail}, FailureTimeout: time.Second, Log: slog.New(slog.DiscardHandler), Go: b.spawn,
		Down:  func(h resolver.Host) { b.events <- "down " + h.ID },
		Reset: func(h resolver.Host) { b.events <- "reset " + h.ID },
		Accept: func(h resolver.Host, c transport.Conn) transport.Handler {
			b.events <- "accept " + h.ID
			return b
		},
		Unreached: func(h resolver.Host, reason string) { b.events <- "unreached " + h.ID + ": " + reason },
	})
	return b
}

func (b *bench) spawn(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.wg.Go(f)
	}
	return !b.closed
}

func (b *bench) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.links.Close()
	b.wg.Wait()
	b.net.Crash("b")
}

// Handle implements [transport.Handler] for b.
func (b *bench) Handle(_ transport.Conn, r *transport.Request) {
	switch r.Method {
	case wire.MethodHello:
		r.Reply(transport.Marshal(wire.HostHello{Host: b.self}))
	case wire.MethodLink:
		b.linked <- struct{}{}
	case wire.MethodMsg:
		service, _, err := wire.UnmarshalMsgParams(r.Params)
		if err == nil {
			b.got <- string(service)
		}
	}
}

// Closed implements [transport.Handler].
func (b *bench) Closed(transport.Conn, error) {}

func (b *bench) send(service string) { b.links.Send(b.self, service, core.Msg{Type: core.MsgAppend}) }

// count returns the number of links.
func (b *bench) count() int {
	b.links.mu.Lock()
	defer b.links.mu.Unlock()
	return len(b.links.links)
}

func inBubble(t *testing.T, fail func(dial int) error, f func(*bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, fail)
		defer b.close()
		f(b)
	})
}

// Messages share one connection, in order, and those that come before it is there wait for it.
func TestSend(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.send("one")
		b.send("two")
		require.Equal(t, "reset b", <-b.events)
		b.send("three")
		for _, want := range []string{"one", "two", "three"} {
			require.Equal(t, want, <-b.got)
		}
		require.EqualValues(t, 1, b.dials.Load())
	})
}

// A link whose connection ends is dialled again at once; one that was unused for long is given up.
func TestConnectionEnds(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.links.Open(b.self)
		require.Equal(t, "reset b", <-b.events)
		(<-b.other).Close()
		require.Equal(t, "reset b", <-b.events)
		require.EqualValues(t, 2, b.dials.Load())
		time.Sleep(idleTimeout)
		(<-b.other).Close()
		time.Sleep(time.Second)
		require.Zero(t, b.count())
		b.links.Probe(b.self)
		time.Sleep(time.Second)
		require.EqualValues(t, 2, b.dials.Load(), "a probe makes no link")
		b.send("again")
		require.Equal(t, "again", <-b.got)
		require.EqualValues(t, 3, b.dials.Load())
	})
}

// Only a host that refuses connections, or at whose address another start answers, is reported as down.
func TestDown(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		inBubble(t, func(int) error { return syscall.ECONNREFUSED }, func(b *bench) {
			b.send("one")
			require.Equal(t, "down b", <-b.events)
			require.EqualValues(t, Redials, b.dials.Load())
			synctest.Wait()
			require.Zero(t, b.count())
		})
	})
	t.Run("another start", func(t *testing.T) {
		inBubble(t, nil, func(b *bench) {
			_, err := b.links.Connect(b.t.Context(), resolver.Host{ID: "b", Incarnation: 6, Addr: "b:1", Key: b.self.Key}, nil)
			require.ErrorIs(t, err, ErrOtherStart)
			b.links.Open(resolver.Host{ID: "b", Incarnation: 6, Addr: "b:1", Key: b.self.Key})
			require.Equal(t, "down b", <-b.events)
		})
	})
	t.Run("broken", func(t *testing.T) {
		inBubble(t, func(int) error { return syscall.ECONNRESET }, func(b *bench) {
			b.send("one")
			time.Sleep(time.Minute)
			require.Empty(t, b.events)
			require.EqualValues(t, Redials+1, b.dials.Load())
			require.Zero(t, b.count())
		})
	})
	t.Run("silent", func(t *testing.T) {
		inBubble(t, nil, func(b *bench) {
			c, err := b.links.Connect(b.t.Context(), b.self, nil)
			require.NoError(t, err)
			c.Close()
			b.dials.Store(0)
			b.net.Partition("a", "b")
			began := time.Now()
			b.send("one")
			for b.count() > 0 && time.Since(began) < time.Minute {
				time.Sleep(time.Second / 10)
			}
			require.Empty(t, b.events)
			require.EqualValues(t, 3, b.dials.Load(), "after 1, 2 and 4 times the timeout")
			require.InDelta(t, 7, time.Since(began).Seconds(), 0.2)
		})
	})
	t.Run("silent, perhaps far", func(t *testing.T) {
		inBubble(t, nil, func(b *bench) {
			b.net.Partition("a", "b")
			began := time.Now()
			b.send("one")
			for b.count() > 0 && time.Since(began) < time.Minute {
				time.Sleep(time.Second / 10)
			}
			require.Empty(t, b.events)
			require.EqualValues(t, 2, b.dials.Load())
			require.InDelta(t, 9, time.Since(began).Seconds(), 0.2)
		})
	})
}

// A host that is so far away that a connection takes longer than FailureTimeout is reached by the first attempt; by the
// second, if it was near when it was last connected.
func TestFar(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		reach := func(trip time.Duration) time.Duration {
			b.net.SetDelay(trip / 2)
			began := time.Now()
			b.send("one")
			require.Equal(t, "one", <-b.got)
			<-b.events
			b.links.mu.Lock()
			l := b.links.links[keyOf(b.self)]
			b.links.mu.Unlock()
			l.giveUp()
			return time.Since(began)
		}
		require.LessOrEqual(t, reach(400*time.Millisecond), 4*400*time.Millisecond)
		require.Equal(t, 6*400*time.Millisecond, b.links.Patience("b", time.Second))
		reach(20 * time.Millisecond)
		require.Equal(t, time.Second, b.links.Patience("b", time.Second))
		require.LessOrEqual(t, reach(450*time.Millisecond), time.Second+4*450*time.Millisecond)
		require.EqualValues(t, 4, b.dials.Load())
	})
}

// A process with another key than the record names is not spoken to.
func TestWrongKey(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		to := b.self
		to.Key[0]++
		_, err := b.links.Connect(b.t.Context(), to, nil)
		require.ErrorIs(t, err, transport.ErrWrongKey)
	})
}

// After Close nothing is dialled or sent, and a connection that is being made is closed.
func TestClose(t *testing.T) {
	for name, end := range map[string]func(*bench){
		"unconnected": func(*bench) {},
		"dialing":     func(b *bench) { b.net.SetDelay(100 * time.Millisecond); b.send("one") },
		"connected":   func(b *bench) { b.send("one"); <-b.events },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(b *bench) {
				end(b)
				b.links.Close()
				time.Sleep(time.Minute)
				dials := b.dials.Load()
				b.send("two")
				b.links.Open(b.self)
				b.links.Probe(b.self)
				time.Sleep(time.Minute)
				require.Equal(t, dials, b.dials.Load())
				require.Zero(t, b.count())
				require.Zero(t, b.net.Stats().Open)
			})
		})
	}
}

// What is sent concurrently with Close leaves neither a link nor a connection.
func TestSendDuringClose(t *testing.T) {
	for range 100 {
		inBubble(t, nil, func(b *bench) {
			for range 4 {
				b.spawn(func() {
					for range 10 {
						b.send("one")
						b.links.Open(b.self)
					}
				})
			}
			b.close()
			time.Sleep(time.Minute)
			require.Zero(t, b.count())
			require.Zero(t, b.net.Stats().Open)
		})
	}
}
