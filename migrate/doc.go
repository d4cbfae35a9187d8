// Package migrate hosts services that move from host to host while they run, and leads clients to them.
//
// A process that may host services has a [Node]. [Node.Host] starts a service, or stands by if it exists;
// [Node.Standby] makes the node a latent host. The service itself is a [Migratable], a deterministic state machine.
// It moves as its [Policy] says, on demand ([Service.Handoff]), or when its host shuts down ([Node.Shutdown]); when
// its host dies a standby goes on with it. A [Client] follows it by its name, and executes each command exactly once.
//
// # What a service must obey
//
//  1. Equal commands give equal states, replies and events on every host. Apply takes the time from [Command.Time],
//     random numbers from what clients send, and order from nothing that has none, such as a map.
//  2. Snapshot returns within milliseconds, however large the state is, and what it returned stays as it is while
//     Apply goes on.
//  3. Restore reads to io.EOF, and believes nothing before.
//  4. State is held in the Migratable alone, so that the copy of a host that is no longer wanted is garbage when the
//     library has dropped it. fresh, the function that makes instances, must not hand out the same one twice.
//  5. What Apply does outside, it does once a host: to act once, let a client act on an event, or pass
//     [Command.Epoch] to what is acted on.
//
// All methods of a Migratable are called on one goroutine at a time. Node, Service and Client are safe for concurrent
// use; no callback is made with a lock held.
//
// # What goes wrong, and what happens then
//
// A command that makes Apply panic has the same effect on every host: the client gets [ErrPanic], the service goes on
// with the state as the panic left it, without the events of that command, and [Hooks].Failed is told. An error of Apply is a
// reply like any other. What Validate refuses takes a place in the log all the same, so that a client that asks again gets
// the same answer.
//
// Every 4,096 entries the active host orders a check: the hash of all that was applied up to a point shortly before,
// which covers entries, replies, errors and events, and what a [Hasher] adds. A standby that had another hash there
// tells Hooks.Failed, leaves the in-sync set, and takes a fresh copy.
//
// A host whose disk fails ([NodeConfig.Dir]) acknowledges nothing any more: it tells Hooks.Failed, halts the service, and
// the others go on. What its disk holds then is found out by a new start.
//
// A host that meets an entry of a kind that it does not know, or that finds that an invariant of the protocol does
// not hold, halts the service ([Halted]) and goes on with others.
//
// A command can also kill the process that applies it, by a stack that overflows, say. Standbys apply only what their active
// host has applied, so that such a command kills one host after the other, and not all at once. When three hosts have
// taken over and died before they had committed anything, the next one does not follow them: it is Halted, tells
// Hooks.Failed, answers with [ErrHalted], and keeps its copy, so that [Node.Reset] can go on without that command. Handoffs
// do not count, and takeovers while nothing waits to be committed do not either.
//
// # What can be seen
//
// [Service.Status] says what a service is on this node, [Service.Stats] and [Client.Stats] count what was done, and [Hooks] and
// the loggers tell what happens.
//
// # Clients and hosts on the wire
//
// Version 1. All messages are those of package transport: MessagePack-RPC, whose params are here one array, with the
// fields in this order. Further values at the end of an array are ignored. Times are Unix milliseconds; sessions,
// epochs and incarnations are below 2^53; bodies are bin. A host is the array [id, incarnation, address, key], a key
// bin of 32 bytes, and a record [name, gen, ver, loss, epoch, active, isr, feature, by, nonce].
//
// A client calls:
//
//	"roam.open"   [service, session, resume, loss, epoch]    opens the session, a random number that the client draws, or
//	                                                         takes it up on this connection; resume: it was open before;
//	                                                         the connection that it was on is closed if it has no other;
//	                                                         loss, epoch: the highest term that the client has seen
//	-> [loss, epoch, next, spread]                           the host's term; the number of the next event; see roam.spread
//	"roam.do"     [service, session, seq, low, body]         a command; seq counts from 1 without a gap; replies to those
//	                                                         below low are not wanted any more
//	-> [index, epoch, replicas, reply]                       its place in the log, and how many hosts held it
//	"roam.query"  [service, session, body]
//	-> [index, epoch, reply]                                 the place in the log that the answer reflects
//	"roam.listen" [service, session, from]                   wants events from number from on; 0: those to come
//	-> [next]                                                the first that will come; above from, if some are gone
//	"roam.leave"  [service, session] -> nil                  ends the session
//	"roam.park"   [service, session] -> nil                  to the next host: the session may soon come over this connection
//	"roam.ready"  [service, session]                         a notification to the present host: the connection to the next
//	                                                         one is parked
//
// and a host tells its clients:
//
//	"roam.events"  [service, loss, epoch, first, times, bodies]   events first, first+1, ...; as a call to a client that is
//	                                                              behind, which confirms it so; else as a notification
//	"roam.prepare" [service, host, spread]                        connect to this host, at a random moment of the next spread
//	                                                              milliseconds
//	"roam.moved"   [service, record]                              the service is now where the record says
//	"roam.spread"  [service, spread]                              there are many clients: one that loses this host without
//	                                                              being told to move, and waits for no answer, comes back at
//	                                                              a random moment of that many milliseconds
//	"roam.held"    []                                             every second while the host does not read on, see below
//
// An error that is the reply of a command in the log has the array [index, epoch, replicas, data] as its data, where
// data is the data of the service's own error. [CodeReplyGone] without it says that the command was executed, and that its
// place and its reply are no longer kept. Otherwise, the command has no place in the log, and the client sends it again,
// unless the code is [CodeSessionExpired], [CodeForbidden], [CodeTooLarge] or [CodeStateLost]. A host that does not serve
// the name answers [CodeNotActive], with the newest record that it knows, if any, as the data.
//
// A host reads no further on a connection while 256 requests, or 4 MiB of them, have no answer, and takes up to 1,024 sessions
// of a service on it. A session is carried by the connection that took it up last; the one before is closed if it is not read.
// Where a service has as many sessions as it may, one whose client is not connected ends for a new one.
//
// # Hosts among themselves
//
// A host dials each host that it has something to say to, and what it says there are notifications for all services;
// answers come over the other's connection. The first message is a call:
//
//	"roam.host" [host] -> [host]          who calls, who answers; the key must be the one that the connection has proved
//	"roam.msg"  [service, message]        a notification; message is bin
//
// A message is, with numbers as unsigned varints and byte strings as their length and themselves:
//
//	type, flag (1 byte each), sender's ID (bytes), sender's incarnation, loss, epoch,
//	index, commit, round, prev, epoch of prev, won, served (nanoseconds),
//	reason (bytes), record (bytes: MessagePack, or none), number of entries, entries
//
//	 1  append     the active: entries after prev, and what is committed; a heartbeat if there are none
//	 2  ack        index: the sender's log equals the active's up to there; flag: send again from commit on; epoch of
//	               prev: 1 if the sender holds a copy
//	 3  reject     the term is over: record
//	 4  invite     the active, to a latent host with the incarnation in index: take a copy
//	 5  join       the answer; flag: a copy is there, committed (and on disk, if it has one) up to commit, with the loss in
//	               index; reason: it can't
//	 6  snapshot   the active: fetch the snapshot numbered round; it ends at index, in the epoch in "epoch of prev"
//	 7  record     the active: the record has changed
//	 8  release    the active: the copy is not wanted any more
//	 9  transfer   the active: take over, by this record
//	10  failed     the answer, if that did not happen: reason
//	11  moved      the new active to the old: it serves; won and served say how long each part took
//	12  leave      a standby wants to leave the in-sync set; flag: it holds no copy
//
// An entry is the length of what follows up to its checksum, then kind (1 byte), index, epoch, session, seq, low,
// time, the rest is its body; then the CRC-32C of that, as 4 bytes, little-endian. Kinds: 1 start of an epoch (low:
// the incarnation of the host, if it took over from one that was silent), 2
// session opened (body: key), 3 session closed (seq 1: expired), 4 command, 5 hash (of all up to low), 6 command that
// Validate refused (body: code, length of the message, message, data).
//
// A snapshot is fetched as a bulk transfer (see migrate/internal/bulk), on a connection of its own that begins with
// "roam.host". It holds, in this order, numbers as unsigned varints:
//
//	"roam", format (1), service (bytes), index, epoch, log time, hash, number of sessions, and for each of them,
//	    the one unused for longest first: id, key (32 bytes), log time of its last use, number of its first reply kept,
//	    number of replies, and for each: index, epoch, and either 0 and the reply (bytes) or code, message, data (bytes)
//	number of the first event kept, number of events, and for each: log time, body (bytes)
//	what the service's [Snapshot] wrote, to the end
//
// Version history: 1 is the first.
//
// # On disk
//
// With [NodeConfig.Dir] a host keeps its incarnation over a restart, and with it its place in records. What that rests on is
// that it forgets nothing it has said: each entry is on the disk before it is acknowledged, or counted by the active host
// itself, and a term before anything is said in it. A host that was active does not go on in its epoch when it starts again,
// since others may hold what it has lost: it begins another one with itself, by the same compare-and-swap as ever. A host
// whose service's directory is gone says so to whoever counts on it, and is left out.
//
// Format 1. The directory holds "lock", which is locked while a node uses it, "host", and for each service a directory
// "service-NAME", where other bytes of the name than a-z, 0-9, "-" and "." are percent-encoded, and a long name ends with its
// SHA-256.
//
//	host    "roam-id1", length of the ID (1 byte), ID, incarnation (8 bytes), key (32 bytes), CRC-32C of all that (4 bytes)
//
// and in a service's directory, with n in 16 hexadecimal digits:
//
//	n.log   "roam-wl1", salt (8 random bytes), frames
//	n.snap  "roam-ws1", a snapshot as above, the SHA-256 of both (32 bytes): the state at the beginning of n.log
//	*.tmp   what was not finished: it is removed
//
// A frame is its number, counted from 0, the length of its body, and the CRC-32C of the salt, these two and the body (4
// bytes each, little-endian), then the body. Numbers in it are unsigned varints, byte strings their length and themselves.
// The body of frame 0 is service (bytes), host ID (bytes), incarnation, n, and the state at the beginning; that of any other
// is one or more changes, which share a write. Both are:
//
//	flags (1: there is a copy, 2: the active host may count on it), loss, epoch, number of the invitation followed,
//	loss and epoch of a term that may begin here with an empty state, gen of the resolver,
//	index of the last entry known to be committed, and of the last known to be the active host's,
//	index and epoch of the entry after which entries are replaced (in frame 0: after which the log begins),
//	number of entries, entries as above
//
// A host begins with the highest n of which there are both files (n.snap is missing where the state is empty), and reads
// on through all logs above it. A frame is written when those before it are on the disk, so that a crash can leave only the
// last frame of the last log unfinished; nobody was told of that one, and it is cut off. Whatever else is not as it was written
// is damage: the service does not start, and the error ([ErrStore]) names the file and the byte. Damage in the very last frame
// can't be told from an unfinished one: what was in it, possibly acknowledged, then is missing on this host, and other
// hosts of the in-sync set have to have it. When the log has grown by 64 MiB, or by as much as the last snapshot, the next
// n begins, its snapshot is written while the service goes on, and then the files of lower n are removed.
package migrate
