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
	// Name is the name to join with. It is trimmed, and stands for the key that Transport proves: while somebody with that
	// name is in the room, nobody with another key can have it, or one that looks like it.
	Name string

	// Resolver knows where the room is; Transport leads to it, and to the other participants.
	Resolver  resolver.Resolver
	Transport transport.Transport

	// Listen is the address at which this client takes private messages from the others, in the form that Transport wants;
	// "" for none: then nobody can send it any, and it can still send.
	Listen string

	// Advertise is the address that the others are told. "" stands for the address of the listener, with the address of
	// this machine as it is seen from the room's host where the listener has none of its own.
	Advertise string

	// InsecurePrivate allows private messages over a transport that proves no keys, where nobody can tell who sent them and
	// who reads them. They arrive with [Message.Unverified] set. Otherwise they are refused with [ErrUnverified].
	InsecurePrivate bool

	// Buffer is how many messages are kept for a reader of Messages that is slow. 0 stands for 1,024.
	Buffer int

	// Logger is told what the client does to stay connected, and which private messages it refused; nil discards.
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
		return c, transport.Errorf(CodeConfig, "chat: ClientConfig.Advertise is set, and Listen is empty")
	case len(c.Advertise) > maxAddr || !printable(c.Advertise):
		return c, transport.Errorf(CodeConfig, "chat: ClientConfig.Advertise is longer than %d bytes or not printable", maxAddr)
	}
	return c, nil
}

// session is what a Client needs of a [migrate.Client].
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
// It follows the room wherever that goes. What it is told comes out of Messages; if nobody reads there, the oldest messages
// are dropped and nothing else waits.
type Client struct {
	service string
	cfg     ClientConfig
	session session
	inbox   *inbox
	private *private
	name    string // as the room has accepted it

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of the client
	close  func() error
}

// Join joins the chat that is registered under the service's name. It waits until the room has accepted the name; ctx is
// for that alone.
//
// Errors: [ErrNameTaken] and [ErrBadName] where another name would help, [ErrFull], [ErrConfig] with the field that is
// invalid, and those of [migrate.Dial].
func Join(ctx context.Context, service string, cfg ClientConfig) (*Client, error) {
	c, err := newClient(service, cfg)
	if err != nil {
		return nil, err
	}
	s, err := migrate.Dial(ctx, service, migrate.ClientConfig{
		Resolver: c.cfg.Resolver, Transport: c.cfg.Transport, OnMove: c.moved, Logger: c.cfg.Logger,
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
	c.close = sync.OnceValue(c.shut)
	return c, nil
}

// start joins the room through s, which belongs to the client from now on. After an error the client is closed.
func (c *Client) start(ctx context.Context, s session) (err error) {
	c.session = s
	defer func() {
		if err != nil {
			// The session ends now and not when it runs out, so that a name that was bound to it is free again.
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
	var j joined
	if err := transport.Unmarshal(reply, &j); err != nil {
		return err
	}
	// What was said before Next is asked for; from Next on, events come by themselves. So nothing is missing and nothing
	// comes twice.
	answer, err := s.Query(ctx, mustMarshal(&query{Op: askHistory, After: j.Next}))
	if err != nil {
		return err
	}
	var history []said
	if err := transport.Unmarshal(answer, &history); err != nil {
		return err
	}
	c.inbox.allow(len(history))
	letters := make([]letter, 0, len(history))
	for _, m := range history {
		letters = append(letters, letter{kind: KindMessage, history: true, from: m.From, text: m.Text, time: m.Time, seq: m.Seq})
	}
	c.inbox.put(letters)
	c.name = j.Name
	c.wg.Go(func() {
		c.inbox.end(c.follow(j.Next))
		c.private.close() // what arrives now would be seen by nobody
	})
	c.private.open()
	return nil
}

// follow passes on what the room publishes, until the session ends, and returns why: nil for Close.
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
			batch = append(batch, letter{other: &Message{Kind: KindGap, Lost: ev.Seq - ev.Gap, Time: time.Now()}})
		}
		if err := e.decode(ev.Body, &texts); err != nil || e.Kind >= KindPrivate {
			c.cfg.Logger.Warn("chat: event of a kind that this version does not know", "service", c.service, "seq", ev.Seq)
		} else {
			batch = append(batch, letter{kind: e.Kind, from: e.From, text: e.Text, time: e.Time, seq: ev.Seq, missing: int32(e.Missing)})
		}
		if !ev.More || len(batch) > atOnce-2 {
			c.inbox.put(batch)
			batch = newBatch()
		}
	}
	return nil
}

func (c *Client) moved(m migrate.Move) {
	c.inbox.push(Message{Kind: KindMoved, Epoch: m.Epoch, Host: m.Host, Pause: m.Pause, Planned: m.Planned, Time: time.Now()})
}

// Name is the name under which the room knows this client.
func (c *Client) Name() string { return c.name }

// Where is the host on which the room lives now; the zero Host while there is none.
func (c *Client) Where() resolver.Host { return c.session.Where() }

// Say says text to everybody, this client included, and waits until the room has taken it: then it is published to all,
// or waits for the chat to begin. It is said once, whatever moves or dies meanwhile. If ctx ends first, it may still be
// said.
//
// Errors: [ErrBadText], [ErrHeldFull], [ErrNotJoined] when the name was taken over by a newer session of the same key.
func (c *Client) Say(ctx context.Context, text string) error {
	_, err := c.session.Do(ctx, command{Op: opSay, Text: text}.encode())
	return err
}

// Send is Say for a stream of input: it does not wait for the room but only, while too much is on its way, for a place in
// the queue. What is sent is said in the order of the Send and Say calls. The call tells what became of it, and need not be
// looked at.
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

// Flush waits until the room has taken, or refused, everything that was sent before.
func (c *Client) Flush(ctx context.Context) error { return c.session.Flush(ctx) }

// Participant is somebody in the room.
type Participant struct {
	// Name is how they joined.
	Name string
	// Addr is where they take private messages; "" if they take none.
	Addr string
	// Key is what they prove; zero where the transport proves no keys.
	Key transport.Key
	// Since is when they joined, by the clock of the room's host.
	Since time.Time
}

func (p person) participant() Participant {
	out := Participant{Name: p.Name, Addr: p.Addr, Since: time.UnixMilli(p.Time)}
	copy(out.Key[:], p.Key)
	return out
}

// Who lists those who are in the room, in the order in which they joined.
func (c *Client) Who(ctx context.Context) ([]Participant, error) {
	var all []Participant
	for after := uint64(0); ; {
		answer, err := c.session.Query(ctx, mustMarshal(&query{Op: askWho, After: after, Limit: maxPage}))
		if err != nil {
			return nil, err
		}
		var page roster
		if err := transport.Unmarshal(answer, &page); err != nil {
			return nil, err
		}
		for _, p := range page.List {
			if p.Number <= after {
				return nil, transport.Errorf(transport.CodeBadMessage, "chat: %q lists its participants out of order", c.service)
			}
			all = append(all, p.participant())
			after = p.Number
		}
		if len(page.List) < maxPage {
			return all, nil
		}
	}
}

// Messages yields what this client is told, oldest first: what was said before it joined, then everything as it happens,
// private messages and moves in between. It ends in silence after Close or Leave; otherwise the last pair holds the error:
// ctx's, or what ended the session ([migrate.ErrSessionExpired], [migrate.ErrStateLost]), after which the user may Join
// again.
//
// Each message is yielded once: of several readers at one time each gets a part. A reader that falls behind by more than
// [ClientConfig.Buffer] loses the oldest messages, and finds a [KindGap] in their place.
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
					c.inbox.giveBack(batch[i+1:])
					return
				}
			}
			freeBatch(batch)
		}
	}
}

// Leave waits until what was sent before is taken, leaves the room so that the others are told at once, and closes the
// client.
func (c *Client) Leave(ctx context.Context) error {
	err := c.session.Shutdown(ctx)
	return errors.Join(err, c.Close())
}

// Close ends the client at once. The room finds out when the session has run out; until then the name stays bound to this
// client's key. What was sent and not taken yet may or may not be said. Close waits for the client's goroutines, and
// is safe to call twice and from many of them.
func (c *Client) Close() error { return c.close() }

func (c *Client) shut() error {
	c.cancel()
	c.inbox.end(nil)
	c.private.close()
	err := c.session.Close()
	c.wg.Wait()
	return err
}
