package migrate

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// Three hosts, a resolver and clients over TLS on the loopback interface.
func TestOverTCP(t *testing.T) {
	tcp := func() *transport.TCP {
		tr, err := transport.NewTCP(transport.TCPConfig{Open: true})
		require.NoError(t, err)
		t.Cleanup(func() { tr.Close() })
		return tr
	}
	tr := tcp()
	key := tr.Key()
	server, err := resolver.NewServer(resolver.ServerConfig{Transport: tr})
	require.NoError(t, err)
	defer server.Close()
	addr, err := server.Listen("127.0.0.1:0")
	require.NoError(t, err)
	remote := func(tr transport.Transport) resolver.Resolver {
		res, err := resolver.NewClient(resolver.ClientConfig{Transport: tr, Server: transport.Peer{Addr: addr, Key: key}})
		require.NoError(t, err)
		t.Cleanup(func() { res.Close() })
		return res
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	services := map[string]*Service{}
	for _, id := range []string{"a", "b", "c"} {
		tr := tcp()
		n, err := NewNode(NodeConfig{Resolver: remote(tr), Transport: tr, ID: id, Listen: "127.0.0.1:0"})
		require.NoError(t, err)
		t.Cleanup(func() { n.Close() })
		services[id], err = n.Host(ctx, "svc", newTally, Policy{})
		require.NoError(t, err)
	}
	a := services["a"]
	require.NoError(t, a.wait(ctx, func(st Status) bool { return len(st.Record.ISR) == 2 }))
	const clients, commands = 3, 100
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			tr := tcp()
			c, err := Dial(ctx, "svc", ClientConfig{Resolver: remote(tr), Transport: tr})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			last := 0
			for n := range commands {
				reply, err := c.Do(ctx, fmt.Appendf(nil, "%d-%d", i, n))
				at, _ := strconv.Atoi(string(reply))
				if err != nil || at <= last {
					t.Errorf("command %d of client %d: %s after %d, %v", n, i, reply, last, err)
					return
				}
				last = at
			}
		})
	}
	rep, err := a.Handoff(ctx, "c")
	require.NoError(t, err)
	require.Equal(t, "c", rep.To.ID)
	require.NoError(t, services["c"].node.Close()) // like a crash
	wg.Wait()
	tr = tcp()
	c, err := Dial(ctx, "svc", ClientConfig{Resolver: remote(tr), Transport: tr})
	require.NoError(t, err)
	defer c.Close()
	reply, err := c.Query(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(clients*commands), string(reply))
}
