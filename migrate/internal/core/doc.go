// Package core makes the decisions about one service on one host that need no I/O: which host may order commands, when an
// entry is committed, which hosts are in the in-sync set, when to hand over and when to take over.
//
// A [Core] is a pure state machine. [Core.Step] takes an event and the time; [Core.Ready] returns the resulting work:
// messages to send, entries to apply, a change to propose to the resolver. The package has no clock, goroutine, lock or
// randomness (nonces come from a counter seeded by the incarnation), so that scenario files, a simulator and an exhaustive
// search run the same code as a server.
//
// # Safety
//
// Let M be the confirmed in-sync set of the record plus any host proposed for it; a host enters M before the proposal
// leaves. An entry is committed when every member of M has acknowledged it in the epoch of the host that commits it. A host
// leaves M only when a record without it is seen. Only a member of the in-sync set takes over, so its log holds every
// committed entry. Once it has won its epoch in the record and heard a member, no older host can commit. Safety does not
// depend on time: timers only decide when to try.
//
// # Trust
//
// A message of another host is a reason to read the record, not the record. This host obeys only the host that the record
// names active. It takes a term only from a record that the resolver returned or that a member of its in-sync set tells: in a
// move that saves a round trip, and after a loss the resolver does not have it. About its own proposals, and so about the terms
// in which it is active, it believes only the resolver. In an inquiry, a host that the in-sync set does not name is never
// believed: it can keep this host from taking over, from removing a member and, with the claim that the service began anew,
// from restoring a lost record. This host then reports it as [Core.Better]. A message that no host would send has no effect and
// is reported as [Misconduct]. Members are trusted: their acknowledgements count, and their records.
//
// # Fewer hosts than wanted
//
// The active host removes a member that does not keep up, because it is unreachable or slow; waiting commands then commit
// with fewer copies. With [Config.MinInSync] n above 1 the in-sync set never shrinks below n, unless a member lost its copy.
// A silent member stays in it, and so does a silent active host that another host takes over from. Nothing is committed
// until the silent host is heard again, its next incarnation has taken its place in one change of the record, or a further
// host has joined, after which the silent one is removed. In such an epoch hosts may join before the first entry is
// committed. Like every joining host, they must have acknowledged that entry, and with it everything that may have been
// committed before. While the in-sync set has fewer than n members, as after a creation, only the epoch's first entry is
// committed, so that the host serves and others can join.
package core
