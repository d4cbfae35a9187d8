package chatcore

import (
	"fmt"
	"time"

	"github.com/roam-go/roam/resolver"
)

// Kind says what a [Message] tells.
type Kind uint8

// The kinds below 16 are published by the room, and their numbers are part of its wire format; the others arise in the
// client.
const (
	KindMessage   Kind = 1  // somebody said something to all
	KindJoined    Kind = 2  // somebody joined, or is back with a new session
	KindLeft      Kind = 3  // somebody left, or was away for too long
	KindBegun     Kind = 4  // enough participants have been here: the messages that waited for it follow
	KindPrivate   Kind = 16 // somebody said something to this client alone
	KindMoved     Kind = 17 // the room has moved to another host
	KindGap       Kind = 18 // messages are missing here
	KindStateLost Kind = 19 // the room was started anew on another host, without what it knew
)

// String is a short name in lower case.
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

// Message is one thing that a [Client] tells its user. Which fields are set depends on Kind.
type Message struct {
	// Kind is always set.
	Kind Kind

	// From is who spoke, joined or left. For a message the room set it from the speaker's session; for a private one this
	// client has checked it against the key that the speaker proved, unless Unverified is set.
	From string
	// Text is what was said.
	Text string
	// Time is when it was said, by the clock of the room's host; for a private message and what arises in the client, when
	// it arrived, by this machine's clock.
	Time time.Time

	// Seq numbers what the room publishes, from 1; 0 for what arises in the client.
	Seq uint64
	// History is set for what was said before this client joined.
	History bool
	// Missing, when somebody joined or left, is how many more participants the chat waits for.
	Missing int

	// Unverified is set for a private message over a transport that proves no keys: From is what the sender claims.
	Unverified bool

	// Epoch, Host and Pause say, for KindMoved, in which epoch and where the room lives now, and how long it was not there
	// for this client. Planned is false when this client lost the host without being told to move.
	Epoch   uint64
	Host    resolver.Host
	Pause   time.Duration
	Planned bool

	// Lost is, for KindGap, how many messages are missing.
	Lost uint64
}

// String is the message as one line for a person.
func (m Message) String() string {
	switch m.Kind {
	case KindMessage:
		return m.From + ": " + m.Text
	case KindJoined, KindLeft:
		if m.Missing > 0 {
			return fmt.Sprintf("%s %v; the chat waits for %d more", m.From, m.Kind, m.Missing)
		}
		return m.From + " " + m.Kind.String()
	case KindBegun:
		return "the chat has begun"
	case KindPrivate:
		if m.Unverified {
			return m.From + " (private, unverified): " + m.Text
		}
		return m.From + " (private): " + m.Text
	case KindMoved:
		return fmt.Sprintf("the chat has moved to %s, in a pause of %v", m.Host.ID, m.Pause.Round(time.Millisecond))
	case KindGap:
		return fmt.Sprintf("%d messages are missing here", m.Lost)
	case KindStateLost:
		return "the chat was started anew, and what it knew is lost"
	default:
		return m.Kind.String()
	}
}
