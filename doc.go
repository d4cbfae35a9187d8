// Package roam documents a library for stateful services that move between hosts while they run, without interrupting their
// clients. It contains no code. The library consists of these packages:
//
//   - [github.com/roam-go/roam/migrate] hosts a service (Node), moves it, and connects clients to it (Client). A service
//     implements migrate.Migratable.
//   - [github.com/roam-go/roam/resolver] maps the name of a service to a record of its hosts, which changes only by
//     compare-and-swap.
//   - [github.com/roam-go/roam/transport] carries calls and notifications between processes: MessagePack-RPC over TLS 1.3,
//     or an in-memory network.
//   - [github.com/roam-go/roam/chatcore] is a chat room built on migrate, and its client.
//
// # Usage
//
// A service is a deterministic state machine with three methods: Apply, Snapshot and Restore. Any process can host it:
//
//	realm, server, err := transport.ParseCode(code) // a line that the name service's operator hands out
//	tr, err := transport.NewTCP(transport.TCPConfig{Realm: realm})
//	res, err := resolver.NewClient(resolver.ClientConfig{Transport: tr, Server: server})
//	node, err := migrate.NewNode(migrate.NodeConfig{Resolver: res, Transport: tr, Advertise: "10.0.0.2"})
//	svc, err := node.Host(ctx, "counter.example", newCounter, migrate.Policy{Every: 30 * time.Second})
//	report, err := svc.Handoff(ctx, "") // move now, to a host chosen by the policy; otherwise the policy's timer moves it
//	err = node.Shutdown(ctx)            // hand over all services, then leave
//
// A client dials the name:
//
//	c, err := migrate.Dial(ctx, "counter.example", migrate.ClientConfig{Resolver: res, Transport: tr})
//	reply, err := c.Do(ctx, []byte("+1"))          // takes effect exactly once, across moves and failovers
//	for ev, err := range c.Events(ctx, 0) { ... } // events of the service; continues after a move
//
// The package example is a complete program.
//
// # Duties of the caller
//
//  1. Write a deterministic service. Its behavior must depend only on its commands, not on the clock, random numbers or map
//     iteration order. Hosts compare hashes of their execution, and a host that diverges fetches a fresh copy. A service
//     that diverges again and again cannot be repaired. Package migratetest tests a service.
//  2. Make Snapshot fast for any size of the state, for example by copy-on-write. No command is applied while it runs. Apply
//     may take any time, but the clients of the service wait for it. migrate.Hooks.Failed reports a call that does not
//     return (migrate.ErrBusy). A service whose queries must not wait for Apply implements migrate.ConcurrentQuerier.
//  3. Use the same policy for a service in every process. If hosts should be identifiable in records and logs, give each a
//     name (migrate.NodeConfig.ID); it defaults to one derived from the key. If an acknowledged command must never depend on
//     a single host, set Policy.MinInSync to 2.
//  4. Run one resolver for all processes, with a file (resolver.ServerConfig), because records must survive a restart.
//     resolver.Memory serves a single process.
//  5. Keep the keys of the resolver, and of hosts with a directory, in files (transport.LoadIdentity). Otherwise a process
//     has a new key after each start. Pin the resolver's key (resolver.ClientConfig; a code contains it); hosts and clients
//     then pin one another by the record. Treat the realm's codes as secrets.
//  6. Leave with Shutdown. To the other hosts, Close looks like a crash.
//  7. Handle the errors that end a client, migrate.ErrSessionExpired and migrate.ErrStateLost. Only the application can
//     decide whether to continue with a new session.
//
// # Roles
//
// For each service, a host has one of these roles. Messages from other hosts and the record determine its transitions:
//
//   - latent: present, without a copy. It can fetch one.
//   - joining: fetching a copy and catching up.
//   - standby: a member of the in-sync set. It holds every acknowledged command and can become active.
//   - recovering: has become active and waits until all members of the in-sync set have acknowledged its term. It serves
//     once its applier has also applied everything committed before (migrate.Report.Applying).
//   - active: the leader. It orders commands, answers clients and pushes events. Each term has at most one active host, and
//     only that of the highest term can commit.
//   - halted: has stopped the service on this host, because continuing could violate its guarantees.
//
// The resolver makes no decisions of its own. It keeps one record per name: the active host, the in-sync set, and the term,
// a pair (Loss, Epoch) that never decreases. It accepts a change only if the proposer has seen the current version and the
// rules allow it (resolver.Check): only the active host changes the in-sync set, and only a member of the set becomes
// active.
//
// # Commands
//
// The active host appends a command to the log and sends it to the members of the in-sync set. When all of them hold it, the
// command is committed. Hosts apply it and the client receives its reply only after that, so nothing is ever rolled back.
// Acknowledged means: committed by all members of the in-sync set and applied by the active host. An applier, which runs
// beside the protocol, applies the commands one at a time; it may take any time without endangering the host's role.
// Sessions, with the replies that a client may request again, are part of the replicated state. A command that a client
// sends twice, to any host, is therefore executed once.
//
// # A move, step by step
//
//  1. The active host invites the target if the target holds no copy yet. It continues to serve until step 7.
//  2. It captures a snapshot. The target fetches it over a separate connection, in chunks with checksums, and restores it.
//  3. It streams the log since the snapshot. When the target holds all committed entries and is nearly caught up, the target
//     counts as a member: from then on, no entry is committed without it.
//  4. It proposes to the resolver to add the target to the in-sync set.
//  5. It announces the next host to its clients. Each connects to it at a random time within a window and parks the
//     connection.
//  6. It asks the target to take over, and still serves.
//  7. The target makes itself active in the record. This compare-and-swap decides the move. The old host can no longer
//     commit entries in flight, because the target no longer acknowledges them.
//  8. The target sends the rest of the log again in its own epoch, plus one entry of its own. When all members have
//     acknowledged them, and it has applied everything committed before, it serves. The pause lasts from step 7 to this
//     point.
//  9. Both hosts notify the clients, which resume their sessions on the parked connections and resend commands without a
//     reply.
//  10. Hosts in excess of Policy.Copies leave the in-sync set and release their copies.
//
// If a step fails, the service stays where it is. Nothing has to be undone, because the old host serves until step 7.
// migrate.Report contains the duration of each step.
//
// A failover starts at step 7. A standby that has not heard from the active host for migrate.NodeConfig.FailureTimeout, or
// that detects that no process listens at the active host's address, takes over by the same compare-and-swap and excludes
// the old host.
//
// # Fencing
//
// Safety never depends on time: clocks and timeouts only determine when to try. The term fences a deposed active host. Every
// message between hosts carries the term, and a host rejects messages of a lower term than it knows. The record's version
// rejects late proposals. A client ignores hosts of a lower term than it has seen. The active host answers a query only
// after all members have confirmed that it is still active. A service that acts on an external system should pass
// migrate.Command.Epoch as a fencing token, so that the system can reject lower epochs.
//
// # Trust
//
// A realm (transport.Realm) decides who takes part. Processes that know its secret are hosts, those that know the guests'
// secret are guests, and everybody else is a stranger, whose connections fail in the TLS handshake:
//
//	             stranger  guest                  host
//	connect      no        yes                    yes
//	records      -         read                   read, change (resolver.ServerConfig.Allow narrows it)
//	services     -         call, query, listen    also announce, hold copies, become active
//	reset        -         no                     yes (resolver.ServerConfig.AllowReset narrows it)
//
// A pass for one key (transport.Realm.Issue) can be limited to some services. To replace a realm without a pause, all
// processes first accept the new one beside the old one (transport.TCPConfig.Accept), then use it, and then drop the old
// one. That is also how to exclude a process that had a code: passes do not expire, and cannot be revoked one by one. Not
// defended: hosts that lie about the state that they hold, members that exhaust a machine, and a resolver that lies. A
// transport without a realm must be configured as open; then everyone who can connect may do what a host may.
//
// Every process has an Ed25519 key, proven by TLS 1.3. The record contains the key of each host. Clients and hosts accept a
// connection as that host's only if it proves that key. A host accepts messages about a service only from hosts that the
// record, or the resolver's list of present hosts, names with their key; a message from any other host only causes it to
// read the record. A session belongs to the key that opened it. See SECURITY.md.
//
// # Guarantees
//
// These hold for acknowledged commands of a client, with one standby in sync unless stated otherwise:
//
//	                      loss       duplicates   order   pause
//	planned move          none       none         kept    one round trip between the hosts, plus the client's latency to the
//	                                                      new one
//	crash of the active,  none       none         kept    detection (immediate if its address refuses connections, otherwise
//	a standby in sync                                     500 ms without a message, or 200 ms and four round trips if that is
//	                                                      more), two calls to the resolver, and then as in a planned move
//	crash of a standby    none       none         kept    detection, and one call to the resolver
//	crash of the active,  the state  -            -       until an operator resets the service (Node.Reset); all clients
//	none in sync                                          receive ErrStateLost
//	the same, with a      none       none         kept    until one of the hosts in sync restarts with its directory
//	directory
//	disk of a host fails  none       none         kept    the host halts: as in a crash of that host
//	fewer hosts in sync   none       none         kept    until another host has joined; meanwhile commands and queries wait
//	than Policy.MinInSync
//	partition             none       none         kept    as in a crash, on the side that wins the record; the other side
//	                                                      commits nothing and answers no query
//	resolver unreachable  none       none         kept    none, but moves, failovers and new standbys wait
//	host that others      none       none         kept    none: it can hold a copy, and its owner is told; the service does
//	cannot connect to                                     not move there while another host can be reached, and leaves it
//	client disconnected   none       none         kept    none; a session expires after Policy.SessionTimeout (1 h), and the
//	                                                      client then receives ErrSessionExpired, never a new session
//	                                                      silently
//
// Order means: the commands of one client take effect in the order of its calls, and a command that was acknowledged before
// another one was sent takes effect before it. An unacknowledged command is executed at most once. A query reflects every
// command acknowledged before the query was sent. Each event arrives once and in order. If a reader was disconnected for
// longer than events are kept, the stream reports the gap.
//
// By default, durability means memory. An acknowledged command survives while at least one host of the in-sync set keeps its
// memory or its directory; the set has Policy.Copies hosts, 2 by default: the active one and a standby. A host without a
// directory (migrate.NodeConfig.Dir) loses its copy with its process, so a power failure of all hosts loses the state. A
// host with a directory forces a command to disk before it acknowledges it, and recovers its copy on restart: after a power
// failure of all hosts, the service resumes with its sessions and events as soon as one of the hosts in sync restarts. Hosts
// of both kinds can serve together. If fewer hosts are present than the policy requests, the service continues with fewer
// copies, unless Policy.MinInSync requires it to wait. With MinInSync n, an acknowledged command is lost only if n hosts of
// the in-sync set lose their copies.
//
// # Limits
//
//	command, query               512 KiB
//	reply, answer, error, event  1 MiB less 4 KiB
//	message between processes    1 MiB (transport.TCPConfig)
//	unsent bytes per connection  4 MiB, then the connection is closed (transport.TCPConfig)
//	unsent and unfinished bytes  64 MiB on all connections, then those that hold most, for longest, are closed
//	of all connections           (transport.TCPConfig)
//	connections of a process     65,536, of which 2,048 in the handshake; fewer where the system limits open files
//	                             (transport.TCPConfig)
//	in flight per connection     256 requests, 4 MiB; then the host stops reading until it has answered some
//	unacknowledged per client    1,024 commands, 8 MiB (migrate.ClientConfig)
//	sessions of a service        65,536; a new one then evicts one of a disconnected client, first of the same key, then of
//	                             the key with the most, or is rejected if all clients are connected; 1,024 per connection
//	sessions of one key          16,384 per service (migrate.Policy.SessionsPerKey)
//	replies kept                 1,024 and 8 MiB per session, 64 MiB per service
//	events kept                  16 MiB per service (migrate.Policy)
//	copies of a service          1 to 16 (migrate.Policy)
//	committed entries not yet    16,384 on the active host, which then orders no more (clients are asked to retry), 4 times
//	applied                      as many on a standby, which is then removed; 256 MiB of log
//	log of a service in memory   256 MiB; a standby that lags by more than 32 MiB is removed
//	log of a service on disk     64 MiB, or the size of a snapshot if larger, plus what arrives while the next snapshot is
//	                             written (migrate.NodeConfig.Dir)
//	copy fetched by a host       1 GiB of state, sessions and events (migrate.Policy.MaxState); it is transferred as a stream
//	records, hosts present       65,536 and 1,024 per resolver (resolver.ServerConfig), 64 hosts of one key
//	connections of one key       256 per resolver, with 65,536 watches
//
// Apart from that, the size of the state is limited only by memory.
//
// # Non-goals
//
//   - It is not a database: the state must fit in memory. A directory serves recovery, not reads.
//   - It does not scale one service horizontally: one host is active. To scale, run many services on many hosts.
//   - It does not protect against malicious hosts: a host that may serve a name controls that service.
//   - It has no consensus of its own: the resolver is a single point of decision. While it is unavailable, no service
//     changes hands.
//   - It offers no choice of consistency: all commands are ordered, and all queries are linearizable.
package roam
