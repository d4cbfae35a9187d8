package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// A hostMsg is a message between hosts, see core.AppendMsg.
type hostMsg struct {
	kind                 byte
	flag                 byte
	from                 resolver.Host
	loss, epoch          uint64
	index, commit, round uint64
	prev, prevEpoch      uint64
	record               *resolver.Record
}

const (
	msgReject = 3
	msgInvite = 4
)

func (m hostMsg) encode(t *testing.T) []byte {
	t.Helper()
	bytes := func(b []byte, s string) []byte { return append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	b := bytes([]byte{m.kind, m.flag}, m.from.ID)
	for _, v := range []uint64{m.from.Incarnation, m.loss, m.epoch, m.index, m.commit, m.round, m.prev, m.prevEpoch, 0, 0} {
		b = binary.AppendUvarint(b, v)
	}
	b = bytes(b, "")
	rec := []byte(nil)
	if m.record != nil {
		var err error
		rec, err = transport.Marshal(m.record)
		require.NoError(t, err)
	}
	return binary.AppendUvarint(bytes(b, string(rec)), 0)
}

// infiltrator is a host that the active one invites.
type infiltrator struct {
	*attacker
	invited chan struct{} // holds an element when the invitation has arrived
}

func (i *infiltrator) Closed(transport.Conn, error) {}

func (i *infiltrator) Handle(_ transport.Conn, r *transport.Request) {
	switch {
	case r.Method == "roam.host":
		r.Reply(transport.Marshal([]any{i.host}))
	case r.Method == "roam.msg":
		var p struct {
			_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec
			Service string
			Msg     []byte
		}
		if transport.Unmarshal(r.Params, &p) == nil && len(p.Msg) > 0 && p.Msg[0] == msgInvite {
			select {
			case i.invited <- struct{}{}:
			default:
			}
		}
	case r.IsCall():
		r.Reply(nil, transport.ErrNoMethod)
	}
}

// joinAndSend announces itself as a host, waits until it is invited, and sends the active host the message that forge makes
// from the record. If it cannot announce itself, it sends the message to node without an invitation. It returns the errors.
func (a *attacker) joinAndSend(node string, forge func(*attacker, resolver.Record) hostMsg) error {
	i := &infiltrator{a, make(chan struct{}, 1)}
	l, err := a.tr.Listen("127.0.0.1:0", func(transport.Conn) transport.Handler { return i })
	require.NoError(a.t, err)
	a.t.Cleanup(func() { l.Close() })
	a.host.Addr = l.Addr()
	if err := a.names.Announce(soon(a.t), a.host, []string{chatName}, time.Minute); err != nil {
		return errors.Join(err, a.send(node, forge(a, resolver.Record{Name: chatName, Version: 1, Epoch: 1})))
	}
	select {
	case <-i.invited:
	case <-soon(a.t).Done():
		return errors.New("no invitation")
	}
	rec, err := a.names.Get(soon(a.t), chatName)
	if err != nil {
		return err
	}
	return a.send(rec.Active.Addr, forge(a, rec))
}

// send sends a message to the host at addr.
func (a *attacker) send(addr string, m hostMsg) error {
	conn, err := a.tr.Dial(soon(a.t), transport.Peer{Addr: addr}, nil)
	if err != nil {
		return err
	}
	a.t.Cleanup(func() { conn.Close() })
	hello, err := transport.Marshal([]any{a.host})
	require.NoError(a.t, err)
	if _, err := conn.Call(soon(a.t), "roam.host", hello); err != nil {
		return err
	}
	m.from = a.host
	params, err := transport.Marshal([]any{chatName, m.encode(a.t)})
	require.NoError(a.t, err)
	return conn.Notify("roam.msg", params)
}

// lastEpoch is a message with a record of the highest epoch, which no host can exceed.
func (a *attacker) lastEpoch(rec resolver.Record) hostMsg {
	const last = 1<<53 - 1
	rec.Version, rec.Epoch = rec.Version+1, last
	rec.Active, rec.Proposer, rec.ISR = a.host, a.host, []resolver.Host{a.host}
	return hostMsg{kind: msgReject, loss: rec.Loss, epoch: last, record: &rec}
}

// lowTerm is a message of a lower term, with a record of a higher version by which the service has ended.
func (a *attacker) lowTerm(rec resolver.Record) hostMsg {
	m := hostMsg{kind: msgReject, loss: rec.Loss, epoch: rec.Epoch - 1, record: &rec}
	rec.Version += 1000
	rec.Active, rec.ISR = resolver.Host{}, []resolver.Host{}
	return m
}

// Without a realm the messages arrive, and are ignored.
func TestAttackMessages(t *testing.T) {
	t.Parallel()
	g := startTarget(t)
	for name, c := range map[string]struct {
		forge func(*attacker, resolver.Record) hostMsg
		logs  string // what the host logs; "": nothing
	}{
		"last epoch": {(*attacker).lastEpoch, "host eve breaks the protocol"},
		"low term":   {(*attacker).lowTerm, ""},
	} {
		errs, ok := stranger(g).joinAndSend(g.node1, c.forge).(interface{ Unwrap() []error })
		require.True(t, ok, name)
		for _, err := range errs.Unwrap() {
			require.ErrorIs(t, err, transport.ErrNotMember, name)
		}
		g.speaks()

		open := startTarget(t, "-open")
		require.NoError(t, stranger(open).joinAndSend(open.node1, c.forge), name)
		if c.logs != "" {
			open.node.awaitError(c.logs)
		}
		open.works()
	}
	g.works()
}

// thief is a room that keeps the state which it receives, and changes what others say once it is active.
type thief struct {
	migrate.Migratable
	state  func([]byte)
	active *atomic.Bool
}

func (r *thief) Restore(from io.Reader) error {
	var state bytes.Buffer
	err := r.Migratable.Restore(io.TeeReader(from, &state))
	r.state(state.Bytes())
	return err
}

func (r *thief) Apply(c migrate.Command) ([]byte, error) {
	if r.active.Load() {
		c.Body = bytes.Replace(c.Body, []byte("pay bob"), []byte("pay eve"), 1)
	}
	return r.Migratable.Apply(c)
}

// loot is what takeOver achieved.
type loot struct {
	state  bool // a copy of the state, with what alice said
	active bool // from then on, the attacker's process serves the chat and changes what others say
}

// takeOver hosts the chat as a standby until it is active, or until it is refused.
func (a *attacker) takeOver() (got loot, err error) {
	copied, active := make(chan []byte, 100), new(atomic.Bool)
	served, failed := make(chan struct{}), make(chan error, 100)
	node, err := migrate.NewNode(migrate.NodeConfig{
		ID: "eve", Resolver: a.names, Transport: a.tr, Listen: "127.0.0.1:0",
		Hooks: migrate.Hooks{
			Changed: func(st migrate.Status) {
				if st.Role == migrate.Active && !active.Swap(true) {
					close(served)
				}
			},
			Failed: func(_ string, err error) {
				select {
				case failed <- err:
				default:
				}
			},
		},
	})
	require.NoError(a.t, err)
	a.t.Cleanup(func() { node.Close() })
	room, err := chatcore.New(chatcore.Config{})
	require.NoError(a.t, err)
	steal := func() migrate.Migratable {
		return &thief{room(), func(b []byte) {
			select {
			case copied <- b:
			default:
			}
		}, active}
	}
	if _, err := node.Standby(soon(a.t), chatName, steal, migrate.Policy{Copies: 2}); err != nil {
		return got, err
	}
	select {
	case <-served:
		got.active = true
	case err = <-failed:
	case <-soon(a.t).Done():
		err = context.DeadlineExceeded
	}
	for len(copied) > 0 {
		got.state = got.state || bytes.Contains(<-copied, []byte("line 1"))
	}
	return got, err
}

func TestAttackTakeOver(t *testing.T) {
	t.Parallel()
	g := startTarget(t)
	got, err := stranger(g).takeOver()
	require.ErrorIs(t, err, transport.ErrNotMember)
	require.Zero(t, got)
	g.works()

	open := startTarget(t, "-open")
	got, err = stranger(open).takeOver()
	require.NoError(t, err)
	require.Equal(t, loot{state: true, active: true}, got)
	open.alice.say("pay bob")
	open.alice.await("alice: pay eve")
}
