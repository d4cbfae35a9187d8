package chatcore

import (
	"context"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// hub stands in for package migrate: it applies commands to a room directly, without a protocol or moves.
type hub struct {
	mu     sync.Mutex
	room   migrate.Migratable
	index  uint64
	last   uint64 // session
	events []migrate.Event
	news   chan struct{} // closed and replaced at each change
	stuck  bool          // the room does not answer, as during a move
}

func newHub(t testing.TB, cfg Config) *hub {
	t.Helper()
	factory, err := New(cfg)
	require.NoError(t, err)
	return &hub{room: factory(), news: make(chan struct{})}
}

func (h *hub) change(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	close(h.news)
	h.news = make(chan struct{})
}

// stall stops the room from answering until it is called with false.
func (h *hub) stall(stuck bool) { h.change(func() { h.stuck = stuck }) }

// do waits until the room answers and then calls f with a command.
func (h *hub) do(ctx context.Context, s *hubSession, body []byte, f func(migrate.Command)) error {
	for {
		h.mu.Lock()
		stuck, news := h.stuck, h.news
		h.mu.Unlock()
		if !stuck {
			break
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	h.change(func() {
		h.index++
		cmd := migrate.Command{Index: h.index, Epoch: 1, Time: time.Now(), Session: s.number, Key: s.key, Body: body}
		f(migrate.NewCommand(cmd, func(b []byte) {
			h.events = append(h.events, migrate.Event{Seq: uint64(len(h.events) + 1), Time: cmd.Time, Epoch: 1, Body: b})
		}))
	})
	return nil
}

// session opens a session for a key.
func (h *hub) session(key transport.Key) *hubSession {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	s := &hubSession{hub: h, number: h.last, key: key, fail: make(chan error, 1)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

type hubSession struct {
	hub    *hub
	number uint64
	key    transport.Key
	fail   chan error // makes Events end with the error
	ctx    context.Context
	cancel context.CancelFunc
}

func (s *hubSession) Do(ctx context.Context, body []byte) (reply []byte, err error) {
	if e := s.hub.do(ctx, s, body, func(cmd migrate.Command) { reply, err = s.hub.room.Apply(cmd) }); e != nil {
		return nil, e
	}
	return reply, err
}

func (s *hubSession) Go(body []byte) (*migrate.Call, error) {
	_, err := s.Do(s.ctx, body)
	return nil, err
}

func (s *hubSession) Query(ctx context.Context, q []byte) (answer []byte, err error) {
	if e := s.hub.do(ctx, s, nil, func(migrate.Command) {
		answer, err = s.hub.room.(migrate.Querier).Query(migrate.Query{Session: s.number, Key: s.key, Body: q})
	}); e != nil {
		return nil, e
	}
	return answer, err
}

func (s *hubSession) Events(ctx context.Context, from uint64) iter.Seq2[migrate.Event, error] {
	return func(yield func(migrate.Event, error) bool) {
		for {
			s.hub.mu.Lock()
			news, events := s.hub.news, s.hub.events[min(from-1, uint64(len(s.hub.events))):]
			s.hub.mu.Unlock()
			for _, ev := range events {
				if !yield(ev, nil) {
					return
				}
				from++
			}
			select {
			case <-news:
			case err := <-s.fail:
				yield(migrate.Event{}, err)
				return
			case <-ctx.Done():
				yield(migrate.Event{}, ctx.Err())
				return
			}
		}
	}
}

func (s *hubSession) Where() resolver.Host        { return resolver.Host{ID: "hub", Addr: "hub:1"} }
func (s *hubSession) Flush(context.Context) error { return nil }

func (s *hubSession) Shutdown(ctx context.Context) error {
	return s.hub.do(ctx, s, nil, func(cmd migrate.Command) { s.hub.room.(migrate.SessionCloser).SessionClosed(cmd) })
}

func (s *hubSession) Close() error {
	s.cancel()
	return nil
}

// enter joins the hub's room.
func (h *hub) enter(ctx context.Context, cfg ClientConfig) (*Client, error) {
	if cfg.Resolver == nil {
		cfg.Resolver = noResolver{}
	}
	c, err := newClient("chat.example", cfg)
	if err != nil {
		return nil, err
	}
	return c, c.start(ctx, h.session(cfg.Transport.Key()))
}

// noResolver is a placeholder where a Resolver is required but not used.
type noResolver struct{ resolver.Resolver }

// reader collects the messages of a client.
type reader struct {
	mu   sync.Mutex
	list []Message
	err  error
}

func read(c *Client) *reader {
	r := &reader{}
	go func() {
		for m, err := range c.Messages(context.Background()) {
			r.mu.Lock()
			if r.err = err; err == nil {
				r.list = append(r.list, m)
			}
			r.mu.Unlock()
		}
	}()
	return r
}

// take returns the messages since the last call, except those of the given kinds.
func (r *reader) take(without ...Kind) (list []Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
next:
	for _, m := range r.list {
		for _, k := range without {
			if m.Kind == k {
				continue next
			}
		}
		list = append(list, m)
	}
	r.list = nil
	return list
}
