package transfer

import (
	"context"
	"io"

	"github.com/roam-go/roam/migrate/internal/bulk"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/transport"
)

// Only this file depends on the protocol that carries the bytes of a snapshot.

type source = bulk.Source

func newSource(snap machine.Snapshot) *source { return bulk.NewSource(snap) }

// requested returns the ID of the snapshot that a request asks for, if it does.
func requested(r *transport.Request) (id uint64, ok bool) { return bulk.ID(r) }

func receive(ctx context.Context, conn transport.Conn, id uint64, limit int64) io.ReadCloser {
	return bulk.Receive(ctx, conn, id, limit)
}

// ErrTooLarge is wrapped by the error of a fetch of more than [Receiver].MaxBytes bytes.
var ErrTooLarge = bulk.ErrTooLarge
