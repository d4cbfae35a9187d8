package resolver

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// tryDial dials from a host of the network and closes the connection at the end of the test. It returns an error if the
// server refuses the connection.
func (w *world) tryDial(host string) (transport.Conn, error) {
	c, err := w.net.Host(host).Dial(w.t.Context(), w.addr, nil)
	if err == nil {
		w.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// used returns the number of keys that the server counts.
func (w *world) used() int {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	return len(w.server.used)
}

func TestConnectionsOfOneKey(t *testing.T) {
	var log logLines
	cfg := ServerConfig{Logger: slog.New(&log), limits: limits{keyConns: 3}}
	inBubble(t, cfg, func(t *testing.T, w *world) {
		const refused = "connection refused: too many connections of one key"
		greedy, other := w.net.Host("greedy"), w.net.Host("other")
		defer other.Close()
		defer greedy.Close()
		var conns []transport.Conn
		for range 3 {
			c, err := w.tryDial("greedy")
			require.NoError(t, err)
			conns = append(conns, c)
		}
		for range 100 {
			_, err := w.tryDial("greedy")
			require.ErrorIs(t, err, transport.ErrClosed)
			require.ErrorContains(t, err, "refused the connection")
		}
		require.Len(t, log.with(refused), 1)
		require.Contains(t, log.with(refused)[0], greedy.Key().String())
		_, err := w.tryDial("other")
		require.NoError(t, err, "another key has its own share")

		time.Sleep(2 * time.Second)
		_, err = w.tryDial("greedy")
		require.Error(t, err)
		require.Contains(t, log.with(refused)[1], "more=99", "the suppressed lines are counted")

		// Connections that ended are not counted: a process can come and go.
		for range 20 {
			conns[0].Close()
			synctest.Wait()
			conns[0], err = w.tryDial("greedy")
			require.NoError(t, err)
		}
		require.Equal(t, 2, w.used())
		greedy.Close()
		other.Close()
		synctest.Wait()
		require.Zero(t, w.used(), "a key without connections must be forgotten")
	})
}

// TestConnectionsWithoutKeys asserts that clients that prove no key do not share one quota.
func TestConnectionsWithoutKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: transport.NewMemory()}
		for _, host := range []string{"dns", "client"} {
			tr, err := w.net.HostWith(host, transport.TCPConfig{InsecurePlaintext: true})
			require.NoError(t, err)
			defer tr.Close()
		}
		w.start(ServerConfig{limits: limits{keyConns: 1, keyWatches: 1, keyHosts: 1}})
		for i := range 3 {
			c, err := w.tryDial("client")
			require.NoError(t, err)
			c.Go(methodWatch, fuzzMarshal(t, watchParams{Name: "nobody.com"}), func([]byte, error) {})
			h := Host{ID: fmt.Sprint("host-", i), Incarnation: 1, Key: transport.Key{1}}
			_, err = w.call(c, methodAnnounce, announceParams{Host: h, TTL: 60_000, Services: []string{"x"}})
			require.NoError(t, err, "a key that is not proved has no quota")
		}
		synctest.Wait()
		require.Equal(t, 3, w.watching())
	})
}

func TestWatchesOfOneKey(t *testing.T) {
	var log logLines
	cfg := ServerConfig{Logger: slog.New(&log), limits: limits{keyWatches: 3}}
	inBubble(t, cfg, func(t *testing.T, w *world) {
		tr := w.net.Host("greedy")
		defer tr.Close()
		first, err := w.tryDial("greedy")
		require.NoError(t, err)
		second, err := w.tryDial("greedy")
		require.NoError(t, err)
		watch := func(c transport.Conn, id uint64) {
			c.Go(methodWatch, fuzzMarshal(t, watchParams{Name: "nobody.com", ID: id}), func([]byte, error) {})
			synctest.Wait()
		}
		watch(first, 1)
		watch(first, 2)
		watch(second, 1)
		for range 50 {
			_, err = w.call(second, methodWatch, watchParams{Name: "nobody.com", ID: 2})
			require.ErrorIs(t, err, ErrRefused)
			require.ErrorContains(t, err, `service "nobody.com": too many watches: the limit is 3 for key "`+tr.Key().String())
		}
		require.Len(t, log.with("watch refused"), 1)
		require.EqualValues(t, 3, w.server.watching.Load(), "a refused watch must not count")
		other := w.dial("other")
		watch(other, 1)
		require.Equal(t, 4, w.watching())

		_, err = w.call(first, methodUnwatch, unwatchParams{ID: 1})
		require.NoError(t, err)
		watch(second, 2)
		require.Equal(t, 4, w.watching(), "a watch that ended must make room")
		first.Close()
		synctest.Wait()
		watch(second, 3)
		require.Equal(t, 4, w.watching(), "a connection that ended must make room")
		a := w.host("other")
		_, err = w.client("other").CompareAndSwap(t.Context(), 0, recordBy("nobody.com", a, 1))
		require.NoError(t, err)
		synctest.Wait()
		require.Zero(t, w.watching())
		for id := range uint64(3) {
			second.Go(methodWatch, fuzzMarshal(t, watchParams{Name: "nobody.com", After: 1, ID: id}), func([]byte, error) {})
		}
		synctest.Wait()
		require.Equal(t, 3, w.watching(), "a watch that was answered must make room")
	})
}

func TestHostsOfOneKey(t *testing.T) {
	inBubble(t, ServerConfig{limits: limits{keyHosts: 3}}, func(t *testing.T, w *world) {
		ctx, c, key := t.Context(), w.client("greedy"), w.host("greedy").Key
		announce := func(id string, inc uint64) error {
			h := Host{ID: id, Incarnation: inc, Addr: "greedy:1", Key: key}
			return c.Announce(ctx, h, []string{"svc"}, time.Minute)
		}
		for _, id := range []string{"a", "b", "c"} {
			require.NoError(t, announce(id, 1))
		}
		err := announce("d", 1)
		require.ErrorIs(t, err, ErrRefused)
		require.ErrorContains(t, err, `host "d": 3 hosts of key "`+key.String()+`" are present, the limit for one key`)
		require.NoError(t, w.client("other").Announce(ctx, w.host("other"), []string{"svc"}, time.Minute))

		// A process that restarts with its ID needs no more.
		for inc := range uint64(100) {
			require.NoError(t, announce("a", 2+inc))
		}
		require.Error(t, announce("d", 1))
		require.NoError(t, c.Announce(ctx, Host{ID: "b", Incarnation: 1, Addr: "greedy:1", Key: key}, nil, 0))
		require.NoError(t, announce("d", 1), "a host that withdrew must make room")
		require.Error(t, announce("e", 1))
		time.Sleep(2 * time.Minute)
		for _, id := range []string{"e", "f", "g"} {
			require.NoError(t, announce(id, 1), "hosts that have expired must make room")
		}
		time.Sleep(2 * time.Minute)
		require.NoError(t, w.client("other").Announce(ctx, w.host("other"), nil, time.Minute))
		w.server.store.mu.Lock()
		defer w.server.store.mu.Unlock()
		require.Equal(t, map[transport.Key]int{w.host("other").Key: 1}, w.server.store.hostsBy)
	})
}

// TestDefaultQuotas asserts that one key cannot use up what all together may use.
func TestDefaultQuotas(t *testing.T) {
	var l limits
	l.fill()
	require.Equal(t, []int{256, 65_536, 64}, []int{l.keyConns, l.keyWatches, l.keyHosts})
	require.LessOrEqual(t, 16*l.keyConns, l.conns)
	require.LessOrEqual(t, 16*l.keyWatches, watchedBy*l.watches)
	require.LessOrEqual(t, 16*l.keyHosts, l.hosts)
}

// TestRefusalsAreLoggedRarely asserts that a client cannot fill the log.
func TestRefusalsAreLoggedRarely(t *testing.T) {
	var log logLines
	cfg := ServerConfig{Logger: slog.New(&log), limits: limits{conns: 1, watches: 1}}
	inBubble(t, cfg, func(t *testing.T, w *world) {
		conn := w.dial("rogue")
		forged := Host{ID: "a", Incarnation: 1, Addr: "a:1", Key: transport.Key{1}}
		conn.Go(methodWatch, fuzzMarshal(t, watchParams{Name: "nobody.com", ID: 1}), func([]byte, error) {})
		msgs := []string{"announcement refused", "change refused", "watch refused", "connection refused: too many connections"}
		once := func() {
			_, err := w.call(conn, methodAnnounce, announceParams{Host: forged, TTL: 1000, Services: []string{"x"}})
			require.ErrorIs(t, err, ErrRefused)
			_, err = w.call(conn, methodCAS, casParams{Next: recordBy("x", forged, 1)})
			require.ErrorIs(t, err, ErrRefused)
			_, err = w.call(conn, methodWatch, watchParams{Name: "x", ID: 2})
			require.ErrorIs(t, err, ErrRefused)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			tr := w.net.Host("second")
			defer tr.Close()
			_, err = tr.Dial(ctx, w.addr, nil)
			require.Error(t, err)
		}
		for range 100 {
			once()
		}
		for _, msg := range msgs {
			require.Len(t, log.with(msg), 1, msg)
			require.NotContains(t, log.with(msg)[0], "more=")
		}
		time.Sleep(1100 * time.Millisecond)
		once()
		for _, msg := range msgs {
			require.Len(t, log.with(msg), 2, msg)
			require.Contains(t, log.with(msg)[1], "more=99", msg)
		}
	})
}
