package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// dialRaw connects to addr as a guest, or as a stranger if realm is nil, and returns the connection after the greeting. What
// the peer sends next is not read.
func dialRaw(t *testing.T, realm *transport.Realm, addr string) (*tls.Conn, error) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	if realm == nil {
		realm = transport.NewRealm()
	}
	pass, err := realm.Issue(transport.Key(public), transport.RoleGuest)
	require.NoError(t, err)
	conn, err := tls.Dial("tcp", addr, &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{"roam/1"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{pass.Raw}, PrivateKey: private}},
	})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	hello, err := transport.Marshal([]any{0, 1, "roam.hello", []any{1, 1, []any{}}})
	require.NoError(t, err)
	if _, err = conn.Write(hello); err == nil {
		_, err = conn.Read(make([]byte, 100))
	}
	return conn, err
}

// beginMessages sends nearly all of a message of 1 MiB over each connection, and returns how many of them the peer took.
func beginMessages(t *testing.T, realm *transport.Realm, addr string, conns int) (taken int, failed error) {
	const size = 1<<20 - 1024
	b := msgpack.AppendString([]byte{0x93, 2}, "roam.msg")
	b = append(b, 0xc6, byte(size>>24), byte(size>>16&0xff), byte(size>>8&0xff), byte(size&0xff))
	b = append(b, make([]byte, size-1)...)
	for range conns {
		conn, err := dialRaw(t, realm, addr)
		if err == nil {
			_, err = conn.Write(b)
		}
		if err == nil {
			taken++
		} else {
			failed = err
		}
	}
	return taken, failed
}

// askMuch sends queries for the history over each connection, and reads no reply. It returns how many connections took them.
func askMuch(t *testing.T, realm *transport.Realm, addr string, conns, queries int) (taken int, failed error) {
	body, err := transport.Marshal([]any{queryHistory, "", uint64(1) << 53, 0})
	require.NoError(t, err)
	var all bytes.Buffer
	for i := range queries {
		call, err := transport.Marshal([]any{0, 2 + i, "roam.query", []any{chatName, 0, body}})
		require.NoError(t, err)
		all.Write(call)
	}
	for range conns {
		conn, err := dialRaw(t, realm, addr)
		if err == nil {
			_, err = conn.Write(all.Bytes())
		}
		if err == nil {
			taken++
		} else {
			failed = err
		}
	}
	return taken, failed
}

// peak returns the most memory that the program has had, in MiB.
func (p *program) peak() int {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(p.t, err)
	for _, l := range strings.Split(string(b), "\n") {
		if kib, ok := strings.CutPrefix(l, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.Fields(kib)[0])
			require.NoError(p.t, err)
			return n >> 10
		}
	}
	return 0
}

// A stranger's bytes are not kept. A guest makes the host keep at most one message that has begun, and the replies that one
// connection may have waiting, for each connection. Meanwhile the host serves others.
func TestAttackMemory(t *testing.T) {
	t.Parallel()
	const (
		beginning, message = 300, 1 // connections, MiB
		asking, replies    = 60, 4
		queries            = 400
	)
	g := startTarget(t)
	taken, err := beginMessages(t, nil, g.node1, beginning)
	require.Error(t, err)
	require.Zero(t, taken)
	for range 20 { // fills the history, which has at most 64 KiB
		g.alice.say("%s", strings.Repeat("x", 4000))
	}
	g.works()
	before := g.node.peak()

	guests, _ := g.realm(transport.RoleGuest)
	taken, _ = beginMessages(t, guests, g.node1, beginning)
	require.NotZero(t, taken)
	g.speaks()
	taken, _ = askMuch(t, guests, g.node1, asking, queries)
	require.NotZero(t, taken)
	g.works()
	t.Logf("%d MiB before, at most %d MiB", before, g.node.peak())
	const copies = 3 // a buffer is copied when it grows, and garbage is collected later
	require.Less(t, g.node.peak(), before+copies*(beginning*message+asking*replies))
}
