package peer

import (
	"strings"
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
	"github.com/roam-go/roam/transport/msgpack"
)

// back is a host "c" that connects to the host "a" of a bench, which cannot connect to c.
type back struct {
	*bench
	self resolver.Host
	at   transport.Conn // a's end of c's connection
	near transport.Conn
	got  chan string // services of messages that c receives
	told chan string // why a does not reach it
}

func (b *back) Handle(_ transport.Conn, r *transport.Request) {
	switch r.Method {
	case wire.MethodMsg:
		service, _, _ := wire.UnmarshalMsgParams(r.Params)
		b.got <- string(service)
	case wire.MethodUnreached:
		var p wire.UnreachedParams
		require.NoError(b.t, msgpack.UnmarshalSmall(r.Params, &p))
		b.told <- p.Reason
	}
}
func (b *back) Closed(transport.Conn, error) {}

func (b *back) send(service string) { b.links.Send(b.self, service, core.Msg{Type: core.MsgAppend}) }

// connect makes c's connection to a.
func (b *back) connect() {
	arrived := make(chan transport.Conn, 1)
	l, err := b.net.Host("a").Listen("a:2", func(c transport.Conn) transport.Handler {
		arrived <- c
		return ignore{}
	})
	require.NoError(b.t, err)
	b.near, err = b.net.Host("c").Dial(b.t.Context(), transport.Peer{Addr: "a:2"}, b)
	require.NoError(b.t, err)
	b.at = <-arrived
	require.NoError(b.t, l.Close())
	b.links.Arrived(b.self, b.at)
}

type ignore struct{}

func (ignore) Handle(transport.Conn, *transport.Request) {}
func (ignore) Closed(transport.Conn, error)              {}

func withBack(t *testing.T, fail func(dial int) error, f func(*back)) {
	inBubble(t, fail, func(b *bench) {
		c := &back{bench: b, got: make(chan string, 1000), told: make(chan string, 1000)}
		c.self = resolver.Host{ID: "c", Incarnation: 1, Addr: "c:1", Key: b.net.Host("c").Key()}
		defer b.net.Crash("c")
		c.connect()
		f(c)
	})
}

// Messages for a host that refuses connections go on the connection that it has made: it is not reported as down. When that
// connection ends, it is.
func TestBack(t *testing.T) {
	withBack(t, func(int) error { return syscall.ECONNREFUSED }, func(b *back) {
		require.False(t, b.links.Unreachable(b.self))
		b.send("one")
		b.send("two")
		require.Equal(t, "reset c", <-b.events)
		require.True(t, b.links.Unreachable(b.self))
		for _, want := range []string{"one", "two"} {
			require.Equal(t, want, <-b.got)
		}
		require.Equal(t, syscall.ECONNREFUSED.Error(), <-b.told)
		for range 40 { // in use
			b.send("more")
			require.Equal(t, "more", <-b.got)
			time.Sleep(5 * time.Second)
		}
		require.Empty(t, b.events)
		require.Less(t, b.dials.Load(), int32(20), "it tries again more and more rarely")
		b.near.Close()
		b.links.Left(b.self, b.at)
		require.Equal(t, "down c", <-b.events)
		synctest.Wait()
		require.Zero(t, b.count())
	})
}

// When connections are no longer refused, the link uses one of its own.
func TestBackEnds(t *testing.T) {
	var open atomic.Bool
	withBack(t, func(int) error {
		if open.Load() {
			return nil
		}
		return syscall.ECONNREFUSED
	}, func(b *back) {
		b.send("one")
		require.Equal(t, "reset c", <-b.events)
		_, err := b.net.Host("c").Listen("c:1", func(transport.Conn) transport.Handler { return &answerer{b} })
		require.NoError(t, err)
		open.Store(true)
		for b.links.Unreachable(b.self) {
			b.send("again")
			time.Sleep(time.Second)
		}
		require.Equal(t, "reset c", <-b.events)
	})
}

// answerer answers hellos as c.
type answerer struct{ b *back }

func (a *answerer) Handle(_ transport.Conn, r *transport.Request) {
	if r.Method == wire.MethodHello {
		r.Reply(transport.Marshal(wire.HostHello{Host: a.b.self}))
	}
}
func (*answerer) Closed(transport.Conn, error) {}

// A connection of another key is not used, whatever host it claims to be of.
func TestBackOfAnotherKey(t *testing.T) {
	withBack(t, func(int) error { return syscall.ECONNREFUSED }, func(b *back) {
		to := b.self
		to.Key[0]++
		b.links.Send(to, "secret", core.Msg{Type: core.MsgAppend})
		require.Equal(t, "down c", <-b.events)
		synctest.Wait()
		require.Empty(t, b.got)
	})
}

// A host that cannot connect to this one sends its messages on this host's connection, and says why.
func TestMessagesOnOwnConnection(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.send("one")
		require.Equal(t, "reset b", <-b.events)
		<-b.linked
		require.Equal(t, "one", <-b.got)
		other := <-b.other
		params, err := wire.AppendMsgParams(nil, "back", core.Msg{Type: core.MsgAck})
		require.NoError(t, err)
		require.NoError(t, other.Notify(wire.MethodMsg, params))
		require.Equal(t, "accept b", <-b.events)
		require.Equal(t, "back", <-b.got)
		reason, err := transport.Marshal(wire.UnreachedParams{Reason: strings.Repeat("x", 1000)})
		require.NoError(t, err)
		require.NoError(t, other.Notify(wire.MethodUnreached, reason))
		require.Equal(t, "unreached b: "+strings.Repeat("x", maxReason), <-b.events)
	})
}

// The first message for a host that has connected does not wait for a connection to it.
func TestBackAtOnce(t *testing.T) {
	withBack(t, func(int) error {
		time.Sleep(time.Second)
		return nil
	}, func(b *back) {
		_, err := b.net.Host("c").Listen("c:1", func(transport.Conn) transport.Handler { return &answerer{b} })
		require.NoError(t, err)
		b.send("one")
		time.Sleep(10 * time.Millisecond)
		require.Len(t, b.got, 1)
		require.Empty(t, b.events, "it is not connected yet")
		require.Equal(t, "reset c", <-b.events)
		require.False(t, b.links.Unreachable(b.self))
		require.Empty(t, b.told)
	})
}
