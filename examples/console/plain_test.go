package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/resolver"
)

var said1 = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// all contains a message of each kind.
var all = []chatcore.Message{
	{Kind: chatcore.KindJoined, From: "bob", Seq: 1, Missing: 2, Time: said1},
	{Kind: chatcore.KindBegun, Seq: 2, Time: said1},
	{Kind: chatcore.KindMessage, From: "bob", Text: "hi \x1b[2J\u202e there", Seq: 3, Time: said1},
	{Kind: chatcore.KindPrivate, From: "bob", Text: "psst", Time: said1},
	{Kind: chatcore.KindPrivate, From: "bob", Text: "psst", Unverified: true, Time: said1},
	{
		Kind: chatcore.KindMoved, Epoch: 7, Host: resolver.Host{ID: "host-b", Addr: "10.0.0.2:70"},
		Pause:   1234567 * time.Nanosecond,
		Planned: true, Time: said1,
	},
	{
		Kind: chatcore.KindMoved, Epoch: 8, Host: resolver.Host{ID: "host-c", Addr: "10.0.0.3:70"},
		Pause: 80 * time.Millisecond, Time: said1,
	},
	{Kind: chatcore.KindGap, Lost: 3, Time: said1},
	{Kind: chatcore.KindStateLost, Time: said1},
	{Kind: chatcore.KindLeft, From: "bob", Seq: 9, Time: said1},
	{Kind: chatcore.KindJoined, From: "bob", Seq: 10, NewKey: true, Time: said1},
	{Kind: chatcore.KindMessage, From: "bob", Text: "hi", Seq: 11, NewKey: true, Time: said1},
	{Kind: chatcore.KindPrivate, From: "eve", Text: "psst", UnknownKey: true, Time: said1},
}

func TestPlainLines(t *testing.T) {
	var out, err bytes.Buffer
	p := &plain{service: "x.org", out: &out, err: &err}
	for _, m := range all {
		p.message(m)
	}
	p.answer("an answer")
	p.note("a note")
	p.fail("a failure")
	require.Equal(t, []string{
		"* bob joined; waiting for 2 more to begin",
		"* the chat begins",
		"bob: hi ␛[2J<U+202E> there",
		"bob (private): psst",
		"bob (private, unverified): psst",
		"* x.org moved to host-b at 10.0.0.2:70 (epoch 7), pause 1.2 ms",
		"* x.org lost its host and continues at host-c at 10.0.0.3:70 (epoch 8), pause 80 ms",
		"* 3 messages were dropped here",
		"* x.org was reset: earlier messages may be lost",
		"* bob left",
		"* bob (new key) joined",
		"bob (new key): hi",
		"eve (private, unknown key): psst",
		"* an answer",
		"",
	}, strings.Split(out.String(), "\n"))
	require.Equal(t, "console: a note\nconsole: a failure\n", err.String())
}

func TestJSONLines(t *testing.T) {
	var out, err bytes.Buffer
	p := &plain{service: "x.org", json: true, out: &out, err: &err}
	for _, m := range all {
		p.message(m)
	}
	p.answer("an answer")
	p.fail("a failure")
	const at = `"time":"2030-01-02T03:04:05Z"`
	lines := strings.Split(out.String(), "\n")
	require.Equal(t, []string{
		`{"kind":"joined","from":"bob","seq":1,` + at + `,"missing":2}`,
		`{"kind":"message","from":"bob","text":"hi \u001b[2J\u202e there","seq":3,` + at + `}`,
		`{"kind":"private","from":"bob","text":"psst",` + at + `}`,
		`{"kind":"private","from":"bob","text":"psst",` + at + `,"unverified":true}`,
		`{"kind":"moved",` + at + `,"epoch":7,"host":"host-b","pause_ms":1.235}`,
		`{"kind":"moved",` + at + `,"epoch":8,"host":"host-c","pause_ms":80}`,
		`{"kind":"gap","text":"3 messages were dropped here",` + at + `,"lost":3}`,
		`{"kind":"error","text":"x.org was reset: earlier messages may be lost",` + at + `}`,
		`{"kind":"left","from":"bob","seq":9,` + at + `}`,
		`{"kind":"joined","from":"bob","seq":10,` + at + `,"new_key":true}`,
		`{"kind":"message","from":"bob","text":"hi","seq":11,` + at + `,"new_key":true}`,
		`{"kind":"private","from":"eve","text":"psst",` + at + `,"unknown_key":true}`,
	}, lines[:12])
	require.Contains(t, lines[12], `{"kind":"error","text":"a failure"`)
	require.Equal(t, "an answer\n", err.String())

	var l line
	require.NoError(t, json.Unmarshal([]byte(lines[1]), &l))
	require.Equal(t, "hi \x1b[2J\u202e there", l.Text, "a JSON decoder returns the original text")
}

func TestEscapeOutsideTheBMP(t *testing.T) {
	in, _ := json.Marshal("a\U000e0041\u009bb🙂")
	require.Equal(t, `"a\udb40\udc41\u009bb🙂"`, escape(string(in)))
	var back string
	require.NoError(t, json.Unmarshal([]byte(escape(string(in))), &back))
	require.Equal(t, "a\U000e0041\u009bb🙂", back)
}

// linesOf returns the lines, at most ten, that readLines reads from r.
func linesOf(r io.Reader) (got []string, err error) {
	lines := make(chan string, 10)
	err = readLines(r, lines, nil)
	close(lines)
	for l := range lines {
		got = append(got, l)
	}
	return got, err
}

func TestReadLines(t *testing.T) {
	got, err := linesOf(strings.NewReader("one\r\n\ntwo\n" + strings.Repeat("x", 3*maxPiped) + "\nlast"))
	require.NoError(t, err)
	require.Equal(t, []string{"one", "", "two"}, got[:3])
	require.Greater(t, len(got[3]), maxPiped/2, "a long line is not split")
	require.Less(t, len(got[3]), 2*maxPiped)
	require.Equal(t, []string{"last"}, got[4:])
}

func TestLastLineWithoutNewline(t *testing.T) {
	for _, n := range []int{1, 4095, 4096, 4097, 8192} { // the buffer has 4096 bytes
		last := strings.Repeat("a", n)
		got, err := linesOf(strings.NewReader(last))
		require.NoError(t, err)
		require.Equal(t, []string{last}, got, "%d bytes", n)
	}
	got, err := linesOf(strings.NewReader(""))
	require.NoError(t, err)
	require.Empty(t, got)
}

func TestReadError(t *testing.T) {
	broken := errors.New("broken")
	got, err := linesOf(io.MultiReader(strings.NewReader("one\nhal"), iotest.ErrReader(broken)))
	require.ErrorIs(t, err, broken)
	require.Equal(t, []string{"one", "hal"}, got, "the data before the error is sent")
}

func TestPause(t *testing.T) {
	require.Equal(t, "0.0 ms", pause(0))
	require.Equal(t, "9.9 ms", pause(9949*time.Microsecond))
	require.Equal(t, "262 ms", pause(261600*time.Microsecond))
}
