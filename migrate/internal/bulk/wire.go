// Package bulk transfers a stream of bytes of any length over a [transport.Conn], in checked chunks. A transfer should have
// a connection of its own, so that no other message waits behind it.
//
// The receiver sends calls, several at a time; the sender answers them in order:
//
//	"roam.bulk.pull" [id, n]        n counts the receiver's pulls of this transfer from 0
//	-> [0, offset, crc, data]       bytes at offset; data is bin of 1 byte to 256 KiB; crc is the CRC-32C (Castagnoli) of
//	                                the offset as 8 bytes, big-endian, followed by data
//	-> [1, total, sum]              the end: the number of bytes, and the SHA-256 (bin) of all chunks' entries, each the
//	                                offset and the length as 8 bytes and the crc as 4, big-endian
//	"roam.bulk.stop" [id]           a notification: the receiver ends the transfer
//
// The checksums find errors that TCP misses, in a chunk and in the sequence of chunks, at a fraction of the cost of a
// cryptographic hash of all data. They do not protect against an attacker, who could replace the hash, too; TLS does.
package bulk

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"strings"

	"github.com/roam-go/roam/migrate/internal/binenc"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// The methods of a transfer.
const (
	MethodPull = "roam.bulk.pull"
	MethodStop = "roam.bulk.stop"
)

const (
	header = 21        // bytes before the data of a chunk, whose numbers have their full width
	chunk  = 256 << 10 // bytes of data in a chunk, at most
	window = 8         // calls in flight: 2 MiB
)

func checksum(offset uint64, data []byte) uint32 {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], offset)
	return binenc.CRC(b[:], data)
}

// total is the hash of the chunks' entries.
type total struct{ hash.Hash }

func newTotal() total { return total{sha256.New()} }

func (t total) add(offset uint64, crc uint32, n int) {
	var b [20]byte
	binary.BigEndian.PutUint64(b[:], offset)
	binary.BigEndian.PutUint64(b[8:], uint64(n))
	binary.BigEndian.PutUint32(b[16:], crc)
	t.Write(b[:])
}

// ID reports whether a request belongs to a transfer, and to which. A handler passes such a request to [Source.Handle] of
// the source with that id, and answers a call for an unknown id with an error.
func ID(r *transport.Request) (id uint64, ok bool) {
	if !strings.HasPrefix(r.Method, "roam.bulk.") {
		return 0, false
	}
	v := msgpack.NewReader(r.Params)
	v.Array()
	id = v.Uint()
	return id, v.Err() == nil
}
