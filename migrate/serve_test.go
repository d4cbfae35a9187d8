package migrate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// raw is a client without any help: what it sends is what the host gets.
type raw struct {
	t       *testing.T
	conn    transport.Conn
	session uint64
	events  chan wire.EventsParams
}

// Handle implements transport.Handler.
func (r *raw) Handle(_ transport.Conn, q *transport.Request) {
	if q.Method == wire.MethodEvents {
		var p wire.EventsParams
		if err := transport.Unmarshal(q.Params, &p); err != nil {
			r.t.Error(err)
		}
		r.events <- p
	}
	q.Reply(nil, nil)
}

// Closed implements transport.Handler.
func (r *raw) Closed(transport.Conn, error) {}

// raw connects host name to a service's host, as a session of that number.
func (w *world) raw(name string, to *Service, session uint64) *raw {
	r := &raw{t: w.t, session: session, events: make(chan wire.EventsParams, 1024)}
	var err error
	r.conn, err = w.transport(name).Dial(w.t.Context(), transport.Peer{Addr: to.node.self.Addr}, r)
	require.NoError(w.t, err)
	return r
}

func (r *raw) call(method string, params, result any) error {
	b, err := transport.Marshal(params)
	require.NoError(r.t, err)
	b, err = r.conn.Call(r.t.Context(), method, b)
	if err == nil && result != nil {
		require.NoError(r.t, transport.Unmarshal(b, result))
	}
	return err
}

func (r *raw) open(resume bool) error {
	return r.call(wire.MethodOpen, wire.OpenParams{Service: "svc", Session: r.session, Resume: resume}, nil)
}

func (r *raw) do(seq uint64, body string) (res wire.DoResult, err error) {
	err = r.call(wire.MethodDo, wire.DoParams{Service: "svc", Session: r.session, Seq: seq, Low: 1, Body: []byte(body)}, &res)
	return res, err
}

func (r *raw) query() (res wire.QueryResult, err error) {
	err = r.call(wire.MethodQuery, wire.QueryParams{Service: "svc", Session: r.session}, &res)
	return res, err
}

func TestExactlyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{})
		r := w.raw("x", a, 7)
		_, err := r.do(1, "early")
		require.ErrorIs(t, err, ErrSessionExpired, "no session is open")
		require.ErrorIs(t, r.open(true), ErrSessionExpired, "a session that should exist is not made anew")
		require.NoError(t, r.open(false))
		require.NoError(t, r.open(false), "twice does no harm")

		first, err := r.do(1, "one")
		require.NoError(t, err)
		require.Equal(t, "1", string(first.Reply))
		require.Equal(t, uint32(2), first.Replicas)
		again, err := r.do(1, "one")
		require.NoError(t, err)
		require.Equal(t, first, again, "a duplicate gets the reply of the first")
		_, err = r.do(3, "three")
		require.ErrorIs(t, err, ErrOutOfOrder)

		other := w.raw("y", a, 7) // y has another key
		require.ErrorIs(t, other.open(true), ErrForbidden)
		_, err = other.do(2, "forged")
		require.ErrorIs(t, err, ErrForbidden)
		require.ErrorIs(t, other.call(wire.MethodLeave, wire.LeaveParams{Service: "svc", Session: 7}, nil), ErrForbidden)

		// Two of the same at a time. A session is on the connection that took it up last; the one before is closed.
		former := r
		r = w.raw("x", a, 7)
		require.NoError(t, r.open(true))
		synctest.Wait()
		require.Error(t, former.open(true))
		replies := make(chan wire.DoResult, 2)
		for range 2 {
			go func() {
				res, err := r.do(2, "two")
				if err != nil {
					t.Error(err)
				}
				replies <- res
			}()
		}
		require.Equal(t, <-replies, <-replies)

		// The other host knows, too.
		_, err = a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		_, err = r.do(2, "two")
		require.ErrorIs(t, err, ErrNotActive)
		moved := w.raw("x", b, 7)
		require.NoError(t, moved.open(true))
		res, err := moved.do(1, "one")
		require.NoError(t, err)
		require.Equal(t, first.Index, res.Index)
		require.Equal(t, first.Epoch, res.Epoch)
		res, err = moved.do(2, "two")
		require.NoError(t, err)
		require.Equal(t, "2", string(res.Reply))
		seen, _ := w.state(b)
		require.Equal(t, []string{"one", "two"}, seen)

		// An ended session is not one that never was.
		require.NoError(t, moved.call(wire.MethodLeave, wire.LeaveParams{Service: "svc", Session: 7}, nil))
		_, err = moved.do(3, "late")
		require.ErrorIs(t, err, ErrSessionExpired)
		_, err = moved.query()
		require.ErrorIs(t, err, ErrSessionExpired)
	})
}

// strict is a service with everything that can go wrong.
type strict struct{ tally }

var errStrict = transport.Errorf(4711, "not this")

func (s *strict) Validate(cmd Command) error {
	switch string(cmd.Body) {
	case "refuse":
		return errStrict
	case "panic in Validate":
		panic("Validate")
	}
	return nil
}

func (s *strict) Apply(cmd Command) ([]byte, error) {
	reply, _ := s.tally.Apply(cmd)
	switch string(cmd.Body) {
	case "coded":
		return nil, &transport.Error{Code: 4712, Message: "coded", Data: []byte{0xa1, 'x'}}
	case "plain":
		return nil, errors.New("plain")
	case "panic":
		panic("Apply")
	case "long":
		return make([]byte, 2<<20), nil
	}
	return reply, nil
}

func (s *strict) Query(q Query) ([]byte, error) {
	if string(q.Body) == "forbidden" {
		return nil, transport.Errorf(CodeForbidden, "you may not ask that")
	}
	if string(q.Body) == "panic" {
		panic("Query")
	}
	return s.tally.Query(q)
}

func TestErrorsOfService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		told := make(chan error, 100)
		w.hooks.Failed = func(_ string, err error) { told <- err }
		w.node("a")
		w.node("b")
		fresh := func() Migratable { return new(strict) }
		a, err := w.nodes["a"].Host(t.Context(), "svc", fresh, Policy{})
		require.NoError(t, err)
		_, err = w.nodes["b"].Standby(t.Context(), "svc", fresh, Policy{})
		require.NoError(t, err)
		w.inSync(a, 2)
		c := w.dial("client", "svc", ClientConfig{})
		for _, tc := range []struct {
			cmd  string
			code transport.Code
		}{
			{"ok", 0}, {"refuse", 4711}, {"coded", 4712}, {"plain", CodeApplication}, {"panic", CodePanic},
			{"panic in Validate", CodePanic}, {"long", CodeReplyGone}, {"ok again", 0},
		} {
			_, err := c.Do(t.Context(), []byte(tc.cmd))
			if tc.code == 0 {
				require.NoError(t, err, tc.cmd)
				continue
			}
			require.Equal(t, tc.code, transport.CodeOf(err), "%s: %v", tc.cmd, err)
		}
		_, err = c.Do(t.Context(), []byte("coded"))
		e, ok := errors.AsType[*transport.Error](err)
		require.True(t, ok)
		require.True(t, e.Remote)
		require.Equal(t, []byte{0xa1, 'x'}, e.Data)
		_, err = c.Do(t.Context(), make([]byte, 2<<20))
		require.ErrorIs(t, err, ErrTooLarge)
		_, err = c.Do(t.Context(), make([]byte, MaxCommand+1))
		require.ErrorIs(t, err, ErrTooLarge)
		_, err = c.Query(t.Context(), []byte("panic"))
		require.Equal(t, CodePanic, transport.CodeOf(err))
		require.ErrorIs(t, <-told, ErrPanic, "the Failed hook hears of it")
		_, err = c.Query(t.Context(), []byte("forbidden"))
		require.ErrorIs(t, err, ErrForbidden)
		require.NoError(t, c.Err(), "it is about the query alone")

		// All of it has happened on both hosts, which agree.
		_, err = a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		reply, err := c.Do(t.Context(), []byte("last"))
		require.NoError(t, err)
		b, err := c.Query(t.Context(), []byte("all"))
		require.NoError(t, err)
		var all []string
		require.NoError(t, json.Unmarshal(b, &all))
		require.Equal(t, fmt.Sprint(len(all)), string(reply))
		require.Equal(t, []string{"ok", "coded", "plain", "panic", "long", "ok again", "coded", "last"}, all)
	})
}

// Sessions end when their clients are away for long, not when a host's clock is off, and not all at once after a takeover.
func TestSessionsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{SessionTimeout: time.Minute})
		present, away := w.raw("x", a, 1), w.raw("y", a, 2)
		for _, r := range []*raw{present, away} {
			require.NoError(t, r.open(false))
			_, err := r.do(1, fmt.Sprint(r.session))
			require.NoError(t, err)
		}
		away.conn.Close()
		time.Sleep(50 * time.Second)
		w.crash("a")
		w.role(b, Active)
		// A moment later by b's clock everybody has been silent for long, but it has not waited for them yet.
		time.Sleep(50 * time.Second)
		back := w.raw("x", b, 1)
		require.NoError(t, back.open(true))
		_, err := back.do(2, "still there")
		require.NoError(t, err)
		time.Sleep(40 * time.Second)
		late := w.raw("y", b, 2)
		require.ErrorIs(t, late.open(true), ErrSessionExpired)
		time.Sleep(10 * time.Minute)
		_, err = back.do(3, "silent, but connected")
		require.NoError(t, err)
	})
}

// A session also expires while the service moves more often than SessionTimeout, by timer or by crashes. A client that comes
// back in time starts anew.
func TestSessionsExpireAcrossMoves(t *testing.T) {
	const timeout, every = 2 * time.Minute, 30 * time.Second
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		w.pair(Policy{SessionTimeout: timeout})
		away, back := w.raw("x", w.active("svc"), 1), w.raw("y", w.active("svc"), 2)
		for _, r := range []*raw{away, back} {
			require.NoError(t, r.open(false))
		}
		away.conn.Close()
		back.conn.Close()
		left := time.Now()
		gone := func(session uint64) bool {
			a, expired := w.active("svc"), false
			w.look(a, func() { expired = !slices.Contains(idleSessions(a), session) })
			return expired
		}
		for moves := 1; !gone(1); moves++ {
			require.Less(t, time.Since(left), timeout*5/4, "its client has been away for so long")
			if moves == 3 {
				r := w.raw("y", w.active("svc"), 2)
				require.NoError(t, r.open(true))
				time.Sleep(time.Second)
				r.conn.Close()
			}
			for range every / time.Second {
				if time.Sleep(time.Second); gone(1) {
					break
				}
			}
			to := "b"
			if w.active("svc").node.self.ID == "b" {
				to = "a"
			}
			_, err := w.active("svc").Handoff(t.Context(), to)
			require.NoError(t, err)
		}
		require.GreaterOrEqual(t, time.Since(left), timeout)
		time.Sleep(time.Minute)
		require.False(t, gone(2), "its client was back for a moment")
		time.Sleep(time.Minute)
		require.True(t, gone(2))
	})
}

// A client that was away for almost SessionTimeout, and is back for a moment before a crash, has all of it again.
func TestSessionBackBeforeCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, b := w.pair(Policy{SessionTimeout: time.Minute})
		r := w.raw("x", a, 1)
		require.NoError(t, r.open(false))
		r.conn.Close()
		time.Sleep(55 * time.Second)
		r = w.raw("x", a, 1)
		require.NoError(t, r.open(true))
		time.Sleep(100 * time.Millisecond)
		w.crash("a")
		w.role(b, Active)
		time.Sleep(40 * time.Second)
		require.NoError(t, w.raw("x", b, 1).open(true))
	})
}

// idleSessions returns the sessions of s without entries in flight.
func idleSessions(s *Service) (ids []uint64) {
	for id := range s.machine().Idle() {
		ids = append(ids, id)
	}
	return ids
}

// A question sees all that was acknowledged before, whoever asks.
func TestQuerySeesAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		a, _ := w.pair(Policy{})
		w.standby("c", "svc", Policy{})
		asker := w.dial("asker", "svc", ClientConfig{})
		c := w.dial("client", "svc", ClientConfig{})
		w.net.SetLinkDelay("asker", "a", 100*time.Microsecond)
		w.net.SetLinkDelay("a", "asker", 100*time.Microsecond)
		w.write(c)
		stop := time.After(4 * time.Second)
		time.AfterFunc(time.Second, func() { w.active("svc").Handoff(t.Context(), "") })
		time.AfterFunc(2*time.Second, func() { w.crash("a") })
		for {
			select {
			case <-stop:
				w.check(c)
				return
			default:
			}
			w.mu.Lock()
			floor := w.highest
			w.mu.Unlock()
			reply, err := asker.Query(t.Context(), nil)
			require.NoError(t, err)
			var n int
			fmt.Sscan(string(reply), &n)
			require.GreaterOrEqual(t, n, floor)
			_ = a
		}
	})
}

// Who does not read is cut off or told of a gap, and holds nobody up.
func TestSlowListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, _ := w.pair(Policy{EventBytes: 1 << 20})
		c := w.dial("client", "svc", ClientConfig{})
		r := w.raw("slow", a, 9)
		require.NoError(t, r.open(false))
		require.NoError(t, r.call(wire.MethodListen, wire.ListenParams{Service: "svc", Session: 9, From: 1}, nil))
		w.net.Throttle("a", "slow", 1000)
		body := bytes.Repeat([]byte("x"), 10_000)
		var longest time.Duration
		for i := range 1000 { // 10 MB
			began := time.Now()
			_, err := c.Do(t.Context(), fmt.Appendf(nil, "%d %s", i, body))
			require.NoError(t, err)
			longest = max(longest, time.Since(began))
		}
		require.Equal(t, 4*time.Millisecond, longest)
		time.Sleep(time.Minute)
		_, err := r.query()
		require.Error(t, err, "it was cut off")
		w.net.Throttle("a", "slow", 0)

		// Back again, it is told from where on it can go on.
		r = w.raw("slow", a, 9)
		require.NoError(t, r.open(true))
		var res wire.ListenResult
		require.NoError(t, r.call(wire.MethodListen, wire.ListenParams{Service: "svc", Session: 9, From: 1}, &res))
		require.Greater(t, res.Next, uint64(1))
		next := res.Next
		for next <= 1000 {
			p := <-r.events
			require.Equal(t, next, p.First)
			next += uint64(len(p.Bodies))
		}
		// Through a Client it is a Gap.
		for ev, err := range c.Events(t.Context(), 1) {
			require.NoError(t, err)
			require.Equal(t, uint64(1), ev.Gap)
			require.Equal(t, res.Next, ev.Seq)
			break
		}
	})
}
