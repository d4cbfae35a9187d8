package chatcore

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

const service = "chat.example"

// world is a chat on several hosts of an in-memory network.
type world struct {
	t        *testing.T
	net      *transport.Memory
	res      *resolver.Memory
	log      *slog.Logger
	nodes    map[string]*migrate.Node
	services map[string]*migrate.Service
}

// newWorld starts the chat on the first host, with the other hosts as standbys.
func newWorld(t *testing.T, cfg Config, hosts ...string) *world {
	w := &world{
		t: t, net: transport.NewMemory(), res: resolver.NewMemory(), log: slog.New(slog.DiscardHandler),
		nodes: map[string]*migrate.Node{}, services: map[string]*migrate.Service{},
	}
	if os.Getenv("ROAM_LOG") != "" {
		w.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	factory, err := New(cfg)
	require.NoError(t, err)
	for i, id := range hosts {
		n, err := migrate.NewNode(migrate.NodeConfig{
			Resolver: w.res, Transport: w.net.Host(id), ID: id, Listen: id + ":1", Logger: w.log,
		})
		require.NoError(t, err)
		w.nodes[id] = n
		host := n.Standby
		if i == 0 {
			host = n.Host
		}
		w.services[id], err = host(t.Context(), service, factory, migrate.Policy{SessionTimeout: time.Minute})
		require.NoError(t, err)
	}
	time.Sleep(2 * time.Second) // let a standby join the in-sync set
	return w
}

func (w *world) join(name string) *Client {
	w.t.Helper()
	c, err := Join(w.t.Context(), service, ClientConfig{
		Name: name, Resolver: w.res, Transport: w.net.Host(name), Listen: name + ":0", Buffer: 1 << 20, Logger: w.log,
	})
	require.NoError(w.t, err)
	return c
}

// active returns the ID of the active host.
func (w *world) active() string {
	rec, err := w.res.Get(w.t.Context(), service)
	require.NoError(w.t, err)
	return rec.Active.ID
}

// handoff moves the chat to a host, unless it is already there.
func (w *world) handoff(to string) {
	w.t.Helper()
	for range 100 {
		if from := w.active(); from != to {
			if _, err := w.services[from].Handoff(w.t.Context(), to); err != nil {
				time.Sleep(100 * time.Millisecond) // it may have moved there meanwhile
				continue
			}
		}
		return
	}
	w.t.Fatalf("the chat did not move to %s", to)
}

func (w *world) close(clients ...*Client) {
	for _, c := range clients {
		require.NoError(w.t, c.Close())
	}
	for _, n := range w.nodes {
		require.NoError(w.t, n.Close())
	}
}

// checkReceived checks that all clients have received the same events since they joined, each once and in the same order,
// and that these include all acknowledged messages.
func checkReceived(t *testing.T, all []*reader, said []string) {
	t.Helper()
	bySeq := map[uint64]Message{}
	for i, r := range all {
		list := r.take(KindMoved)
		for k, m := range list {
			require.NotEqual(t, KindGap, m.Kind, "client %d", i)
			if k > 0 {
				if m.History || list[k-1].History {
					require.Greater(t, m.Seq, list[k-1].Seq, "client %d", i)
				} else {
					require.Equal(t, list[k-1].Seq+1, m.Seq, "client %d", i)
				}
			}
			m.History = false
			if other, ok := bySeq[m.Seq]; ok {
				require.Equal(t, other, m, "client %d", i)
			}
			bySeq[m.Seq] = m
		}
		require.Equal(t, bySeq[uint64(len(bySeq))], func() Message {
			m := list[len(list)-1]
			m.History = false
			return m
		}(), "client %d has received the last event", i)
	}
	received := map[string]int{}
	for _, m := range bySeq {
		if m.Kind == KindMessage {
			received[m.From+" "+m.Text]++
		}
	}
	for _, s := range said {
		require.Equal(t, 1, received[s], "%q", s)
	}
	require.Len(t, received, len(said))
}

func TestChatDuringMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, "h1", "h2", "h3")
		const clients, messages = 12, 100
		var mu sync.Mutex
		var said []string
		var all []*reader
		var cs []*Client
		var wg sync.WaitGroup
		for i := range clients {
			c := w.join(fmt.Sprintf("p%d", i))
			cs, all = append(cs, c), append(all, read(c))
		}
		for _, c := range cs {
			wg.Go(func() {
				for j := range messages {
					if err := c.Say(t.Context(), fmt.Sprint(j)); err != nil {
						t.Errorf("%s: %v", c.Name(), err)
						return
					}
					mu.Lock()
					said = append(said, fmt.Sprintf("%s %d", c.Name(), j))
					mu.Unlock()
					time.Sleep(50 * time.Millisecond)
				}
			})
		}
		for _, to := range []string{"h2", "h3", "h1", "h2"} {
			time.Sleep(time.Second)
			w.handoff(to)
		}
		wg.Wait()
		time.Sleep(time.Second)
		require.Len(t, said, clients*messages)
		moves := 0
		all[0].mu.Lock()
		for _, m := range all[0].list {
			if m.Kind == KindMoved {
				moves++
				require.NotEmpty(t, m.Host.ID)
				require.Less(t, m.Pause, time.Second)
			}
		}
		all[0].mu.Unlock()
		require.GreaterOrEqual(t, moves, 4)
		checkReceived(t, all, said)
		w.close(cs...)
	})
}

func TestChatSurvivesHostCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, "h1", "h2", "h3")
		ann, bob := w.join("ann"), w.join("bob")
		all := []*reader{read(ann), read(bob)}
		var said []string
		for i := range 100 {
			if i == 50 {
				dead := w.active()
				w.net.Crash(dead)
				go w.nodes[dead].Close()
			}
			require.NoError(t, ann.Say(t.Context(), fmt.Sprint(i)))
			said = append(said, fmt.Sprintf("ann %d", i))
			_, err := bob.Send(t.Context(), fmt.Sprint(i))
			require.NoError(t, err)
			said = append(said, fmt.Sprintf("bob %d", i))
		}
		require.NoError(t, bob.Flush(t.Context()))
		time.Sleep(time.Second)
		checkReceived(t, all, said)
		who, err := ann.Who(t.Context())
		require.NoError(t, err)
		require.Len(t, who, 2)
		require.NoError(t, bob.Leave(t.Context()))
		who, err = ann.Who(t.Context())
		require.NoError(t, err)
		require.Len(t, who, 1)
		w.close(ann)
	})
}

func TestHeldMessagesMoveWithTheRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{MinParticipants: 2}, "h1", "h2")
		ann := w.join("ann")
		msgs := read(ann)
		require.NoError(t, ann.Say(t.Context(), "anybody?"))
		w.handoff("h2")
		require.NoError(t, ann.Say(t.Context(), "hello?"))
		time.Sleep(time.Second)
		list := msgs.take(KindMoved)
		require.Equal(t, "joined ann\n", texts(list))
		require.Equal(t, 1, list[0].Missing)
		bob := w.join("bob")
		toBob := read(bob)
		time.Sleep(time.Second)
		const begun = "joined bob\nbegun\nmessage ann anybody?\nmessage ann hello?\n"
		require.Equal(t, begun, texts(msgs.take(KindMoved)))
		require.Equal(t, begun, texts(toBob.take(KindMoved)))
		w.close(ann, bob)
	})
}

// Once clients have looked each other up, private messages do not need the room.
func TestPrivateWithoutHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, "h1", "h2")
		ann, bob := w.join("ann"), w.join("bob")
		msgs := read(bob)
		require.NoError(t, ann.Private(t.Context(), "bob", "before"))
		w.handoff("h2")
		require.NoError(t, ann.Private(t.Context(), "bob", "after a move"))
		w.net.Isolate("h1")
		w.net.Isolate("h2")
		start := time.Now()
		require.NoError(t, ann.Private(t.Context(), "bob", "without a room"))
		require.LessOrEqual(t, time.Since(start), 2*lookupTimeout)
		w.net.HealAll()
		time.Sleep(10 * time.Second)
		require.NoError(t, ann.Private(t.Context(), "bob", "with a room again"))
		synctest.Wait()
		require.Equal(t, "private ann before\nprivate ann after a move\nprivate ann without a room\n"+
			"private ann with a room again\n", texts(msgs.take(KindMoved, KindJoined)))
		w.close(ann, bob)
	})
}

// When no host with a copy is left and the room is reset, all clients report the loss.
func TestClientsReportLostRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, "h1")
		ann := w.join("ann")
		msgs := read(ann)
		synctest.Wait()
		require.NoError(t, w.nodes["h1"].Close())
		w.net.Crash("h1")
		factory, err := New(Config{})
		require.NoError(t, err)
		n, err := migrate.NewNode(migrate.NodeConfig{Resolver: w.res, Transport: w.net.Host("h2"), ID: "h2", Listen: "h2:1"})
		require.NoError(t, err)
		w.nodes["h2"] = n
		_, err = n.Reset(t.Context(), service, factory, migrate.Policy{})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Equal(t, "joined ann\nstate lost\n", texts(msgs.take(KindMoved)))
		msgs.mu.Lock()
		require.ErrorIs(t, msgs.err, migrate.ErrStateLost)
		msgs.mu.Unlock()
		require.ErrorIs(t, ann.Say(t.Context(), "hello?"), migrate.ErrStateLost)

		again := w.join("ann") // the new room is empty
		require.NoError(t, again.Say(t.Context(), "hello"))
		w.close(ann, again)
	})
}

// A crashed client leaves when its session expires. A client with the same key can take over its name at once.
func TestNameOfCrashedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, "h1", "h2")
		ann, bob := w.join("ann"), w.join("bob")
		require.NoError(t, bob.Close())
		_, err := Join(t.Context(), service, ClientConfig{Name: "bob", Resolver: w.res, Transport: w.net.Host("mallory")})
		require.ErrorIs(t, err, ErrNameTaken)
		bob = w.join("bob")
		require.NoError(t, bob.Say(t.Context(), "back"))
		require.NoError(t, bob.Close())
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		for m, err := range ann.Messages(ctx) {
			require.NoError(t, err)
			if m.Kind == KindLeft {
				require.Equal(t, "bob", m.From)
				break
			}
		}
		w.close(ann)
	})
}

// TestOverTCP uses TCP connections with TLS.
func TestOverTCP(t *testing.T) {
	res := resolver.NewMemory()
	tcp := func() *transport.TCP {
		tr, err := transport.NewTCP(transport.TCPConfig{Open: true})
		require.NoError(t, err)
		t.Cleanup(func() { tr.Close() })
		return tr
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	factory, err := New(Config{})
	require.NoError(t, err)
	n, err := migrate.NewNode(migrate.NodeConfig{Resolver: res, Transport: tcp(), Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	defer n.Close()
	_, err = n.Host(ctx, service, factory, migrate.Policy{})
	require.NoError(t, err)

	var cs []*Client
	for _, name := range []string{"ann", "bob"} {
		c, err := Join(ctx, service, ClientConfig{Name: name, Resolver: res, Transport: tcp(), Listen: ":0"})
		require.NoError(t, err)
		defer c.Close()
		cs = append(cs, c)
	}
	require.NoError(t, cs[0].Say(ctx, "hello"))
	require.NoError(t, cs[0].Private(ctx, "bob", "psst"))
	var received []Kind
	for m, err := range cs[1].Messages(ctx) {
		require.NoError(t, err)
		if m.From == "ann" && m.Text != "" {
			if received = append(received, m.Kind); len(received) == 2 {
				break
			}
		}
	}
	require.ElementsMatch(t, []Kind{KindMessage, KindPrivate}, received)
	who, err := cs[1].Who(ctx)
	require.NoError(t, err)
	require.Regexp(t, `^127\.0\.0\.1:\d+$`, who[0].Addr)
	require.NoError(t, cs[1].Close())
	require.Error(t, cs[0].Private(ctx, "bob", "gone?"), "the error depends on when the end of the connection is detected")
	require.ErrorIs(t, cs[0].Private(ctx, "bob", "gone!"), ErrPeerUnreachable)
}
