// Package migrate hosts services that move between hosts while they run, and routes clients to them.
//
// A process that hosts services has a [Node]. [Node.Host] starts a service, or stands by if the service exists already;
// [Node.Standby] makes the node a latent host. A service implements [Migratable], a deterministic state machine. It moves on
// a timer ([Policy].Every), on demand ([Service.Handoff]), or before its host shuts down ([Node.Shutdown]). If its host
// dies, a standby takes over. A [Client] finds the service by name; each command takes effect exactly once.
//
//	node, err := migrate.NewNode(migrate.NodeConfig{Resolver: res, Transport: tr})
//	svc, err := node.Host(ctx, "counter.example", newCounter, migrate.Policy{Every: 30 * time.Second})
//	report, err := svc.Handoff(ctx, "") // to a host that the policy selects
//
//	c, err := migrate.Dial(ctx, "counter.example", migrate.ClientConfig{Resolver: res, Transport: tr})
//	reply, err := c.Do(ctx, []byte("+1"))
//
// Node, Service and Client are safe for concurrent use. The library holds no lock when it calls a callback. The package
// example of module roam is a complete program; the root package documents roles, moves and guarantees.
//
// The wire formats and the format on disk are specified in [PROTOCOL.md]. [FAULTS.md] lists the faults that are tested, and
// [PERFORMANCE.md] the measurements.
//
// # Duties of a service
//
//  1. Be deterministic: equal commands must produce equal states, replies and events on every host. Apply takes the time
//     from [Command.Time] and random numbers from the commands, and must not depend on map iteration order.
//  2. Make Snapshot fast, within milliseconds for any size of the state. The returned snapshot must not change while Apply
//     continues.
//  3. Read to io.EOF in Restore. Data before it is unverified.
//  4. Keep the state in the Migratable alone, so that it can be collected when the library drops an unwanted copy. The
//     function that makes instances (fresh) must not return the same instance twice.
//  5. Side effects in Apply happen on every host. To act once, let a client act on an event, or pass [Command.Epoch] to the
//     external system as a fencing token.
//  6. Use no Client inside Apply: its Do and Query fail with [ErrForbidden].
//
// Apply may take any time; see [Migratable]. [Service.Status] and [Service.Stats] show how far a service is behind.
//
// # Failures
//
// If Apply panics on a command, the effect is the same on every host: the client receives [ErrPanic], the service continues
// with the state as the panic left it, without the events of that command, and [Hooks].Failed is called. An error of Apply
// is a reply like any other. A command that Validate refused still takes a place in the log, so that a repeated request
// receives the same answer.
//
// Every 4,096 entries, the active host orders a hash check. It covers all entries applied up to a recent point, with their
// replies, errors and events, and the result of a [Hasher]. A standby with a different hash calls Hooks.Failed, leaves the
// in-sync set and fetches a fresh copy.
//
// A host whose disk fails ([NodeConfig.Dir]) acknowledges nothing more: it calls Hooks.Failed and halts the service, and the
// other hosts continue. The disk is validated at the next start.
//
// A host halts a service ([Halted]) if it meets an entry of an unknown kind or detects a violated invariant of the
// protocol. Its other services continue.
//
// A command can kill the process that applies it, for example by a stack overflow. Standbys apply only what their active
// host has applied, so such a command kills the hosts one at a time, not all at once. After three consecutive hosts took
// over and died before they committed anything, the next one does not take over: it is Halted, calls Hooks.Failed, answers
// with [ErrHalted], and keeps its copy, so that [Node.Reset] can continue without that command. Handoffs, and takeovers with
// no uncommitted entries, are not counted.
//
// # Lost records and directories
//
// The resolver's record names the in-sync set: the hosts that hold every acknowledged command. A resolver or a directory can
// lose its content, or go back to an older one, for example from a backup. Every member below means every member of the
// in-sync set. [Hooks].Failed reports each loss that a host detects, and names the call if a person must decide.
//
//	What happened                    Effect                                      Lost                      Decided by
//
//	Record deleted, rolled back,     The active host restores it within 5 s (1)  nothing                   the hosts
//	or replaced by an old copy;      If it has died, but is back with its
//	every member answers             directory, a member takes over.
//
//	The same, but a member does      No command is acknowledged until that       nothing, unless only      a person, with
//	not answer                       member is back. Reset on a host that        the silent members held   Node.Reset on
//	                                 asks for it keeps what that host holds;     later commands            a named host
//	                                 clients receive ErrStateLost.
//
//	The same, and no member is       Host fails with ErrNoHost. Reset starts     the state                 a person, with
//	left                             an empty service.                                                     Node.Reset
//
//	Record replaced by an old copy,  That host serves with what it holds:        all that was acknowl-    the hosts; both
//	which names a host that was      nothing shows it that the record is old.    edged since the host      sides report it
//	away and comes back; all that    A cut-off active host may acknowledge       was away                  when they meet
//	know better are down, or cut     commands until it reads the record, for
//	off from it                      up to 3 s.
//
//	Two resolvers at once            One service, while its hosts reach one      nothing; if cut off, the  nobody: hosts
//	                                 another. If they are cut off as well,       commands of one side      do not detect
//	                                 each side can acknowledge commands.                                   it
//
//	Directory deleted                The host returns as a new one and fetches   nothing; the state, if    the hosts; a
//	                                 a copy from a member.                       it was the only copy      person
//
//	Directory rolled back            A member that lives brings the host up to   nothing; if it takes      the hosts; both
//	                                 date. If the host takes over instead, it    over, all since the copy  report it when
//	                                 continues from the old copy.                was made                  they meet
//
//	Directory cloned, and both       Two processes act as one host. Both may     the commands of one of    nobody: hosts
//	copies in use                    be active.                                  them                      do not detect
//	                                                                                                       it
//
// (1) A host checks the records of at most 16 services without standbys in each second; with many of these it takes longer.
//
// A host that gives up a copy with commands that the service lacks keeps its files beside the service's directory, so that a
// person can go back to them.
//
// Rows 54 to 59 of [FAULTS.md] name the tests.
//
// # Observability
//
// [Service.Status] describes a service on this node. [Service.Stats] and [Client.Stats] return counters and gauges. [Hooks]
// and the loggers report events.
//
// [PROTOCOL.md]: https://github.com/roam-go/roam/blob/main/migrate/PROTOCOL.md
// [FAULTS.md]: https://github.com/roam-go/roam/blob/main/migrate/FAULTS.md
// [PERFORMANCE.md]: https://github.com/roam-go/roam/blob/main/migrate/PERFORMANCE.md
package migrate
