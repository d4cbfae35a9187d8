package main

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/roam-go/roam/examples/internal/cli"
)

// localHost is the host of the chat in this process. With -client_only, or for a guest, it holds nothing.
type localHost struct {
	process   *cli.Process
	continued atomic.Bool // /reset has continued the chat since the last session began
	resetting atomic.Bool
	failures  failures
}

// id returns the ID of the host, or "" if this process does not host the chat.
func (h *localHost) id() string {
	if h.process.Node == nil {
		return ""
	}
	return h.process.Node.Self().ID
}

// maxFailures limits the texts that failures remembers.
const maxFailures = 100

// failures shows what is wrong: the reports of migrate.Hooks.Failed, each text once, and other sentences about the host.
type failures struct {
	mu     sync.Mutex // guards the fields below
	screen screen     // nil at first
	early  []string   // to be shown once there is a screen
	known  map[string]bool
}

// report shows an error, or keeps it until there is a screen.
func (f *failures) report(_ string, err error) {
	text := "this process as a host: " + cli.ExplainFailed(err, "/reset")
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known[text] {
		return
	}
	if f.known == nil || len(f.known) >= maxFailures {
		f.known = make(map[string]bool)
	}
	f.known[text] = true
	f.show(text)
}

// say shows a sentence, or keeps it until there is a screen.
func (f *failures) say(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.show(text)
}

// show implements report and say; f.mu is held.
func (f *failures) show(text string) {
	switch {
	case f.screen != nil:
		f.screen.note(text)
	case len(f.early) < maxFailures:
		f.early = append(f.early, text)
	}
}

// showOn shows the errors on a screen, those reported before included.
func (f *failures) showOn(s screen) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, text := range f.early {
		s.note(text)
	}
	f.screen, f.early = s, nil
}

// reset continues the chat with the copy in this process. It returns at once, and shows the outcome when it is known.
func (ch *chat) reset(ctx context.Context) {
	if !ch.local.resetting.CompareAndSwap(false, true) {
		ch.fail("an earlier /reset has not finished yet")
		return
	}
	ch.resets.Go(func() {
		defer ch.local.resetting.Store(false)
		p := ch.local.process
		err := p.Reset(ctx)
		switch {
		case err == nil:
			ch.local.continued.Store(true)
			ch.screen.answer("this process serves " + ch.service + ", and continues it with its copy")
		case ctx.Err() != nil:
			ch.fail("/reset was canceled, because you left")
		default:
			ch.fail(p.Flags.ExplainReset(err))
		}
	})
}
