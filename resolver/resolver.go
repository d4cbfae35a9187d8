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
	// Get returns the record of a name, or [ErrNotFound]. The read is linearizable.
	Get(ctx context.Context, name string) (Record, error)

	// CompareAndSwap writes next if the name's record has version expect (0: there is no record) and [Check] allows the
	// change. It returns the written record: next with Version = expect+1 and the resolver's Generation. If the version is
	// another one, it returns the present record (zero if there is none) and [ErrConflict].
	//
	// It returns [ErrAmnesia] if the resolver has lost records: if next.Generation is neither 0 nor the resolver's, or if
	// expect is higher than the version of the resolver's record. A next derived from a record keeps its Generation.
	//
	// Repeating the identical call is always safe: if its change is still the newest, the call returns as the first time.
	// After any error other than ErrConflict, [ErrRefused], [ErrInvalid] and ErrAmnesia the outcome is unknown: the change
	// may have been made, or may still be made while the version is expect.
	CompareAndSwap(ctx context.Context, expect uint64, next Record) (Record, error)

	// Watch waits until the name's record has a version other than after, and returns the record. With after 0 it waits
	// until there is a record. A slow watcher gets the newest record, not each one. Watch saves polling; it returns ctx's
	// error when ctx ends.
	Watch(ctx context.Context, name string, after uint64) (Record, error)

	// Announce declares that a host is present, and able to hold the named services, for the next ttl. It replaces the
	// previous announcement of the same host ID. A ttl of 0 withdraws the announcement of this incarnation.
	// [CheckAnnouncement] checks the arguments. If two processes use the same ID, announcements of the earlier one fail with
	// [ErrRefused] while the later one is present.
	Announce(ctx context.Context, h Host, services []string, ttl time.Duration) error

	// Hosts returns the hosts with an unexpired announcement of the name, ordered by ID. A resolver that does not store
	// presence answers only when the hosts have had time to announce themselves after its start: a [Server] a second after
	// that. Give the call a deadline of more than that.
	Hosts(ctx context.Context, name string) ([]Host, error)
}

// Host is one incarnation of a host: one process or, if the host keeps its services on disk (NodeConfig.Dir of package
// migrate), all processes that use the same directory.
type Host struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	// ID is the name of the host. It is unique among hosts and stays the same over restarts.
	ID string
	// Incarnation is a random number from 1 to 2^53-1, chosen at each start of the process, or once if the host keeps its
	// services on disk.
	Incarnation uint64
	// Addr is the address of the host's listener.
	Addr string
	// Key is the key that the host proves, zero if its transport proves none.
	Key transport.Key
}

// String returns the ID and the address of h, such as "host-a at 10.0.0.1:7000", or "no host" for the zero Host.
func (h Host) String() string {
	switch {
	case h.isZero():
		return "no host"
	case h.Addr == "":
		return h.ID
	}
	return h.ID + " at " + h.Addr
}

// Same reports whether h and o are the same incarnation of the same host. Addresses and keys may differ.
func (h Host) Same(o Host) bool { return h.ID == o.ID && h.Incarnation == o.Incarnation }

// Record says which host serves a name. The pair (Loss, Epoch) is the fencing token: every message between hosts and to
// clients carries it, and a receiver that has seen a higher token refuses a lower one.
type Record struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	// Name is the name of the service.
	Name string
	// Generation identifies the data of the resolver. It changes when a resolver starts without its records. Hosts then bring
	// the records of running services back.
	Generation uint64
	// Version grows by one with each change.
	Version uint64
	// Loss identifies a beginning of the service, and is higher for a later one, also if the resolver has forgotten the
	// earlier one: a host draws it from the clock, milliseconds times 1024, plus a number of the host. Commands acknowledged
	// under a lower Loss may be lost.
	Loss uint64
	// Epoch counts the terms. It begins with 1, grows by one whenever another incarnation becomes active, and never decreases
	// while Loss stays the same. It grows by [RestoreStep] or more when the hosts restore a record that the resolver has lost,
	// and when the service begins anew.
	Epoch uint64
	// Active is the host that serves. It is the zero Host if the service was retired.
	Active Host
	// ISR is the in-sync set: the hosts that hold every acknowledged command, the active one included. Only they may become
	// active.
	ISR []Host
	reserved
	// Proposer is the host that proposes this version. [Check] decides whether it may.
	Proposer Host
	// Nonce is a random number that distinguishes this proposal from others.
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
