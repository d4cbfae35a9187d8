package migrate

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
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
	tr, err := transport.NewTCP(transport.TCPConfig{})
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
