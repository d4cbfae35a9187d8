package migrate

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
)

// One key has a limited number of sessions. The client that wants one more gets an error, at once, and no other client notices.
func TestSessionsPerKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, _ := w.pair(Policy{SessionsPerKey: 3})
		other := w.dial("other", "svc", ClientConfig{})
		var mine []*Client
		for range 3 {
			mine = append(mine, w.dial("mallory", "svc", ClientConfig{}))
		}
		dial := func() error {
			began := time.Now()
			c, err := Dial(t.Context(), "svc", ClientConfig{Resolver: w.res, Transport: w.transport("mallory")})
			if err == nil {
				w.cls = append(w.cls, c)
			}
			require.Less(t, time.Since(began), time.Second)
			return err
		}
		err := dial()
		require.ErrorIs(t, err, ErrQuota)
		require.ErrorContains(t, err, "service svc")
		require.ErrorContains(t, err, "has 3 sessions")
		require.ErrorContains(t, err, "Client.Shutdown")

		_, err = a.Handoff(t.Context(), "")
		require.NoError(t, err)
		require.ErrorIs(t, dial(), ErrQuota)
		require.NoError(t, w.do(t.Context(), other, "hello"))
		w.dial("late", "svc", ClientConfig{})
		require.NoError(t, mine[0].Shutdown(t.Context()))
		require.NoError(t, dial())
		require.ErrorIs(t, dial(), ErrQuota)
	})
}

// A client that fills all places, and one that opens sessions and leaves before they are open, evict nobody else, connected or
// not.
func TestEvictsOwnSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places = 20
		w := newWorld(t, "a", "b")
		defer w.close()
		w.nodes["a"].limits.Sessions, w.nodes["b"].limits.Sessions = places, places
		a, _ := w.pair(Policy{SessionsPerKey: places})
		c := w.dial("ann", "svc", ClientConfig{})
		away := w.raw("bob", a, 7)
		require.NoError(t, away.open(false))
		away.conn.Close()
		for i := range uint64(3 * places) {
			r := w.raw("mallory", a, 100+i)
			if i%2 == 0 {
				require.NoError(t, r.open(false), i)
			} else {
				r.send(wire.MethodOpen, wire.OpenParams{Service: "svc", Session: r.session}, func(error) {})
				time.Sleep(1500 * time.Microsecond) // the request has arrived
			}
			r.conn.Close()
		}
		time.Sleep(time.Second)
		require.Equal(t, places, a.machine().Usage().Sessions)
		require.NoError(t, w.raw("bob", a, 7).open(true), "the session of a client that is away")
		require.NoError(t, w.do(t.Context(), c, "still here"))
		for i := range places / 2 {
			name := fmt.Sprint("new", i)
			require.NoError(t, w.do(t.Context(), w.dial(name, "svc", ClientConfig{}), name), "mallory's sessions give way")
		}
	})
}

// public is a tally that answers everybody.
type public struct{ tally }

func (*public) PublicQueries() {}

// Queries and events need a session of the caller's own key, except that a PublicQuerier answers queries without one.
func TestQueryNeedsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		defer w.close()
		a := w.host("a", "svc", Policy{})
		open, err := w.nodes["a"].Host(t.Context(), "open", func() Migratable { return new(public) }, Policy{})
		require.NoError(t, err)
		c := w.dial("ann", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), c, "secret"))

		ask := func(r *raw, service string) (string, error) {
			var res wire.QueryResult
			err := r.call(wire.MethodQuery, wire.QueryParams{Service: service, Session: r.session, Body: []byte("all")}, &res)
			return string(res.Reply), err
		}
		listen := func(r *raw) error {
			return r.call(wire.MethodListen, wire.ListenParams{Service: "svc", Session: r.session, From: 1}, nil)
		}
		for session, want := range map[uint64]error{0: ErrSessionExpired, 7: ErrSessionExpired, c.Session(): ErrForbidden} {
			r := w.raw("eve", a, session)
			answer, err := ask(r, "svc")
			require.ErrorIs(t, err, want)
			require.Empty(t, answer)
			require.ErrorIs(t, listen(r), ErrSessionExpired, "it is not open on this connection")
			synctest.Wait()
			require.Empty(t, r.events)
		}
		r := w.raw("ann", a, c.Session())
		answer, err := ask(r, "svc")
		require.NoError(t, err)
		require.Equal(t, `["secret"]`, answer)
		require.ErrorIs(t, listen(r), ErrSessionExpired, "it is not open on this connection")

		// A query may follow the request to open the session at once.
		r = w.raw("eve", a, 7)
		r.send(wire.MethodOpen, wire.OpenParams{Service: "svc", Session: 7}, func(err error) { require.NoError(t, err) })
		answer, err = ask(r, "svc")
		require.NoError(t, err)
		require.Equal(t, `["secret"]`, answer)
		require.NoError(t, listen(r))
		require.NoError(t, r.call(wire.MethodLeave, wire.LeaveParams{Service: "svc", Session: 7}, nil))
		_, err = ask(r, "svc")
		require.ErrorIs(t, err, ErrSessionExpired)

		_, err = ask(w.raw("eve", open, 0), "open")
		require.NoError(t, err)
	})
}
