package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/roam-go/roam/migrate/internal/serve"
	"github.com/roam-go/roam/migrate/internal/wire"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// spreads is a connection's other end that notes what it is told of the spread.
type spreads chan time.Duration

func (s spreads) Handle(_ transport.Conn, q *transport.Request) {
	var p wire.SpreadParams
	if q.Method == wire.MethodSpread && transport.Unmarshal(q.Params, &p) == nil {
		s <- time.Duration(p.SpreadMS) * time.Millisecond
	}
}

func (s spreads) Closed(transport.Conn, error) {}

// Clients are told of the spread when they come and, once a second at most, when they have become twice as many; a
// connection's end takes with it all its sessions and no others.
func TestManyClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, _ := w.pair(Policy{})
		told := make(spreads, 4*serve.SpreadFrom)
		dial := func() transport.Conn {
			c, err := w.transport("x").Dial(t.Context(), transport.Peer{Addr: a.node.self.Addr}, told)
			require.NoError(t, err)
			return c
		}
		conns := []transport.Conn{dial(), dial(), dial()}
		last := wire.OpenResult{}
		for i := range 3 * serve.SpreadFrom {
			b, err := transport.Marshal(wire.OpenParams{Service: "svc", Session: uint64(i + 1)})
			require.NoError(t, err)
			b, err = conns[i%3].Call(t.Context(), wire.MethodOpen, b)
			require.NoError(t, err)
			require.NoError(t, transport.Unmarshal(b, &last))
			if i < serve.SpreadFrom {
				require.Zero(t, last.SpreadMS)
			}
		}
		synctest.Wait()
		require.Equal(t, (2 * serve.SpreadFrom * serve.SpreadPerClient).Milliseconds(), last.SpreadMS)
		require.Empty(t, told)
		time.Sleep(serve.SpreadInterval)
		synctest.Wait()
		require.Len(t, told, 3*serve.SpreadFrom, "each once")
		require.Equal(t, 2*serve.SpreadFrom*serve.SpreadPerClient, <-told)

		conns[1].Close()
		time.Sleep(time.Second)
		require.Equal(t, 2*serve.SpreadFrom, a.Status().Clients)
		leave, err := transport.Marshal(wire.LeaveParams{Service: "svc", Session: 1})
		require.NoError(t, err)
		_, err = conns[0].Call(t.Context(), wire.MethodLeave, leave)
		require.NoError(t, err)
		conns[0].Close()
		time.Sleep(time.Second)
		require.Equal(t, serve.SpreadFrom, a.Status().Clients)
	})
}

// Many clients that have connected ahead are called over a few at a time, and none waits long for it.
func TestManyClientsMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		a, _ := w.pair(Policy{})
		var clients []*Client
		moves := make(chan Move, 10*serve.ParkedBatch)
		for range 3 * serve.ParkedBatch {
			clients = append(clients, w.dial("client", "svc", ClientConfig{OnMove: func(m Move) { moves <- m }}))
		}
		rep, err := a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		require.Equal(t, len(clients), rep.Ready)
		time.Sleep(50 * time.Millisecond)
		for _, c := range clients {
			require.Equal(t, "b", c.Where().ID)
			m := <-moves
			require.True(t, m.Planned)
			require.Less(t, m.Pause, 10*time.Millisecond)
		}
	})
}
