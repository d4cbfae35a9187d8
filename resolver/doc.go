// Package resolver maps the name of a service to the record of who serves it.
//
// A [Resolver] holds one record a name, changed only by compare-and-swap on its version, and the presence of the hosts
// that could serve it. It never decides anything: hosts propose changes, and [Check] says which are legal. It is asked
// when something changes, not for each command, so that a service goes on while its resolver is away.
//
// # Implementations
//
// [Memory] lives inside one process, for tests. [Server] keeps its records in a file and serves any number of [Client]
// values over a transport. Package resolvertest holds the conformance suite that they pass, as others should.
//
// # What is promised
//
// Reads are linearizable: a Get that begins after a change was answered sees it. A change that was answered stays: the
// Server's file is on the disk before the answer, and the Server refuses to start from a file that is damaged anywhere.
// Where records are lost all the same, as when the file was deleted, Gen is another number and changes that build on the
// lost ones are refused with [ErrAmnesia]; a reset, as [Check] describes it, brings a lost name back above every (Loss,
// Epoch) that was seen of it. Presence is not kept: hosts renew it, and a restarted Server knows it again when they have.
//
// # Wire format
//
// Version 1. A Server answers MessagePack-RPC calls as package transport carries them. Params are arrays with the fields
// in the order given here; fields missing at the end are zero, further ones are ignored. Numbers are integers from 0 to
// 2^53-1 unless said otherwise, text is str, bytes are bin.
//
//	host    [id, inc, addr, key]
//	        id     str, 1..128 bytes, printable, without spaces
//	        inc    the incarnation, from 1
//	        addr   str, up to 256 bytes
//	        key    bin of 32 bytes, an Ed25519 public key; zero bytes where the transport proves none
//	record  [name, gen, ver, loss, epoch, active, isr, feature, by, nonce]
//	        name   str, 1..253 bytes, printable, without spaces
//	        active host; ["", 0, "", key of zero bytes] when the service was retired
//	        isr    array of hosts, at most 16, never nil
//	        by     host
//	        nonce  from 1
//
//	resolver.get [name] -> record
//	        Answers error 100 when there is none.
//	resolver.cas [expect, record] -> record
//	        The record's ver is not looked at, and its gen only if it is not 0. Answers error 101 with the present record
//	        as data when the version is another, 102 when the change is not allowed, 103 when records were lost, 104 when
//	        the record is malformed, 105 when the server can't store anything any more. After any other error, and 105,
//	        the outcome is unknown, and the identical call may be sent again.
//	resolver.watch [name, after, id] -> record
//	        Answers when the record's version is not after. id is any number that no other watch under way on the
//	        connection has.
//	resolver.unwatch [id] -> nil
//	        Ends a watch, which answers error 4. Also as a notification.
//	resolver.announce [host, ttl, digest, part, names] -> bool
//	        ttl is in milliseconds, at most a day; 0 withdraws. digest is bin of up to 64 bytes that the client chooses to
//	        stand for its list of names; empty: none. part 0 ends a list of names, 1 says that the list goes on in the
//	        next call for that host on this connection, and announces nothing yet; lists have at most 131,072 names.
//	        part 2, with no names, renews the announcement that had that host and digest; false if there is none, and
//	        then the list must be sent.
//	resolver.hosts [name] -> array of hosts
//	        Ordered by id, never nil.
//
// A server whose transport proves keys answers error 102 where by.key, or the key of the host that is announced, is not
// the key of the connection. The numbers of errors are those of [transport.Code].
package resolver
