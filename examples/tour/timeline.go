package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// timeline shows which host was active when: as a chart on a terminal, and as one status line per second elsewhere.
type timeline struct {
	out    io.Writer
	live   bool // out is a terminal
	colour bool
	total  time.Duration

	hosts   []*track
	drawn   int // lines of the chart on the screen
	printed int // last second printed without a chart
}

// track is the row of a host in the chart.
type track struct {
	name  string
	cells []byte // state by column
	state byte
}

// The states of a host in a column.
const (
	absent  = ' '
	latent  = '.'
	standby = 's'
	active  = 'A'
	dead    = 'x'
)

const columns = 60

func newTimeline(out io.Writer, total time.Duration) *timeline {
	t := &timeline{out: out, total: total}
	if f, ok := out.(*os.File); ok && os.Getenv("TERM") != "dumb" {
		info, err := f.Stat()
		t.live = err == nil && info.Mode()&os.ModeCharDevice != 0
		t.colour = os.Getenv("NO_COLOR") == ""
	}
	return t
}

func (t *timeline) track(name string) *track {
	for _, h := range t.hosts {
		if h.name == name {
			return h
		}
	}
	h := &track{name: name, state: absent, cells: []byte(strings.Repeat(string(rune(absent)), columns))}
	t.hosts = append(t.hosts, h)
	return h
}

func (t *timeline) column(at time.Duration) int {
	return min(max(int(at*columns/t.total), 0), columns-1)
}

// set sets the state of a host.
func (t *timeline) set(name string, state byte, at time.Duration) {
	h := t.track(name)
	h.state = state
	h.mark(t.column(at))
}

// mark writes the state to a column. If there are several, dead and active take precedence.
func (h *track) mark(column int) {
	if c := h.cells[column]; c == dead || c == active && h.state != dead {
		return
	}
	h.cells[column] = h.state
}

// advance extends the rows to the current time.
func (t *timeline) advance(at time.Duration) {
	for _, h := range t.hosts {
		if h.state == dead {
			h.state = absent
			continue
		}
		h.mark(t.column(at))
	}
}

// draw prints the chart, or the status line, with the progress.
func (t *timeline) draw(at time.Duration, progress string, last bool) {
	at = min(at, t.total)
	if !t.live {
		if s := int(at / time.Second); s > t.printed || last {
			t.printed = s
			fmt.Fprintf(t.out, "%3ds  %s\n", s, progress)
		}
		return
	}
	var b strings.Builder
	if t.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", t.drawn)
	}
	t.drawn = 0
	line := func(s string) {
		b.WriteString("\r\x1b[K" + s + "\n")
		t.drawn++
	}
	now := t.column(at)
	for _, h := range t.hosts {
		line(fmt.Sprintf("%-8s %s", h.name, t.row(h.cells[:now+1])))
	}
	line(t.axis())
	line(t.paint("32", "█") + " active  ─ standby  · latent  " + t.paint("1;31", "✗") + " killed")
	line(progress)
	io.WriteString(t.out, b.String())
}

func (t *timeline) row(cells []byte) string {
	var b strings.Builder
	for _, c := range cells {
		switch c {
		case active:
			b.WriteString(t.paint("32", "█"))
		case standby:
			b.WriteString(t.paint("2", "─"))
		case latent:
			b.WriteString(t.paint("2", "·"))
		case dead:
			b.WriteString(t.paint("1;31", "✗"))
		default:
			b.WriteByte(' ')
		}
	}
	return b.String()
}

func (t *timeline) paint(code, s string) string {
	if !t.colour {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// axis returns the line with the times.
func (t *timeline) axis() string {
	b := []byte(strings.Repeat(" ", columns+12))
	for i := range 4 {
		at := t.total * time.Duration(i) / 3
		copy(b[9+columns*i/3:], fmt.Sprintf("%.3gs", at.Seconds()))
	}
	return strings.TrimRight(string(b), " ")
}
