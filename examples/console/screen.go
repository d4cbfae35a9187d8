package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/examples/internal/cli"
)

// screen is where the chat is shown. Its methods may be called by several goroutines.
type screen interface {
	// message shows what the chat tells.
	message(m chatcore.Message)
	// delivered tells that a private message of the user has arrived.
	delivered(to, text string)
	// held tells that what the user said waits for the chat to begin.
	held(text string, missing int)
	// pending tells how many lines of the user have been on their way for a while.
	pending(lines int)
	// answer shows what the user has asked for; note, what the program has to say; fail, what went wrong.
	answer(text string)
	note(text string)
	fail(text string)
}

// wording is how what is not said by anybody reads; "" for what is said.
func wording(service string, m chatcore.Message) string {
	from := cli.Printable(m.From)
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
			what = "lost its host and goes on at"
		}
		return fmt.Sprintf("%s %s %s at %s (epoch %d), away for %s", service, what, cli.Printable(m.Host.ID),
			cli.Printable(m.Host.Addr), m.Epoch, pause(m.Pause))
	case chatcore.KindGap:
		return plural(m.Lost, "message is", "messages are") + " missing here"
	case chatcore.KindStateLost:
		return service + " was started anew: what was said before is gone there"
	default:
		return m.Kind.String()
	}
}

func missing(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; the chat begins when %d more have joined", n)
}

func plural[N int | uint64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// pause writes a short time in milliseconds, with a digit after the point where it matters.
func pause(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	if ms < 10 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

// split cuts a line in its first word and the rest.
func split(s string) (word, rest string) {
	word, rest, _ = strings.Cut(strings.TrimSpace(s), " ")
	return word, strings.TrimSpace(rest)
}
