package resolver

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// world is a server and hosts that reach it, in a bubble.
type world struct {
	t      *testing.T
	net    *transport.Memory
	server *Server
	addr   transport.Peer
}

// inBubble runs f with a server.
func inBubble(t *testing.T, cfg ServerConfig, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: transport.NewMemory()}
		w.start(cfg)
		f(t, w)
	})
}

// start starts a server on the host dns.
func (w *world) start(cfg ServerConfig) {
	w.t.Helper()
	dns := w.net.Host("dns")
	cfg.Transport = dns
	s, err := NewServer(cfg)
	require.NoError(w.t, err)
	addr, err := s.Listen("dns:8000")
	require.NoError(w.t, err)
	w.server, w.addr = s, transport.Peer{Addr: addr, Key: dns.Key()}
	w.t.Cleanup(func() { s.Close(); dns.Close() })
}

// client returns a client on a host of the network.
func (w *world) client(host string) *Client {
	w.t.Helper()
	tr := w.net.Host(host)
	c, err := NewClient(ClientConfig{Transport: tr, Server: w.addr})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { c.Close(); tr.Close() })
	return c
}

// host returns a service host that proves the key of a host of the network.
func (w *world) host(name string) Host {
	return Host{ID: name, Incarnation: 1, Addr: name + ":7000", Key: w.net.Host(name).Key()}
}

// dial returns a connection without a client.
func (w *world) dial(host string) transport.Conn {
	w.t.Helper()
	tr := w.net.Host(host)
	c, err := tr.Dial(w.t.Context(), w.addr, nil)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { c.Close(); tr.Close() })
	return c
}

func (w *world) call(c transport.Conn, method string, params any) ([]byte, error) {
	w.t.Helper()
	p, err := transport.Marshal(params)
	require.NoError(w.t, err)
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	return c.Call(ctx, method, p)
}

// goroutines counts those of the bubble. runtime.NumGoroutine would count some that have just ended, too.
func (w *world) goroutines() int {
	synctest.Wait()
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), ", synctest bubble ")
}

// watching returns the number of watches in the server.
func (w *world) watching() (n int) {
	s := w.server.store
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, set := range s.watches {
		n += len(set)
	}
	return n
}

func recordBy(name string, h Host, nonce uint64) Record {
	return Record{Name: name, Epoch: 1, Active: h, ISR: []Host{h}, Proposer: h, Nonce: nonce}
}

func TestServerKeys(t *testing.T) {
	inBubble(t, ServerConfig{}, func(t *testing.T, w *world) {
		good, rogue := w.client("a"), w.client("rogue")
		a := w.host("a")
		r, err := good.CompareAndSwap(t.Context(), 0, recordBy("backend.com", a, 1))
		require.NoError(t, err)
		forged := r
		forged.Nonce++
		_, err = rogue.CompareAndSwap(t.Context(), 1, forged)
		require.ErrorIs(t, err, ErrRefused, "a host spoke for another")
		require.ErrorContains(t, err, a.Key.String())
		require.ErrorContains(t, err, w.host("rogue").Key.String())
		require.ErrorIs(t, rogue.Announce(t.Context(), a, []string{"backend.com"}, time.Minute), ErrRefused)
		keyless := a
		keyless.Key = transport.Key{}
		require.ErrorIs(t, good.Announce(t.Context(), keyless, []string{"backend.com"}, time.Minute), ErrRefused)
		require.NoError(t, good.Announce(t.Context(), a, []string{"backend.com"}, time.Minute))
		require.ErrorIs(t, rogue.Announce(t.Context(), a, nil, 0), ErrRefused, "a host withdrew another's announcement")

		// The same life with another key is another host, whoever it says it is.
		forged.Proposer = w.host("rogue")
		forged.Proposer.ID = "a"
		_, err = rogue.CompareAndSwap(t.Context(), 1, forged)
		require.ErrorIs(t, err, ErrRefused)
		require.ErrorContains(t, err, "change its key")
	})
}

func TestServerRights(t *testing.T) {
	var a, b Host
	var mu sync.Mutex
	asked := make(map[string]int)
	cfg := ServerConfig{
		Allow: func(service string, key transport.Key) bool {
			mu.Lock()
			defer mu.Unlock()
			asked[service]++
			return key == a.Key || service == "open.com"
		},
		AllowReset: func(service string, key transport.Key) bool { return key == b.Key },
	}
	inBubble(t, cfg, func(t *testing.T, w *world) {
		a, b = w.host("a"), w.host("b")
		ca, cb, ctx := w.client("a"), w.client("b"), t.Context()
		_, err := cb.CompareAndSwap(ctx, 0, recordBy("closed.com", b, 1))
		require.ErrorIs(t, err, ErrRefused)
		require.ErrorContains(t, err, `service "closed.com": host b/1 with key "`+b.Key.String())
		_, err = ca.CompareAndSwap(ctx, 0, recordBy("closed.com", a, 1))
		require.NoError(t, err)
		require.ErrorIs(t, cb.Announce(ctx, b, []string{"open.com", "closed.com"}, time.Minute), ErrRefused)
		require.NoError(t, cb.Announce(ctx, b, []string{"open.com"}, time.Minute))
		require.NoError(t, ca.Announce(ctx, a, []string{"open.com", "closed.com"}, time.Minute))
		_, err = cb.Get(ctx, "closed.com")
		require.NoError(t, err, "everyone may ask")

		r, err := ca.CompareAndSwap(ctx, 0, recordBy("open.com", a, 1))
		require.NoError(t, err)
		reset := recordBy("open.com", a, 2)
		reset.Loss, reset.Epoch = 1, 2
		_, err = ca.CompareAndSwap(ctx, r.Version, reset)
		require.ErrorIs(t, err, ErrRefused)
		require.ErrorContains(t, err, "no right to")
		reset.Proposer, reset.Active, reset.ISR = b, b, []Host{b}
		r, err = cb.CompareAndSwap(ctx, r.Version, reset)
		require.NoError(t, err)
		// To bring a retired service back takes no such right, a lost one does.
		gone := r
		gone.Nonce, gone.Active, gone.ISR = 3, Host{}, nil
		r, err = cb.CompareAndSwap(ctx, r.Version, gone)
		require.NoError(t, err)
		back := recordBy("open.com", a, 4)
		back.Loss, back.Epoch = 2, 3
		_, err = ca.CompareAndSwap(ctx, r.Version, back)
		require.NoError(t, err)
		lost := recordBy("lost.com", a, 1)
		lost.Loss, lost.Epoch = 5, 50
		_, err = ca.CompareAndSwap(ctx, 0, lost)
		require.ErrorIs(t, err, ErrRefused)

		// So do a restore of a missing record and a restore by a host that the record does not name. A member needs none.
		restore := func(c *Client, name string, expect uint64, loss, epoch uint64, by Host, isr ...Host) error {
			next := recordBy(name, by, epoch)
			next.Loss, next.Epoch, next.ISR = loss, epoch, isr
			_, err := c.CompareAndSwap(ctx, expect, next)
			return err
		}
		err = restore(ca, "lost.com", 0, 0, 50, a, a, b)
		require.ErrorIs(t, err, ErrRefused)
		require.ErrorContains(t, err, "no right to")
		require.ErrorIs(t, restore(ca, "lost.com", 0, 7, 50, a, a), ErrRefused)
		_, err = ca.CompareAndSwap(ctx, 0, func() Record { r := recordBy("new.com", a, 1); r.Loss = 7 << 40; return r }())
		require.NoError(t, err, "to create a service takes no such right")
		require.NoError(t, restore(ca, "new.com", 1, 7<<40, 50, a, a, b), "a member")
		require.NoError(t, restore(cb, "open.com", r.Version+1, 2, 50, b, b), "a stranger with the right")
		err = restore(ca, "open.com", r.Version+2, 2, 100, a, a, b)
		require.ErrorIs(t, err, ErrRefused)
		require.ErrorContains(t, err, "no right to")
		require.NoError(t, restore(cb, "open.com", r.Version+2, 2, 100, b, b, a))
		require.NotZero(t, asked["closed.com"])
	})
}

func TestServerLimits(t *testing.T) {
	cfg := ServerConfig{MaxRecords: 2, limits: limits{hosts: 2, names: 5, watches: 3, conns: 4}}
	inBubble(t, cfg, func(t *testing.T, w *world) {
		ctx := t.Context()
		c, a := w.client("a"), w.host("a")
		r, err := c.CompareAndSwap(ctx, 0, recordBy("one.com", a, 1))
		require.NoError(t, err)
		_, err = c.CompareAndSwap(ctx, 0, recordBy("two.com", a, 1))
		require.NoError(t, err)
		_, err = c.CompareAndSwap(ctx, 0, recordBy("three.com", a, 1))
		require.ErrorIs(t, err, ErrRefused)
		require.ErrorContains(t, err, "full with 2 services")
		r.Nonce++
		_, err = c.CompareAndSwap(ctx, 1, r)
		require.NoError(t, err, "a full resolver must still take changes of what it has")

		var hs []Host
		for i := range 3 {
			hs = append(hs, Host{ID: fmt.Sprint("host-", i), Incarnation: 1, Key: a.Key})
		}
		require.NoError(t, c.Announce(ctx, hs[0], []string{"1", "2", "3"}, time.Minute))
		require.NoError(t, c.Announce(ctx, hs[1], []string{"1", "2"}, time.Minute))
		err = c.Announce(ctx, hs[2], []string{"1"}, time.Minute)
		require.ErrorIs(t, err, ErrRefused)
		require.ErrorContains(t, err, "full with 2 hosts")
		err = c.Announce(ctx, hs[1], []string{"1", "2", "3"}, time.Minute)
		require.ErrorIs(t, err, ErrRefused)
		require.ErrorContains(t, err, "6 services announced by all hosts, more than 5")
		time.Sleep(2 * time.Minute)
		require.NoError(t, c.Announce(ctx, hs[2], []string{"1", "2", "3"}, time.Minute), "what has run out must make room")
		require.NoError(t, c.Announce(ctx, hs[1], nil, 0))
		require.NoError(t, c.Announce(ctx, hs[0], []string{"1", "2"}, time.Minute), "what was withdrawn must make room")

		conn := w.dial("raw")
		var ended sync.WaitGroup
		for i := range 3 {
			p, err := transport.Marshal(watchParams{Name: "nobody.com", ID: uint64(i)})
			require.NoError(t, err)
			ended.Add(1)
			conn.Go(methodWatch, p, func([]byte, error) { ended.Done() })
		}
		_, err = w.call(conn, methodWatch, watchParams{Name: "nobody.com", ID: 9})
		require.ErrorIs(t, err, ErrRefused)
		require.ErrorContains(t, err, `"nobody.com": too many watches: the limits are 3 on one connection`)
		_, err = w.call(w.dial("raw2"), methodWatch, watchParams{Name: "one.com"})
		require.NoError(t, err, "the limit is one of each connection")

		w.dial("raw3")
		raw4 := w.net.Host("raw4")
		defer raw4.Close()
		conn4, err := raw4.Dial(ctx, w.addr, nil)
		if err == nil {
			_, err = w.call(conn4, methodGet, nameParams{Name: "one.com"})
		}
		require.Error(t, err, "a fifth connection")
		conn.Close()
		ended.Wait()
		synctest.Wait()
		_, err = w.call(w.dial("raw5"), methodGet, nameParams{Name: "one.com"})
		require.NoError(t, err, "a connection that ended must make room")
	})
}

// All connections together have as many watches as some of them may have, and no more.
func TestServerWatchesInAll(t *testing.T) {
	inBubble(t, ServerConfig{limits: limits{watches: 2}}, func(t *testing.T, w *world) {
		p := func(id uint64) []byte { return fuzzMarshal(t, watchParams{Name: "nobody.com", ID: id}) }
		var conns []transport.Conn
		var refused atomic.Int32
		for i := range watchedBy + 2 {
			conn := w.dial(fmt.Sprint("raw", i))
			conns = append(conns, conn)
			for id := range uint64(2) {
				conn.Go(methodWatch, p(id), func(_ []byte, err error) {
					if errors.Is(err, ErrRefused) {
						refused.Add(1)
					}
				})
			}
			synctest.Wait()
		}
		require.Equal(t, 2*watchedBy, w.watching())
		require.EqualValues(t, 4, refused.Load())
		for _, conn := range conns {
			conn.Close()
		}
		time.Sleep(2 * time.Second)
		require.Zero(t, w.watching())
		require.Zero(t, w.server.watching.Load())
	})
}

func TestServerWatches(t *testing.T) {
	inBubble(t, ServerConfig{}, func(t *testing.T, w *world) {
		ctx, a := t.Context(), w.host("a")
		c := w.client("a")
		r, err := c.CompareAndSwap(ctx, 0, recordBy("backend.com", a, 1))
		require.NoError(t, err)
		conn := w.dial("raw")
		before := w.goroutines()
		answers := make(chan error, 1000)
		for i := range 1000 {
			p, err := transport.Marshal(watchParams{Name: "backend.com", After: 1, ID: uint64(i)})
			require.NoError(t, err)
			conn.Go(methodWatch, p, func(_ []byte, err error) { answers <- err })
		}
		synctest.Wait()
		require.Equal(t, 1000, w.watching())
		require.LessOrEqual(t, w.goroutines(), before+2, "a watch must not cost a goroutine")

		_, err = w.call(conn, methodWatch, watchParams{Name: "backend.com", After: 1, ID: 7})
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorContains(t, err, "watch 7 is in progress")
		_, err = w.call(conn, methodUnwatch, unwatchParams{ID: 7})
		require.NoError(t, err)
		require.ErrorIs(t, <-answers, transport.ErrClosed)
		require.Equal(t, 999, w.watching())

		other := w.dial("raw2")
		for _, name := range []string{"backend.com", "nobody.com"} {
			p, err := transport.Marshal(watchParams{Name: name, After: 1, ID: uint64(len(name))})
			require.NoError(t, err)
			other.Go(methodWatch, p, func([]byte, error) {})
		}
		synctest.Wait()
		require.Equal(t, 1001, w.watching())
		other.Close()
		synctest.Wait()
		require.Equal(t, 999, w.watching(), "a closed connection's watches must be forgotten")

		r.Nonce++
		_, err = c.CompareAndSwap(ctx, 1, r)
		require.NoError(t, err)
		for range 999 {
			require.NoError(t, <-answers)
		}
		require.Zero(t, w.watching())
	})
}

// TestServerWire speaks with the server as a client in another language does.
func TestServerWire(t *testing.T) {
	inBubble(t, ServerConfig{}, func(t *testing.T, w *world) {
		a := w.host("a")
		conn := w.dial("a")
		host := []any{a.ID, a.Incarnation, a.Addr, a.Key[:]}
		nobody := []any{"", 0, "", make([]byte, 32)}
		rec := []any{"backend.com", 0, 0, 0, 1, host, []any{host}, 0, host, 17}
		data, err := w.call(conn, "resolver.cas", []any{0, rec})
		require.NoError(t, err)
		decode := func(data []byte) (v []any) {
			require.NoError(t, transport.Unmarshal(data, &v))
			return v
		}
		got := decode(data)
		require.Len(t, got, 10)
		require.EqualValues(t, "backend.com", got[0])
		require.EqualValues(t, 1, got[2])

		data, err = w.call(conn, "resolver.cas", []any{0, append(rec[:9:9], 18)})
		require.ErrorIs(t, err, ErrConflict)
		require.Nil(t, data)
		var e *transport.Error
		require.ErrorAs(t, err, &e)
		require.EqualValues(t, 17, decode(e.Data)[9], "the present record is the error's data")

		retire := append([]any(nil), rec...)
		retire[5], retire[6], retire[9] = nobody, []any{}, 19
		data, err = w.call(conn, "resolver.cas", []any{1, retire})
		require.NoError(t, err)
		require.Equal(t, []any{}, decode(data)[6], "an empty set must be an empty array, never nil")
		data, err = w.call(conn, "resolver.get", []any{"backend.com"})
		require.NoError(t, err)
		require.Equal(t, []any{}, decode(data)[6])
		_, err = w.call(conn, "resolver.watch", []any{"backend.com", 1})
		require.NoError(t, err, "a later field may be missing")

		data, err = w.call(conn, "resolver.hosts", []any{"backend.com"})
		require.NoError(t, err)
		require.Equal(t, []byte{0x90}, data, "no hosts must be an empty array, never nil")
		_, err = w.call(conn, "resolver.announce", []any{host, 60_000, []byte{}, 0, []any{"backend.com"}})
		require.NoError(t, err)
		data, err = w.call(conn, "resolver.hosts", []any{"backend.com"})
		require.NoError(t, err)
		require.Len(t, decode(data), 1)

		_, err = w.call(conn, "resolver.drop", []any{"backend.com"})
		require.ErrorIs(t, err, transport.ErrNoMethod)
		for _, params := range []any{"backend.com", []any{[]any{}}, []any{[]any{"x"}, -1}, 5} {
			for _, method := range []string{methodGet, methodCAS, methodWatch, methodUnwatch, methodAnnounce, methodHosts} {
				_, err := w.call(conn, method, params)
				require.ErrorIs(t, err, ErrInvalid, "%s %v", method, params)
			}
		}
		_, err = w.call(conn, "resolver.cas", []any{})
		require.ErrorIs(t, err, ErrInvalid, "fields that are missing are zero")
		_, err = conn.Call(t.Context(), "resolver.get", nil)
		require.ErrorIs(t, err, ErrInvalid)
	})
}

func TestServerAnnouncementParts(t *testing.T) {
	inBubble(t, ServerConfig{limits: limits{hosts: 3}}, func(t *testing.T, w *world) {
		conn := w.dial("a")
		a := w.host("a")
		b := a
		b.ID = "b"
		say := func(h Host, part uint8, digest string, services ...string) (known bool, err error) {
			t.Helper()
			p := announceParams{Host: h, TTL: 60_000, Digest: []byte(digest), Part: part, Services: services}
			data, err := w.call(conn, methodAnnounce, p)
			if err == nil {
				require.NoError(t, transport.Unmarshal(data, &known))
			}
			return known, err
		}
		hosts := func(name string) int {
			hs, err := w.server.store.hostsOf(name)
			require.NoError(t, err)
			return len(hs)
		}
		known, err := say(a, partRenew, "x")
		require.NoError(t, err)
		require.False(t, known)
		say(a, partMore, "x", "1")
		say(b, partMore, "y", "1")
		require.Zero(t, hosts("1"), "half a list was announced")
		say(a, partMore, "x", "2")
		known, err = say(a, partLast, "x", "3")
		require.NoError(t, err)
		require.True(t, known)
		require.Equal(t, []int{1, 1, 1}, []int{hosts("1"), hosts("2"), hosts("3")}, "lists of two hosts must not mix")
		say(b, partLast, "y", "2")
		require.Equal(t, []int{2, 2, 1}, []int{hosts("1"), hosts("2"), hosts("3")})

		known, err = say(a, partRenew, "x")
		require.NoError(t, err)
		require.True(t, known)
		known, err = say(a, partRenew, "other")
		require.NoError(t, err)
		require.False(t, known)
		known, err = say(a, partRenew, "")
		require.NoError(t, err)
		require.False(t, known, "an empty digest stands for no list")
		moved := a
		moved.Addr = "elsewhere:1"
		known, err = say(moved, partRenew, "x")
		require.NoError(t, err)
		require.False(t, known, "a renewal must not keep an old address")
		time.Sleep(50 * time.Second)
		known, err = say(a, partRenew, "x")
		require.NoError(t, err)
		require.True(t, known)
		time.Sleep(30 * time.Second)
		require.Equal(t, 1, hosts("1"), "the renewed one is left")
		time.Sleep(time.Minute)
		known, err = say(a, partRenew, "x")
		require.NoError(t, err)
		require.False(t, known, "what has run out can't be renewed")

		// The beginning of another list is dropped.
		say(a, partMore, "x", "1")
		say(a, partLast, "y", "2")
		require.Equal(t, []int{0, 1}, []int{hosts("1"), hosts("2")})

		_, err = say(a, 9, "x")
		require.ErrorIs(t, err, ErrInvalid)
		_, err = say(a, partLast, strings.Repeat("d", maxDigest+1))
		require.ErrorIs(t, err, ErrInvalid)
		_, err = w.call(conn, methodAnnounce, announceParams{Host: a, TTL: 1 << 60})
		require.ErrorIs(t, err, ErrInvalid)
		// What a connection can have begun is bounded, over all its hosts.
		many := make([]string, partNames)
		for i := range many {
			many[i] = fmt.Sprint("service-", i)
		}
		for i := 0; err == nil || i == 0; i++ {
			require.LessOrEqual(t, i, maxServices/partNames)
			_, err = say([]Host{a, b}[i%2], partMore, "z", many...)
		}
		require.ErrorIs(t, err, ErrInvalid)
		for i := range 9 {
			h := a
			h.ID = fmt.Sprint("host-", i)
			_, err = say(h, partMore, "z")
		}
		require.ErrorIs(t, err, ErrInvalid)
	})
}

func TestServerClose(t *testing.T) {
	inBubble(t, ServerConfig{}, func(t *testing.T, w *world) {
		c := w.client("a")
		_, err := c.CompareAndSwap(t.Context(), 0, recordBy("backend.com", w.host("a"), 1))
		require.NoError(t, err)
		conn := w.dial("raw")
		p, err := transport.Marshal(watchParams{Name: "backend.com", After: 1})
		require.NoError(t, err)
		ended := make(chan error, 1)
		conn.Go(methodWatch, p, func(_ []byte, err error) { ended <- err })
		synctest.Wait()
		var closing sync.WaitGroup
		for range 4 {
			closing.Go(func() {
				assert.NoError(t, w.server.Close())
				assert.Empty(t, w.server.conns, "Close must wait until each connection's handler was told its end")
			})
		}
		require.NoError(t, w.server.Wait())
		closing.Wait()
		require.Error(t, <-ended)
		require.Zero(t, w.watching())
		_, err = w.server.Listen("dns:8001")
		require.ErrorIs(t, err, transport.ErrClosed)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err = c.Get(ctx, "backend.com")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestServerConfigErrors(t *testing.T) {
	_, err := NewServer(ServerConfig{})
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, "ServerConfig.Transport")
	tr := transport.NewMemory().Host("dns")
	for field, cfg := range map[string]ServerConfig{
		"MaxRecords": {Transport: tr, MaxRecords: -1},
	} {
		_, err := NewServer(cfg)
		require.ErrorContains(t, err, "ServerConfig."+field)
	}
}
