package chatcore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// ClientConfig configures a [Client]. Name, Resolver and Transport are required.
type ClientConfig struct {
	// Name is the name to join with. Surrounding whitespace is trimmed. While this client is in the room, the name belongs to
	// the key of Transport: no other key can join with it or with a confusable name.
	Name string

	// Resolver finds the host of the room. Transport connects to it and to the other participants.
	Resolver  resolver.Resolver
	Transport transport.Transport

	// Listen is the address at which this client receives private messages, as [transport.Transport] takes it. If it is empty,
	// the client can send private messages but receives none.
	Listen string

	// Advertise is the address that other participants connect to. It defaults to the listener's address; if that names no
	// host, its host part is the local address used to reach the room's host.
	Advertise string

	// InsecurePrivate allows private messages over a transport that proves no keys, where neither sender nor receiver is
	// authenticated. They arrive with [Message.Unverified] set. By default they are rejected with [ErrUnverified].
	InsecurePrivate bool

	// Buffer is the number of messages buffered for a slow reader of Messages. It defaults to 1,024.
	Buffer int

	// Logger logs reconnects and rejected private messages. If it is nil, nothing is logged.
	Logger *slog.Logger
}

func (c ClientConfig) withDefaults() (ClientConfig, error) {
	if c.Buffer == 0 {
		c.Buffer = 1024
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Name == "":
		return c, transport.Errorf(CodeConfig, "chat: ClientConfig.Name is empty")
	case c.Resolver == nil:
		return c, transport.Errorf(CodeConfig, "chat: ClientConfig.Resolver is nil")
	case c.Transport == nil:
		return c, transport.Errorf(CodeConfig, "chat: ClientConfig.Transport is nil")
	case c.Buffer < 0:
		return c, transport.Errorf(CodeConfig, "chat: ClientConfig.Buffer is %d, want 0 or more", c.Buffer)
	case c.Advertise != "" && c.Listen == "":
		return c, transport.Errorf(CodeConfig, "chat: ClientConfig.Advertise is set but Listen is empty")
	case len(c.Advertise) > maxAddr || !printable(c.Advertise):
		return c, transport.Errorf(CodeConfig, "chat: ClientConfig.Advertise is longer than %d bytes or not printable", maxAddr)
	}
	return c, nil
}

// session is the subset of [migrate.Client] that a Client uses.
type session interface {
	Do(ctx context.Context, command []byte) ([]byte, error)
	Go(command []byte) (*migrate.Call, error)
	Query(ctx context.Context, q []byte) ([]byte, error)
	Events(ctx context.Context, from uint64) iter.Seq2[migrate.Event, error]
	Where() resolver.Host
	Flush(ctx context.Context) error
	Shutdown(ctx context.Context) error
	Close() error
}

// Client is one participant of a chat. It is safe for concurrent use.
//
// A Client follows the room from host to host. Messages yields everything that it receives. If the application does not read
// Messages, the client drops the oldest messages and is otherwise not affected.
type Client struct {
	service string
	cfg     ClientConfig
	session session
	inbox   *inbox
	private *private
	name    string // as accepted by the room

	ctx       context.Context // canceled by Close
	cancel    context.CancelFunc
	wg        sync.WaitGroup // all goroutines of the client
	closeOnce func() error
}

// Join joins the chat with the given service name and waits until the room has accepted the participant's name. Canceling
// ctx later has no effect on the client.
//
// Errors: [ErrNameTaken] and [ErrBadName], after which another name may succeed; [ErrFull]; [ErrConfig], which names the
// invalid field; and the errors of [migrate.Dial].
func Join(ctx context.Context, service string, cfg ClientConfig) (*Client, error) {
	c, err := newClient(service, cfg)
	if err != nil {
		return nil, err
	}
	s, err := migrate.Dial(ctx, service, migrate.ClientConfig{
		Resolver: c.cfg.Resolver, Transport: c.cfg.Transport, OnMove: c.onMove, Logger: c.cfg.Logger,
	})
	if err != nil {
		c.cancel()
		return nil, err
	}
	if err := c.start(ctx, s); err != nil {
		return nil, err
	}
	return c, nil
}

func newClient(service string, cfg ClientConfig) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{service: service, cfg: cfg, inbox: newInbox(cfg.Buffer)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.private = newPrivate(c)
	c.closeOnce = sync.OnceValue(c.closeNow)
	return c, nil
}

// start joins the room through s and takes ownership of s. On an error it closes the client.
func (c *Client) start(ctx context.Context, s session) (err error) {
	c.session = s
	defer func() {
		if err != nil {
			// End the session now instead of letting it expire, so that the name is free again.
			bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			_ = s.Shutdown(bye)
			cancel()
			_ = c.Close()
			err = fmt.Errorf("chat: join %q as %q: %w", c.service, c.cfg.Name, err)
		}
	}()
	addr, err := c.private.listen(ctx)
	if err != nil {
		return err
	}
	reply, err := s.Do(ctx, command{Op: opJoin, Text: c.cfg.Name, Addr: addr}.encode())
	if err != nil {
		return err
	}
	var j joinReply
	if err := transport.Unmarshal(reply, &j); err != nil {
		return err
	}
	// The query returns the messages before Next, and the events start at Next: no gap and no duplicate.
	answer, err := s.Query(ctx, mustMarshal(&query{Op: queryHistory, After: j.Next}))
	if err != nil {
		return err
	}
	var history []storedMessage
	if err := transport.Unmarshal(answer, &history); err != nil {
		return err
	}
	c.inbox.raiseLimit(len(history))
	entries := make([]entry, 0, len(history))
	for _, m := range history {
		entries = append(entries, entry{kind: KindMessage, history: true, from: m.From, text: m.Text, time: m.Time, seq: m.Seq})
	}
	c.inbox.put(entries)
	c.name = j.Name
	c.wg.Go(func() {
		c.inbox.end(c.follow(j.Next))
		c.private.close() // nobody would read further private messages
	})
	c.private.open()
	return nil
}

// follow puts the room's events into the inbox until the session ends. It returns the reason, which is nil after Close.
func (c *Client) follow(from uint64) error {
	var e event
	var texts strings.Builder
	batch := newBatch()
	for ev, err := range c.session.Events(c.ctx, from) {
		switch {
		case err == nil:
		case c.ctx.Err() != nil:
			return nil
		default:
			if errors.Is(err, migrate.ErrStateLost) {
				c.inbox.push(Message{Kind: KindStateLost, Time: time.Now()})
			}
			return fmt.Errorf("chat: %q: %w", c.service, err)
		}
		if ev.Gap != 0 {
			batch = append(batch, entry{other: &Message{Kind: KindGap, Lost: ev.Seq - ev.Gap, Time: time.Now()}})
			c.private.recheckKeys()
		}
		if err := e.decode(ev.Body, &texts); err != nil || e.Kind >= KindPrivate {
			c.cfg.Logger.Warn("chat: skipping event of unknown kind", "service", c.service, "seq", ev.Seq)
		} else {
			batch = append(batch, entry{kind: e.Kind, from: e.From, text: e.Text, time: e.Time, seq: ev.Seq,
				missing: int32(e.Missing), newKey: c.private.newKey(&e)})
		}
		if !ev.More || len(batch) > batchSize-2 {
			c.inbox.put(batch)
			batch = newBatch()
		}
	}
	return nil
}

func (c *Client) onMove(m migrate.Move) {
	c.inbox.push(Message{Kind: KindMoved, Epoch: m.Epoch, Host: m.Host, Pause: m.Pause, Planned: m.Planned, Time: time.Now()})
}

// Name returns the participant's name as accepted by the room.
func (c *Client) Name() string { return c.name }

// Where returns the host that serves the room, or the zero Host if none is known.
func (c *Client) Where() resolver.Host { return c.session.Where() }

// Say sends text to all participants, this client included, and waits until the room has accepted it. The room then
// publishes it, or holds it until the chat begins. It is published exactly once, across moves and failovers. If ctx ends
// first, it may still be published.
//
// Errors: [ErrBadText], [ErrHeldFull], and [ErrNotJoined] if a newer session with the same key has taken over the name.
func (c *Client) Say(ctx context.Context, text string) error {
	_, err := c.session.Do(ctx, command{Op: opSay, Text: text}.encode())
	return err
}

// Send is like Say but does not wait for the room's reply. It blocks only while the queue of unacknowledged messages is
// full. Messages are published in the order of the Send and Say calls. The returned call reports the outcome and can be
// ignored.
func (c *Client) Send(ctx context.Context, text string) (*migrate.Call, error) {
	cmd := command{Op: opSay, Text: text}.encode()
	for {
		call, err := c.session.Go(cmd)
		if !errors.Is(err, migrate.ErrQueueFull) {
			return call, err
		}
		if err := c.session.Flush(ctx); err != nil {
			return nil, err
		}
	}
}

// Flush waits until the room has accepted or rejected all messages sent before.
func (c *Client) Flush(ctx context.Context) error { return c.session.Flush(ctx) }

// Participant describes a participant in the room.
type Participant struct {
	// Name is the participant's name.
	Name string
	// Addr is the address for private messages; empty if the participant accepts none.
	Addr string
	// Key is the participant's public key; zero if the transport proves no keys.
	Key transport.Key
	// NewKey is set if Key differs from the key that this client has pinned for the name: another user may have taken it.
	NewKey bool
	// Since is the joining time by the clock of the room's host.
	Since time.Time
}

func (p participantInfo) participant() Participant {
	out := Participant{Name: p.Name, Addr: p.Addr, Since: time.UnixMilli(p.Time)}
	copy(out.Key[:], p.Key)
	return out
}

// Who returns the participants in the room in joining order. It compares their keys with the pinned ones.
func (c *Client) Who(ctx context.Context) ([]Participant, error) {
	var all []Participant
	for after := uint64(0); ; {
		answer, err := c.session.Query(ctx, mustMarshal(&query{Op: queryWho, After: after, Limit: maxPage}))
		if err != nil {
			return nil, err
		}
		var page roster
		if err := transport.Unmarshal(answer, &page); err != nil {
			return nil, err
		}
		for _, p := range page.List {
			if p.Number <= after {
				return nil, transport.Errorf(transport.CodeBadMessage, "chat: %q returned participants out of order", c.service)
			}
			who := p.participant()
			who.NewKey = c.private.noteKey(who.Name, who.Key)
			all = append(all, who)
			after = p.Number
		}
		if len(page.List) < maxPage {
			return all, nil
		}
	}
}

// Messages yields the messages that this client receives, oldest first: the history, then new messages, private messages and
// moves as they arrive. After Close or Leave the sequence ends without an error. Otherwise the last pair contains the error:
// that of ctx, or the error that ended the session ([migrate.ErrSessionExpired], [migrate.ErrStateLost]), after which the
// application may Join again.
//
// Each message is yielded once; concurrent readers share the messages. When a reader falls behind by more than
// [ClientConfig.Buffer] messages, the oldest are dropped and replaced by one [KindGap].
func (c *Client) Messages(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		for {
			batch, err := c.inbox.take(ctx)
			switch {
			case err != nil:
				yield(Message{}, err)
				return
			case len(batch) == 0:
				return
			}
			for i := range batch {
				if !yield(batch[i].message(), nil) {
					c.inbox.putBack(batch[i+1:])
					return
				}
			}
			freeBatch(batch)
		}
	}
}

// Leave waits until the room has processed all messages sent before, leaves the room, which notifies the other participants
// at once, and closes the client.
func (c *Client) Leave(ctx context.Context) error {
	err := c.session.Shutdown(ctx)
	return errors.Join(err, c.Close())
}

// Close closes the client without leaving the room. The participant remains in the room, and the name remains bound to this
// client's key, until the session expires. Messages not yet acknowledged may or may not be published. Close waits for the
// client's goroutines. It can be called several times and concurrently.
func (c *Client) Close() error { return c.closeOnce() }

func (c *Client) closeNow() error {
	c.cancel()
	c.inbox.end(nil)
	c.private.close()
	err := c.session.Close()
	c.wg.Wait()
	return err
}
