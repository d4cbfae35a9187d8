package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// tally is a service that remembers every command in order and emits it.
type tally struct{ Seen []string }

func (t *tally) Apply(cmd Command) ([]byte, error) {
	t.Seen = append(t.Seen, string(cmd.Body))
	cmd.Emit(cmd.Body)
	return strconv.AppendInt(nil, int64(len(t.Seen)), 10), nil
}

func (t *tally) Query([]byte) ([]byte, error) {
	return strconv.AppendInt(nil, int64(len(t.Seen)), 10), nil
}

func (t *tally) Snapshot() (Snapshot, error) {
	b, err := json.Marshal(t)
	return bytesSnapshot(b), err
}

func (t *tally) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, t)
}

type bytesSnapshot []byte

func (s bytesSnapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s)
	return int64(n), err
}
func (s bytesSnapshot) Release() {}

func newTally() Migratable { return new(tally) }

// world is some hosts on a network in memory. It must be made in a bubble.
type world struct {
	t     *testing.T
	net   *transport.Memory
	res   resolver.Resolver
	log   *slog.Logger
	trs   map[string]*transport.MemoryTransport
	nodes map[string]*Node
	cls   []*Client
}

func newWorld(t *testing.T, names ...string) *world {
	w := &world{
		t: t, net: transport.NewMemory(), res: resolver.NewMemory(), log: slog.New(slog.DiscardHandler),
		trs: map[string]*transport.MemoryTransport{}, nodes: map[string]*Node{},
	}
	if testing.Verbose() && os.Getenv("ROAM_LOG") != "" {
		w.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for _, name := range names {
		w.node(name)
	}
	return w
}

func (w *world) transport(name string) *transport.MemoryTransport {
	if w.trs[name] == nil {
		w.trs[name] = w.net.Host(name)
	}
	return w.trs[name]
}

func (w *world) node(name string) *Node {
	n, err := NewNode(NodeConfig{Resolver: w.res, Transport: w.transport(name), ID: name, Listen: name + ":1", Logger: w.log})
	require.NoError(w.t, err)
	w.nodes[name] = n
	return n
}

func (w *world) host(name, service string, p Policy) *Service {
	s, err := w.nodes[name].Host(w.t.Context(), service, newTally, p)
	require.NoError(w.t, err)
	return s
}

func (w *world) standby(name, service string, p Policy) *Service {
	s, err := w.nodes[name].Standby(w.t.Context(), service, newTally, p)
	require.NoError(w.t, err)
	return s
}

func (w *world) dial(name, service string, cfg ClientConfig) *Client {
	cfg.Resolver, cfg.Transport, cfg.Logger = w.res, w.transport(name), w.log
	c, err := Dial(w.t.Context(), service, cfg)
	require.NoError(w.t, err)
	w.cls = append(w.cls, c)
	return c
}

func (w *world) close() {
	for _, c := range w.cls {
		c.Close()
	}
	for _, n := range w.nodes {
		n.Close()
	}
	for _, tr := range w.trs {
		tr.Close()
	}
}

// active returns the service that serves now.
func (w *world) active(service string) *Service {
	for range 1000 {
		for _, n := range w.nodes {
			if s := n.service(service); s != nil && s.Status().Role == Active {
				return s
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatal("no host is active")
	return nil
}

func (w *world) inSync(s *Service, n int) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(w.t, s.wait(ctx, func(st Status) bool { return len(st.Record.ISR) == n }), "%+v", s.Status())
}

func TestMoveWhileWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		defer w.close()
		w.net.SetDelay(time.Millisecond)
		a := w.host("a", "svc", Policy{})
		w.standby("b", "svc", Policy{})
		w.standby("c", "svc", Policy{})
		c := w.dial("client", "svc", ClientConfig{})
		w.inSync(a, 2)
		stop := make(chan struct{})
		done := make(chan int)
		go func() {
			n := 0
			for {
				select {
				case <-stop:
					done <- n
					return
				default:
				}
				reply, err := c.Do(t.Context(), fmt.Appendf(nil, "%d", n))
				if err != nil {
					t.Error(err)
					done <- n
					return
				}
				n++
				if string(reply) != strconv.Itoa(n) {
					t.Errorf("command %d is number %s", n, reply)
				}
			}
		}()
		for range 10 {
			time.Sleep(500 * time.Millisecond)
			s := w.active("svc")
			rep, err := s.Handoff(t.Context(), "")
			require.NoError(t, err)
			t.Logf("%s -> %s join %s prepare %s transfer %s won %s pause %s clients %d ready %d", rep.From.ID, rep.To.ID, rep.Join, rep.Prepare, rep.Transfer, rep.Won, rep.Pause, rep.Clients, rep.Ready)
		}
		close(stop)
		n := <-done
		t.Log(n, "commands")
		reply, err := c.Query(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(n), string(reply))
	})
}
