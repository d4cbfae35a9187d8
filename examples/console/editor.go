package main

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/roam-go/roam/examples/internal/cli"
)

const (
	maxLine    = 8192 // characters per line
	maxHistory = 200  // lines
)

// editor edits the input line. It is independent of the terminal: it takes keys, and returns events and the rendered line.
// The line takes one row of the screen and scrolls horizontally, so it can be redrawn below new output.
type editor struct {
	prompt string
	line   []rune
	cursor int

	lines []string // history, oldest first
	at    int      // index of the displayed line; len(lines) for the new line
	draft []rune   // the new line while a history line is displayed

	rest []byte // incomplete key sequence
}

// event is a result of key presses.
type event struct {
	kind eventKind
	line string
}

type eventKind uint8

const (
	entered     eventKind = iota + 1 // the line was entered
	interrupted                      // Ctrl-C
	ended                            // Ctrl-D on an empty line
	cleared                          // the screen should be cleared
)

// feed processes bytes from the terminal.
func (e *editor) feed(b []byte) []event {
	var events []event
	b = append(e.rest, b...)
	for len(b) > 0 {
		key, n := nextKey(b)
		if n == 0 {
			break
		}
		b = b[n:]
		if ev := e.press(key); ev.kind != 0 {
			events = append(events, ev)
		}
	}
	e.rest = slices.Clone(b)
	return events
}

// Special keys have values above Unicode.
const (
	keyLeft rune = unicode.MaxRune + 1 + iota
	keyRight
	keyUp
	keyDown
	keyHome
	keyEnd
	keyDelete
	keyWordLeft
	keyWordRight
	keyEraseWord
	keyNone
)

// nextKey returns the first key in b and its length, which is 0 if the key is incomplete.
func nextKey(b []byte) (rune, int) {
	if b[0] != 0x1b {
		if !utf8.FullRune(b) {
			return 0, 0
		}
		return utf8.DecodeRune(b)
	}
	if len(b) == 1 {
		return 0, 0
	}
	switch b[1] {
	case 'b':
		return keyWordLeft, 2
	case 'f':
		return keyWordRight, 2
	case 0x7f:
		return keyEraseWord, 2
	case 'O':
		if len(b) < 3 {
			return 0, 0
		}
		return finalKey(b[2], ""), 3
	case '[':
		for i := 2; i < len(b); i++ {
			if b[i] >= 0x40 && b[i] <= 0x7e {
				return finalKey(b[i], string(b[2:i])), i + 1
			}
			if i > 32 { // not a key sequence: treat the rest as text
				return keyNone, i
			}
		}
		return 0, 0
	}
	return keyNone, 1 // the Escape key, followed by another key
}

func finalKey(final byte, params string) rune {
	switch final {
	case 'A':
		return keyUp
	case 'B':
		return keyDown
	case 'C':
		if strings.Contains(params, ";") {
			return keyWordRight
		}
		return keyRight
	case 'D':
		if strings.Contains(params, ";") {
			return keyWordLeft
		}
		return keyLeft
	case 'H':
		return keyHome
	case 'F':
		return keyEnd
	case '~':
		switch params {
		case "1", "7":
			return keyHome
		case "4", "8":
			return keyEnd
		case "3":
			return keyDelete
		}
	}
	return keyNone
}

func (e *editor) press(key rune) event {
	switch key {
	case '\r', '\n':
		return e.enter()
	case 3: // Ctrl-C
		return event{kind: interrupted}
	case 4: // Ctrl-D
		if len(e.line) == 0 {
			return event{kind: ended}
		}
		e.erase(e.cursor, e.cursor+1)
	case 12: // Ctrl-L
		return event{kind: cleared}
	case 0x7f, 8:
		e.erase(e.cursor-1, e.cursor)
	case keyDelete:
		e.erase(e.cursor, e.cursor+1)
	case 11: // Ctrl-K
		e.erase(e.cursor, len(e.line))
	case 21: // Ctrl-U
		e.erase(0, e.cursor)
	case 23, keyEraseWord: // Ctrl-W
		e.erase(e.wordLeft(), e.cursor)
	case keyLeft, 2:
		e.cursor = max(e.cursor-1, 0)
	case keyRight, 6:
		e.cursor = min(e.cursor+1, len(e.line))
	case keyHome, 1:
		e.cursor = 0
	case keyEnd, 5:
		e.cursor = len(e.line)
	case keyWordLeft:
		e.cursor = e.wordLeft()
	case keyWordRight:
		e.cursor = e.wordRight()
	case keyUp, 16:
		e.show(e.at - 1)
	case keyDown, 14:
		e.show(e.at + 1)
	case '\t':
		e.insert(' ')
	default:
		if key >= ' ' && key <= unicode.MaxRune {
			e.insert(key)
		}
	}
	return event{}
}

func (e *editor) insert(r rune) {
	if len(e.line) < maxLine {
		e.line = slices.Insert(e.line, e.cursor, r)
		e.cursor++
	}
}

func (e *editor) erase(from, to int) {
	from, to = max(from, 0), min(to, len(e.line))
	if from < to {
		e.line = slices.Delete(e.line, from, to)
		e.cursor = from
	}
}

func (e *editor) wordLeft() int {
	i := e.cursor
	for i > 0 && e.line[i-1] == ' ' {
		i--
	}
	for i > 0 && e.line[i-1] != ' ' {
		i--
	}
	return i
}

func (e *editor) wordRight() int {
	i := e.cursor
	for i < len(e.line) && e.line[i] == ' ' {
		i++
	}
	for i < len(e.line) && e.line[i] != ' ' {
		i++
	}
	return i
}

func (e *editor) enter() event {
	line := string(e.line)
	e.line, e.cursor, e.draft = nil, 0, nil
	if strings.TrimSpace(line) != "" && (len(e.lines) == 0 || e.lines[len(e.lines)-1] != line) {
		if len(e.lines) == maxHistory {
			e.lines = slices.Delete(e.lines, 0, 1)
		}
		e.lines = append(e.lines, line)
	}
	e.at = len(e.lines)
	return event{entered, line}
}

// show displays line i of the history.
func (e *editor) show(i int) {
	if i < 0 || i > len(e.lines) || i == e.at {
		return
	}
	if e.at == len(e.lines) {
		e.draft = e.line
	}
	e.at = i
	if i == len(e.lines) {
		e.line = e.draft
	} else {
		e.line = []rune(e.lines[i])
	}
	e.cursor = len(e.line)
}

// draw returns the output that draws the line in the current row of a terminal with the given number of columns.
func (e *editor) draw(columns int, paint func(prompt string) string) string {
	prompt := e.prompt
	if columns-textWidth(prompt) < 16 {
		prompt = "> "
	}
	room := columns - textWidth(prompt) - 1
	// Show as much as fits before the cursor, and then after it.
	from, width := e.cursor, 0
	for from > 0 && width+shownWidth(e.line[from-1]) <= room {
		from--
		width += shownWidth(e.line[from])
	}
	to, all := e.cursor, width
	for to < len(e.line) && all+shownWidth(e.line[to]) <= room {
		all += shownWidth(e.line[to])
		to++
	}
	s := "\r\x1b[K" + paint(prompt) + cli.Printable(string(e.line[from:to])) + "\r"
	if column := textWidth(prompt) + width; column > 0 {
		s += fmt.Sprintf("\x1b[%dC", column)
	}
	return s
}

func shownWidth(r rune) int {
	if cli.Harmful(r) {
		return textWidth(cli.Printable(string(r)))
	}
	return runeWidth(r)
}

// textWidth returns the number of columns of a text.
func textWidth(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// wide lists the characters with two columns: East Asian characters and emoji.
var wide = [][2]rune{
	{0x1100, 0x115f}, {0x231a, 0x231b}, {0x23e9, 0x23ec}, {0x25fd, 0x25fe},
	{0x2614, 0x2615}, {0x2648, 0x2653}, {0x26a1, 0x26a1},
	{0x26bd, 0x26be}, {0x2705, 0x2705}, {0x270a, 0x270b}, {0x2728, 0x2728},
	{0x274c, 0x274c}, {0x2753, 0x2755}, {0x2795, 0x2797},
	{0x2b50, 0x2b50}, {0x2b55, 0x2b55}, {0x2e80, 0x303e}, {0x3041, 0x33ff},
	{0x3400, 0x4dbf}, {0x4e00, 0xa4cf}, {0xa960, 0xa97f},
	{0xac00, 0xd7a3}, {0xf900, 0xfaff}, {0xfe30, 0xfe6f}, {0xff00, 0xff60}, {0xffe0, 0xffe6}, {0x1f300, 0x1f64f},
	{0x1f680, 0x1f6ff}, {0x1f900, 0x1f9ff}, {0x1fa70, 0x1faff}, {0x20000, 0x3fffd},
}

func runeWidth(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	}
	for _, w := range wide {
		if w[0] <= r && r <= w[1] {
			return 2
		}
	}
	return 1
}
