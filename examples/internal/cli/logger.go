package cli

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// NewLogger returns a logger that writes to w: everything if verbose is set, otherwise warnings as lines for people, such as
// those about refused strangers.
func NewLogger(w io.Writer, program string, verbose bool) *slog.Logger {
	if verbose {
		return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(&warnings{prefix: program + ": warning: ", shown: &shown{w: w, at: make(map[string]time.Time)}})
}

// warnings is a [slog.Handler] that writes a line for each warning and error. The same one is written once a minute.
type warnings struct {
	prefix string
	attrs  []slog.Attr
	shown  *shown
}

// shown remembers when a message was written. The messages are constants of the library, so they are few.
type shown struct {
	mu sync.Mutex // guards the fields below
	w  io.Writer
	at map[string]time.Time
}

// sameAgain is the time in which a message is not repeated.
const sameAgain = time.Minute

func (h *warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (h *warnings) Handle(_ context.Context, r slog.Record) error {
	h.shown.mu.Lock()
	defer h.shown.mu.Unlock()
	if at, ok := h.shown.at[r.Message]; ok && r.Time.Sub(at) < sameAgain {
		return nil
	}
	h.shown.at[r.Message] = r.Time
	var about []string
	add := func(a slog.Attr) bool {
		about = append(about, a.Key+" "+a.Value.String())
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	line := h.prefix + r.Message
	if len(about) > 0 {
		line += " (" + strings.Join(about, ", ") + ")"
	}
	_, err := io.WriteString(h.shown.w, Printable(line)+"\n")
	return err
}

func (h *warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	more := *h
	more.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)
	return &more
}

func (h *warnings) WithGroup(string) slog.Handler { return h }
