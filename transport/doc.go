// Package transport carries calls and notifications between processes.
//
// A [Transport] dials and listens. A [Conn] carries calls, which have a reply, and notifications, which have none, in both
// directions. A [Handler] receives what the peer sends:
//
//	l, err := server.Listen("127.0.0.1:0", func(c transport.Conn) transport.Handler { return handler })
//	...
//	c, err := client.Dial(ctx, transport.Peer{Addr: l.Addr(), Key: server.Key()}, nil)
//	...
//	result, err := c.Call(ctx, "add", params) // params and result are MessagePack values: see Marshal and Unmarshal
//
// # Implementations
//
// [TCP] is MessagePack-RPC over TLS 1.3 with pinned Ed25519 keys, between the members of a [Realm]. [Memory] is a network
// inside the process for tests, with delay, loss, partitions and cuts; it works in a testing/synctest bubble. Other
// implementations pass the suite of package transporttest. They may implement the optional interfaces [Broadcaster] and
// [Borrower], and set [Request].More.
//
// # The caller's duties
//
//  1. Use a [Realm], and pin the peer's key where it is known ([Peer]). TLS prevents eavesdropping, but without a realm or a
//     key anybody may answer.
//  2. Do not block in a [Handler]. While it runs, nothing else is read from the connection, and after three times
//     [TCPConfig.PingEvery] the peer closes it. A handler that has to wait starts a goroutine.
//  3. Reply to each call exactly once.
//  4. Close transports. Close closes their listeners and connections, and waits for their goroutines.
//
// # Memory
//
// [TCPConfig].MaxBuffered limits the memory that all connections of a transport take together for messages that wait to be
// sent and for parts of messages that have arrived. Beyond it the connections that take most, for longest without progress,
// are closed with [ErrSlowPeer], and the log names them. Not included are about 100 KiB for each connection, for its
// goroutines, small buffers and TLS; what handlers keep; garbage, for which the collector may need as much again; the
// buffers of the system; and calls that the peer never answers, until the connection ends.
//
// A connection that takes less than the average of those that take something is not cut. An attacker with so many
// connections that small parts use up the budget can still get others cut, whose messages are larger than these parts. They
// see the end of the connection, and can dial again.
//
// The wire format is described in PROTOCOL.md in this directory
// (https://github.com/roam-go/roam/blob/main/transport/PROTOCOL.md).
package transport
