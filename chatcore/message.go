package chatcore

import (
	"fmt"
	"time"

	"github.com/roam-go/roam/resolver"
)

// Kind is the kind of a [Message].
type Kind uint8

// The room publishes the kinds below 16; their numbers are part of its wire format. The client creates the other kinds.
const (
	KindMessage   Kind = 1  // a message to all
	KindJoined    Kind = 2  // a participant joined, or returned with a new session
	KindLeft      Kind = 3  // a participant left, or its session expired
	KindBegun     Kind = 4  // enough participants have joined; the held messages follow
	KindPrivate   Kind = 16 // a private message to this client
	KindMoved     Kind = 17 // the room moved to another host
	KindGap       Kind = 18 // messages were dropped at this point
	KindStateLost Kind = 19 // the room was reset and lost its state
)

// String returns a short lower-case name.
func (k Kind) String() string {
	switch k {
	case KindMessage:
		return "message"
	case KindJoined:
		return "joined"
	case KindLeft:
		return "left"
	case KindBegun:
		return "begun"
	case KindPrivate:
		return "private"
	case KindMoved:
		return "moved"
	case KindGap:
		return "gap"
	case KindStateLost:
		return "state lost"
	default:
		return "unknown"
	}
}

// Message is an item of [Client.Messages]. Kind determines which of the other fields are set.
type Message struct {
	// Kind is always set.
	Kind Kind

	// From is the name of the participant that sent the message, joined or left. For KindMessage the room sets it from the
	// sender's session. For KindPrivate this client has checked it against the sender's key, unless Unverified is set.
	From string
	// Text is the text of the message.
	Text string
	// Time is the time at which the room received the message, by the clock of its host. For private messages and for
	// messages created by the client, it is the time of arrival by the local clock.
	Time time.Time

	// Seq is the sequence number of the room's event, from 1. It is 0 for messages that the room did not publish.
	Seq uint64
	// History is set for messages sent before this client joined.
	History bool
	// Missing is, for KindJoined and KindLeft, the number of participants still missing for the chat to begin.
	Missing int

	// Unverified is set for a private message over a transport that proves no keys: the sender's name is not authenticated.
	Unverified bool
	// UnknownKey is set for a private message that proves the key that the room has for the sender's name, but whose key this
	// client has not pinned, because many new names have sent private messages lately. Another user of the same name would go
	// unnoticed. [Client.Private] to the name pins its key.
	UnknownKey bool
	// NewKey is set for KindMessage, KindJoined and KindLeft if the participant joined with another key than the one that this
	// client has pinned for the name: another user may have taken it. Private messages with another key are rejected. See
	// [Client.Private] and [Client.Forget].
	NewKey bool

	// Epoch and Host are, for KindMoved, the epoch and the host of the room after the move; Pause is how long the room was
	// unavailable to this client. Planned is false if this client lost the host without prior notice of a move.
	Epoch   uint64
	Host    resolver.Host
	Pause   time.Duration
	Planned bool

	// Lost is, for KindGap, the number of dropped messages.
	Lost uint64
}

// String formats the message as one line for display.
func (m Message) String() string {
	from := m.From
	if m.NewKey {
		from += " (new key)"
	}
	switch m.Kind {
	case KindMessage:
		return from + ": " + m.Text
	case KindJoined, KindLeft:
		if m.Missing > 0 {
			return fmt.Sprintf("%s %v; waiting for %d more to begin", from, m.Kind, m.Missing)
		}
		return from + " " + m.Kind.String()
	case KindBegun:
		return "the chat has begun"
	case KindPrivate:
		switch {
		case m.Unverified:
			return from + " (private, unverified): " + m.Text
		case m.UnknownKey:
			return from + " (private, unknown key): " + m.Text
		}
		return from + " (private): " + m.Text
	case KindMoved:
		return fmt.Sprintf("the chat moved to %s, pause %v", m.Host.ID, m.Pause.Round(time.Millisecond))
	case KindGap:
		return fmt.Sprintf("%d messages were dropped here", m.Lost)
	case KindStateLost:
		return "the chat was reset and its state is lost"
	default:
		return m.Kind.String()
	}
}
