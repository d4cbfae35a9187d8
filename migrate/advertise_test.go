package migrate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

func TestWithPort(t *testing.T) {
	for _, tc := range []struct{ addr, listener, want string }{
		{"", "[::]:4321", "[::]:4321"},
		{"10.0.0.5:80", "[::]:4321", "10.0.0.5:80"},
		{"10.0.0.5:0", "[::]:4321", "10.0.0.5:4321"},
		{"10.0.0.5:", "[::]:4321", "10.0.0.5:4321"},
		{"10.0.0.5", "[::]:4321", "10.0.0.5:4321"},
		{"[fe80::1]", "[::]:4321", "[fe80::1]:4321"},
		{"fe80::1", "[::]:4321", "[fe80::1]:4321"},
		{"[fe80::1]:0", "[::]:4321", "[fe80::1]:4321"},
		{"box.lan", "0.0.0.0:4321", "box.lan:4321"},
		{":0", "0.0.0.0:4321", ":4321"},
		{"a", "a", "a"},
	} {
		require.Equal(t, tc.want, withPort(tc.addr, tc.listener), "%q at %q", tc.addr, tc.listener)
	}
}

func TestNodeAdvertisesThePortItListensAt(t *testing.T) {
	tr, err := transport.NewTCP(transport.TCPConfig{Open: true})
	require.NoError(t, err)
	defer tr.Close()
	n, err := NewNode(NodeConfig{Resolver: resolver.NewMemory(), Transport: tr, Listen: "127.0.0.1:0", Advertise: "localhost"})
	require.NoError(t, err)
	defer n.Close()
	require.Equal(t, withPort("localhost", n.listener.Addr()), n.Self().Addr)
	require.NotEqual(t, "localhost:0", n.Self().Addr)

	for _, advertise := range []string{"", ":0", "0.0.0.0:0"} {
		_, err = NewNode(NodeConfig{Resolver: resolver.NewMemory(), Transport: tr, Advertise: advertise})
		require.ErrorIs(t, err, ErrConfig, "%q", advertise)
	}
}

// The zone of a link-local address is the name of an interface of this machine, which others do not know.
func TestNodeAdvertisesNoZone(t *testing.T) {
	n, err := NewNode(NodeConfig{
		Resolver: resolver.NewMemory(), Transport: zoned{transport.NewMemory().Host("a")}, Listen: "a:1",
	})
	require.NoError(t, err)
	require.Equal(t, "[fe80::a]:7000", n.Self().Addr)
	require.NoError(t, n.Close())
	for _, advertise := range []string{"fe80::1%eth0", "[fe80::1%eth0]", "[fe80::1%eth0]:0", "[fe80::1%eth0]:7000"} {
		n, err := NewNode(NodeConfig{
			Resolver: resolver.NewMemory(), Transport: zoned{transport.NewMemory().Host("a")}, Listen: "a:1", Advertise: advertise,
		})
		require.NoError(t, err)
		require.Equal(t, "[fe80::1]:7000", n.Self().Addr)
		require.NoError(t, n.Close())
	}
}

// zoned is a transport whose listeners have a link-local address.
type zoned struct{ transport.Transport }

func (z zoned) Listen(addr string, accept func(transport.Conn) transport.Handler) (transport.Listener, error) {
	l, err := z.Transport.Listen(addr, accept)
	return zonedListener{l}, err
}

type zonedListener struct{ transport.Listener }

func (zonedListener) Addr() string { return "[fe80::a%eth0]:7000" }

// eager is a transport with a listener that has a caller before Listen returns.
type eager struct {
	transport.Transport
	dial func()
}

func (e eager) Listen(addr string, accept func(transport.Conn) transport.Handler) (transport.Listener, error) {
	l, err := e.Transport.Listen(addr, accept)
	if err == nil {
		go e.dial()
		time.Sleep(100 * time.Millisecond) // the caller is answered, if accept does not wait
	}
	return l, err
}

// A host that calls while a node starts learns the node's address.
func TestNodeIsCalledWhileItStarts(t *testing.T) {
	net, res := transport.NewMemory(), resolver.NewMemory()
	answer := make(chan resolver.Host, 1)
	tr := eager{net.Host("a"), func() {
		other := net.Host("b")
		conn, err := other.Dial(t.Context(), transport.Peer{Addr: "a:1"}, nil)
		require.NoError(t, err)
		defer conn.Close()
		params := mustMarshal(t, wire.HostHello{Host: resolver.Host{ID: "b", Key: other.Key(), Addr: "b:1"}})
		b, err := conn.Call(t.Context(), wire.MethodHello, params)
		require.NoError(t, err)
		var h wire.HostHello
		require.NoError(t, msgpack.UnmarshalSmall(b, &h))
		answer <- h.Host
	}}
	n, err := NewNode(NodeConfig{Resolver: res, Transport: tr, ID: "a", Listen: "a:1"})
	require.NoError(t, err)
	defer n.Close()
	require.Equal(t, n.Self(), <-answer)
}
