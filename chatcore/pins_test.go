package chatcore

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// A client with one key sends private messages under more names than a client pins, and then takes the names of somebody to
// whom the victim has written and of somebody who has written to the victim.
func TestPinnedKeysAreNotEvicted(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, err := h.enter(t.Context(), ClientConfig{Name: "ann", Transport: net.Host("ann"), Listen: "ann:0",
			Buffer: 100_000})
		require.NoError(t, err)
		bob, cid := enter(t, h, net, "bob"), enter(t, h, net, "cid")
		msgs := read(ann)
		require.NoError(t, ann.Private(t.Context(), "bob", "secret"))
		require.NoError(t, cid.Private(t.Context(), "ann", "it's me"))

		conn, err := net.Host("mallory").Dial(t.Context(), transport.Peer{Addr: ann.private.listener.Addr()}, nil)
		require.NoError(t, err)
		reply, err := conn.Call(t.Context(), methodHello, nil)
		require.NoError(t, err)
		var tokens [][]byte
		require.NoError(t, transport.Unmarshal(reply, &tokens))
		// as sends a private message of mallory as a participant of the given name.
		as := func(name string, id uint64) error {
			s := h.session(net.Host("mallory").Key())
			_, err := s.Do(t.Context(), command{Op: opJoin, Text: name}.encode())
			require.NoError(t, err)
			m := privateParams{To: "ann", From: name, Text: "hi", ID: id, Token: tokens[0]}
			err = callOn(t, conn, m, false)
			require.NoError(t, s.Shutdown(t.Context()))
			return err
		}
		const names = maxPins + 50
		for i := range uint64(names) {
			require.NoError(t, as(fmt.Sprintf("t%d", i), i+1))
		}
		synctest.Wait()
		list := msgs.take(KindJoined, KindLeft)
		require.Len(t, list, 1+names)
		for i, m := range list {
			require.Equal(t, i >= pinBurst, m.UnknownKey, i) // the first message is cid's
		}
		require.Equal(t, "t9000 (private, unknown key): hi", list[9001].String())
		require.Len(t, ann.private.pins.keys, 1+pinBurst)

		// Further keys are pinned one after the other.
		time.Sleep(pinInterval)
		for i, name := range []string{"u1", "u2"} {
			require.NoError(t, as(name, names+uint64(i)+1))
		}
		synctest.Wait()
		list = msgs.take(KindJoined, KindLeft)
		require.Len(t, list, 2)
		require.False(t, list[0].UnknownKey)
		require.True(t, list[1].UnknownKey)
		require.Len(t, ann.private.pins.keys, 2+pinBurst)

		require.NoError(t, bob.Leave(t.Context()))
		require.NoError(t, cid.Leave(t.Context()))
		require.ErrorIs(t, as("bob", 1<<40), ErrPeerKey)
		require.ErrorIs(t, as("cid", 1<<40), ErrPeerKey)
		synctest.Wait()
		require.Empty(t, msgs.take(KindJoined, KindLeft))
		require.NoError(t, conn.Close())
		require.NoError(t, ann.Close())
		require.NoError(t, net.Host("mallory").Close())
	})
}

// Writing to somebody pins the key also after received messages have pinned as many as they can, up to a limit.
func TestPinsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob, cid := enter(t, h, net, "ann"), enter(t, h, net, "bob"), enter(t, h, net, "cid")
		msgs := read(ann)
		fill := func(n int) {
			ann.private.mu.Lock()
			defer ann.private.mu.Unlock()
			for i := len(ann.private.pins.keys); i < n; i++ {
				ann.private.pins.keys[nameID(fmt.Sprint("x", i))] = keyOf(1)
			}
		}
		fill(maxInboundPins)
		require.NoError(t, bob.Private(t.Context(), "ann", "hi"))
		require.NoError(t, ann.Private(t.Context(), "bob", "hello"))
		require.NoError(t, bob.Private(t.Context(), "ann", "you know me"))
		synctest.Wait()
		list := msgs.take(KindJoined)
		require.Len(t, list, 2)
		require.True(t, list[0].UnknownKey)
		require.False(t, list[1].UnknownKey)

		fill(maxPins)
		require.NoError(t, ann.Private(t.Context(), "bob", "pinned"))
		err := ann.Private(t.Context(), "cid", "not pinned")
		require.ErrorIs(t, err, ErrPeerKey)
		require.ErrorContains(t, err, "cannot be pinned")
		synctest.Wait()
		require.Len(t, ann.private.pins.keys, maxPins)
		ann.Forget("x7")
		require.NoError(t, ann.Private(t.Context(), "cid", "pinned"))
		for _, c := range []*Client{ann, bob, cid} {
			require.NoError(t, c.Close())
		}
	})
}

// Everything that a participant with another key than the pinned one does is marked, until the pinned key returns or is
// forgotten.
func TestNewKeyIsShown(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob, cid := enter(t, h, net, "ann"), enter(t, h, net, "bob"), enter(t, h, net, "cid")
		require.NoError(t, ann.Private(t.Context(), "bob", "hi"))
		require.NoError(t, ann.Private(t.Context(), "cid", "hi"))
		toAnn, toCid := read(ann), read(cid)
		in := func(c *Client, r *reader) (s string) {
			synctest.Wait()
			all, err := c.Who(t.Context())
			require.NoError(t, err)
			for _, p := range all {
				if p.NewKey {
					s += p.Name + " has a new key\n"
				}
			}
			for _, m := range r.take() {
				s += m.String() + "\n"
			}
			return s
		}
		in(ann, toAnn)
		in(cid, toCid)
		enterAs := func(host string) *Client {
			c, err := h.enter(t.Context(), ClientConfig{Name: "Bob", Transport: net.Host(host), Listen: host + ":0"})
			require.NoError(t, err)
			require.NoError(t, c.Say(t.Context(), "hello"))
			return c
		}
		const known = "Bob joined\nBob: hello\n"
		require.NoError(t, bob.Leave(t.Context()))
		bob = enterAs("mallory")
		require.NoError(t, cid.Say(t.Context(), "who is it?"))
		require.Equal(t, "Bob has a new key\nbob left\nBob (new key) joined\nBob (new key): hello\ncid: who is it?\n",
			in(ann, toAnn))
		require.Equal(t, "bob left\n"+known+"cid: who is it?\n", in(cid, toCid), "cid has not pinned the key")
		require.NoError(t, bob.Leave(t.Context()))
		require.Equal(t, "Bob (new key) left\n", in(ann, toAnn))

		bob = enterAs("bob")
		require.Equal(t, known, in(ann, toAnn), "the pinned key is back")
		require.NoError(t, bob.Leave(t.Context()))
		bob = enterAs("mallory")
		require.Contains(t, in(ann, toAnn), "Bob (new key): hello\n")
		ann.Forget("bob")
		require.NoError(t, bob.Say(t.Context(), "it's me"))
		require.Equal(t, "Bob: it's me\n", in(ann, toAnn), "forgotten")
		require.NoError(t, ann.Private(t.Context(), "bob", "I see"))
		require.NoError(t, bob.Leave(t.Context()))
		bob = enterAs("bob")
		require.Contains(t, in(ann, toAnn), "Bob (new key): hello\n", "the second key is pinned")

		// A participant without a key, or an event without one, is not the one whose key is pinned.
		require.NoError(t, cid.Leave(t.Context()))
		_, err := h.session(transport.Key{}).Do(t.Context(), command{Op: opJoin, Text: "cid"}.encode())
		require.NoError(t, err)
		require.Equal(t, "Bob has a new key\ncid has a new key\ncid left\ncid (new key) joined\n", in(ann, toAnn))
		for _, c := range []*Client{ann, bob} {
			require.NoError(t, c.Close())
		}
		require.NoError(t, net.Host("mallory").Close())
	})
}

// The event with the new key is among those that were lost.
func TestNewKeyIsShownAfterAGap(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann, bob := enter(t, h, net, "ann"), enter(t, h, net, "bob")
		require.NoError(t, ann.Private(t.Context(), "bob", "hi"))
		msgs := read(ann)
		require.NoError(t, bob.Say(t.Context(), "before"))
		h.change(func() {
			r := h.room.(*room)
			p := *r.byID[nameID("bob")]
			p.key = keyOf(99)
			r.replace(r.byID[p.id], &p)
			n := uint64(len(h.events))
			h.events = append(h.events, migrate.Event{Seq: n + 3, Gap: n + 1, Body: event{Kind: KindBegun}.encode()})
		})
		synctest.Wait()
		require.Zero(t, ann.private.gaps.Load())
		require.NoError(t, bob.Say(t.Context(), "after"))
		synctest.Wait()
		list := msgs.take(KindJoined)
		require.Equal(t, "message bob before\ngap\nbegun\nmessage bob after\n", texts(list))
		require.False(t, list[0].NewKey)
		require.True(t, list[3].NewKey)
		require.NoError(t, ann.Close())
		require.NoError(t, bob.Close())
	})
}
