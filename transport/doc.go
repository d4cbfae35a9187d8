// Package transport carries calls and notifications between processes.
//
// A [Transport] dials and listens; a [Conn] carries calls (with a reply) and notifications (without) in both directions
// over one connection. Two implementations are here: [TCP], MessagePack-RPC over TLS 1.3 with peers pinned by their
// Ed25519 keys, and [Memory], a network inside the process with delay, loss, partitions and cuts, which runs in a
// testing/synctest bubble. Package transporttest holds the conformance suite that both pass.
//
// [Marshal] and [Unmarshal] make and read the values that messages carry. [BulkSource] and [ReceiveBulk] move streams of
// any length in checked chunks, on a connection of their own.
//
// # What a caller must do
//
//  1. Pin the peer's key where it is known ([Peer]): TLS keeps others from listening, but without a key anybody may answer.
//  2. Not block in a [Handler]: while it runs nothing further is read, no reply arrives, and after three times
//     [TCPConfig.PingEvery] the peer takes this side for dead. A handler that has to wait starts a goroutine.
//  3. Reply to each call exactly once.
//  4. Close what was opened: [TCP.Close] closes the rest and waits for it.
//
// # Wire format
//
// Version 1. Everything is MessagePack-RPC (https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md): one
// MessagePack array a message, one after the other, in both directions, inside TLS 1.3 with the protocol name (ALPN)
// "roam/1" unless that was switched off.
//
//	[0, id, method, params]      call
//	[1, id, error, result]       reply
//	[2, method, params]          notification
//
//	id       a number below 2^53, chosen by the caller, unique among its calls without a reply on the connection
//	method   a string of 1 to 255 bytes
//	params   any value but nil and extension types, by convention an array
//	error    nil, or a map: "code" (a number, see [Code]), "message" (a string), and "data" (bin) if there is any
//	result   any value but extension types; nil with an error
//
// A peer may answer an error of any other shape: its text is kept, with [CodeUnknown]. Replies with an unknown id are
// dropped. A call of an unknown method is answered with [CodeNoMethod], an unknown notification is ignored. Arrays and maps
// in params, error or result nest at most 16 deep. A message has at most [TCPConfig.MaxMessage] bytes, the first one 4 KiB.
// What breaks these rules ends the connection with [ErrBadMessage]. A listener tells who begins with a message in place of
// TLS so by a TLS alert, and who begins with TLS where there is none by an error reply with id 0, before it closes.
//
// The first message of who dialed is a call, and nothing else follows before its answer:
//
//	"roam.hello" [min, max, features]   the versions that the dialer speaks
//	-> [version, features]              the one that is spoken from here on, or an error with [CodeVersion]
//
// features are strings that name what a side can do beyond the version; there are none yet, and unknown ones are ignored,
// as are further values at the end of either array. A client whose first message is something else is served in version 1.
//
// Either side calls, when nothing has arrived for a while,
//
//	"roam.ping" []
//	-> nil
//
// and closes the connection when nothing at all has arrived for three times as long. Both methods are answered by this
// package and never reach a [Handler].
//
// A bulk transfer consists of calls by its receiver, several at a time, which the sender answers in order:
//
//	"roam.bulk.pull" [id, n]                 n counts the receiver's pulls of this transfer from 0
//	-> [0, offset, crc, data]                bytes at offset; data is bin of 1 byte to 256 KiB; crc is the CRC-32C
//	                                         (Castagnoli) of the offset as 8 bytes, big-endian, followed by data
//	-> [1, total, sum]                       the end: the number of bytes, and a SHA-256 (bin) over all chunks' checksums
//	"roam.bulk.stop" [id]                    a notification: the receiver wants no more
//
// Times in this library's messages are numbers: Unix milliseconds. Ids and epochs are below 2^53.
//
// Version history: 1 is the first.
package transport
