package cli

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/transport"
)

// answers replies to each call with a text.
type answers string

func (a answers) Handle(_ transport.Conn, r *transport.Request) {
	r.Reply([]byte("\xa1"+string(a)), nil)
}
func (a answers) Closed(transport.Conn, error) {}

func (a answers) accept(transport.Conn) transport.Handler { return a }

func TestOnePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := transport.NewMemory()
		port := onePort{Transport: network.Host("server")}
		host, err := port.as(asHost).Listen(":7000", answers("h").accept)
		require.NoError(t, err)
		client, err := port.as(asClient).Listen(":0", answers("c").accept)
		require.NoError(t, err)
		require.Equal(t, host.Addr(), client.Addr())

		dial := func() transport.Conn {
			c, err := network.Host("client").Dial(t.Context(), transport.Peer{Addr: host.Addr()}, nil)
			require.NoError(t, err)
			return c
		}
		call := func(method string) (string, error) {
			c := dial()
			defer c.Close()
			b, err := c.Call(t.Context(), method, nil)
			return string(b), err
		}
		for method, want := range map[string]string{"roam.open": "\xa1h", "chat.hello": "\xa1c", "other": "\xa1h"} {
			got, err := call(method)
			require.NoError(t, err)
			require.Equal(t, want, got, method)
		}

		// A client may end and begin again, while the host stays.
		require.NoError(t, client.Close())
		require.NoError(t, client.Close())
		_, err = call("chat.hello")
		require.ErrorIs(t, err, transport.ErrClosed)
		_, err = call("roam.open")
		require.NoError(t, err)
		client, err = port.as(asClient).Listen(":0", answers("d").accept)
		require.NoError(t, err)
		got, err := call("chat.hello")
		require.NoError(t, err)
		require.Equal(t, "\xa1d", got)

		// A connection without a message ends.
		silent := dial()
		time.Sleep(firstMessage + time.Second)
		_, err = silent.Call(t.Context(), "roam.open", nil)
		require.ErrorIs(t, err, io.EOF)

		require.NoError(t, host.Close())
		require.NoError(t, client.Close())
		_, err = network.Host("client").Dial(t.Context(), transport.Peer{Addr: host.Addr()}, nil)
		require.Error(t, err, "nothing listens any more")
		again, err := port.as(asClient).Listen(":0", answers("c").accept)
		require.NoError(t, err)
		require.NotEqual(t, host.Addr(), again.Addr())
		require.NoError(t, again.Close())
	})
}

// With -listen :7000, other participants reach the chat's client at that port as well.
func TestPrivateMessagesUseThePort(t *testing.T) {
	f, _ := serveDNS(t, transport.NewRealm(), false)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := free.Addr().String()
	require.NoError(t, free.Close())
	f.Serve, f.Listen = true, addr
	p := start(t, f)
	require.Equal(t, addr, p.Node.Self().Addr)
	_, err = p.Host(t.Context())
	require.NoError(t, err)
	f.Listen = "127.0.0.1:0"
	q := start(t, f)

	join := func(p *Process, name string) *chatcore.Client {
		c, err := chatcore.Join(t.Context(), f.Service, chatcore.ClientConfig{
			Name: name, Resolver: p.Resolver, Transport: p.ClientTransport(), Listen: p.Flags.Listen,
		})
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	ann, bob := join(p, "ann"), join(q, "bob")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, to := range []string{"ann", "bob"} {
		from := map[string]*chatcore.Client{"ann": bob, "bob": ann}[to]
		require.NoError(t, from.Private(ctx, to, "between us"))
	}
	require.Equal(t, addr, p.port.real.Addr())
	require.Len(t, p.port.open, 2)
}
