package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

func TestDialNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	tr, err := transport.NewTCP(transport.TCPConfig{Open: true})
	require.NoError(t, err)
	defer tr.Close()
	begin := time.Now()
	_, err = Dial(t.Context(), ClientConfig{Transport: tr, Server: transport.Peer{Addr: addr}})
	require.ErrorContains(t, err, "no resolver answers at "+addr)
	require.Less(t, time.Since(begin), 5*time.Second)

	c, err := NewClient(ClientConfig{Transport: tr, Server: transport.Peer{Addr: addr}})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = c.Get(ctx, "backend.com")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "get the record of backend.com")
	require.ErrorContains(t, err, "no resolver answers at "+addr)
	require.NoError(t, c.Close())
}

func TestClientConnection(t *testing.T) {
	inBubble(t, ServerConfig{}, func(t *testing.T, w *world) {
		before := w.goroutines()
		c := w.client("a")
		require.Equal(t, before, w.goroutines(), "a client that was never used must have no goroutine")
		require.Zero(t, w.net.Stats().Dials)
		var calls sync.WaitGroup
		for range 50 {
			calls.Go(func() {
				_, err := c.Get(t.Context(), "backend.com")
				assert.ErrorIs(t, err, ErrNotFound)
			})
		}
		calls.Wait()
		synctest.Wait()
		require.EqualValues(t, 1, w.net.Stats().Dials, "calls must share one connection")
		require.LessOrEqual(t, w.goroutines(), before+2, "an idle client has the connection's goroutine, and the server its own")

		// A call that is cancelled harms no other.
		ctx, cancel := context.WithCancel(t.Context())
		calls.Go(func() {
			_, err := c.Watch(ctx, "backend.com", 0)
			assert.ErrorIs(t, err, context.Canceled)
		})
		synctest.Wait()
		require.Equal(t, 1, w.watching())
		cancel()
		calls.Wait()
		synctest.Wait()
		require.Zero(t, w.watching(), "the server must learn that a watch has ended")
		_, err := c.Get(t.Context(), "backend.com")
		require.ErrorIs(t, err, ErrNotFound)
		require.EqualValues(t, 1, w.net.Stats().Dials)

		// A broken connection is made again when it is needed, and not before.
		w.net.Cut("a", "dns")
		time.Sleep(time.Hour)
		require.Zero(t, w.net.Stats().Open)
		require.EqualValues(t, 1, w.net.Stats().Dials)
		_, err = c.Get(t.Context(), "backend.com")
		require.ErrorIs(t, err, ErrNotFound)
		require.EqualValues(t, 2, w.net.Stats().Dials)

		for range 2 {
			require.NoError(t, c.Close())
			require.Nil(t, c.conn, "Close must wait until the connection's handler was told its end")
		}
		_, err = c.Get(t.Context(), "backend.com")
		require.ErrorIs(t, err, transport.ErrClosed)
		synctest.Wait()
		require.Zero(t, w.net.Stats().Open)
	})
}

func TestClientClose(t *testing.T) {
	inBubble(t, ServerConfig{}, func(t *testing.T, w *world) {
		c := w.client("a")
		var calls sync.WaitGroup
		calls.Go(func() {
			_, err := c.Watch(t.Context(), "backend.com", 0)
			assert.ErrorIs(t, err, transport.ErrClosed)
		})
		synctest.Wait()
		for range 3 {
			calls.Go(func() { assert.NoError(t, c.Close()) })
		}
		calls.Wait()

		// While it dials, and while it pauses between attempts.
		for _, wait := range []time.Duration{time.Millisecond, 30 * time.Second} {
			c := w.client("b")
			w.net.Partition("b", "dns")
			calls.Go(func() {
				_, err := c.Get(t.Context(), "backend.com")
				assert.ErrorIs(t, err, transport.ErrClosed)
			})
			time.Sleep(wait)
			begin := time.Now()
			require.NoError(t, c.Close())
			calls.Wait()
			require.Less(t, time.Since(begin), 3*time.Second)
		}
	})
}

// TestClientLostReply loses the reply of a change that was made: the resend must be told that it was.
func TestClientLostReply(t *testing.T) {
	inBubble(t, ServerConfig{}, func(t *testing.T, w *world) {
		c, a := w.client("a"), w.host("a")
		_, err := c.Get(t.Context(), "backend.com")
		require.ErrorIs(t, err, ErrNotFound)
		w.net.Blackhole("dns", "a") // On this connection the server hears the client, and not the other way round.
		begin := time.Now()
		r, err := c.CompareAndSwap(t.Context(), 0, recordBy("backend.com", a, 1))
		require.NoError(t, err, "a change whose reply was lost")
		require.EqualValues(t, 1, r.Version)
		require.Greater(t, time.Since(begin), time.Second)
		require.Less(t, time.Since(begin), 2*time.Second, "an attempt without an answer must be given up after 1 s")
		require.EqualValues(t, 2, w.net.Stats().Dials)

		// Another has changed the record before the resend.
		w.net.Blackhole("dns", "a")
		r.Nonce++
		other := w.client("b")
		b := w.host("b")
		go func() {
			time.Sleep(500 * time.Millisecond)
			reset := recordBy("backend.com", b, 9)
			reset.Loss, reset.Epoch = 1, 2
			_, err := other.CompareAndSwap(t.Context(), 2, reset)
			assert.NoError(t, err)
		}()
		r, err = c.CompareAndSwap(t.Context(), 1, r)
		require.ErrorIs(t, err, ErrConflict)
		require.EqualValues(t, 3, r.Version, "the conflict must come with the record that is the truth now")
		require.Equal(t, b, r.Active)
	})
}

func TestClientUnknownOutcome(t *testing.T) {
	inBubble(t, ServerConfig{}, func(t *testing.T, w *world) {
		c, a := w.client("a"), w.host("a")
		_, err := c.Get(t.Context(), "backend.com")
		require.ErrorIs(t, err, ErrNotFound)
		w.net.Block("dns", "a")
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		_, err = c.CompareAndSwap(ctx, 0, recordBy("backend.com", a, 1))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "change backend.com at version 0 (outcome unknown)")
		require.ErrorContains(t, err, "no answer from dns:8000 within 1s")
		for _, sentinel := range []error{ErrConflict, ErrRefused, ErrInvalid, ErrAmnesia, ErrNotFound} {
			require.NotErrorIs(t, err, sentinel)
		}
		w.net.HealAll()
		r, err := c.Get(t.Context(), "backend.com")
		require.NoError(t, err, "this time it was made")
		require.EqualValues(t, 1, r.Version)
	})
}

// TestClientServerRestarts lets the server go and come back under calls of each kind.
func TestClientServerRestarts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "records")
	inBubble(t, ServerConfig{File: file}, func(t *testing.T, w *world) {
		c, a := w.client("a"), w.host("a")
		require.NoError(t, c.Announce(t.Context(), a, []string{"backend.com"}, time.Minute))
		r, err := c.CompareAndSwap(t.Context(), 0, recordBy("backend.com", a, 1))
		require.NoError(t, err)
		var calls sync.WaitGroup
		calls.Go(func() {
			got, err := c.Watch(t.Context(), "backend.com", 1)
			assert.NoError(t, err)
			assert.EqualValues(t, 2, got.Version)
		})
		synctest.Wait()
		dns := w.net.Host("dns")
		w.net.Crash("dns")
		require.NoError(t, w.server.Close())
		dns.Close()
		calls.Go(func() {
			got, err := c.Get(t.Context(), "backend.com")
			assert.NoError(t, err)
			assert.Equal(t, r.Generation, got.Generation)
		})
		calls.Go(func() {
			next := r
			next.Nonce++
			_, err := c.CompareAndSwap(t.Context(), 1, next)
			assert.NoError(t, err)
		})
		calls.Go(func() {
			assert.NoError(t, c.Announce(t.Context(), a, []string{"backend.com"}, time.Minute))
			hs, err := c.Hosts(t.Context(), "backend.com")
			assert.NoError(t, err)
			assert.Equal(t, []Host{a}, hs, "a renewal that the server can't know must become a full announcement")
		})
		time.Sleep(time.Minute)
		dials := w.net.Stats().Dials
		require.Less(t, dials, int64(150), "a resolver that is away must not be hammered: %d dials in a minute", dials)
		w.start(ServerConfig{File: file})
		begin := time.Now()
		calls.Wait()
		require.LessOrEqual(t, time.Since(begin), 2*time.Second)
	})
}

// TestClientAnnounceCost asserts that a list of services is sent once.
func TestClientAnnounceCost(t *testing.T) {
	inBubble(t, ServerConfig{}, func(t *testing.T, w *world) {
		c, a := w.client("a"), w.host("a")
		services := make([]string, 30_000)
		for i := range services {
			services[i] = fmt.Sprintf("service-%05d.example", i)
		}
		messages := func(services []string, ttl time.Duration) int64 {
			before := w.net.Stats().Messages
			require.NoError(t, c.Announce(t.Context(), a, services, ttl))
			return w.net.Stats().Messages - before
		}
		_, err := c.Get(t.Context(), "backend.com") // Connects.
		require.ErrorIs(t, err, ErrNotFound)
		const whole = 12 // six parts, and their replies
		require.EqualValues(t, whole, messages(services, time.Minute))
		require.EqualValues(t, 2, messages(services, time.Minute), "a renewal is one call and its reply")
		services[0], services[9] = services[9], services[0]
		require.EqualValues(t, 2, messages(services, time.Minute), "the order does not matter")
		require.EqualValues(t, whole, messages(services[1:], time.Minute))
		require.EqualValues(t, 2, messages(nil, 0))
		require.EqualValues(t, whole, messages(services[1:], time.Minute), "what was withdrawn is announced anew")

		// Two lists at once must not mix, and a broken connection must not leave half a list.
		var calls sync.WaitGroup
		for i := range 4 {
			calls.Go(func() {
				assert.NoError(t, c.Announce(t.Context(), a, services[i*2_000:][:20_000], time.Minute))
			})
		}
		calls.Wait()
		p := w.server.store.hosts["a"]
		require.Len(t, p.services, 20_000)
		w.net.CutAfter("a", "dns", 400_000)
		require.NoError(t, c.Announce(t.Context(), a, services, time.Minute))
		require.Len(t, w.server.store.hosts["a"].services, 30_000)
		require.EqualValues(t, 2, w.net.Stats().Dials)
	})
}

func TestClientWrongKey(t *testing.T) {
	inBubble(t, ServerConfig{}, func(t *testing.T, w *world) {
		w.addr.Key = w.host("b").Key
		c := w.client("a")
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := c.Get(ctx, "backend.com")
		require.ErrorIs(t, err, transport.ErrWrongKey, "a process that is not the resolver must not be asked repeatedly")
		require.ErrorContains(t, err, "resolver: get the record of backend.com: the resolver at dns:8000 has another key: ")
		require.ErrorContains(t, err, w.addr.Key.String())
		require.NotContains(t, err.Error(), "no resolver answers")
		require.Less(t, time.Since(begin), time.Second)
		_, err = Dial(ctx, ClientConfig{Transport: w.net.Host("a"), Server: w.addr})
		require.ErrorIs(t, err, transport.ErrWrongKey)
		require.ErrorContains(t, err, "resolver: the resolver at dns:8000 has another key: ")
	})

	// Without TLS nobody is asked.
	tr, err := transport.NewTCP(transport.TCPConfig{InsecurePlaintext: true})
	require.NoError(t, err)
	defer tr.Close()
	pinned := transport.Peer{Addr: "127.0.0.1:1", Key: transport.NewIdentity().Key()}
	_, err = Dial(t.Context(), ClientConfig{Transport: tr, Server: pinned})
	require.ErrorIs(t, err, transport.ErrWrongKey)
	require.ErrorContains(t, err, "resolver: the resolver at 127.0.0.1:1 does not prove its key: ")
}

// TestClientErrors asserts that each error names the question and its subject.
func TestClientErrors(t *testing.T) {
	calls := func(t *testing.T, c *Client, ctx context.Context, check func(what string, err error)) {
		h := Host{ID: "host-a", Incarnation: 1}
		_, err := c.Get(ctx, "s.example")
		check("get the record of s.example", err)
		_, err = c.CompareAndSwap(ctx, 0, firstRecord("s.example"))
		check("change s.example at version 0", err)
		_, err = c.Watch(ctx, "s.example", 0)
		check("watch s.example", err)
		_, err = c.Hosts(ctx, "s.example")
		check("ask for the hosts of s.example", err)
		check("announce host host-a", c.Announce(ctx, h, []string{"s.example"}, time.Minute))
	}
	against := func(name string, reply answers, closed bool, is error) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := transport.NewMemory()
				dns, tr := net.Host("dns"), net.Host("a")
				defer dns.Close()
				defer tr.Close()
				l, err := dns.Listen("dns:8000", func(transport.Conn) transport.Handler { return reply })
				require.NoError(t, err)
				defer l.Close()
				c, err := Dial(t.Context(), ClientConfig{Transport: tr, Server: transport.Peer{Addr: "dns:8000"}})
				require.NoError(t, err)
				defer c.Close()
				if closed {
					c.Close()
				}
				ctx := t.Context()
				if is == context.Canceled {
					var cancel context.CancelFunc
					ctx, cancel = context.WithCancel(ctx)
					cancel()
				}
				calls(t, c, ctx, func(what string, err error) {
					if is == nil && strings.HasPrefix(what, "announce") && err == nil {
						return // the answer to the last part of a list is not read
					}
					require.Error(t, err, what)
					if is != nil {
						require.ErrorIs(t, err, is)
					}
					require.True(t, strings.HasPrefix(err.Error(), "resolver: "+what), "%s: %v", what, err)
					require.Equal(t, 1, strings.Count(err.Error(), "resolver: "), "%v", err)
				})
			})
		})
	}
	noMethod := transport.Errorf(transport.CodeNoMethod, "transport: no method here")
	against("no resolver", answers{err: noMethod}, false, transport.ErrNoMethod)
	against("a resolver that ends", answers{err: errClosed}, false, transport.ErrClosed)
	against("nonsense", answers{data: []byte{5}}, false, nil)
	against("cancelled", answers{}, false, context.Canceled)
	against("closed", answers{}, true, transport.ErrClosed)
	t.Run("nobody", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tr := transport.NewMemory().Host("a")
			defer tr.Close()
			c, err := NewClient(ClientConfig{Transport: tr, Server: transport.Peer{Addr: "dns:8000"}})
			require.NoError(t, err)
			defer c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			calls(t, c, ctx, func(what string, err error) {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.True(t, strings.HasPrefix(err.Error(), "resolver: "+what), "%s: %v", what, err)
			})
		})
	})
}

// answers is a server that answers each call with the same bytes, or the same error.
type answers struct {
	data []byte
	err  error
}

func (a answers) Handle(_ transport.Conn, r *transport.Request) { r.Reply(a.data, a.err) }
func (a answers) Closed(transport.Conn, error)                  {}

// TestClientBadAnswers asserts that what is no answer is an error, and never a record.
func TestClientBadAnswers(t *testing.T) {
	conflict := &transport.Error{Code: CodeConflict, Message: "conflict", Data: []byte{0xa1, 'x'}}
	for _, a := range []answers{
		{data: []byte{0xa1, 'x'}}, {data: []byte{0xc0}}, {data: []byte{5}}, {err: conflict},
		{err: errors.New("out of order")},
	} {
		synctest.Test(t, func(t *testing.T) {
			net := transport.NewMemory()
			dns, tr := net.Host("dns"), net.Host("a")
			defer dns.Close()
			defer tr.Close()
			l, err := dns.Listen("dns:8000", func(transport.Conn) transport.Handler { return a })
			require.NoError(t, err)
			defer l.Close()
			c, err := Dial(t.Context(), ClientConfig{Transport: tr, Server: transport.Peer{Addr: "dns:8000"}})
			require.NoError(t, err)
			defer c.Close()
			r, err := c.Get(t.Context(), "backend.com")
			require.Error(t, err)
			require.Zero(t, r)
			r, err = c.CompareAndSwap(t.Context(), 0, firstRecord("backend.com"))
			require.Error(t, err)
			require.Zero(t, r)
			require.NotErrorIs(t, err, ErrConflict, "a conflict without a record settles nothing")
			_, err = c.Watch(t.Context(), "backend.com", 0)
			require.Error(t, err)
			_, err = c.Hosts(t.Context(), "backend.com")
			require.Error(t, err)
		})
	}
}

func TestClientConfigErrors(t *testing.T) {
	tr := transport.NewMemory().Host("a")
	for field, cfg := range map[string]ClientConfig{
		"Transport": {Server: transport.Peer{Addr: "x"}},
		"Server":    {Transport: tr},
		"Timeout":   {Transport: tr, Server: transport.Peer{Addr: "x"}, Timeout: -1},
	} {
		_, err := NewClient(cfg)
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorContains(t, err, "ClientConfig."+field)
		_, err = Dial(t.Context(), cfg)
		require.Error(t, err)
	}
}
