package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// guest returns an attacker with the code for guests and a key of its own. It can make as many as it likes.
func guest(g *target) *attacker {
	g.t.Helper()
	realm, _ := g.realm(transport.RoleGuest)
	return newAttacker(g, transport.TCPConfig{Realm: realm})
}

// rawClient is a connection to the host of the chat on which an attacker sends the requests of clients as it likes.
type rawClient struct {
	*attacker
	conn transport.Conn
}

func (a *attacker) connect(addr string) (*rawClient, error) {
	conn, err := a.tr.Dial(soon(a.t), transport.Peer{Addr: addr}, nil)
	if err != nil {
		return nil, err
	}
	a.t.Cleanup(func() { conn.Close() })
	return &rawClient{a, conn}, nil
}

// close ends all connections of the attacker.
func (c *rawClient) close() {
	c.names.Close()
	c.tr.Close()
}

// each calls a method n times at once, and returns how many calls succeeded, and the error of one that did not.
func (c *rawClient) each(n int, method string, params func(i int) []any) (succeeded int, failed error) {
	c.t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	all.Add(n)
	for i := range n {
		b, err := transport.Marshal(params(i))
		require.NoError(c.t, err)
		c.conn.Go(method, b, func(_ []byte, err error) {
			defer all.Done()
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				succeeded++
			} else {
				failed = err
			}
		})
	}
	all.Wait()
	return succeeded, failed
}

// open opens sessions from a number on.
func (c *rawClient) open(from uint64, n int) (opened int, err error) {
	c.t.Helper()
	return c.each(n, "roam.open", func(i int) []any { return []any{chatName, from + uint64(i), false, 0, 0} })
}

// join makes a participant of each session.
func (c *rawClient) join(from uint64, n int, name func(i int) string) (joined int, err error) {
	c.t.Helper()
	return c.each(n, "roam.do", func(i int) []any {
		const opJoin = 1
		body, err := transport.Marshal([]any{opJoin, name(i), ""})
		require.NoError(c.t, err)
		return []any{chatName, from + uint64(i), 1, 1, body}
	})
}

// leave ends sessions.
func (c *rawClient) leave(from uint64, n int) {
	c.t.Helper()
	left, err := c.each(n, "roam.leave", func(i int) []any { return []any{chatName, from + uint64(i)} })
	require.NoError(c.t, err)
	require.Equal(c.t, n, left)
}

// query asks the chat in a session of the attacker; 0 is none.
func (c *rawClient) query(session uint64, op int, name string) ([]byte, error) {
	c.t.Helper()
	body, err := transport.Marshal([]any{op, name, uint64(1) << 53, 0})
	require.NoError(c.t, err)
	params, err := transport.Marshal([]any{chatName, session, body})
	require.NoError(c.t, err)
	answer, err := c.conn.Call(soon(c.t), "roam.query", params)
	if err != nil {
		return nil, err
	}
	var result struct {
		_struct      struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec
		Index, Epoch uint64
		Reply        []byte
	}
	require.NoError(c.t, transport.Unmarshal(answer, &result))
	return result.Reply, nil
}

// sessions opens sessions over as many connections as it needs, and returns their number and a function that ends the
// connections. It stops when a connection admits none.
func sessions(a *attacker, addr string, n int) (opened int, end func(), err error) {
	a.t.Helper()
	const perConn = 1000
	var conns []transport.Conn
	end = func() {
		for _, c := range conns {
			c.Close()
		}
	}
	for i := 0; i < n; i += perConn {
		c, err := a.connect(addr)
		if err != nil {
			return opened, end, err
		}
		conns = append(conns, c.conn)
		k, err := c.open(uint64(1000+i), min(perConn, n-i))
		if opened += k; k == 0 {
			return opened, end, err
		}
	}
	return opened, end, nil
}

// A stranger opens no session. A guest opens at most a quarter of the sessions that the host allows: it pushes nobody out
// and keeps nobody out.
func TestAttackSessions(t *testing.T) {
	t.Parallel()
	const most = 1<<16 - 1
	g := startTarget(t)
	opened, _, err := sessions(stranger(g), g.node1, most)
	require.ErrorIs(t, err, transport.ErrNotMember)
	require.Zero(t, opened)

	opened, end, err := sessions(guest(g), g.node1, most)
	require.Equal(t, 1<<14, opened)
	require.ErrorIs(t, err, migrate.ErrQuota)
	g.speaks()
	g.works()
	end()
	g.works()
}

// history returns what was said in the chat. Without a session it asks all the same.
func history(a *attacker, addr string, session uint64) ([]byte, error) {
	a.t.Helper()
	c, err := a.connect(addr)
	if err != nil {
		return nil, err
	}
	if session != 0 {
		if _, err := c.open(session, 1); err != nil {
			return nil, err
		}
	}
	return c.query(session, queryHistory, "")
}

const queryHistory, queryFind = 1, 3

// A stranger reads nothing, and nobody does without a session. Guests read what was said before, as they may, and so does
// everybody without a realm.
func TestAttackHistory(t *testing.T) {
	t.Parallel()
	g := startTarget(t)
	_, err := history(stranger(g), g.node1, 7)
	require.ErrorIs(t, err, transport.ErrNotMember)
	_, err = history(guest(g), g.node1, 0)
	require.ErrorIs(t, err, migrate.ErrSessionExpired)
	said, err := history(guest(g), g.node1, 7)
	require.NoError(t, err)
	require.Contains(t, string(said), "line 1")

	open := startTarget(t, "-open")
	_, err = history(stranger(open), open.node1, 0)
	require.ErrorIs(t, err, migrate.ErrSessionExpired)
	said, err = history(stranger(open), open.node1, 7)
	require.NoError(t, err)
	require.Contains(t, string(said), "line 1")
}

// participants joins the room n times with one key.
func participants(a *attacker, addr string, n int) (joined int, failed error) {
	a.t.Helper()
	const perConn = 1000
	for i := 0; i < n; i += perConn {
		c, err := a.connect(addr)
		require.NoError(a.t, err)
		from, here := uint64(1000+i), min(perConn, n-i)
		c.open(from, here)
		k, err := c.join(from, here, func(j int) string { return fmt.Sprintf("crowd%d", i+j) })
		joined += k
		if err != nil {
			failed = err
		}
	}
	return joined, failed
}

// A guest takes at most 64 places in the room with a key. Where nobody has a key there is no such limit.
func TestAttackRoom(t *testing.T) {
	t.Parallel()
	g := startTarget(t)
	joined, err := participants(guest(g), g.node1, 10_000)
	require.Error(t, err)
	require.NotZero(t, joined)
	require.LessOrEqual(t, joined, 64)
	g.works()

	insecure := startTarget(t, "-insecure")
	joined, err = participants(anonymous(insecure), insecure.node1, 1000)
	require.NoError(t, err)
	require.Equal(t, 1000, joined)
}

// address returns the address at which a participant receives private messages, as asked in a session.
func (c *rawClient) address(session uint64, name string) string {
	c.t.Helper()
	b, err := c.query(session, queryFind, name)
	require.NoError(c.t, err)
	var found struct {
		_struct    struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec
		Number     uint64
		Name, Addr string
	}
	require.NoError(c.t, transport.Unmarshal(b, &found))
	return found.Addr
}

// private sends alice a private message from each of n names, a few at once, and returns how many she has accepted. It asks
// for her address in a session.
func (c *rawClient) private(session uint64, n int, name func(i int) string, text string) (accepted int, failed error) {
	c.t.Helper()
	to, err := c.connect(c.address(session, "alice"))
	require.NoError(c.t, err)
	defer to.conn.Close()
	answer, err := to.conn.Call(soon(c.t), "chat.hello", nil)
	require.NoError(c.t, err)
	var tokens [][]byte
	require.NoError(c.t, transport.Unmarshal(answer, &tokens))
	const atOnce = 4
	for i := 0; i < n; i += atOnce {
		k, err := to.each(min(atOnce, n-i), "chat.private", func(j int) []any {
			return []any{"alice", name(i + j), text, messageIDs.Add(1), tokens[0]}
		})
		accepted += k
		if err != nil {
			failed = err
		}
	}
	return accepted, failed
}

var messageIDs atomic.Uint64

// flood sends alice private messages under throwaway names, each 64 with another key.
func flood(g *target, names int) {
	g.t.Helper()
	const perKey = 64
	for n := 0; n < names; n += perKey {
		c, err := guest(g).connect(g.node1)
		require.NoError(g.t, err)
		here := min(perKey, names-n)
		name := func(i int) string { return fmt.Sprintf("x%d", n+i) }
		from := uint64(1_000_000 + n)
		c.open(from, here)
		joined, err := c.join(from, here, name)
		require.Equal(g.t, here, joined, "%v", err)
		accepted, err := c.private(from, here, name, "junk")
		require.Equal(g.t, here, accepted, "%v", err)
		c.leave(from, here)
		g.alice.await(fmt.Sprintf(`^\* x%d left`, n+here-1))
		c.close()
	}
}

// impersonate joins as bob, who has left, and sends alice a private message.
func impersonate(a *attacker, addr string) error {
	a.t.Helper()
	c, err := a.connect(addr)
	require.NoError(a.t, err)
	const session = 1
	c.open(session, 1)
	bob := func(int) string { return "bob" }
	joined, err := c.join(session, 1, bob)
	require.Equal(a.t, 1, joined, "%v", err)
	_, err = c.private(session, 1, bob, "pay eve")
	return err
}

// bobWrites lets alice and bob exchange private messages. Then bob leaves.
func (g *target) bobWrites() {
	g.t.Helper()
	bob := g.start("console", with(g.flags, "-name", "bob", "-client_only")...)
	bob.await("bob joined")
	g.alice.await("bob joined")
	g.alice.say("/msg bob it is me")
	bob.await("alice .*: it is me")
	require.NoError(g.t, bob.stdin.Close())
	require.Zero(g.t, bob.end(), bob.stderr())
	g.alice.await("bob left")
}

// A flood of private messages does not make alice forget the key of bob, so that nobody can write in his name.
func TestAttackImpersonate(t *testing.T) {
	t.Parallel()
	g := startTarget(t)
	g.bobWrites()
	flood(g, 10_050)
	require.ErrorIs(t, impersonate(guest(g), g.node1), chatcore.ErrPeerKey)
	g.works()
	for _, l := range g.alice.all {
		require.NotContains(t, l, "pay eve")
	}

	insecure := startTarget(t, "-insecure")
	insecure.bobWrites()
	require.NoError(t, impersonate(anonymous(insecure), insecure.node1))
	insecure.alice.await("bob.*pay eve")
}
