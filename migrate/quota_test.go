package migrate

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
)

// One key has a limited number of sessions. A client that wants one more gets an error at once. Other clients are not affected.
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

// A client that fills all places, and opens sessions and leaves before they are open, evicts only its own, not those of
// others, connected or not.
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

// asked is a tally that answers a query with its circumstances.
type asked struct{ tally }

func (*asked) Query(q Query) ([]byte, error) {
	return fmt.Appendf(nil, "%d %v %d %s", q.Session, q.Key, q.Time.UnixMilli(), q.Body), nil
}

func (*asked) PublicQueries() {}

// askedBeside also answers during Apply.
type askedBeside struct{ asked }

func (*askedBeside) ConcurrentQueries() {}

// A service sees the session and the key of the client that asks, and the log time, whether it answers during Apply or not.
// A session that is not open is none.
func TestQueryTellsWhoAsks(t *testing.T) {
	for what, fresh := range map[string]func() Migratable{
		"applier": func() Migratable { return new(asked) },
		"beside":  func() Migratable { return new(askedBeside) },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "a")
				defer w.close()
				a, err := w.nodes["a"].Host(t.Context(), "svc", fresh, Policy{})
				require.NoError(t, err)
				ann, bob := w.dial("ann", "svc", ClientConfig{}), w.dial("bob", "svc", ClientConfig{})
				time.Sleep(time.Second)
				_, err = ann.Do(t.Context(), []byte("x"))
				require.NoError(t, err)
				now := a.machine().LogTime()
				time.Sleep(time.Second)
				for name, c := range map[string]*Client{"ann": ann, "bob": bob} {
					got, err := c.Query(t.Context(), []byte("?"))
					require.NoError(t, err)
					require.Equal(t, fmt.Sprintf("%d %v %d ?", c.Session(), w.transport(name).Key(), now), string(got))
				}
				var res wire.QueryResult
				params := wire.QueryParams{Service: "svc", Session: 99}
				require.NoError(t, w.raw("eve", a, 99).call(wire.MethodQuery, params, &res))
				require.Equal(t, fmt.Sprintf("0 %v %d ", w.transport("eve").Key(), now), string(res.Reply))
			})
		})
	}
}
