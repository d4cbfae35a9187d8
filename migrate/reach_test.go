package migrate

import (
	"context"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// walls are firewalls, which drop or refuse new connections. Existing ones continue.
type walls struct {
	mu     sync.Mutex // guards closed
	closed map[[2]string]error
}

// set closes the way from one host to another: dials fail with err, or get no answer if it is nil.
func (w *walls) set(from, to string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed == nil {
		w.closed = make(map[[2]string]error)
	}
	w.closed[[2]string{from, to}] = err
}

func (w *walls) clear(from, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.closed, [2]string{from, to})
}

type walledTransport struct {
	transport.Transport
	name  string
	walls *walls
}

func (t *walledTransport) Dial(ctx context.Context, to transport.Peer, h transport.Handler) (transport.Conn, error) {
	host, _, _ := net.SplitHostPort(to.Addr)
	t.walls.mu.Lock()
	err, closed := t.walls.closed[[2]string{t.name, host}]
	t.walls.mu.Unlock()
	switch {
	case !closed:
		return t.Transport.Dial(ctx, to, h)
	case err == nil:
		<-ctx.Done()
		err = ctx.Err()
	}
	return nil, err
}

// walled returns the transport of a host behind the walls.
func (w *world) walled(name string) transport.Transport {
	if w.walls == nil {
		return w.transport(name)
	}
	return &walledTransport{w.transport(name), name, w.walls}
}

// eachWall runs f for firewalls that drop connections and for those that refuse them.
func eachWall(t *testing.T, f func(t *testing.T, w *world, kind error)) {
	for name, kind := range map[string]error{"dropped": nil, "refused": syscall.ECONNREFUSED} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.close()
				w.walls = new(walls)
				f(t, w, kind)
			})
		})
	}
}

// A host that nobody can connect to holds a copy nevertheless, and reports why. No move goes there while there is another
// host, but the state survives the others.
func TestFirewalledHostHoldsCopy(t *testing.T) {
	eachWall(t, func(t *testing.T, w *world, kind error) {
		f := failureTexts{ofNode: true}
		for _, name := range []string{"a", "b"} {
			f.node(w, name)
		}
		w.walls.set("a", "b", kind)
		a := w.host("a", "svc", Policy{})
		b := w.standby("b", "svc", Policy{})
		began := time.Now()
		w.inSync(a, 2)
		require.Less(t, time.Since(began), 10*time.Second)
		w.eventually(func() bool { return len(f.of("b")) > 0 }, "host b reports it")
		require.Contains(t, f.of("b")[0], "host a cannot connect to this host, b, at b:1")
		require.Contains(t, f.of("b")[0], "firewall")

		c := w.dial("c", "svc", ClientConfig{})
		w.write(c)
		time.Sleep(10 * time.Second)
		require.Equal(t, Active, a.Status().Role, "no failover")
		require.Len(t, a.Status().Record.ISR, 2)
		_, err := a.Handoff(t.Context(), "")
		require.ErrorIs(t, err, ErrNoTarget)
		require.ErrorContains(t, err, "cannot connect to host b at b:1")
		_, err = a.Handoff(t.Context(), "b")
		require.ErrorIs(t, err, ErrTransferFailed)
		require.ErrorContains(t, err, "cannot connect to it at b:1")
		require.Equal(t, Active, a.Status().Role)

		// When the firewall is opened, moves go there.
		w.walls.clear("a", "b")
		time.Sleep(2 * time.Minute)
		_, err = a.Handoff(t.Context(), "")
		require.NoError(t, err)
		w.role(b, Active)
		w.check(c)
	})
}

// A host that the active one cannot connect to takes the place of a standby that dies, although it was not needed when it began.
func TestFirewalledHostReplacesStandby(t *testing.T) {
	eachWall(t, func(t *testing.T, w *world, kind error) {
		for _, name := range []string{"a", "b", "c"} {
			w.node(name)
		}
		w.walls.set("a", "b", kind)
		a := w.host("a", "svc", Policy{})
		w.standby("c", "svc", Policy{})
		w.inSync(a, 2)
		b := w.standby("b", "svc", Policy{})
		time.Sleep(time.Minute)
		require.Equal(t, Latent, b.Status().Role)
		w.crash("c")
		began := time.Now()
		w.role(b, Standby)
		require.Less(t, time.Since(began), 15*time.Second)
	})
}

// The state survives the death of the only host that others reach.
func TestFirewalledHostTakesOver(t *testing.T) {
	eachWall(t, func(t *testing.T, w *world, kind error) {
		w.node("a")
		w.node("b")
		w.walls.set("a", "b", kind)
		a := w.host("a", "svc", Policy{})
		b := w.standby("b", "svc", Policy{})
		w.inSync(a, 2)
		c := w.dial("c", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), c, "before"))
		w.crash("a")
		began := time.Now()
		w.role(b, Active)
		require.Less(t, time.Since(began), 2*time.Second)
		require.NoError(t, w.do(t.Context(), c, "after"))
		require.Equal(t, []string{"before", "after"}, appOf(b).(*tally).all())
	})
}

// A move does not go where a connected client cannot follow: another host is tried at once. Nobody is silent.
func TestMoveStaysWhereClientsReach(t *testing.T) {
	eachWall(t, func(t *testing.T, w *world, kind error) {
		var moves []Report
		var mu sync.Mutex // guards moves
		w.hooks.Moved = func(r Report, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				moves = append(moves, r)
			}
		}
		for _, name := range []string{"a", "b", "c"} {
			w.node(name)
		}
		w.walls.set("x", "b", kind)
		p := Policy{Copies: 3, Every: 10 * time.Second}
		a := w.host("a", "svc", p)
		w.standby("b", "svc", p)
		w.standby("c", "svc", p)
		w.inSync(a, 3)
		x, y := w.dial("x", "svc", ClientConfig{}), w.dial("y", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), y, "y is here"))
		rep, err := a.Handoff(t.Context(), "b")
		require.ErrorIs(t, err, ErrTransferFailed)
		require.ErrorContains(t, err, "1 of 2 clients cannot connect to it at b:1")
		require.Equal(t, []int{2, 1, 1}, []int{rep.Clients, rep.Ready, rep.Unreachable})

		slowest := time.Duration(0)
		for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			began := time.Now()
			require.NoError(t, w.do(t.Context(), x, "x"))
			slowest = max(slowest, time.Since(began))
		}
		require.Less(t, slowest, time.Second)
		mu.Lock()
		defer mu.Unlock()
		require.Greater(t, len(moves), 5)
		for _, m := range moves {
			require.NotEqual(t, "b", m.To.ID)
		}
	})
}

// A shutdown does not depend on whether clients can follow.
func TestShutdownInsists(t *testing.T) {
	eachWall(t, func(t *testing.T, w *world, kind error) {
		w.node("a")
		w.node("b")
		w.walls.set("x", "b", kind)
		a, b := w.pair(Policy{})
		x := w.dial("x", "svc", ClientConfig{})
		require.NoError(t, w.do(t.Context(), x, "one"))
		require.NoError(t, a.Leave(t.Context()))
		require.Equal(t, Active, b.Status().Role)
		w.walls.clear("x", "b")
		require.NoError(t, w.do(t.Context(), x, "two"))
	})
}

// A client that says of every host that it cannot connect does not keep the service where it is.
func TestClientThatReachesNobody(t *testing.T) {
	eachWall(t, func(t *testing.T, w *world, kind error) {
		for _, name := range []string{"a", "b", "c"} {
			w.node(name)
		}
		w.walls.set("x", "b", kind)
		w.walls.set("x", "c", kind)
		p := Policy{Copies: 3}
		a := w.host("a", "svc", p)
		w.standby("b", "svc", p)
		w.standby("c", "svc", p)
		w.inSync(a, 3)
		w.dial("x", "svc", ClientConfig{})
		_, err := a.Handoff(t.Context(), "b")
		require.ErrorIs(t, err, ErrTransferFailed)
		rep, err := a.Handoff(t.Context(), "c")
		require.NoError(t, err)
		require.Equal(t, []int{1, 0, 0}, []int{rep.Clients, rep.Ready, rep.Unreachable})
	})
}

// An active host to which others cannot connect any more, because of a new firewall, keeps its standby and hands over to it.
func TestActiveBehindNewFirewall(t *testing.T) {
	eachWall(t, func(t *testing.T, w *world, kind error) {
		causes := make(chan Cause, 100)
		w.hooks.Moved = func(r Report, err error) { causes <- r.Cause }
		w.node("a")
		w.node("b")
		a, b := w.pair(Policy{})
		c := w.dial("c", "svc", ClientConfig{})
		w.write(c)
		time.Sleep(time.Second)
		w.walls.set("b", "a", kind)
		w.walls.set("c", "a", kind)
		w.net.Cut("b", "a")
		w.role(b, Active)
		require.Equal(t, CauseUnreachable, <-causes)
		w.inSync(b, 2)
		time.Sleep(30 * time.Second)
		require.Equal(t, Active, b.Status().Role, "it stays where it can be reached")
		require.Equal(t, Standby, a.Status().Role)
		w.check(c)
	})
}
