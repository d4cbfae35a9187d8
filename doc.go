// Package roam is about services that move from host to host while they run, and whose clients do not notice. It
// holds no code; the parts are packages of their own:
//
//   - [github.com/roam-go/roam/migrate]: hosts a service (Node), follows one (Client), and moves it. A service is a
//     migrate.Migratable.
//   - [github.com/roam-go/roam/resolver]: maps the name of a service to the record of who serves it, changed by
//     compare-and-swap alone.
//   - [github.com/roam-go/roam/transport]: calls and notifications between processes: MessagePack-RPC over TLS 1.3,
//     or a network in memory.
//   - [github.com/roam-go/roam/chatcore]: a chat room that roams, and a client for it.
//
// # Use
//
// A service is a deterministic state machine with three methods, Apply, Snapshot and Restore. Any process may host
// it:
//
//	tr, err := transport.NewTCP(transport.TCPConfig{})
//	res, err := resolver.NewClient(resolver.ClientConfig{Transport: tr, Server: transport.Peer{Addr: "10.0.0.1:8000"}})
//	node, err := migrate.NewNode(migrate.NodeConfig{Resolver: res, Transport: tr, Advertise: "10.0.0.2"})
//	svc, err := node.Host(ctx, "counter.example", newCounter, migrate.Policy{Every: 30 * time.Second})
//	report, err := svc.Handoff(ctx, "") // now, to a host of the policy's choice; or leave it to the policy
//	err = node.Shutdown(ctx)            // hands everything over, then leaves
//
// and a client dials its name:
//
//	c, err := migrate.Dial(ctx, "counter.example", migrate.ClientConfig{Resolver: res, Transport: tr})
//	reply, err := c.Do(ctx, []byte("+1"))          // executed exactly once, whatever moved or died meanwhile
//	for ev, err := range c.Events(ctx, 0) { ... } // what the service publishes; goes on after a move
//
// The package's example is a whole program.
//
// # What a caller must do
//
//  1. Write a service that depends on its commands alone: no clock, no random numbers, no order of a map. Hosts
//     compare hashes of what they did, and a host that differs takes a fresh copy; nobody can repair a service that
//     differs anew each time. Package migratetest tests it.
//  2. Make Snapshot cheap whatever the size of the state, for instance by copying on write: nothing is applied
//     meanwhile.
//  3. Give every process the same policy for a service, and a name of its own (migrate.NodeConfig) if it is to be
//     told from others in records and logs. The default is made from its key. Where no acknowledged command may ever
//     depend on one host alone, set Policy.MinInSync to 2.
//  4. Run one resolver for all, with a file (resolver.ServerConfig): records must outlive it. resolver.Memory serves
//     a single process.
//  5. Keep the keys of the resolver and of hosts with a directory in files (transport.LoadIdentity): without one a
//     process has a new key each time it starts. Pin keys where they are known: hosts and clients pin one another by
//     the record, so that it is the resolver's key that has to be pinned (resolver.ClientConfig), and who may change a
//     record that has to be said (resolver.ServerConfig).
//  6. Leave with Shutdown. Close is what a crash looks like to the others.
//  7. Look at errors that end a client, migrate.ErrSessionExpired and migrate.ErrStateLost: only the program knows
//     whether to go on with a new session.
//
// # Roles
//
// For each service a host is in one of these roles, and moves on to the next ones by what the others and the record
// say:
//
//   - latent: present, without a copy. It could take one.
//   - joining: fetches a copy and catches up.
//   - standby: in the in-sync set: it holds every acknowledged command, and may become active.
//   - recovering: has become active, and waits until all members of the in-sync set have heard it.
//   - active: orders commands, answers clients, pushes events. There is one at a time.
//   - halted: has stopped itself because something was wrong that going on would have made worse.
//
// The resolver decides nothing. It keeps one record for each name: who is active, who is in sync, and the term, a
// pair (Loss, Epoch) that never goes back. It accepts a change only of the version that the proposer has seen, and
// only if the rules allow it (resolver.Check): only the active changes the in-sync set, and only a member of it
// becomes active.
//
// # A command
//
// The active appends it to the log and sends it to the members of the in-sync set. When all of them hold it, it is
// committed: only then it is applied, here and there, and only then the client has its reply. Nothing is ever rolled
// back. Sessions with the replies that a client may ask for again are part of the replicated state, so that a command
// that a client sends twice, to whatever host, is executed once.
//
// # A move, step by step
//
//  1. The active invites the target, if that holds no copy yet. It goes on serving until step 7.
//  2. It captures a snapshot. The target fetches it on a connection of its own, in checked chunks, and restores it.
//  3. It streams the log since the snapshot. When the target has all that is committed and is close behind, it
//     counts: from now on nothing is committed without it.
//  4. It proposes to the resolver to add the target to the in-sync set.
//  5. It tells its clients where the service will be next; they connect there ahead, each at a random moment, and
//     park the connection.
//  6. It tells the target to take over, and still serves.
//  7. The target makes itself active in the record: one compare-and-swap, which decides. Whatever was on its way to
//     the old host can no longer be committed there, because the target no longer acknowledges it.
//  8. The target sends the rest of the log again in its own epoch, with one entry of its own. When all members have
//     acknowledged that, it serves. The time from 7 to here is the pause.
//  9. Clients hear of it from both, go on with their session on the parked connection, and send again what has no
//     reply.
//  10. Hosts beyond the number of standbys wanted leave the in-sync set and release their copies.
//
// When a step fails the service stays where it is, and there is nothing to undo: until step 7 the old host has not
// stopped. migrate.Report tells how long each step took.
//
// A failover begins at step 7: a standby that has not heard the active for migrate.NodeConfig.FailureTimeout, or finds that
// nothing listens at its address any more, takes over by the same compare-and-swap, and leaves the old one out.
//
// # Fencing
//
// No safety rests on time: clocks and timeouts only decide when to try. What keeps an old active host from doing harm
// is the term. Every message between hosts carries it, and whoever knows a higher one refuses what is said in a lower
// one; a record's version keeps a late proposal from being accepted; a client takes nothing from a lower term than it
// has seen; and a query is answered only after all members have confirmed that their active host is still this one. A
// service that acts on something outside passes migrate.Command.Epoch along, for that to refuse lower ones.
//
// # Trust
//
// Every process has an Ed25519 key, and TLS 1.3 proves it. The record names the key of each host: clients and hosts take
// a connection for that host's only if it proved that key. A host heeds what another one says about a service only if
// the record, or the resolver when it was asked for hosts, has named that other one with its key; what a stranger says is no
// more than a reason to read the record. A session belongs to the key that opened it. So it is the resolver that
// decides who may take part: see resolver.ServerConfig for who may announce itself and change a record.
//
// # Guarantees
//
// For a client's acknowledged commands, with one standby in sync unless said otherwise:
//
//	                      loss       duplicates   order   pause
//	planned move          none       none         kept    one round trip among the hosts, and the client's way
//	                                                      to the new one
//	crash of the active,  none       none         kept    until it is noticed: at once where its address refuses
//	a standby in sync                                     connections, otherwise after 500 ms of silence; then two
//	                                                      calls to the resolver, and as in a planned move
//	crash of a standby    none       none         kept    until it is noticed, and one call to the resolver
//	crash of the active,  all of     -            -       until a person starts the service anew (Node.Reset);
//	none in sync          the state                       every client is told (ErrStateLost)
//	the same, with a      none       none         kept    until one of the hosts that were in sync has started again
//	directory                                             with its directory
//	disk of a host fails  none       none         kept    that host halts: as after its crash
//	fewer hosts in sync   none       none         kept    until another host has joined: the service stands still
//	than Policy.MinInSync
//	partition             none       none         kept    as after a crash, on the side that wins the record; the
//	                                                      other side commits nothing and answers no query
//	resolver unreachable  none       none         kept    none. Moves, failovers and new standbys wait for it
//	client away           none       none         kept    sessions end after Policy.SessionTimeout (1 h); the
//	                                                      client then gets ErrSessionExpired, and never a new
//	                                                      session in silence
//
// Order means that the commands of one client take effect in the order of its calls, and that a command which was
// acknowledged before another was sent takes effect before it. Commands without an acknowledgement are executed once
// at most. Queries reflect every command acknowledged before they were asked. Events arrive once each, in order;
// where a reader was away for longer than they are kept, the gap is told.
//
// Durability is memory, unless a directory is given: an acknowledged command survives while at least one host of the
// in-sync set, which by default is 2 hosts, the active and 1 standby, keeps its memory or its directory
// (migrate.NodeConfig.Dir). A host without one loses its copy with its process, so that a power cut of all of them loses
// the state. A host with one acknowledges a command only when it is forced to the disk, and goes on from there when it
// starts again: after a power cut of all, the service is back with its sessions and events when one of the hosts that were
// in sync is. Hosts of both kinds may serve together. When fewer hosts are present than the policy wants, the
// service goes on with fewer copies, unless Policy.MinInSync says that it must rather wait: with MinInSync n an acknowledged
// command is lost only if n hosts of the in-sync set lose what they hold.
//
// # Limits
//
//	command, query               512 KiB
//	reply, answer, error, event  1 MiB less 4 KiB
//	message between processes    1 MiB (transport.TCPConfig)
//	unsent bytes per connection  4 MiB, then it is closed (transport.TCPConfig)
//	connections of a process     65,536; of them 2,048 that are still shaking hands (transport.TCPConfig)
//	under way per connection     256 requests, 4 MiB; then the host reads no more from it until it has answered some
//	unacknowledged per client    1,024 commands, 8 MiB (migrate.ClientConfig)
//	sessions of a service        65,536; one more ends the one unused for longest whose client is not connected, or is
//	                             refused if all are; 1,024 on one connection
//	replies kept                 1,024 and 8 MiB a session, 64 MiB a service
//	events kept                  16 MiB a service (migrate.Policy)
//	copies of a service          1 to 16 (migrate.Policy)
//	log of a service in memory   256 MiB; a standby more than 32 MiB behind is left out
//	log of a service on disk     64 MiB, or as much as a copy of the state takes, and what comes while the next copy is
//	                             written (migrate.NodeConfig.Dir)
//	records, hosts present       65,536 and 1,024 a resolver (resolver.ServerConfig)
//
// The state itself has no limit but memory: it is sent as a stream.
//
// # What it is not
//
//   - No database: the state lives in memory, and has to fit there. A directory is what it comes back from, not what it is
//     read from.
//   - No horizontal scaling of one service: one host is active. Many services on many hosts are the way to grow.
//   - No protection from hosts that lie: a host that may serve a name may do with the service as it likes.
//   - No consensus of its own: the resolver is one place that decides, and while it is away nothing changes hands.
//   - No choice of consistency: every command is ordered, every query is current.
package roam
