package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf16"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/examples/internal/cli"
)

// plain writes the chat as lines or JSON objects to out, and notices of the program to err.
type plain struct {
	service string
	json    bool
	unread  func() // called when nobody reads the output any more; may be nil

	mu      sync.Mutex // guards the fields below; held during writes
	out     io.Writer
	err     io.Writer
	waiting bool // the user has been told that lines are pending
}

// line is a JSON object of the output.
type line struct {
	Kind    string   `json:"kind"`
	From    string   `json:"from,omitempty"`
	Text    string   `json:"text,omitempty"`
	Seq     uint64   `json:"seq,omitempty"`
	Time    string   `json:"time"`
	History bool     `json:"history,omitempty"` // sent before this client joined
	Missing int      `json:"missing,omitempty"` // participants missing for the chat to begin
	Lost    uint64   `json:"lost,omitempty"`    // of a gap
	Epoch   uint64   `json:"epoch,omitempty"`
	Host    string   `json:"host,omitempty"`
	PauseMS *float64 `json:"pause_ms,omitempty"`

	Unverified bool `json:"unverified,omitempty"`  // private message from an unauthenticated sender
	UnknownKey bool `json:"unknown_key,omitempty"` // private message from a sender whose key is not pinned
	NewKey     bool `json:"new_key,omitempty"`     // from a participant whose key differs from the pinned one
}

func (p *plain) message(m chatcore.Message) {
	if p.json {
		p.object(m)
		return
	}
	from, text := cli.Printable(m.From), cli.Printable(m.Text)
	switch m.Kind {
	case chatcore.KindMessage:
		p.write(p.out, from+newKey(m.NewKey)+": "+text)
	case chatcore.KindPrivate:
		p.write(p.out, from+private(m)+": "+text)
	default:
		p.write(p.out, "* "+describe(p.service, m))
	}
}

func (p *plain) object(m chatcore.Message) {
	l := line{
		Kind: m.Kind.String(), From: m.From, Text: m.Text, Seq: m.Seq, Time: m.Time.UTC().Format(time.RFC3339Nano),
		History: m.History, Missing: m.Missing, Lost: m.Lost, Unverified: m.Unverified,
		UnknownKey: m.UnknownKey, NewKey: m.NewKey,
	}
	switch m.Kind {
	case chatcore.KindMoved:
		ms := math.Round(float64(m.Pause)/float64(time.Microsecond)) / 1000
		l.Epoch, l.Host, l.PauseMS = m.Epoch, m.Host.ID, &ms
	case chatcore.KindGap:
		l.Text = describe(p.service, m)
	case chatcore.KindStateLost:
		l.Kind, l.Text = "error", describe(p.service, m)
	case chatcore.KindBegun:
		return // the held messages follow
	}
	p.encode(l)
}

func (p *plain) encode(l line) {
	if b, err := json.Marshal(l); err == nil {
		p.write(p.out, escape(string(b)))
	}
}

// escape replaces characters that affect a terminal by JSON escapes. The meaning of the JSON does not change.
func escape(s string) string {
	if !strings.ContainsFunc(s, cli.Harmful) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case !cli.Harmful(r):
			b.WriteRune(r)
		case r > 0xffff:
			r1, r2 := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, r1, r2)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func (p *plain) delivered(string, string) {}
func (p *plain) held(string, int)         {}

// pending prints one notice when lines start to wait for the room.
func (p *plain) pending(lines int) {
	p.mu.Lock()
	tell := lines > 0 && !p.waiting
	p.waiting = lines > 0
	p.mu.Unlock()
	if tell {
		p.note(p.service + " does not answer: waiting until it accepts the input")
	}
}

func (p *plain) answer(text string) {
	if p.json {
		p.write(p.err, text)
	} else {
		p.write(p.out, "* "+text)
	}
}

func (p *plain) note(text string) { p.write(p.err, "console: "+text) }

func (p *plain) fail(text string) {
	if p.json {
		p.encode(line{Kind: "error", Text: text, Time: time.Now().UTC().Format(time.RFC3339Nano)})
	} else {
		p.note(text)
	}
}

func (p *plain) write(w io.Writer, s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := io.WriteString(w, s+"\n"); errors.Is(err, syscall.EPIPE) && p.unread != nil {
		p.unread()
	}
}

// maxPiped bounds a line of piped input; it is at least the room's limit.
const maxPiped = 64 << 10

// readLines sends the lines of r until its end, and returns any error other than io.EOF. It truncates lines over maxPiped,
// which the room then rejects for their length.
func readLines(r io.Reader, lines chan<- string, done <-chan struct{}) error {
	in := bufio.NewReader(r)
	for {
		b, err := readLine(in)
		if err == nil || len(b) > 0 { // the last line may lack a newline
			select {
			case lines <- string(bytes.TrimRight(b, "\r\n")):
			case <-done:
				return nil
			}
		}
		switch err {
		case nil:
		case io.EOF:
			return nil
		default:
			return err
		}
	}
}

// readLine returns a line including the newline, or the data before an error.
func readLine(in *bufio.Reader) (b []byte, err error) {
	for {
		part, err := in.ReadSlice('\n')
		if len(b) < maxPiped {
			b = append(b, part...)
		}
		if err != bufio.ErrBufferFull {
			return b, err
		}
	}
}
