package chatcore

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// enter joins the hub's room from a network host with the participant's name.
func enter(t testing.TB, h *hub, net *transport.Memory, name string) *Client {
	t.Helper()
	c, err := h.enter(t.Context(), ClientConfig{Name: name, Transport: net.Host(name), Listen: name + ":0"})
	require.NoError(t, err)
	return c
}

// bubble runs f in a synctest bubble with a hub and an in-memory network.
func bubble(t *testing.T, f func(t *testing.T, h *hub, net *transport.Memory)) {
	synctest.Test(t, func(t *testing.T) {
		net := transport.NewMemory()
		f(t, newHub(t, Config{}), net)
	})
}

func texts(list []Message) string {
	var b strings.Builder
	for _, m := range list {
		fmt.Fprintln(&b, strings.TrimSpace(fmt.Sprintf("%v %s %s", m.Kind, m.From, m.Text)))
	}
	return b.String()
}

func TestClientReceivesHistoryThenEvents(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann := enter(t, h, net, "ann")
		require.NoError(t, ann.Say(t.Context(), "one"))
		_, err := ann.Send(t.Context(), "two")
		require.NoError(t, err)
		require.NoError(t, ann.Flush(t.Context()))

		bob := enter(t, h, net, "bob")
		require.Equal(t, "bob", bob.Name())
		require.Equal(t, "hub", bob.Where().ID)
		msgs := read(bob)
		require.NoError(t, bob.Say(t.Context(), "three"))
		require.NoError(t, ann.Leave(t.Context()))
		synctest.Wait()
		bob.onMove(migrate.Move{Epoch: 2, Pause: time.Second})
		synctest.Wait()
		list := msgs.take()
		require.Equal(t, "message ann one\nmessage ann two\njoined bob\nmessage bob three\nleft ann\nmoved\n", texts(list))
		require.True(t, list[1].History)
		require.False(t, list[3].History)
		require.EqualValues(t, 2, list[5].Epoch)
		for i, m := range list[:5] {
			require.EqualValues(t, i+2, m.Seq)
			require.False(t, m.Time.IsZero())
		}

		all, err := bob.Who(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 1)
		require.Equal(t, "bob", all[0].Name)
		require.Equal(t, net.Host("bob").Key(), all[0].Key)

		require.NoError(t, bob.Close())
		require.NoError(t, bob.Close())
		synctest.Wait()
		require.NoError(t, msgs.err)
	})
}

// Participants send while others join. Each receives all events since its own joining once, in the same order.
func TestEventsArriveOnceInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		const clients, messages = 20, 50
		var all []*reader
		var cs []*Client
		for i := range clients {
			c := enter(t, h, net, fmt.Sprintf("p%d", i))
			cs, all = append(cs, c), append(all, read(c))
			go func() {
				for j := range messages {
					if c.Say(t.Context(), fmt.Sprintf("%d", j)) != nil {
						t.Error("Say failed")
					}
				}
			}()
		}
		synctest.Wait()
		for i, r := range all {
			list := r.take()
			require.EqualValues(t, clients*messages+clients, list[len(list)-1].Seq)
			joined := 0
			for ; list[joined].Kind == KindMessage && list[joined].History; joined++ {
			}
			require.Equal(t, fmt.Sprintf("p%d", i), list[joined].From)
			for k, m := range list[joined:] {
				require.Equal(t, list[joined].Seq+uint64(k), m.Seq)
			}
			require.NoError(t, cs[i].Close())
		}
	})
}

func TestSlowReaderIsToldOfTheGap(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		slow, err := h.enter(t.Context(), ClientConfig{Name: "slow", Transport: net.Host("slow"), Buffer: 4})
		require.NoError(t, err)
		ann := enter(t, h, net, "ann")
		msgs := read(ann)
		for i := range 100 {
			require.NoError(t, ann.Say(t.Context(), fmt.Sprint(i)))
		}
		synctest.Wait()
		require.Len(t, msgs.take(KindJoined), 100)
		list := read(slow)
		synctest.Wait()
		got := list.take()
		require.Equal(t, "gap\nmessage ann 96\nmessage ann 97\nmessage ann 98\nmessage ann 99\n", texts(got))
		require.EqualValues(t, 98, got[0].Lost)
		require.NoError(t, ann.Close())
		require.NoError(t, slow.Close())
	})
}

func TestDroppedGapKeepsItsCount(t *testing.T) {
	b := newInbox(1)
	b.push(Message{Kind: KindGap, Lost: 5})
	b.push(Message{Kind: KindMessage})
	b.push(Message{Kind: KindMessage})
	m, _ := pop(t, b)
	require.Equal(t, Message{Kind: KindGap, Lost: 6, Time: m.Time}, m)
	require.False(t, m.Time.IsZero())
}

func TestFIFOCacheEvictsTheOldest(t *testing.T) {
	m := fifoCache[int, string]{limit: 3}
	for i := range 10 {
		m.put(i, "old")
		m.put(i, "new")
		for k := range 10 {
			v, ok := m.get(k)
			require.Equal(t, k <= i && k > i-3, ok)
			require.Equal(t, ok, v == "new")
		}
	}
	m.remove(9)
	_, ok := m.get(9)
	require.False(t, ok)
	require.Len(t, m.m, 2)
}

// A history longer than the buffer must not cause a gap.
func TestHistoryLongerThanTheBuffer(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann := enter(t, h, net, "ann")
		for range 20 {
			require.NoError(t, ann.Say(t.Context(), "hello"))
		}
		bob, err := h.enter(t.Context(), ClientConfig{Name: "bob", Transport: net.Host("bob"), Buffer: 1})
		require.NoError(t, err)
		msgs := read(bob)
		synctest.Wait()
		require.Equal(t, strings.Repeat("message ann hello\n", 20)+"joined bob\n", texts(msgs.take()))
		require.NoError(t, ann.Close())
		require.NoError(t, bob.Close())
	})
}

// A message sent between join and the history query arrives once and in order.
func TestMessageDuringJoinArrivesOnce(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann := enter(t, h, net, "ann")
		require.NoError(t, ann.Say(t.Context(), "before"))
		bob, err := newClient("chat.example", ClientConfig{Name: "bob", Transport: net.Host("bob"), Resolver: noResolver{}})
		require.NoError(t, err)
		require.NoError(t, bob.start(t.Context(), interruptedSession{h.session(net.Host("bob").Key()), ann}))
		msgs := read(bob)
		synctest.Wait()
		require.Equal(t, "message ann before\njoined bob\nmessage ann meanwhile\n", texts(msgs.take()))
		require.NoError(t, ann.Close())
		require.NoError(t, bob.Close())
	})
}

// interruptedSession lets another client send a message before each query.
type interruptedSession struct {
	*hubSession
	other *Client
}

func (s interruptedSession) Query(ctx context.Context, q []byte) ([]byte, error) {
	if err := s.other.Say(ctx, "meanwhile"); err != nil {
		return nil, err
	}
	return s.hubSession.Query(ctx, q)
}

// pop takes one message, like a reader that stops after it.
func pop(t *testing.T, b *inbox) (m Message, more bool) {
	batch, err := b.take(t.Context())
	require.NoError(t, err)
	if len(batch) == 0 {
		return m, false
	}
	b.putBack(batch[1:])
	return batch[0].message(), true
}

func TestInboxKeepsOrder(t *testing.T) {
	for limit := 1; limit < 40; limit++ {
		for pushed := range 90 {
			b := newInbox(limit)
			next := 0
			for i := range pushed {
				b.push(Message{Kind: KindMessage, Seq: uint64(i)})
				if i%3 == 0 && i < limit { // read some messages in between
					m, more := pop(t, b)
					require.True(t, more)
					require.EqualValues(t, next, m.Seq)
					next++
				}
			}
			b.end(nil)
			for {
				m, more := pop(t, b)
				if !more {
					break
				}
				if m.Kind == KindGap {
					next += int(m.Lost)
					continue
				}
				require.EqualValues(t, next, m.Seq)
				next++
			}
			require.Equal(t, pushed, next)
		}
	}
}

// putBack drops the oldest returned messages if the inbox has filled up, and reports a gap.
func TestInboxPutBack(t *testing.T) {
	b := newInbox(3)
	b.put([]entry{{seq: 1}, {seq: 2}, {seq: 3}})
	batch, err := b.take(t.Context())
	require.NoError(t, err)
	require.Len(t, batch, 3)
	b.put([]entry{{seq: 4}, {seq: 5}})
	b.putBack(batch[1:])
	m, _ := pop(t, b)
	require.Equal(t, Message{Kind: KindGap, Lost: 1, Time: m.Time}, m)
	for seq := range uint64(3) {
		m, _ = pop(t, b)
		require.Equal(t, 3+seq, m.Seq)
	}
}

func TestMessagesEnd(t *testing.T) {
	for _, tc := range []struct {
		what string
		end  func(c *Client, s *hubSession, cancel func())
		want error
		last string
	}{
		{"close", func(c *Client, _ *hubSession, _ func()) { _ = c.Close() }, nil, "joined ann\n"},
		{"leave", func(c *Client, _ *hubSession, _ func()) { _ = c.Leave(context.Background()) }, nil, "joined ann\nleft ann\n"},
		{"context", func(_ *Client, _ *hubSession, cancel func()) { cancel() }, context.Canceled, "joined ann\n"},
		{"expired", func(_ *Client, s *hubSession, _ func()) { s.fail <- migrate.ErrSessionExpired }, migrate.ErrSessionExpired,
			"joined ann\n"},
		{"state lost", func(_ *Client, s *hubSession, _ func()) { s.fail <- migrate.ErrStateLost }, migrate.ErrStateLost,
			"joined ann\nstate lost\n"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
				ann := enter(t, h, net, "ann")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var list []Message
				var last error
				done := make(chan struct{})
				go func() {
					defer close(done)
					for m, err := range ann.Messages(ctx) {
						if last = err; err == nil {
							list = append(list, m)
						}
					}
				}()
				synctest.Wait()
				tc.end(ann, ann.session.(*hubSession), cancel)
				<-done
				require.ErrorIs(t, last, tc.want)
				if heard := texts(list); heard != tc.last { // the event of its own leaving may or may not arrive
					require.Equal(t, tc.last, heard+"left ann\n")
				}
				require.NoError(t, ann.Close())
			})
		})
	}
}

func TestJoinErrors(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann := enter(t, h, net, "ann")
		for _, tc := range []struct {
			cfg  ClientConfig
			want error
			text string
		}{
			{ClientConfig{Name: "ANN", Transport: net.Host("bob")}, ErrNameTaken,
				`chat: join "chat.example" as "ANN": chat: the name`},
			{ClientConfig{Name: "a\x00", Transport: net.Host("bob")}, ErrBadName, "letters"},
			{ClientConfig{Name: "", Transport: net.Host("bob")}, ErrConfig, "ClientConfig.Name"},
			{ClientConfig{Name: "bob", Transport: net.Host("bob"), Buffer: -1}, ErrConfig, "ClientConfig.Buffer"},
			{ClientConfig{Name: "bob", Transport: net.Host("bob"), Advertise: "x:1"}, ErrConfig, "ClientConfig.Advertise"},
			{ClientConfig{Name: "bob", Transport: net.Host("bob"), Listen: "nonsense"}, nil, `as "bob"`},
		} {
			c, err := h.enter(t.Context(), tc.cfg)
			require.Error(t, err)
			if tc.want != nil {
				require.ErrorIs(t, err, tc.want)
			}
			require.ErrorContains(t, err, tc.text)
			if c != nil {
				require.NoError(t, c.Close())
			}
		}
		_, err := newClient("x", ClientConfig{Name: "bob", Transport: net.Host("bob")})
		require.ErrorContains(t, err, "ClientConfig.Resolver")
		_, err = newClient("x", ClientConfig{Name: "bob", Resolver: noResolver{}})
		require.ErrorContains(t, err, "ClientConfig.Transport")

		// Failed joins leave nothing behind.
		bob := enter(t, h, net, "bob")
		require.NoError(t, bob.Close())
		require.NoError(t, ann.Close())
	})
}

// A client that cannot query the history does not stay in the room.
func TestFailedJoinLeavesTheRoom(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		c, err := newClient("chat.example", ClientConfig{Name: "ann", Transport: net.Host("ann"), Resolver: noResolver{}})
		require.NoError(t, err)
		err = c.start(t.Context(), noQuerySession{h.session(net.Host("ann").Key())})
		require.ErrorIs(t, err, migrate.ErrNoQuery)
		require.Empty(t, h.room.(*room).list)
	})
}

type noQuerySession struct{ *hubSession }

func (noQuerySession) Query(context.Context, []byte) ([]byte, error) { return nil, migrate.ErrNoQuery }

// The address of a wildcard listener depends on the route to the room's host, so Join waits until the room has a host.
func TestJoinWaitsForAHost(t *testing.T) {
	tr, err := transport.NewTCP(transport.TCPConfig{Open: true})
	require.NoError(t, err)
	h := newHub(t, Config{})
	c, err := newClient("chat.example", ClientConfig{Name: "ann", Transport: tr, Listen: ":0", Resolver: noResolver{}})
	require.NoError(t, err)
	require.NoError(t, c.start(t.Context(), &awaySession{hubSession: h.session(tr.Key())}))
	who, err := c.Who(t.Context())
	require.NoError(t, err)
	require.Regexp(t, `^127\.0\.0\.1:\d+$`, who[0].Addr)
	require.NoError(t, c.Close())
	require.NoError(t, tr.Close())
}

// awaySession has no host until the first query.
type awaySession struct {
	*hubSession
	back atomic.Bool
}

func (s *awaySession) Where() resolver.Host {
	if !s.back.Load() {
		return resolver.Host{}
	}
	return resolver.Host{ID: "hub", Addr: "127.0.0.1:1"}
}

func (s *awaySession) Query(ctx context.Context, q []byte) ([]byte, error) {
	s.back.Store(true)
	return s.hubSession.Query(ctx, q)
}

func TestSendWaitsForTheQueue(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		c, err := newClient("chat.example", ClientConfig{Name: "ann", Transport: net.Host("ann"), Resolver: noResolver{}})
		require.NoError(t, err)
		s := &fullSession{hubSession: h.session(net.Host("ann").Key()), full: 3}
		require.NoError(t, c.start(t.Context(), s))
		_, err = c.Send(t.Context(), "hello")
		require.NoError(t, err)
		require.Equal(t, 3, s.flushed)
		require.EqualValues(t, 2, h.room.(*room).events)
		require.NoError(t, c.Close())
	})
}

type fullSession struct {
	*hubSession
	full, flushed int
}

func (s *fullSession) Go(body []byte) (*migrate.Call, error) {
	if s.flushed < s.full {
		return nil, migrate.ErrQueueFull
	}
	return s.hubSession.Go(body)
}

func (s *fullSession) Flush(context.Context) error {
	s.flushed++
	return nil
}

func TestWhoReadsAllPages(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann := enter(t, h, net, "ann")
		for i := range 2 * maxPage {
			_, err := h.session(keyOf(uint64(i+1))).Do(t.Context(), command{Op: opJoin, Text: fmt.Sprintf("p%d", i)}.encode())
			require.NoError(t, err)
		}
		all, err := ann.Who(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 2*maxPage+1)
		require.Equal(t, "ann:", all[0].Addr[:4])
		require.NoError(t, ann.Close())
	})
}

// Events of a later version are skipped, and gaps in the event stream are reported.
func TestGapsAndUnknownEvents(t *testing.T) {
	bubble(t, func(t *testing.T, h *hub, net *transport.Memory) {
		ann := enter(t, h, net, "ann")
		msgs := read(ann)
		h.change(func() {
			seq := uint64(len(h.events))
			h.events = append(h.events,
				migrate.Event{Seq: seq + 1, Body: []byte{0xc1}},
				migrate.Event{Seq: seq + 2, Body: event{Kind: KindPrivate, From: "the room", Text: "forged"}.encode()},
				migrate.Event{Seq: seq + 9, Gap: seq + 3, Body: event{Kind: KindLeft, From: "bob"}.encode()},
			)
		})
		synctest.Wait()
		list := msgs.take()
		require.Equal(t, "joined ann\ngap\nleft bob\n", texts(list))
		require.EqualValues(t, 6, list[1].Lost)
		require.NoError(t, ann.Close())
	})
}

func TestMessageString(t *testing.T) {
	for want, m := range map[string]Message{
		"ann: hi":                               {Kind: KindMessage, From: "ann", Text: "hi"},
		"ann joined":                            {Kind: KindJoined, From: "ann"},
		"ann left; waiting for 2 more to begin": {Kind: KindLeft, From: "ann", Missing: 2},
		"the chat has begun":                    {Kind: KindBegun},
		"ann (private): hi":                     {Kind: KindPrivate, From: "ann", Text: "hi"},
		"ann (private, unverified): hi":         {Kind: KindPrivate, From: "ann", Text: "hi", Unverified: true},
		"the chat moved to h2, pause 12ms": {
			Kind: KindMoved, Host: resolver.Host{ID: "h2"}, Pause: 12*time.Millisecond + time.Microsecond},
		"3 messages were dropped here":             {Kind: KindGap, Lost: 3},
		"the chat was reset and its state is lost": {Kind: KindStateLost},
		"unknown": {},
	} {
		require.Equal(t, want, m.String())
	}
}
