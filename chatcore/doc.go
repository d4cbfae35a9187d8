// Package chatcore is a chat room that roams, and a client for it.
//
// The room is a [migrate.Migratable]: it knows who is there and what was said, and nothing of hosts, epochs or connections.
// [New] makes it for a host; [Join] enters it from anywhere:
//
//	factory, err := chatcore.New(chatcore.Config{MinParticipants: 2})
//	svc, err := node.Host(ctx, "backend.com", factory, migrate.Policy{Every: 30 * time.Second})
//
//	c, err := chatcore.Join(ctx, "backend.com", chatcore.ClientConfig{Name: "ann", Resolver: res, Transport: tr, Listen: ":0"})
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
// # What the room promises
//
//   - What Say has returned for is said, once, to all; all hear the same in the same order, whatever moved meanwhile. How
//     much can be lost when hosts die is told in package migrate.
//   - The sender of a message is the name of the session that sent it, whatever the message claims.
//   - A name belongs to the key that joined with it for as long as it is in the room. A new session with the same key takes
//     it over, which is how somebody comes back whose client died. Where the transport proves no keys nobody can be told
//     from another: then a name is free again only when its session has run out.
//   - The chat begins when [Config.MinParticipants] different participants have joined. What is said before that waits, moves
//     with the room, and is then published in the order in which it was said.
//   - Everything is bounded, by the fields of [Config].
//
// # Names and texts
//
// A name is letters and digits, and - _ . after the first character; spaces around it are cut off. Its letters are of one
// script: Latin, Greek, Cyrillic, Armenian, Hebrew, Arabic, Georgian, Hangul, or Chinese and Japanese together; the digits
// are 0 to 9. There are no combining marks, so that a name is written in one way only, and scripts that cannot do without
// them are not offered. Two names are the same when they differ only in case, or in letters that are easily taken for one
// another: 0 and O; 1, l and I; and the letters of different scripts that share a shape, such as the Cyrillic and the
// Latin a. This is a guard and not a proof: accents (jose, josé) and pairs of letters (rn, m) are told apart.
//
// A text is one line of UTF-8 without control characters other than the tab, and without those that change the direction
// of writing. So a program may show names and texts as they come.
//
// # Private messages
//
// They go from client to client. The sender asks the room for the other's address and key, connects, and requires that key;
// the receiver requires that the connection's key is the one that the room knows for the sender's name. The room sees
// nothing of it, and its host could at most name a wrong key to somebody who has never had the right one: the first key of
// each name is remembered, and another one refused ([Client.Forget]). Compare [Participant.Key] by other means to be sure.
//
// While the room moves, the last answer about a participant stands in for it.
//
// # Wire format, version 1
//
// For clients in other languages. All values are MessagePack. Commands, replies, queries, answers and events travel inside
// the calls of package migrate, as opaque bytes. Each is an array; fields at its end may be left out, and are 0 or "" then.
// Times are Unix milliseconds.
//
// A command is [operation, text, address]:
//
//	join   [1, name, address]   address: where this client takes private messages, "" for nowhere
//	say    [2, text]
//	leave  [3]
//
// join is answered with [name, next, missing, present]: the name as it was accepted, the number of the event from which to
// listen, how many more participants the chat waits for, and how many are in the room. Next is the newcomer's own joining.
// The reply to the others is nil. To end the session is to leave.
//
// A query is [operation, name, after, limit]:
//
//	history  [1, "", before]       -> [[number, from, text, time], ...], oldest first, numbers below before
//	who      [2, "", after, limit] -> [present, [participant, ...]], numbers above after, at most 500 and limit
//	find     [3, name]             -> participant
//
// A participant is [number, name, address, key, time]: number grows with each who joins; key is 32 bytes or empty.
// Who asks for the history before the next of its join and listens from there on misses nothing and hears nothing twice.
//
// An event is [kind, from, text, time, missing], with the kinds [KindMessage], [KindJoined], [KindLeft] and [KindBegun].
//
// Between clients, on a connection to the address that find gave:
//
//	chat.hello    []                            -> [token], 16 bytes
//	chat.private  [to, from, text, id, token]   -> nil
//
// Token is that of the connection. Id is a random number below 2^53, the same when a message is sent again on another
// connection: the receiver answers [CodeReplay] for one that it has delivered.
//
// A snapshot is a sequence of records, each its length as an unsigned varint and then an array: a header with the limits
// and counters, then who was counted towards the beginning, the participants, the messages that wait, and the history.
package chatcore
