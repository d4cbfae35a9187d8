package resolver

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// crash ends the server without notice to anybody but the connections.
func (w *world) crash() {
	w.t.Helper()
	dns := w.net.Host("dns")
	w.net.Crash("dns")
	require.NoError(w.t, w.server.Close())
	dns.Close()
}

// TestHostsAfterRestart asserts that the first Hosts call at a restarted server returns every host that is present.
func TestHostsAfterRestart(t *testing.T) {
	for _, down := range []time.Duration{0, 10 * time.Millisecond, time.Second, 5 * time.Second, 40 * time.Second} {
		t.Run(fmt.Sprint(down), func(t *testing.T) {
			inBubble(t, ServerConfig{}, func(t *testing.T, w *world) {
				var want []Host
				services := []string{"backend.com", "other.com"}
				for i := range 20 {
					c, h := w.client(fmt.Sprintf("host-%02d", i)), w.host(fmt.Sprintf("host-%02d", i))
					require.NoError(t, c.Announce(t.Context(), h, services, time.Minute)) // renewed in 20 seconds, or so
					want = append(want, h)
				}
				gone := w.client("host-99")
				require.NoError(t, gone.Announce(t.Context(), w.host("host-99"), services, time.Minute))
				require.NoError(t, gone.Announce(t.Context(), w.host("host-99"), nil, 0))
				asks := w.client("asks")

				w.crash()
				time.Sleep(down)
				w.start(ServerConfig{})
				begin := time.Now()
				_, err := asks.Get(t.Context(), "backend.com")
				require.ErrorIs(t, err, ErrNotFound, "the server has started without records")
				require.Zero(t, time.Since(begin), "only Hosts waits")
				hs, err := asks.Hosts(t.Context(), "backend.com")
				require.NoError(t, err)
				require.Equal(t, want, hs)
				require.Equal(t, hostsDelay, time.Since(begin))
				hs, err = asks.Hosts(t.Context(), "other.com")
				require.NoError(t, err)
				require.Len(t, hs, 20)
				require.Equal(t, hostsDelay, time.Since(begin), "a later call must not wait")
			})
		})
	}
}

// TestEarlyHosts asserts that calls of Hosts which are held stop nothing else, and end.
func TestEarlyHosts(t *testing.T) {
	inBubble(t, ServerConfig{limits: limits{watches: 1}}, func(t *testing.T, w *world) {
		conn := w.dial("a")
		held := make(chan error, 2*watchedBy)
		p, err := transport.Marshal(nameParams{Name: "backend.com"})
		require.NoError(t, err)
		for range watchedBy + 1 {
			conn.Go(methodHosts, p, func(_ []byte, err error) { held <- err })
		}
		synctest.Wait()
		require.Len(t, held, 1, "the calls that are held are limited")
		require.ErrorContains(t, <-held, `service "backend.com": the resolver has just started`)
		begin := time.Now()
		_, err = w.call(conn, methodGet, nameParams{Name: "backend.com"})
		require.ErrorIs(t, err, ErrNotFound, "a call behind them on the same connection")
		_, err = w.call(conn, methodHosts, nameParams{Name: "no name"})
		require.ErrorIs(t, err, ErrInvalid)
		require.Zero(t, time.Since(begin))

		// A caller that gives up, and a connection that ends.
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, err = conn.Call(ctx, methodHosts, p)
		require.Error(t, err)
		conn.Close()
		time.Sleep(2 * hostsDelay)
		synctest.Wait()
		require.Len(t, held, watchedBy)
	})

	// Close does not wait for the rest of the second.
	inBubble(t, ServerConfig{}, func(t *testing.T, w *world) {
		conn := w.dial("a")
		ended := make(chan error, 1)
		go func() {
			_, err := w.call(conn, methodHosts, nameParams{Name: "backend.com"})
			ended <- err
		}()
		synctest.Wait()
		begin := time.Now()
		require.NoError(t, w.server.Close())
		require.ErrorContains(t, <-ended, "ended")
		require.Zero(t, time.Since(begin))
	})
}

// TestAnnounceAgain asserts that a client repeats what is announced and nothing else, for the rest of the ttl.
func TestAnnounceAgain(t *testing.T) {
	inBubble(t, ServerConfig{}, func(t *testing.T, w *world) {
		c, a, b := w.client("a"), w.host("a"), w.host("a")
		b.ID = "b"
		present := func() (ids []string) {
			hs, err := w.server.store.hostsOf("backend.com")
			assert.NoError(t, err)
			for _, h := range hs {
				ids = append(ids, h.ID)
			}
			return ids
		}
		require.NoError(t, c.Announce(t.Context(), a, []string{"old.com"}, time.Minute))
		require.NoError(t, c.Announce(t.Context(), a, []string{"backend.com"}, 10*time.Second))
		require.NoError(t, c.Announce(t.Context(), b, []string{"backend.com"}, time.Minute))
		w.crash()
		time.Sleep(4 * time.Second)
		w.start(ServerConfig{})
		time.Sleep(hostsDelay)
		require.Equal(t, []string{"a", "b"}, present())
		require.Len(t, w.server.store.hosts["a"].services, 1)
		time.Sleep(5*time.Second + time.Millisecond) // ttl is rounded up
		require.Equal(t, []string{"b"}, present(), "the time in which the server was down counts")

		// A connection that breaks while the server runs costs a dial and a renewal for each host: one has expired.
		before := w.net.Stats()
		w.net.Cut("a", "dns")
		time.Sleep(hostsDelay)
		after := w.net.Stats()
		require.EqualValues(t, 1, after.Dials-before.Dials)
		require.EqualValues(t, 4, after.Messages-before.Messages, "two hellos, and the renewal of the other host")
		require.Equal(t, []string{"b"}, present())

		// When the last has expired, the client does not dial any more.
		require.NoError(t, c.Announce(t.Context(), b, nil, 0))
		w.net.Cut("a", "dns")
		time.Sleep(time.Hour)
		require.Equal(t, after.Dials, w.net.Stats().Dials)
	})
}
