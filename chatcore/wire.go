package chatcore

import (
	"strings"

	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// The operations of a command.
const (
	opJoin  = 1
	opSay   = 2
	opLeave = 3
)

// command is what a client asks for; it changes the room. Commands and events are many, and put together and taken apart by
// hand: the codec takes ten times as long, and as much memory again.
type command struct {
	Op   uint64
	Text string // the name to join with, or the text to say
	Addr string // where the joining client listens for private messages; "" if it does not
}

func (c command) encode() []byte {
	b := make([]byte, 0, 16+len(c.Text)+len(c.Addr))
	b = msgpack.AppendUint(msgpack.AppendArray(b, 3), c.Op)
	return msgpack.AppendString(msgpack.AppendString(b, c.Text), c.Addr)
}

// decodeCommand skips fields of a later version. Those at the end may be missing.
func decodeCommand(body []byte) (command, error) {
	v := msgpack.NewReader(body)
	n := v.Array()
	c := command{Op: v.Uint()}
	if n > 1 {
		c.Text = string(v.Bytes())
	}
	if n > 2 {
		c.Addr = string(v.Bytes())
	}
	for range n - 3 {
		v.Skip()
	}
	if v.End() != nil {
		return command{}, transport.Errorf(CodeBadCommand, "chat: not a command: want [operation, text, address]")
	}
	return c, nil
}

// joined is the reply to opJoin. It is small, because replies are kept for each session: what else a newcomer wants is
// asked in queries.
type joined struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Name    string // as it was accepted
	Next    uint64 // the number of the event from which to listen
	Missing int    // how many more participants the chat waits for
	Present int    // how many participants are in the room
}

// event is what the room publishes.
type event struct {
	Kind    Kind // KindMessage, KindJoined, KindLeft or KindBegun
	From    string
	Text    string
	Time    int64 // Unix milliseconds at which it was said: earlier than the event's own time for one that was held
	Missing int   // as in joined; always 0 for a message
}

func (e event) encode() []byte {
	b := make([]byte, 0, 32+len(e.From)+len(e.Text))
	b = msgpack.AppendUint(msgpack.AppendArray(b, 5), uint64(e.Kind))
	b = msgpack.AppendString(b, e.From)
	b = msgpack.AppendString(b, e.Text)
	b = msgpack.AppendInt(b, e.Time)
	return msgpack.AppendInt(b, int64(e.Missing))
}

// decode reads what its encoding gave. It keeps From if that is the same as before: most often, one says much in a row. Text
// is cut from a piece of memory that it shares with those decoded before and after it.
func (e *event) decode(body []byte, texts *strings.Builder) error {
	v := msgpack.NewReader(body)
	fields := v.Array()
	e.Kind = Kind(min(v.Uint(), 1<<8-1))
	if from := v.Bytes(); string(from) != e.From {
		e.From = string(from)
	}
	text := v.Bytes()
	if texts.Cap()-texts.Len() < len(text) {
		texts.Reset()
		texts.Grow(max(textsPiece, len(text)))
	}
	texts.Write(text)
	e.Text = texts.String()[texts.Len()-len(text):]
	e.Time, e.Missing = v.Int(), int(v.Int())
	if fields < 5 {
		return transport.Errorf(transport.CodeBadMessage, "chat: event of %d fields", fields)
	}
	return v.Err()
}

// textsPiece is what somebody who keeps a single short message keeps in memory.
const textsPiece = 4 << 10

// The operations of a query.
const (
	askHistory = 1
	askWho     = 2
	askFind    = 3
)

// query asks the room without changing it.
type query struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Op    uint8
	Name  string // askFind: whom to find
	After uint64 // askHistory: only events with lower numbers; askWho: only participants with higher numbers
	Limit int    // askWho: how many at most
}

// said is a message with the number of the event that it was; askHistory answers a list of them, oldest first.
type said struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Seq  uint64
	From string
	Text string
	Time int64 // Unix milliseconds
}

// cost is what a message counts for under a limit of bytes.
func (s said) cost() int { return len(s.From) + len(s.Text) + 32 }

// roster is the answer to askWho.
type roster struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Present int      // how many are in the room
	List    []person // in the order in which they joined
}

// maxPage bounds roster.List, so that the answer stays far below the limit of a message.
const maxPage = 500

// person is a participant as others see them; the answer to askFind is one.
type person struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Number uint64 // grows from each participant to the next who joins
	Name   string
	Addr   string
	Key    []byte // 32 bytes, or none where the transport proves no keys
	Time   int64  // Unix milliseconds at which they joined
}

// mustMarshal is for this package's own types, whose encoding cannot fail.
func mustMarshal(v any) []byte {
	b, err := transport.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// printable reports whether s is made of printable ASCII only, as an address is.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
