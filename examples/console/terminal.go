package main

import (
	"hash/fnv"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/examples/internal/cli"
)

// terminal shows the chat above the input line.
type terminal struct {
	service string
	name    string
	paint   palette
	in, out *os.File

	mu      sync.Mutex // guards the fields below; held during writes, so that they do not interleave
	edit    editor
	restore *term.State // nil when the terminal is not in raw mode

	before *term.State // the state at the start; never changes
}

// isTerminal reports whether input and output are a terminal that supports line editing.
func isTerminal(in, out *os.File) bool {
	return term.IsTerminal(int(in.Fd())) && term.IsTerminal(int(out.Fd())) && os.Getenv("TERM") != "dumb"
}

func newTerminal(service, name string, in, out *os.File) (*terminal, error) {
	t := &terminal{service: service, name: name, paint: newPalette(), in: in, out: out}
	t.edit.prompt = name + "> "
	var err error
	if t.restore, err = term.MakeRaw(int(in.Fd())); err != nil {
		return nil, err
	}
	t.before = t.restore
	t.print("")
	return t, nil
}

// close restores the terminal. Output is still possible.
func (t *terminal) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.restore != nil {
		t.out.WriteString("\r\x1b[K")
		term.Restore(int(t.in.Fd()), t.restore)
		t.restore = nil
	}
}

// reset restores the terminal at once, without waiting for a write that may block.
func (t *terminal) reset() { term.Restore(int(t.in.Fd()), t.before) }

// read sends the entered lines until the user quits, also with Ctrl-C or Ctrl-D. It reads keys also while nobody takes the lines. On
// Ctrl-C it calls interrupt. At the end it restores the terminal, so that a later Ctrl-C is a signal.
func (t *terminal) read(lines chan<- string, done <-chan struct{}, interrupt func()) {
	entries := make(chan string)
	go deliver(entries, lines, done)
	defer close(entries)
	b := make([]byte, 4096)
	for quitting := false; ; {
		n, err := t.in.Read(b)
		if err != nil {
			return
		}
		t.mu.Lock()
		events := t.edit.feed(b[:n])
		t.mu.Unlock()
		t.print("")
		for _, ev := range events {
			switch ev.kind {
			case cleared:
				t.clear()
			case interrupted:
				interrupt()
				quitting = true
			case ended:
				quitting = true
			case entered:
				if word, _ := split(ev.line); word == "/quit" {
					quitting = true
					break
				}
				select {
				case entries <- ev.line:
				case <-done:
					return
				}
			}
			if quitting {
				t.close()
				return
			}
		}
	}
}

// deliver passes lines on, and keeps those that nobody has taken yet. It closes to after the last one.
func deliver(from <-chan string, to chan<- string, done <-chan struct{}) {
	defer close(to)
	for queue := []string(nil); from != nil || len(queue) > 0; {
		next, out := "", to
		if len(queue) == 0 {
			out = nil
		} else {
			next = queue[0]
		}
		select {
		case line, ok := <-from:
			if !ok {
				from = nil
				continue
			}
			queue = append(queue, line)
		case out <- next:
			queue = queue[1:]
		case <-done:
			return
		}
	}
}

// print writes text above the input line and redraws the input line.
func (t *terminal) print(text string) {
	if text != "" {
		text += "\r\n"
	}
	t.write(text)
}

// clear clears the screen except for the input line.
func (t *terminal) clear() { t.write("\x1b[H\x1b[2J") }

// write writes s unchanged and redraws the input line.
func (t *terminal) write(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.restore == nil {
		if s != "" {
			t.out.WriteString(strings.ReplaceAll(s, "\r\n", "\n"))
		}
		return
	}
	columns, _, err := term.GetSize(int(t.out.Fd()))
	if err != nil || columns <= 0 {
		columns = 80
	}
	t.out.WriteString("\r\x1b[K" + s + t.edit.draw(columns, func(p string) string { return t.paint.name(t.name, p) }))
}

func (t *terminal) message(m chatcore.Message) {
	at := t.paint.dim(m.Time.Local().Format("15:04")) + " "
	from, text := cli.Printable(m.From), cli.Printable(m.Text)
	switch m.Kind {
	case chatcore.KindMessage:
		t.print(at + t.paint.name(m.From, from) + t.paint.bad(newKey(m.NewKey)) + ": " + text)
	case chatcore.KindPrivate:
		t.print(at + t.paint.name(m.From, from) + t.paint.mark(private(m)) + ": " + text)
	case chatcore.KindGap, chatcore.KindStateLost:
		t.print(at + t.paint.bad(describe(t.service, m)))
	default:
		t.print(at + t.paint.dim("* "+describe(t.service, m)))
	}
}

func (t *terminal) delivered(to, text string) {
	t.print(t.paint.dim(time.Now().Format("15:04")) + " " + t.paint.name(t.name, t.name) +
		t.paint.mark(" (private to "+cli.Printable(to)+")") + ": " + cli.Printable(text))
}

func (t *terminal) held(text string, n int) {
	t.print(t.paint.dim("      held" + missing(n) + ": " + cli.Printable(text)))
}

func (t *terminal) pending(lines int) {
	t.mu.Lock()
	t.edit.prompt = t.name + "> "
	if lines > 0 {
		t.edit.prompt = t.name + " (" + cli.Plural(lines, "line", "lines") + " pending)> "
	}
	t.mu.Unlock()
	t.print("")
}

func (t *terminal) answer(text string) { t.print(strings.ReplaceAll(text, "\n", "\r\n")) }
func (t *terminal) note(text string)   { t.print(t.paint.dim("* " + text)) }
func (t *terminal) fail(text string)   { t.print(t.paint.bad(text)) }

// Write shows log output.
func (t *terminal) Write(b []byte) (int, error) {
	t.print(t.paint.dim(cli.Printable(strings.TrimSpace(string(b)))))
	return len(b), nil
}

// palette colours output. The zero palette uses no colours.
type palette struct {
	names []string // the colours of names
}

func newPalette() palette {
	term := os.Getenv("TERM")
	switch {
	case os.Getenv("NO_COLOR") != "":
		return palette{}
	case strings.Contains(term, "256color") || os.Getenv("COLORTERM") != "":
		// Readable on dark and on light backgrounds.
		return palette{names: []string{
			"38;5;33", "38;5;37", "38;5;64", "38;5;136", "38;5;166", "38;5;160", "38;5;125", "38;5;61", "38;5;28", "38;5;130",
			"38;5;97",
			"38;5;30",
		}}
	}
	return palette{names: []string{"31", "32", "33", "34", "35", "36"}}
}

func (p palette) code(code, s string) string {
	if p.names == nil || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// name colours s in the colour of a participant's name.
func (p palette) name(name, s string) string {
	if p.names == nil {
		return s
	}
	h := fnv.New32a()
	h.Write([]byte(strings.ToLower(name)))
	return p.code(p.names[h.Sum32()%uint32(len(p.names))], s)
}

func (p palette) dim(s string) string  { return p.code("2", s) }
func (p palette) mark(s string) string { return p.code("1", s) }
func (p palette) bad(s string) string  { return p.code("1;31", s) }
