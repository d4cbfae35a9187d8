package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/examples/internal/cli"
)

// screen displays the chat. Its methods can be called concurrently.
type screen interface {
	// message shows a message of the chat.
	message(m chatcore.Message)
	// delivered shows that a private message of the user has arrived.
	delivered(to, text string)
	// held shows that the room holds a line of the user until the chat begins.
	held(text string, missing int)
	// pending shows how many lines of the user wait for the room's reply.
	pending(lines int)
	// answer shows the answer to a command, note a notice of the program, and fail an error.
	answer(text string)
	note(text string)
	fail(text string)
}

// describe returns the text for a message without a sender's text, and "" for others.
func describe(service string, m chatcore.Message) string {
	from := cli.Printable(m.From) + newKey(m.NewKey)
	switch m.Kind {
	case chatcore.KindMessage, chatcore.KindPrivate:
		return ""
	case chatcore.KindJoined:
		return from + " joined" + missing(m.Missing)
	case chatcore.KindLeft:
		return from + " left" + missing(m.Missing)
	case chatcore.KindBegun:
		return "the chat begins"
	case chatcore.KindMoved:
		what := "moved to"
		if !m.Planned {
			what = "lost its host and continues at"
		}
		return fmt.Sprintf("%s %s %s at %s (epoch %d), pause %s", service, what, cli.Printable(m.Host.ID),
			cli.Printable(m.Host.Addr), m.Epoch, pause(m.Pause))
	case chatcore.KindGap:
		return cli.Plural(m.Lost, "message was", "messages were") + " dropped here"
	case chatcore.KindStateLost:
		return service + " was reset: earlier messages may be lost"
	default:
		return m.Kind.String()
	}
}

// newKey returns the mark after the name of a participant whose key differs from the pinned one.
func newKey(differs bool) string {
	if differs {
		return " (new key)"
	}
	return ""
}

// private returns the mark after the sender's name of a private message.
func private(m chatcore.Message) string {
	switch {
	case m.Unverified:
		return " (private, unverified)"
	case m.UnknownKey:
		return " (private, unknown key)"
	default:
		return " (private)"
	}
}

func missing(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; waiting for %d more to begin", n)
}

// pause formats a duration in milliseconds, with one decimal below 10 ms.
func pause(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	if ms < 10 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

// split splits a line into its first word and the rest.
func split(s string) (word, rest string) {
	word, rest, _ = strings.Cut(strings.TrimSpace(s), " ")
	return word, strings.TrimSpace(rest)
}
