// Package resolver maps the name of a service to the record that says which host serves it.
//
// A [Resolver] holds one [Record] per name, which changes only by compare-and-swap on its version, and the presence of the
// hosts that can serve it. A resolver decides nothing: hosts propose changes, and [Check] defines which are legal. Hosts and
// clients use it when something changes, not for each command, so a service keeps running while its resolver is down.
//
//	s, err := resolver.NewServer(resolver.ServerConfig{Transport: tr, File: "records"})
//	...
//	addr, err := s.Listen("10.0.0.1:7000")
//	...
//	r, err := resolver.Dial(ctx, resolver.ClientConfig{Transport: tr, Server: transport.Peer{Addr: addr, Key: key}})
//	...
//	rec, err := r.Get(ctx, "chat")
//
// # Implementations
//
// [Memory] lives inside one process, for tests. [Server] keeps its records in a file and serves any number of [Client]
// values over a transport. Other implementations apply [Check], [CheckName] and [CheckAnnouncement], and pass the suite of
// package resolvertest.
//
// # Guarantees
//
// Reads are linearizable: a Get that begins after a change was answered returns that change. An acknowledged change is
// durable: the Server forces its file to the disk before it answers, and refuses to start from a damaged file. Presence is
// not stored: hosts renew it, and a restarted Server learns it from them before it answers the first call of Hosts.
//
// A Server whose disk fails ends its service with [ErrStore]. A lack of file descriptors does not end it: it makes no change
// meanwhile, and a Client repeats the call.
//
// If records are lost all the same, for instance because the file was deleted or comes from a backup, the hosts of a running
// service bring its record back. They restore it, as [Check] describes it, in an epoch far above those that were used. If
// the file was missing, the Generation has another value, and changes based on lost records fail with [ErrAmnesia]. If the
// hosts have lost the state as well, a reset begins the name anew, above every (Loss, Epoch) that was ever used for it.
//
// The wire and file formats are described in PROTOCOL.md in this directory
// (https://github.com/roam-go/roam/blob/main/resolver/PROTOCOL.md).
package resolver
