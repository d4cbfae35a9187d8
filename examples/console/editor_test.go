package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func bare(s string) string { return s }

func TestEditorKeys(t *testing.T) {
	for _, tc := range []struct {
		name, keys, want string
		cursor           int
	}{
		{"text", "hello", "hello", 5},
		{"multi-byte characters", "héé世🙂", "héé世🙂", 5},
		{"backspace", "abc\x7f\x08", "a", 1},
		{"backspace at the beginning", "\x7fa", "a", 1},
		{"left, then insert", "ac\x1b[Db", "abc", 2},
		{"right stops at the end", "ab\x1b[C\x1b[Cc", "abc", 3},
		{"home and end", "bc\x1b[Ha\x1b[Fd", "abcd", 4},
		{"home and end, application mode", "bc\x1bOHa\x1bOFd", "abcd", 4},
		{"home and end, VT sequences", "bc\x1b[1~a\x1b[4~d", "abcd", 4},
		{"Ctrl-A and Ctrl-E", "bc\x01a\x05d", "abcd", 4},
		{"delete", "abc\x01\x1b[3~", "bc", 0},
		{"Ctrl-D erases", "abc\x01\x04", "bc", 0},
		{"Ctrl-K", "abcd\x02\x02\x0b", "ab", 2},
		{"Ctrl-U", "abcd\x02\x02\x15", "cd", 0},
		{"Ctrl-W", "one two  \x17", "one ", 4},
		{"words", "one two\x1bb\x1bbx\x1bfy", "xoney two", 5},
		{"words with Ctrl", "one two\x1b[1;5D\x1b[1;5Dx\x1b[1;5Cy", "xoney two", 5},
		{"a tab is a space", "a\tb", "a b", 3},
		{"unknown keys do nothing", "a\x1b[15~\x1b[Z\x00\x1cb", "ab", 2},
		{"escape, and then text", "a\x1bxb", "axb", 3},
		{"endless sequence that is not a key", "\x1b[" + strings.Repeat("1", 40) + "a", strings.Repeat("1", 9) + "a", 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var whole, bytes editor
			require.Empty(t, whole.feed([]byte(tc.keys)))
			for i := range len(tc.keys) { // byte by byte
				require.Empty(t, bytes.feed([]byte{tc.keys[i]}))
			}
			for _, e := range []editor{whole, bytes} {
				if !strings.Contains(tc.name, "endless") {
					require.Equal(t, tc.want, string(e.line))
					require.Equal(t, tc.cursor, e.cursor)
				}
			}
		})
	}
}

func TestEditorEvents(t *testing.T) {
	var e editor
	require.Equal(t, []event{{entered, "one"}, {entered, "two"}}, e.feed([]byte("one\rtwo\nthr")))
	require.Equal(t, "thr", string(e.line))
	require.Equal(t, []event{{kind: cleared}}, e.feed([]byte{12}))
	require.Equal(t, []event{{kind: interrupted}}, e.feed([]byte{3}))
	require.Empty(t, e.feed([]byte{4}), "Ctrl-D in a line")
	require.Equal(t, []event{{kind: ended}}, e.feed([]byte{21, 4}))
}

func TestEditorHistory(t *testing.T) {
	const up, down = "\x1b[A", "\x1b[B"
	var e editor
	press := func(keys string) string {
		e.feed([]byte(keys))
		return string(e.line)
	}
	press("one\rtwo\rtwo\r  \rdraft")
	require.Equal(t, "two", press(up))
	require.Equal(t, "one", press(up), "repeated lines are kept once, empty lines not at all")
	require.Equal(t, "one", press(up), "the first line")
	require.Equal(t, "two", press(down))
	require.Equal(t, "draft", press(down))
	require.Equal(t, "draft", press(down))
	require.Equal(t, "oneX", press(up+up+"X"))
	require.Equal(t, []event{{entered, "oneX"}}, e.feed([]byte("\r")))
	require.Equal(t, "one", press(up+up+up), "history lines do not change")
	for range 2 * maxHistory {
		press("x\ry\r")
	}
	require.Len(t, e.lines, maxHistory)
}

func TestEditorBoundsTheLine(t *testing.T) {
	var e editor
	e.feed([]byte(strings.Repeat("x", 2*maxLine)))
	require.Len(t, e.line, maxLine)
}

func TestEditorDraws(t *testing.T) {
	e := editor{prompt: "me> "}
	e.feed([]byte("hello"))
	require.Equal(t, "\r\x1b[Kme> hello\r\x1b[9C", e.draw(40, bare))
	e.feed([]byte("\x01"))
	require.Equal(t, "\r\x1b[Kme> hello\r\x1b[4C", e.draw(40, bare))
	require.Contains(t, e.draw(10, bare), "\r\x1b[K> hello", "a long prompt is shortened")

	e.line, e.cursor = nil, 0
	e.feed([]byte(strings.Repeat("0123456789", 4)))
	require.Equal(t, "\r\x1b[Kme> 567890123456789\r\x1b[19C", e.draw(20, bare), "the end is seen")
	e.feed([]byte("\x01"))
	require.Equal(t, "\r\x1b[Kme> 012345678901234\r\x1b[4C", e.draw(20, bare), "the beginning is seen")

	e.line, e.cursor = nil, 0
	e.feed([]byte("世界 e\u0301"))
	require.Equal(t, "\r\x1b[Kme> 世界 e\u0301\r\x1b[10C", e.draw(40, bare), "two columns each, and none for the accent")
	e.line, e.cursor = nil, 0
	e.feed([]byte("a\u202eb"))
	require.Equal(t, "\r\x1b[Kme> a<U+202E>b\r\x1b[14C", e.draw(40, bare), "input is escaped as well")
}

// FuzzEditor feeds keys in two parts. The cursor must stay within the line, and the drawing within one row.
func FuzzEditor(f *testing.F) {
	f.Add([]byte("abc\x1b[D\x1b[3~\x7f"), []byte("\x1b[1;5C世\r\x1b[A"), uint8(20))
	f.Fuzz(func(t *testing.T, a, b []byte, columns uint8) {
		e := editor{prompt: "me> "}
		for _, part := range [][]byte{a, b} {
			e.feed(part)
			require.LessOrEqual(t, 0, e.cursor)
			require.LessOrEqual(t, e.cursor, len(e.line))
			require.Less(t, len(e.rest), 64)
			s := e.draw(int(columns), bare)
			require.True(t, utf8.ValidString(s))
			s, _, _ = strings.Cut(strings.TrimPrefix(s, "\r\x1b[K"), "\r")
			require.NotContains(t, s, "\x1b")
			require.LessOrEqual(t, textWidth(s), max(int(columns), 3))
		}
	})
}
