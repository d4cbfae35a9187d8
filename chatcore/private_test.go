package chatcore

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

func TestPrivate(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob, cid := enter(t, h, net, "ann"), enter(t, h, net, "bob"), enter(t, h, net, "cid")
		toAnn, toBob, toCid := read(ann), read(bob), read(cid)
		before := net.Stats().Dials
		for i := range 10 {
			require.NoError(t, ann.Private(t.Context(), "BOB", fmt.Sprint(i)))
		}
		require.EqualValues(t, 1, net.Stats().Dials-before, "all messages use one connection")
		require.NoError(t, bob.Private(t.Context(), "ann", "hi"))
		synctest.Wait()
		list := toBob.take(KindJoined)
		require.Len(t, list, 10)
		for i, m := range list {
			require.Equal(t, KindPrivate, m.Kind)
			require.Equal(t, "ann", m.From)
			require.Equal(t, fmt.Sprint(i), m.Text)
			require.False(t, m.Unverified)
			require.Zero(t, m.Seq)
		}
		require.Equal(t, "private bob hi\n", texts(toAnn.take(KindJoined)))
		require.Empty(t, toCid.take(KindJoined), "not through the room")

		// Idle connections are closed and reopened on demand.
		time.Sleep(3 * idleTimeout)
		synctest.Wait()
		require.Empty(t, ann.private.links)
		require.Empty(t, bob.private.inbound)
		require.NoError(t, ann.Private(t.Context(), "bob", "again"))
		for _, c := range []*Client{ann, bob, cid} {
			require.NoError(t, c.Close())
		}
		require.ErrorIs(t, ann.Private(t.Context(), "bob", "closed"), transport.ErrClosed)
	})
}

func TestPrivateErrors(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob := enter(t, h, net, "ann"), enter(t, h, net, "bob")
		mute, err := h.enter(t.Context(), ClientConfig{Name: "mute", Transport: net.Host("mute")})
		require.NoError(t, err)

		require.ErrorIs(t, ann.Private(t.Context(), "nobody", "hi"), ErrNoSuchName)
		require.ErrorIs(t, ann.Private(t.Context(), "a b", "hi"), ErrBadName)
		require.ErrorIs(t, ann.Private(t.Context(), "bob", "a\nb"), ErrBadText)
		require.ErrorIs(t, ann.Private(t.Context(), "mute", "hi"), ErrNoPrivate)
		require.NoError(t, mute.Private(t.Context(), "bob", "I can speak"))

		net.Crash("bob")
		err = ann.Private(t.Context(), "bob", "hi")
		require.ErrorIs(t, err, ErrPeerUnreachable)
		require.ErrorContains(t, err, `"bob" is unreachable at bob:`)

		// Another process that listens at bob's address has another key.
		l, err := net.Host("mallory").Listen("mallory:1", func(transport.Conn) transport.Handler { return nil })
		require.NoError(t, err)
		h.change(func() {
			r := h.room.(*room)
			p := *r.byID[nameID("bob")]
			p.addr = "mallory:1"
			r.replace(r.byID[p.id], &p)
		})
		err = ann.Private(t.Context(), "bob", "hi")
		require.ErrorIs(t, err, ErrPeerKey)
		require.ErrorContains(t, err, `the peer at mallory:1 is not "bob"`)
		require.NoError(t, l.Close())
		for _, c := range []*Client{ann, bob, mute} {
			require.NoError(t, c.Close())
		}
		require.NoError(t, net.Host("mallory").Close())
	})
}

// call sends a private message over a new connection from a network host.
func call(t testing.TB, net *transport.Memory, host string, to *Client, m privateParams) error {
	t.Helper()
	conn, err := net.Host(host).Dial(t.Context(), transport.Peer{Addr: to.private.listener.Addr()}, nil)
	require.NoError(t, err)
	defer conn.Close()
	return callOn(t, conn, m, m.Token == nil)
}

func callOn(t testing.TB, conn transport.Conn, m privateParams, hello bool) error {
	t.Helper()
	if hello {
		reply, err := conn.Call(t.Context(), methodHello, nil)
		require.NoError(t, err)
		var tokens [][]byte
		require.NoError(t, transport.Unmarshal(reply, &tokens))
		m.Token = tokens[0]
	}
	_, err := conn.Call(t.Context(), methodPrivate, mustMarshal(&m))
	return err
}

func TestForgedPrivateMessagesAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob, mallory := enter(t, h, net, "ann"), enter(t, h, net, "bob"), enter(t, h, net, "mallory")
		msgs := read(bob)
		good := privateParams{To: "bob", From: "ann", Text: "hi", ID: 1}
		require.NoError(t, call(t, net, "ann", bob, good))

		with := func(change func(*privateParams)) privateParams {
			m := good
			m.ID = 2
			change(&m)
			return m
		}
		for _, tc := range []struct {
			what, host string
			m          privateParams
			want       error
		}{
			{"another participant's name", "mallory", with(func(m *privateParams) {}), ErrPeerKey},
			{"another participant's name in upper case", "mallory", with(func(m *privateParams) { m.From = "ANN" }), ErrPeerKey},
			{"a name not in the room", "mallory", with(func(m *privateParams) { m.From = "ghost" }), ErrNoSuchName},
			{"sender not in the room", "stranger", with(func(m *privateParams) { m.From = "stranger" }), ErrNoSuchName},
			{"another receiver", "ann", with(func(m *privateParams) { m.To = "mallory" }), ErrNoSuchName},
			{"no token", "ann", with(func(m *privateParams) { m.Token = []byte{} }), ErrReplay},
			{"control characters in the name", "ann", with(func(m *privateParams) { m.From = "ann\x1b[2J" }), ErrBadName},
			{"control characters in the text", "ann", with(func(m *privateParams) { m.Text = "\x1b[2J" }), ErrBadText},
			{"a text over the limit", "ann", with(func(m *privateParams) { m.Text = strings.Repeat("x", maxPrivate+1) }), ErrBadText},
			{"already delivered", "ann", good, ErrReplay},
			{"valid", "mallory", with(func(m *privateParams) { m.From = "mallory" }), nil},
		} {
			err := call(t, net, tc.host, bob, tc.m)
			if tc.want == nil {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, tc.want, tc.what)
			}
		}

		// Not an array, not a method, not a call.
		conn, err := net.Host("ann").Dial(t.Context(), transport.Peer{Addr: bob.private.listener.Addr()}, nil)
		require.NoError(t, err)
		_, err = conn.Call(t.Context(), methodPrivate, []byte{0x90})
		require.ErrorIs(t, err, ErrNoSuchName)
		_, err = conn.Call(t.Context(), methodPrivate, []byte{0x01})
		require.ErrorIs(t, err, ErrBadCommand)
		_, err = conn.Call(t.Context(), "chat.else", nil)
		require.ErrorIs(t, err, transport.ErrNoMethod)
		require.NoError(t, conn.Notify(methodPrivate, mustMarshal(&good)))
		synctest.Wait()
		require.Equal(t, "private ann hi\nprivate mallory hi\n", texts(msgs.take(KindJoined)))
		require.NoError(t, conn.Close())
		for _, c := range []*Client{ann, bob, mallory} {
			require.NoError(t, c.Close())
		}
		require.NoError(t, net.Host("stranger").Close())
	})
}

// A message recorded on one connection is rejected on another.
func TestReplayOnAnotherConnectionIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob := enter(t, h, net, "ann"), enter(t, h, net, "bob")
		msgs := read(bob)
		first, err := net.Host("ann").Dial(t.Context(), transport.Peer{Addr: bob.private.listener.Addr()}, nil)
		require.NoError(t, err)
		reply, err := first.Call(t.Context(), methodHello, nil)
		require.NoError(t, err)
		var tokens [][]byte
		require.NoError(t, transport.Unmarshal(reply, &tokens))
		m := privateParams{To: "bob", From: "ann", Text: "hi", ID: 1, Token: tokens[0]}
		require.NoError(t, callOn(t, first, m, false))

		for id := range uint64(2 * maxDelivered) { // evicts the first message id
			require.NoError(t, callOn(t, first, privateParams{To: "bob", From: "ann", Text: "x", ID: id + 2, Token: m.Token}, false))
		}
		synctest.Wait()
		msgs.take()
		require.ErrorIs(t, call(t, net, "ann", bob, m), ErrReplay)
		synctest.Wait()
		require.Empty(t, msgs.take())
		require.NoError(t, first.Close())
		require.NoError(t, ann.Close())
		require.NoError(t, bob.Close())
	})
}

func TestPrivateDuringMove(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob, cid := enter(t, h, net, "ann"), enter(t, h, net, "bob"), enter(t, h, net, "cid")
		msgs := read(bob)
		require.NoError(t, ann.Private(t.Context(), "bob", "before"))

		h.stall(true)
		start := time.Now()
		require.NoError(t, ann.Private(t.Context(), "bob", "meanwhile"))
		require.LessOrEqual(t, time.Since(start), 2*lookupTimeout)

		// Without an earlier lookup, Private waits for the room until ctx ends.
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		require.ErrorIs(t, cid.Private(ctx, "bob", "too long"), context.DeadlineExceeded)
		cancel()
		time.AfterFunc(4*time.Second, func() { h.stall(false) })
		require.NoError(t, cid.Private(t.Context(), "bob", "after"))
		synctest.Wait()
		require.Equal(t, "private ann before\nprivate ann meanwhile\nprivate cid after\n", texts(msgs.take(KindJoined)))
		for _, c := range []*Client{ann, bob, cid} {
			require.NoError(t, c.Close())
		}
	})
}

// A receiver that cannot verify the sender answers with an error instead of not answering.
func TestReceiverRejectsUnverifiableSender(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob := enter(t, h, net, "ann"), enter(t, h, net, "bob")
		_, err := ann.private.lookup(t.Context(), "bob") // ann has looked up bob, but bob has not looked up ann
		require.NoError(t, err)
		h.stall(true)
		err = ann.Private(t.Context(), "bob", "hi")
		require.ErrorIs(t, err, ErrPeerRefused)
		require.ErrorContains(t, err, "the room does not answer")
		h.stall(false)
		require.NoError(t, ann.Private(t.Context(), "bob", "hi"))
		require.NoError(t, ann.Close())
		require.NoError(t, bob.Close())
	})
}

func TestChangedKeyIsRefusedUntilForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob := enter(t, h, net, "ann"), enter(t, h, net, "bob")
		require.NoError(t, ann.Private(t.Context(), "bob", "secret"))
		require.NoError(t, bob.Leave(t.Context()))
		require.ErrorIs(t, ann.Private(t.Context(), "bob", "gone"), ErrNoSuchName)

		bob2, err := h.enter(t.Context(), ClientConfig{Name: "Bob", Transport: net.Host("mallory"), Listen: "mallory:0"})
		require.NoError(t, err)
		msgs := read(ann)
		err = ann.Private(t.Context(), "bob", "secret")
		require.ErrorIs(t, err, ErrPeerKey)
		require.ErrorContains(t, err, net.Host("mallory").Key().String())
		err = bob2.Private(t.Context(), "ann", "it's me")
		require.ErrorIs(t, err, ErrPeerRefused)
		synctest.Wait()
		require.Empty(t, msgs.take(KindJoined, KindLeft))

		ann.Forget("bob")
		require.NoError(t, ann.Private(t.Context(), "bob", "hello, new one"))
		require.NoError(t, bob2.Private(t.Context(), "ann", "it's me"))
		require.NoError(t, ann.Close())
		require.NoError(t, bob2.Close())
	})
}

func TestPrivateWithoutKeys(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		plain := func(name string) transport.Transport {
			tr, err := net.HostWith(name, transport.TCPConfig{InsecurePlaintext: true})
			require.NoError(t, err)
			return tr
		}
		_, err := h.enter(t.Context(), ClientConfig{Name: "ann", Transport: plain("ann"), Listen: "ann:0"})
		require.ErrorIs(t, err, ErrUnverified)
		ann, err := h.enter(t.Context(), ClientConfig{Name: "ann", Transport: plain("ann"), Listen: "ann:0",
			InsecurePrivate: true})
		require.NoError(t, err)
		bob, err := h.enter(t.Context(), ClientConfig{Name: "bob", Transport: plain("bob")})
		require.NoError(t, err)
		require.ErrorIs(t, bob.Private(t.Context(), "ann", "hi"), ErrUnverified)
		cid, err := h.enter(t.Context(), ClientConfig{Name: "cid", Transport: plain("cid"), InsecurePrivate: true})
		require.NoError(t, err)
		msgs := read(ann)
		require.NoError(t, cid.Private(t.Context(), "ann", "hi"))
		synctest.Wait()
		list := msgs.take(KindJoined)
		require.Equal(t, "private cid hi\n", texts(list))
		require.True(t, list[0].Unverified)
		for _, c := range []*Client{ann, bob, cid} {
			require.NoError(t, c.Close())
		}
	})
}

// A connection that broke unnoticed does not make Private fail.
func TestPrivateReconnects(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob := enter(t, h, net, "ann"), enter(t, h, net, "bob")
		msgs := read(bob)
		require.NoError(t, ann.Private(t.Context(), "bob", "one"))
		net.Cut("ann", "bob")
		require.NoError(t, ann.Private(t.Context(), "bob", "two"))
		// The message arrives but the reply is lost: the second attempt detects the duplicate.
		net.CutAfter("bob", "ann", 1)
		require.NoError(t, ann.Private(t.Context(), "bob", "three"))
		synctest.Wait()
		require.Equal(t, "private ann one\nprivate ann two\nprivate ann three\n", texts(msgs.take(KindJoined)))
		require.NoError(t, ann.Close())
		require.NoError(t, bob.Close())
	})
}

// A client whose session has ended accepts no private messages, because nobody would read them.
func TestPrivateRejectedAfterSessionEnd(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob := enter(t, h, net, "ann"), enter(t, h, net, "bob")
		msgs := read(bob)
		require.NoError(t, ann.Private(t.Context(), "bob", "before"))
		bob.session.(*hubSession).fail <- migrate.ErrSessionExpired
		synctest.Wait()
		require.ErrorIs(t, ann.Private(t.Context(), "bob", "after"), ErrPeerUnreachable)
		require.Equal(t, "private ann before\n", texts(msgs.take(KindJoined)))
		require.ErrorIs(t, msgs.err, migrate.ErrSessionExpired)
		require.NoError(t, ann.Close())
		require.NoError(t, bob.Close())
	})
}

func TestPrivateRejectedDuringClose(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob := enter(t, h, net, "ann"), enter(t, h, net, "bob")
		bob.inbox.end(nil) // the first step of Close
		err := ann.Private(t.Context(), "bob", "between")
		require.ErrorIs(t, err, ErrPeerRefused)
		require.ErrorContains(t, err, "is closed")
		require.Empty(t, bob.private.delivered.m)
		require.NoError(t, ann.Close())
		require.NoError(t, bob.Close())
	})
}

func TestOutboundConnectionsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann := enter(t, h, net, "ann")
		var all []*Client
		for i := range maxLinks + 5 {
			c := enter(t, h, net, fmt.Sprintf("p%d", i))
			all = append(all, c)
			require.NoError(t, ann.Private(t.Context(), c.Name(), "hi"))
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		require.Len(t, ann.private.links, maxLinks)
		require.Empty(t, all[0].private.inbound, "the oldest was closed")
		require.Len(t, all[maxLinks+4].private.inbound, 1)
		require.NoError(t, ann.Close())
		for _, c := range all {
			require.NoError(t, c.Close())
		}
	})
}

func TestInboundConnectionsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob := enter(t, h, net, "ann"), enter(t, h, net, "bob")
		var conns []transport.Conn
		for range maxInbound + 3 {
			conn, err := net.Host("mallory").Dial(t.Context(), transport.Peer{Addr: ann.private.listener.Addr()}, nil)
			require.NoError(t, err)
			conns = append(conns, conn)
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		require.Len(t, ann.private.inbound, maxInbound)
		for i, conn := range conns {
			_, err := conn.Call(t.Context(), methodHello, nil)
			require.Equal(t, i < 3, err != nil, "the three connections idle for longest are closed")
		}
		require.NoError(t, bob.Private(t.Context(), "ann", "still possible"))

		for _, c := range conns {
			require.NoError(t, c.Close())
		}
		require.NoError(t, ann.Close())
		require.NoError(t, bob.Close())
		require.NoError(t, net.Host("mallory").Close())
	})
}

// The number of messages in flight per inbound connection is bounded.
func TestInFlightMessagesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob := enter(t, h, net, "ann"), enter(t, h, net, "bob")
		msgs := read(ann)
		conn, err := net.Host("bob").Dial(t.Context(), transport.Peer{Addr: ann.private.listener.Addr()}, nil)
		require.NoError(t, err)
		reply, err := conn.Call(t.Context(), methodHello, nil)
		require.NoError(t, err)
		var tokens [][]byte
		require.NoError(t, transport.Unmarshal(reply, &tokens))
		h.stall(true)
		errs := make(chan error, 3*maxInFlight)
		for id := range uint64(3 * maxInFlight) {
			m := privateParams{To: "ann", From: "bob", Text: "hi", ID: id, Token: tokens[0]}
			conn.Go(methodPrivate, mustMarshal(&m), func(_ []byte, err error) { errs <- err })
		}
		synctest.Wait()
		require.Len(t, errs, 2*maxInFlight)
		for range 2 * maxInFlight {
			require.ErrorContains(t, <-errs, "too many private messages")
		}
		h.stall(false)
		for range maxInFlight {
			require.NoError(t, <-errs)
		}
		synctest.Wait()
		require.Len(t, msgs.take(KindJoined), maxInFlight)
		require.NoError(t, conn.Close())
		require.NoError(t, ann.Close())
		require.NoError(t, bob.Close())
	})
}
