package resolver

import (
	"context"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/roam-go/roam/transport"
)

// Resolver is a name service. It is safe for concurrent use.
//
// Implementations pass the suite in package resolvertest.
type Resolver interface {
	// Get returns the record of a name as it is at some moment between the call and its return (a linearizable read), or
	// [ErrNotFound].
	Get(ctx context.Context, name string) (Record, error)

	// CompareAndSwap writes next if the name's record has version expect (0: there is none) and [Check] allows the
	// change, and returns what it wrote: next with Version = expect+1 and Generation filled in. Where the version differs it returns
	// the present record (zero if there is none) and [ErrConflict].
	//
	// A resolver that has lost records says [ErrAmnesia]: when next.Generation is neither 0 nor the resolver's, and when its
	// record has a version below expect. A next made from a record that was read keeps that record's Gen.
	//
	// To resend the identical call is always safe: if the change was made before and is still the newest, it is answered
	// as if it were made now. Any error other than ErrConflict, [ErrRefused], [ErrInvalid] and ErrAmnesia leaves the
	// outcome unknown: the change may have been made, or may still be made until the version has moved on.
	CompareAndSwap(ctx context.Context, expect uint64, next Record) (Record, error)

	// Watch waits until the name's record has a version other than after and returns it; after 0 returns the first
	// record there is. A slow watcher sees the newest record, not each one. It is a hint that spares polling, and ends
	// with ctx's error.
	Watch(ctx context.Context, name string, after uint64) (Record, error)

	// Announce says that a host is present, and willing to hold the named services, for the next ttl; it replaces what
	// the same host ID announced before. A ttl of 0 withdraws it. At most 131,072 names. Where two processes have
	// one ID, the one that came first gets [ErrRefused] from then on.
	Announce(ctx context.Context, h Host, services []string, ttl time.Duration) error

	// Hosts returns the hosts whose announcement for the name has not run out, ordered by ID.
	Hosts(ctx context.Context, name string) ([]Host, error)
}

// Host is one incarnation of one host: a process that was started once, or, where a host keeps its services on disk
// (package migrate's NodeConfig.Dir), each process that goes on with what is there.
type Host struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	// ID is the host's name, unique among hosts; it stays the same over restarts.
	ID string
	// Incarnation is the incarnation: a random number from 1 to 2^53-1. It is drawn at each start of the process; where the host
	// keeps its services on disk it is drawn once, and kept there over restarts.
	Incarnation uint64
	// Addr is where the host's transport listens.
	Addr string
	// Key is the key that the host proves; zero where the transport proves none.
	Key transport.Key
}

// String is h for people to read: "host-a at 10.0.0.1:7000", the ID alone where there is no address, and "no host" for the
// zero Host. The incarnation and the key are not in it.
func (h Host) String() string {
	switch {
	case h.isZero():
		return "no host"
	case h.Addr == "":
		return h.ID
	}
	return h.ID + " at " + h.Addr
}

// Same reports whether h and o are the same incarnation of the same host, whatever address is given for it.
func (h Host) Same(o Host) bool { return h.ID == o.ID && h.Incarnation == o.Incarnation }

// Record says who serves a name. The pair (Loss, Epoch) is the fencing token: everything that hosts say to one another
// and to clients carries it, and who has seen a higher one refuses a lower one.
type Record struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	// Name is the service.
	Name string
	// Generation identifies the memory of the resolver: it changes when a resolver starts without what it knew.
	Generation uint64
	// Version grows by one with each change.
	Version uint64
	// Loss grows each time that the service is restarted without its state, by one, or by more where the resolver had lost the
	// record: what was acknowledged under a lower Loss can be gone.
	Loss uint64
	// Epoch counts the terms: it grows by one whenever another incarnation becomes active, and never goes back.
	Epoch uint64
	// Active serves. It is the zero Host when the service was retired ([Retire]).
	Active Host
	// ISR is the in-sync set: the hosts that hold every acknowledged command, the active included. Only they may become
	// active.
	ISR []Host
	reserved
	// Proposer is the host that proposes this version; [Check] compares it with the rights that the version before gives.
	Proposer Host
	// Nonce tells this proposal from any other.
	Nonce uint64
}

// reserved is the place in an encoded record of a number that is not used: always 0, ignored when read.
type reserved struct{ Reserved zero }

type zero struct{}

// CodecEncodeSelf implements codec.Selfer.
func (zero) CodecEncodeSelf(e *codec.Encoder) { e.MustEncode(uint64(0)) }

// CodecDecodeSelf implements codec.Selfer.
func (*zero) CodecDecodeSelf(d *codec.Decoder) {
	var ignored uint64
	d.MustDecode(&ignored)
}
