package transfer

import (
	"context"
	"io"
	"math"

	"github.com/roam-go/roam/migrate/internal/bulk"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/transport"
)

// This file is all that knows how the bytes of a snapshot travel.

type source = bulk.Source

func newSource(snap machine.Snapshot) *source { return bulk.NewSource(snap) }

// requested returns the ID of the snapshot that a request asks for, if it does.
func requested(r *transport.Request) (id uint64, ok bool) { return bulk.ID(r) }

func receive(ctx context.Context, conn transport.Conn, id uint64) io.ReadCloser {
	return bulk.Receive(ctx, conn, id, math.MaxInt64)
}
