package resolver

import (
	"time"

	"github.com/roam-go/roam/transport/msgpack"
)

// The methods of a resolver. PROTOCOL.md describes them.
const (
	methodGet      = "resolver.get"      // nameParams -> Record
	methodCAS      = "resolver.cas"      // casParams -> Record
	methodWatch    = "resolver.watch"    // watchParams -> Record
	methodUnwatch  = "resolver.unwatch"  // unwatchParams, a notification
	methodAnnounce = "resolver.announce" // announceParams -> bool
	methodHosts    = "resolver.hosts"    // nameParams -> []Host
)

type nameParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Name string
}

type casParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Expect uint64
	Next   Record
}

type watchParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Name  string
	After uint64
	ID    uint64
}

type unwatchParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	ID uint64
}

type announceParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Host     Host
	TTL      uint64 // milliseconds
	Digest   []byte
	Part     uint8
	Services []string
}

// The values of announceParams.Part.
const (
	partLast  = 0 // the list of services ends here
	partMore  = 1 // the list continues in the next call
	partRenew = 2 // no list: renew the announcement with the digest
)

// Limits of one call of an announcement: it must fit in a message and satisfy transport.Unmarshal.
const (
	partNames = 8192
	partBytes = 128 << 10
	maxDigest = 64
)

// wireTTL returns ttl in milliseconds, rounded up so that a short one does not become a withdrawal.
func wireTTL(ttl time.Duration) uint64 {
	return uint64((ttl + time.Millisecond - 1) / time.Millisecond)
}

// onWire returns r for encoding: an empty in-sync set becomes an empty array, as other languages expect, not nil.
func (r Record) onWire() Record {
	if r.ISR == nil {
		r.ISR = []Host{}
	}
	return r
}

// decodeRecord decodes a record from a resolver.
func decodeRecord(data []byte) (Record, error) {
	var r Record
	if err := msgpack.UnmarshalSmall(data, &r); err != nil {
		return Record{}, err
	}
	return r.clone(), nil
}
