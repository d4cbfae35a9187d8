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

// command is a client's request to change the room. Commands and events are frequent, so they are encoded and decoded by
// hand: the codec takes ten times as long and allocates twice as much.
type command struct {
	Op   uint64
	Text string // the name to join with, or the text to say
	Addr string // where the joining client receives private messages; "" for none
}

func (c command) encode() []byte {
	b := make([]byte, 0, 16+len(c.Text)+len(c.Addr))
	b = msgpack.AppendUint(msgpack.AppendArray(b, 3), c.Op)
	return msgpack.AppendString(msgpack.AppendString(b, c.Text), c.Addr)
}

// decodeCommand decodes a command. Trailing fields may be missing; additional fields of a later version are skipped.
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

// joinReply is the reply to opJoin. It is small because migrate keeps the replies of each session; a client obtains
// everything else by queries.
type joinReply struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Name    string // accepted name
	Next    uint64 // number of the first event to listen from
	Missing int    // participants still missing for the chat to begin
	Present int    // participants in the room
}

// event is an event published by the room.
type event struct {
	Kind    Kind // KindMessage, KindJoined, KindLeft or KindBegun
	From    string
	Text    string
	Time    int64 // Unix milliseconds; for a held message, the time at which it was sent
	Missing int   // as in joinReply; always 0 for a message

	Key transport.Key // of the participant; only in KindJoined, and omitted if zero
}

func (e event) encode() []byte {
	b := make([]byte, 0, 32+len(e.From)+len(e.Text))
	fields, withKey := 5, e.Kind == KindJoined && !e.Key.IsZero()
	if withKey {
		fields, b = 6, make([]byte, 0, 32+len(e.From)+len(e.Text)+2+len(e.Key))
	}
	b = msgpack.AppendUint(msgpack.AppendArray(b, fields), uint64(e.Kind))
	b = msgpack.AppendString(b, e.From)
	b = msgpack.AppendString(b, e.Text)
	b = msgpack.AppendInt(b, e.Time)
	b = msgpack.AppendInt(b, int64(e.Missing))
	if withKey {
		b = msgpack.AppendBytes(b, e.Key[:])
	}
	return b
}

// decode decodes an event. To save allocations it reuses From if the sender is unchanged, and takes Text from a chunk that
// is shared with the events decoded before and after it.
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
		texts.Grow(max(textsChunk, len(text)))
	}
	texts.Write(text)
	e.Text = texts.String()[texts.Len()-len(text):]
	e.Time, e.Missing = v.Int(), int(v.Int())
	e.Key = transport.Key{}
	if e.Kind == KindJoined && fields > 5 {
		if key := v.Bytes(); len(key) == len(e.Key) {
			copy(e.Key[:], key)
		}
	}
	if fields < 5 {
		return transport.Errorf(transport.CodeBadMessage, "chat: event of %d fields", fields)
	}
	return v.Err()
}

// textsChunk is the size of a shared chunk, and so the memory that one retained short text can keep alive.
const textsChunk = 4 << 10

// The operations of a query.
const (
	queryHistory = 1
	queryWho     = 2
	queryFind    = 3
)

// query reads from the room without changing it.
type query struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Op    uint8
	Name  string // queryFind: the name to find
	After uint64 // queryHistory: returns lower event numbers; queryWho: returns higher participant numbers
	Limit int    // queryWho: maximum number of participants
}

// storedMessage is a message with its event number. The answer to queryHistory is a list of them, oldest first.
type storedMessage struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Seq  uint64
	From string
	Text string
	Time int64 // Unix milliseconds
}

// cost returns the size that a message counts for HistoryBytes and HeldBytes.
func (s storedMessage) cost() int { return len(s.From) + len(s.Text) + 32 }

// roster is the answer to queryWho.
type roster struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Present int               // participants in the room
	List    []participantInfo // in joining order
}

// maxPage bounds roster.List, so that an answer stays far below the maximum message size.
const maxPage = 500

// participantInfo is the public information about a participant. It is the answer to queryFind.
type participantInfo struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Number uint64 // increases with each participant that joins
	Name   string
	Addr   string
	Key    []byte // 32 bytes; empty if the transport proves no keys
	Time   int64  // joining time in Unix milliseconds
}

// mustMarshal encodes this package's own types, whose encoding cannot fail.
func mustMarshal(v any) []byte {
	b, err := transport.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// printable reports whether s consists of printable ASCII without spaces, as required of an address.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
