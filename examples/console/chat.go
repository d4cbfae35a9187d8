package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/examples/internal/cli"
	"github.com/roam-go/roam/migrate"
)

const (
	answerTimeout  = 5 * time.Second        // for what the user asks
	privateTimeout = 15 * time.Second       // for a private message
	leaveTimeout   = 10 * time.Second       // for saying goodbye
	privateGrace   = 3 * time.Second        // for the private messages of somebody who interrupts
	leaveGrace     = 5 * time.Second        // for all of the leaving of somebody who interrupts
	echoTimeout    = 2 * time.Second        // for one's own last words to come back
	slow           = 500 * time.Millisecond // after which the user sees that a line is on its way
)

// chat is a conversation from joining to leaving.
type chat struct {
	*chatcore.Client
	service string
	self    string // the host in this process; "" if there is none
	screen  screen
	piped   bool // nobody waits at a keyboard

	says     chan said
	privates chan [2]string // to whom, and what
	ended    chan error     // why there will be no more messages

	mu      sync.Mutex // guards what follows
	missing int        // how many participants the chat waits for
	taken   int        // lines that the room has published for this client
	seen    int        // of these, those that have come back
	refused int        // lines and commands of which nothing came
	news    chan struct{}
}

// said is a line on its way.
type said struct {
	call *migrate.Call
	text string
}

// converse shows the chat and says the lines, until there are no more of them or ctx ends, and leaves. It returns how many
// lines nothing came of, and why the conversation was cut off, if it was. Otherwise it has called last when there was
// nothing more to say.
func converse(
	ctx context.Context, c *chatcore.Client, service, self string, s screen, piped bool, lines <-chan string, last func(),
) (refused int, err error) {
	ch := &chat{
		Client: c, service: service, self: self, screen: s, piped: piped,
		says: make(chan said, 2048), privates: make(chan [2]string, 64), ended: make(chan error, 1), news: make(chan struct{}, 1),
	}
	var reading, writing sync.WaitGroup
	reading.Go(ch.follow)
	writing.Go(ch.watchSays)
	// Whoever interrupts, early or late, does not wait for long; otherwise everything is taken first, however long that is.
	ending, cancel := outlive(ctx, leaveGrace)
	defer cancel()
	hurried, cancel := outlive(ctx, privateGrace)
	defer cancel()
	writing.Go(func() { ch.sendPrivates(hurried) })
	cut := ch.take(ctx, lines)
	if cut == nil {
		last()
	}
	close(ch.says)
	close(ch.privates)
	if cut == nil {
		if err := c.Flush(ending); err != nil {
			s.fail("not everything that was written has been said: " + cli.Reason(err))
			ch.refuse()
		}
		if ending.Err() != nil {
			c.Close() // what is left of the calls ends here
		}
		writing.Wait()
		ch.awaitEcho(hurried)
		bye, cancel := context.WithTimeout(ending, leaveTimeout)
		defer cancel()
		if err := c.Leave(bye); err != nil && ending.Err() == nil {
			s.note("the others were not told that you left: " + cli.Reason(err))
		}
	} else {
		c.Close()
		writing.Wait()
	}
	reading.Wait()
	return ch.refused, cut
}

// outlive returns a context that ends so much later than ctx does.
func outlive(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		select {
		case <-time.After(by):
			cancel()
		case <-late.Done():
		}
	})
	return late, cancel
}

// take says the lines until there are no more, and returns the error that ended the session, if it did.
func (ch *chat) take(ctx context.Context, lines <-chan string) error {
	for {
		select {
		case text, ok := <-lines:
			if !ok {
				return nil
			}
			ch.line(ctx, text)
		case err := <-ch.ended:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// follow shows what the chat tells.
func (ch *chat) follow() {
	for m, err := range ch.Messages(context.Background()) {
		if err != nil {
			ch.ended <- err
			return
		}
		ch.note(m)
		ch.screen.message(m)
	}
}

func (ch *chat) note(m chatcore.Message) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	switch m.Kind {
	case chatcore.KindJoined, chatcore.KindLeft:
		ch.missing = m.Missing
	case chatcore.KindBegun:
		ch.missing = 0
	case chatcore.KindMessage:
		if m.From == ch.Name() && !m.History {
			ch.seen++
			ch.wake()
		}
	}
}

func (ch *chat) wake() {
	select {
	case ch.news <- struct{}{}:
	default:
	}
}

func (ch *chat) refuse() {
	ch.mu.Lock()
	ch.refused++
	ch.mu.Unlock()
}

func (ch *chat) fail(text string) {
	ch.refuse()
	ch.screen.fail(text)
}

// watchSays tells what became of the lines. The room takes them in order.
func (ch *chat) watchSays() {
	waited := false
	for s := range ch.says {
		select {
		case <-s.call.Done():
		case <-time.After(slow):
			waited = true
			ch.screen.pending(len(ch.says) + 1)
			<-s.call.Done()
		}
		if waited && len(ch.says) == 0 {
			waited = false
			ch.screen.pending(0)
		}
		_, err := s.call.Reply(context.Background())
		if err != nil {
			ch.fail(fmt.Sprintf("not said: %q: %s", s.text, cli.Reason(err)))
			continue
		}
		ch.mu.Lock()
		missing := ch.missing
		ch.taken++
		ch.wake()
		ch.mu.Unlock()
		if missing > 0 {
			ch.screen.held(s.text, missing)
		}
	}
}

// awaitEcho waits until the user's own last lines have been shown, unless they wait for the chat to begin.
func (ch *chat) awaitEcho(ctx context.Context) {
	timeout := time.After(echoTimeout)
	for {
		ch.mu.Lock()
		done := ch.missing > 0 || ch.seen >= ch.taken
		ch.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ch.news:
		case <-timeout:
			return
		case <-ctx.Done():
			return
		}
	}
}

// sendPrivates sends private messages one after the other, beside what is said to all, until ctx ends.
func (ch *chat) sendPrivates(ctx context.Context) {
	var left uint64
	for m := range ch.privates {
		if ctx.Err() != nil {
			ch.refuse()
			left++
			continue
		}
		sending, cancel := context.WithTimeout(ctx, privateTimeout)
		err := ch.Private(sending, m[0], m[1])
		cancel()
		if err != nil {
			ch.fail(fmt.Sprintf("not sent to %s: %s", cli.Printable(m[0]), ch.whyNotSent(m[0], err)))
		} else {
			ch.screen.delivered(m[0], m[1])
		}
	}
	if left > 0 {
		ch.screen.fail(plural(left, "private message was", "private messages were") + " not sent: you left before")
	}
}

// whyNotSent says what an error of sending to somebody means, and which command helps where a key has changed: with the
// other one, or one's own, which the other one has to forget.
func (ch *chat) whyNotSent(to string, err error) string {
	why := cli.Reason(err)
	switch changed := strings.Contains(why, " has changed from "); {
	case changed && errors.Is(err, chatcore.ErrPeerKey):
		why += fmt.Sprintf(": /forget %s does that", cli.Printable(to))
	case changed && errors.Is(err, chatcore.ErrPeerRefused):
		why += fmt.Sprintf("; if you have started again, ask them to write /forget %s", cli.Printable(ch.Name()))
	}
	return why
}

const help = `/who              who is here
/msg NAME TEXT    say something to one person alone, straight to their machine
/forget NAME      believe the next key seen for a name whose owner has started again
/where            which host serves the chat now
/quit             leave (so do Ctrl-D and Ctrl-C)
//TEXT            say a text that begins with /`

// line does what the user has typed.
func (ch *chat) line(ctx context.Context, text string) {
	text = strings.TrimRight(text, " \t\r\n")
	if strings.TrimSpace(text) == "" {
		return
	}
	if after, ok := strings.CutPrefix(text, "//"); ok {
		ch.say(ctx, "/"+after)
		return
	}
	if !strings.HasPrefix(text, "/") {
		ch.say(ctx, text)
		return
	}
	command, rest := split(text)
	switch command {
	case "/help":
		ch.screen.answer(help)
	case "/who":
		ch.who(ctx)
	case "/msg":
		to, what := split(rest)
		if to == "" || what == "" {
			ch.fail("write /msg NAME TEXT")
			return
		}
		ch.private(ctx, to, what)
	case "/forget":
		name, rest := split(rest)
		if name == "" || rest != "" {
			ch.fail("write /forget NAME")
			return
		}
		ch.Forget(name)
		ch.screen.answer(fmt.Sprintf("the key of %s is forgotten: the next one seen for that name is believed, whoever has it",
			cli.Printable(name)))
	case "/where":
		ch.where()
	default:
		ch.fail(fmt.Sprintf("there is no command %s; /help lists them, and //%s says it", cli.Printable(command), cli.Printable(command[1:])))
	}
}

// private leaves a private message to sendPrivates. Whoever sits at the keyboard is not kept waiting; piped input is, and
// loses none.
func (ch *chat) private(ctx context.Context, to, text string) {
	m := [2]string{to, text}
	select {
	case ch.privates <- m:
		return
	default:
	}
	if !ch.piped {
		ch.fail("too many private messages wait to be sent; try again in a moment")
		return
	}
	select {
	case ch.privates <- m:
	case <-ctx.Done():
		ch.fail(fmt.Sprintf("not sent to %s: you left before", cli.Printable(to)))
	}
}

func (ch *chat) say(ctx context.Context, text string) {
	call, err := ch.Send(ctx, text)
	if err != nil {
		ch.fail(fmt.Sprintf("not said: %q: %s", text, cli.Reason(err)))
		return
	}
	ch.says <- said{call, text}
}

func (ch *chat) who(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	all, err := ch.Who(ctx)
	if err != nil {
		ch.fail("nobody answers who is here: " + cli.Reason(err))
		return
	}
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = cli.Printable(p.Name)
		if p.Name == ch.Name() {
			names[i] += " (you)"
		}
	}
	ch.screen.answer(fmt.Sprintf("%d here: %s", len(all), strings.Join(names, ", ")))
}

func (ch *chat) where() {
	h := ch.Where()
	switch {
	case h.ID == "":
		ch.screen.answer(ch.service + " is on the move, or its host was lost: looking for it")
	case h.ID == ch.self:
		ch.screen.answer(fmt.Sprintf("%s is here, in this process (%s at %s)", ch.service, h.ID, h.Addr))
	default:
		ch.screen.answer(fmt.Sprintf("%s is at %s (%s)", ch.service, cli.Printable(h.ID), cli.Printable(h.Addr)))
	}
}

// join joins the chat, and tells the user why that takes long. It gives up when quit is closed.
func join(ctx context.Context, p *cli.Process, name string, s screen, quit <-chan struct{}) (*chatcore.Client, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	host, _, err := net.SplitHostPort(p.Flags.Listen)
	if err != nil {
		return nil, err
	}
	type joined struct {
		client *chatcore.Client
		err    error
	}
	done := make(chan joined, 1)
	go func() {
		c, err := chatcore.Join(ctx, p.Flags.Service, chatcore.ClientConfig{
			Name: name, Resolver: p.Resolver, Transport: p.Transport, Listen: net.JoinHostPort(host, "0"),
			InsecurePrivate: p.Flags.Insecure, Logger: p.Log,
		})
		done <- joined{c, err}
	}()
	why := ""
	look := time.After(1500 * time.Millisecond)
	for {
		select {
		case j := <-done:
			return j.client, j.err
		case <-look:
			if w := p.Why(ctx); w != "" && w != why && ctx.Err() == nil {
				why = w
				s.note(w)
			}
			look = time.After(3 * time.Second)
		case <-quit:
			quit = nil
			cancel()
		}
	}
}

// again reports whether a conversation that was cut off can go on in a new session, and what to tell the user.
func again(err error) (string, bool) {
	switch {
	case errors.Is(err, migrate.ErrStateLost):
		return "joining the chat that was started anew", true
	case errors.Is(err, migrate.ErrSessionExpired):
		return "this client was away for too long, and the others saw it leave; joining again", true
	}
	return cli.Reason(err), false
}
