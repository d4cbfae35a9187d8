package wire

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// MaxCommand is the size in bytes of the largest command or query.
const MaxCommand = 512 << 10

// MaxSpread bounds the time over which a host may ask its clients to come back.
const MaxSpread = 10 * time.Second

// RandomID draws a number from 1 to 2^53-1: a session, an incarnation, a snapshot.
func RandomID() uint64 {
	var b [8]byte
	for {
		rand.Read(b[:]) // never fails
		if id := binary.LittleEndian.Uint64(b[:]) >> 11; id != 0 {
			return id
		}
	}
}

// CheckName checks the name of a service.
func CheckName(service string) error {
	if err := resolver.CheckName(service); err != nil {
		return fmt.Errorf("%w: %w", transport.Errorf(CodeConfig, "migrate: not the name of a service"), err)
	}
	return nil
}

// IsTimeout reports whether a call or a dial ended because it took too long.
func IsTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, transport.ErrTimeout)
}
