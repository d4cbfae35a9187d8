package resolver

import (
	"time"

	"github.com/roam-go/roam/transport/msgpack"
)

// The methods of a resolver on the wire; doc.go describes them field by field.
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
	partMore  = 1 // it goes on in the next call
	partRenew = 2 // there is no list: prolong the announcement that had the digest
)

// Bounds on one call of an announcement: it must fit in a message, and in what transport.Unmarshal takes.
const (
	partNames = 8192
	partBytes = 128 << 10
	maxDigest = 64
)

// wireTTL is ttl in milliseconds, rounded up so that a short one does not become a withdrawal.
func wireTTL(ttl time.Duration) uint64 {
	return uint64((ttl + time.Millisecond - 1) / time.Millisecond)
}

// onWire is r as it is encoded: an empty in-sync set is an empty array, as other languages expect, and not nil.
func (r Record) onWire() Record {
	if r.ISR == nil {
		r.ISR = []Host{}
	}
	return r
}

// decodeRecord reads a record that a resolver sent.
func decodeRecord(data []byte) (Record, error) {
	var r Record
	if err := msgpack.UnmarshalSmall(data, &r); err != nil {
		return Record{}, err
	}
	return r.clone(), nil
}
