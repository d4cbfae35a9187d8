package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/examples/internal/cli"
	"github.com/roam-go/roam/migrate"
)

const (
	answerTimeout  = 5 * time.Second        // for a query
	privateTimeout = 15 * time.Second       // for a private message
	leaveTimeout   = 10 * time.Second       // for leaving the chat
	privateGrace   = 3 * time.Second        // for pending private messages after an interrupt
	leaveGrace     = 5 * time.Second        // for all pending work after an interrupt
	echoTimeout    = 2 * time.Second        // for the user's last lines to arrive
	pendingAfter   = 500 * time.Millisecond // before pending lines are shown
)

// chat is a session in the chat, from joining to leaving.
type chat struct {
	*chatcore.Client
	service string
	local   *localHost
	screen  screen
	piped   bool // the input is not a terminal

	sent     chan sentLine  // lines that wait for the room's reply
	privates chan [2]string // receiver and text
	ended    chan error     // the error that ended the messages
	resets   sync.WaitGroup // goroutines of reset

	mu       sync.Mutex    // guards the fields below
	missing  int           // participants still missing for the chat to begin
	accepted int           // lines that the room has accepted
	echoed   int           // own lines that have arrived
	failed   int           // lines and commands that failed
	changed  chan struct{} // capacity 1: signals a change of accepted or echoed
}

// sentLine is a line sent to the room.
type sentLine struct {
	call *migrate.Call
	text string
}

// runChat shows the chat and sends the lines until the input or ctx ends, and then leaves. It calls inputEnded once no more
// lines are read, unless the session has ended with an error. It returns the number of failed lines, and the error that
// ended the session, if any.
func runChat(
	ctx context.Context, c *chatcore.Client, service string, local *localHost, s screen, piped bool, lines <-chan string,
	inputEnded func(),
) (failed int, err error) {
	ch := &chat{
		Client: c, service: service, local: local, screen: s, piped: piped,
		sent: make(chan sentLine, 2048), privates: make(chan [2]string, 64), ended: make(chan error, 1),
		changed: make(chan struct{}, 1),
	}
	var reading, writing sync.WaitGroup
	reading.Go(ch.showMessages)
	writing.Go(ch.awaitReplies)
	// Without an interrupt, everything is sent before leaving, regardless of the time. An interrupt bounds the time.
	leaveCtx, cancel := outlive(ctx, leaveGrace)
	defer cancel()
	privateCtx, cancel := outlive(ctx, privateGrace)
	defer cancel()
	writing.Go(func() { ch.sendPrivates(privateCtx) })
	inputCtx, stop := context.WithCancel(ctx)
	defer stop()
	sessionErr := ch.readInput(inputCtx, lines)
	if sessionErr == nil {
		if !piped {
			stop() // ends a /reset
		}
		inputEnded()
	}
	close(ch.sent)
	close(ch.privates)
	if sessionErr == nil {
		if err := c.Flush(leaveCtx); err != nil {
			s.fail("not all input was sent: " + cli.Reason(err))
			ch.countFailure()
		}
		if leaveCtx.Err() != nil {
			c.Close() // fails the remaining calls
		}
		writing.Wait()
		ch.resets.Wait()
		ch.awaitEcho(privateCtx)
		byeCtx, cancel := context.WithTimeout(leaveCtx, leaveTimeout)
		defer cancel()
		if err := c.Leave(byeCtx); err != nil && leaveCtx.Err() == nil {
			s.note("could not leave the chat: " + cli.Reason(err))
		}
	} else {
		c.Close()
		writing.Wait()
		ch.resets.Wait() // it may have ended the session
	}
	reading.Wait()
	return ch.failed, sessionErr
}

// outlive returns a context that ends the given duration after ctx ends.
func outlive(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		select {
		case <-time.After(grace):
			cancel()
		case <-late.Done():
		}
	})
	return late, cancel
}

// readInput processes the lines until the input or ctx ends, and returns the error that ended the session, if any.
func (ch *chat) readInput(ctx context.Context, lines <-chan string) error {
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
			ch.dropInput(lines)
			return nil
		}
	}
}

// dropInput reports the lines that were typed before an interrupt and are not sent any more.
func (ch *chat) dropInput(lines <-chan string) {
	for n := 0; ; n++ {
		select {
		case _, ok := <-lines:
			if ok {
				continue
			}
		default:
		}
		if n > 0 && !ch.piped {
			ch.fail(cli.Plural(n, "line was", "lines were") + " not sent, because you left")
		}
		return
	}
}

// showMessages shows the messages of the chat.
func (ch *chat) showMessages() {
	for m, err := range ch.Messages(context.Background()) {
		if err != nil {
			ch.ended <- err
			return
		}
		ch.record(m)
		ch.screen.message(m)
	}
}

func (ch *chat) record(m chatcore.Message) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	switch m.Kind {
	case chatcore.KindJoined, chatcore.KindLeft:
		ch.missing = m.Missing
	case chatcore.KindBegun:
		ch.missing = 0
	case chatcore.KindMessage:
		if m.From == ch.Name() && !m.History {
			ch.echoed++
			ch.signal()
		}
	}
}

func (ch *chat) signal() {
	select {
	case ch.changed <- struct{}{}:
	default:
	}
}

func (ch *chat) countFailure() {
	ch.mu.Lock()
	ch.failed++
	ch.mu.Unlock()
}

func (ch *chat) fail(text string) {
	ch.countFailure()
	ch.screen.fail(text)
}

// awaitReplies reports the outcome of sent lines. The room replies in order.
func (ch *chat) awaitReplies() {
	waited := false
	for s := range ch.sent {
		select {
		case <-s.call.Done():
		case <-time.After(pendingAfter):
			waited = true
			ch.screen.pending(len(ch.sent) + 1)
			<-s.call.Done()
		}
		if waited && len(ch.sent) == 0 {
			waited = false
			ch.screen.pending(0)
		}
		_, err := s.call.Reply(context.Background())
		if err != nil {
			ch.fail(fmt.Sprintf("not sent: %q: %s", s.text, cli.Reason(err)))
			continue
		}
		ch.mu.Lock()
		missing := ch.missing
		ch.accepted++
		ch.signal()
		ch.mu.Unlock()
		if missing > 0 {
			ch.screen.held(s.text, missing)
		}
	}
}

// awaitEcho waits until the user's own last lines have arrived, unless the room holds them.
func (ch *chat) awaitEcho(ctx context.Context) {
	timeout := time.After(echoTimeout)
	for {
		ch.mu.Lock()
		done := ch.missing > 0 || ch.echoed >= ch.accepted
		ch.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ch.changed:
		case <-timeout:
			return
		case <-ctx.Done():
			return
		}
	}
}

// sendPrivates sends private messages one after the other, concurrently with other lines, until ctx ends.
func (ch *chat) sendPrivates(ctx context.Context) {
	var left uint64
	for m := range ch.privates {
		if ctx.Err() != nil {
			ch.countFailure()
			left++
			continue
		}
		sending, cancel := context.WithTimeout(ctx, privateTimeout)
		err := ch.Private(sending, m[0], m[1])
		cancel()
		if err != nil {
			ch.fail(fmt.Sprintf("not sent to %s: %s", cli.Printable(m[0]), ch.privateError(m[0], err)))
		} else {
			ch.screen.delivered(m[0], m[1])
		}
	}
	if left > 0 {
		ch.screen.fail(cli.Plural(left, "private message was", "private messages were") + " not sent, because you left")
	}
}

// privateError describes an error of sending a private message. If a key has changed, it names the command that accepts the
// new key.
func (ch *chat) privateError(to string, err error) string {
	why := cli.Reason(err)
	switch changed := strings.Contains(why, " has changed from "); {
	case changed && errors.Is(err, chatcore.ErrPeerKey):
		why += fmt.Sprintf(": use /forget %s", cli.Printable(to))
	case changed && errors.Is(err, chatcore.ErrPeerRefused):
		why += fmt.Sprintf("; if you have restarted, ask them to enter /forget %s", cli.Printable(ch.Name()))
	}
	return why
}

const help = `/who              list the participants
/msg NAME TEXT    send a private message directly to one participant
/forget NAME      accept the new key of a participant shown as NAME (new key)
/where            show the host that serves the chat
/reset            continue the chat with this process's copy, if its other hosts are gone
/quit             leave (also Ctrl-D, Ctrl-C)
//TEXT            send a text that begins with /`

// line processes a line of input.
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
			ch.fail("usage: /msg NAME TEXT")
			return
		}
		ch.private(ctx, to, what)
	case "/forget":
		name, rest := split(rest)
		if name == "" || rest != "" {
			ch.fail("usage: /forget NAME")
			return
		}
		ch.Forget(name)
		ch.screen.answer(fmt.Sprintf("forgot the key of %s: the next key seen for this name will be accepted",
			cli.Printable(name)))
	case "/where":
		ch.where()
	case "/reset":
		if rest != "" {
			ch.fail("usage: /reset")
			return
		}
		ch.reset(ctx)
	default:
		ch.fail(fmt.Sprintf("unknown command %s; /help lists the commands, and //%s sends it as text",
			cli.Printable(command), cli.Printable(command[1:])))
	}
}

// private queues a private message for sendPrivates. If the queue is full, the message fails on a terminal, and private
// waits if the input is piped.
func (ch *chat) private(ctx context.Context, to, text string) {
	m := [2]string{to, text}
	select {
	case ch.privates <- m:
		return
	default:
	}
	if !ch.piped {
		ch.fail("too many pending private messages; try again in a moment")
		return
	}
	select {
	case ch.privates <- m:
	case <-ctx.Done():
		ch.fail(fmt.Sprintf("not sent to %s, because you left", cli.Printable(to)))
	}
}

func (ch *chat) say(ctx context.Context, text string) {
	call, err := ch.Send(ctx, text)
	if err != nil {
		ch.fail(fmt.Sprintf("not sent: %q: %s", text, cli.Reason(err)))
		return
	}
	ch.sent <- sentLine{call, text}
}

func (ch *chat) who(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	all, err := ch.Who(ctx)
	if err != nil {
		ch.fail("cannot list the participants: " + cli.Reason(err))
		return
	}
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = cli.Printable(p.Name) + newKey(p.NewKey)
		if p.Name == ch.Name() {
			names[i] += " (you)"
		}
	}
	ch.screen.answer(cli.Plural(len(all), "participant", "participants") + ": " + strings.Join(names, ", "))
}

func (ch *chat) where() {
	h := ch.Where()
	switch {
	case h.ID == "":
		ch.screen.answer(ch.service + " is moving or has lost its host: searching")
	case h.ID == ch.local.id():
		ch.screen.answer(fmt.Sprintf("%s is served by this process (%s at %s)", ch.service, h.ID, h.Addr))
	default:
		ch.screen.answer(fmt.Sprintf("%s is served by %s at %s", ch.service, cli.Printable(h.ID), cli.Printable(h.Addr)))
	}
}

// join joins the chat and explains delays to the user. It gives up when quit is closed.
func join(ctx context.Context, p *cli.Process, name string, s screen, quit <-chan struct{}) (*chatcore.Client, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type joined struct {
		client *chatcore.Client
		err    error
	}
	done := make(chan joined, 1)
	go func() {
		c, err := chatcore.Join(ctx, p.Flags.Service, chatcore.ClientConfig{
			Name: name, Resolver: p.Resolver, Transport: p.ClientTransport(), Listen: p.Flags.Listen,
			InsecurePrivate: p.Flags.Insecure, Logger: p.Warnings,
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
			if w := p.Diagnose(ctx); w != "" && w != why && ctx.Err() == nil {
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

// canRejoin reports whether the chat can continue with a new session after err, with a text for the user.
func canRejoin(err error) (string, bool) {
	switch {
	case errors.Is(err, migrate.ErrStateLost):
		return "joining the chat that was reset", true
	case errors.Is(err, migrate.ErrSessionExpired):
		return "this client was disconnected for too long and has left the chat; joining again", true
	}
	return cli.Reason(err), false
}
