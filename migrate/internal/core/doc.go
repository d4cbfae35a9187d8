// Package core decides everything about one service on one host that can be decided without I/O: who may order commands,
// when one is committed, who is in the in-sync set, when to move and when to take over.
//
// A [Core] is a pure state machine. [Core.Step] takes an event and the time; [Core.Ready] returns what has to be done about
// it: messages to send, entries to apply, a change to propose to the resolver. There is no clock, goroutine, lock or
// randomness in it (nonces come from a counter seeded by the incarnation), so that scenario files, a simulator and an
// exhaustive search run the code that serves.
//
// # Safety
//
// An entry is committed when every member of M has acknowledged it in the epoch of the host that commits it, where M is the
// confirmed in-sync set of the record, and any host proposed for it from the moment before the proposal leaves. A host
// leaves M only when a record that no longer has it is seen. Whoever takes over is in the in-sync set, so its log holds all
// that was committed; by winning its epoch in the record and then hearing a member, it makes every older host unable to
// commit. No safety rests on time: timers only decide when to try.
//
// # Fewer hosts than wanted
//
// A member that does not keep up, because it is not heard or is slow, is removed, and what waits for it goes on with fewer
// copies. With [Config.MinInSync] n above 1 the in-sync set never becomes smaller than n, save by a member that has lost its copy: a silent member stays in it, even
// the active host that another one takes over from, and nothing is committed until it is heard again, its next incarnation
// has taken its place in one change of the record, or a further host has joined, whereupon it is removed. In such an epoch
// hosts may join before the first entry is committed. They must have acknowledged that entry, like any host that joins, and
// so have all that can have been committed before. While the in-sync set has fewer than n members, as after a creation,
// nothing is committed but the epoch's first entry, so that the host serves and others can join.
package core
