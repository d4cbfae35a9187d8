// Package chatcore provides a chat room that moves between hosts, and a client for it.
//
// The room is a [migrate.Migratable]. It holds the participants and the messages, and knows nothing about hosts, epochs
// or connections. [New] returns a factory of rooms for a host; [Join] enters a room from anywhere:
//
//	factory, err := chatcore.New(chatcore.Config{MinParticipants: 2})
//	svc, err := node.Host(ctx, "backend.com", factory, migrate.Policy{Every: 30 * time.Second})
//
//	c, err := chatcore.Join(ctx, "backend.com", chatcore.ClientConfig{
//		Name: "ann", Resolver: res, Transport: tr, Listen: ":0",
//	})
//	defer c.Leave(ctx)
//	err = c.Say(ctx, "hello, all")
//	err = c.Private(ctx, "bob", "hello, you")
//	for m, err := range c.Messages(ctx) {
//		if err != nil {
//			return err
//		}
//		fmt.Println(m)
//	}
//
// # Guarantees
//
//   - When Say returns without an error, the message is published exactly once. All participants receive all messages in the
//     same order, across moves and failovers. Package migrate describes what can be lost when hosts fail.
//   - The room sets the sender of a message from the session that sent it, and ignores any sender in the payload.
//   - While a participant is in the room, its name belongs to the key that joined with it. A new session with the same key
//     takes the name over, so a user whose client crashed can return at once. If the transport proves no keys, the
//     name becomes free only when the old session expires.
//   - The chat begins when [Config.MinParticipants] distinct participants have joined. The room holds earlier messages,
//     keeps them across moves, and then publishes them in the order in which they were sent.
//   - The fields of [Config] bound all state, and the part of it that one key can fill with participants.
//
// # Names and texts
//
// A name consists of letters and digits; after the first character, "-", "_" and "." are allowed as well. Surrounding
// whitespace is trimmed. All letters of a name belong to one script: Latin, Greek, Cyrillic, Armenian, Hebrew, Arabic,
// Georgian, Hangul, or Chinese and Japanese together. Digits are 0 to 9. Combining marks are not allowed, so each name has
// only one spelling; scripts that require combining marks are not supported. Two names are equal if they differ only in
// case or in confusable letters: 0 and O; 1, l and I; and letters of different scripts with the same shape, such as Cyrillic
// and Latin a. This check makes impersonation harder but cannot exclude it: names that differ in an accent (jose, josé) or
// in a pair of letters (rn, m) are different names.
//
// A text is one line of UTF-8. Control characters other than tab, and characters that change the writing direction, are not
// allowed. A program can therefore display names and texts as they are.
//
// # Private messages
//
// Private messages go directly from client to client. The sender asks the room for the receiver's address and key, connects,
// and requires that key. The receiver requires that the connection proves the key that the room has for the sender's name.
// The room never sees private messages. A malicious host of the room could give a wrong key only to a client that has not
// yet seen the right one: each client pins the first key of each name and rejects any other ([Client.Forget] removes the
// pin). To exclude this attack, compare [Participant.Key] over another channel.
//
// A private message that is sent or received pins the key. No other key can evict it while the client is open. Received
// messages pin at most 32 keys at once, then one every 10 s, and none while 5,000 keys are pinned; a message from a further
// new name arrives with [Message.UnknownKey] set. Writing to a name pins its key up to 10,000 pinned keys.
//
// If a participant joins with another key than the pinned one, [Message.NewKey] is set in everything that it does in the
// room, and [Participant.NewKey] in the list of participants; both are formatted as "bob (new key)". The room reports these
// keys, so the marks detect another user of a name, not a malicious host. The history has no keys, and a client that joins
// again starts without pins.
//
// While the room moves, a client uses its last answer about a participant.
//
// # Wire format, version 1
//
// This section is for clients in other languages. All values are MessagePack. Commands, replies, queries, answers and events
// are opaque bytes inside the calls of package migrate. Each is an array; trailing fields may be omitted and default to 0 or
// "". Times are Unix milliseconds.
//
// A command is [operation, text, address]:
//
//	join   [1, name, address]   address: where this client receives private messages; "" for none
//	say    [2, text]
//	leave  [3]
//
// The reply to join is [name, next, missing, present]: the accepted name, the number of the first event to listen from, the
// number of participants still missing for the chat to begin, and the number of participants in the room. Event next is the
// newcomer's own KindJoined event. The reply to other commands is nil. Ending the session also leaves the room.
//
// A query is [operation, name, after, limit]:
//
//	history  [1, "", before]       -> [[number, from, text, time], ...], oldest first, numbers below before
//	who      [2, "", after, limit] -> [present, [participant, ...]], numbers above after, at most 500 and limit
//	find     [3, name]             -> participant
//
// A participant is [number, name, address, key, time]. The number increases with each participant that joins; key is 32
// bytes or empty. To receive every message exactly once, a client queries the history before next and listens from next.
//
// An event is [kind, from, text, time, missing, key]; kind is [KindMessage], [KindJoined], [KindLeft] or [KindBegun]. The
// key is the participant's; only KindJoined has it, and not if the transport proves no keys.
//
// Between clients, on a connection to the address returned by find:
//
//	chat.hello    []                            -> [token], 16 bytes
//	chat.private  [to, from, text, id, token]   -> nil
//
// The token belongs to the connection. The id is a random number below 2^53. A client that sends a message again on another
// connection uses the same id; the receiver answers [CodeReplay] if it has already delivered that message.
//
// A snapshot is a sequence of records. Each record is a length (unsigned varint) followed by an array: first a header with
// the limits and counters, then the participants counted towards MinParticipants, the participants in the room, the held
// messages and the history.
package chatcore
