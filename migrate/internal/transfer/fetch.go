package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/peer"
	"github.com/roam-go/roam/resolver"
)

// Fetcher fetches snapshots from other hosts.
type Fetcher struct {
	ctx   context.Context
	links *peer.Links
	run   func(func()) bool

	mu    sync.Mutex // guards ahead
	ahead map[resolver.Host]*ahead
}

// NewFetcher returns a Fetcher. Fetches end with ctx, and have goroutines that run starts; it reports false if the host is
// closed.
func NewFetcher(ctx context.Context, links *peer.Links, run func(func()) bool) *Fetcher {
	return &Fetcher{ctx: ctx, links: links, run: run}
}

// Receiver is the service that a snapshot is fetched for. Its functions are called on the goroutine of the fetch.
type Receiver struct {
	// MaxBytes limits the bytes of a snapshot, whatever the other host sends: a fetch of more fails with [ErrTooLarge].
	MaxBytes int64
	// Keep returns a reader of snapshot that also stores what is read, if the host has a disk for it. done ends that: the store
	// keeps the snapshot if ok, and discards it else.
	Keep func(ctx context.Context, snapshot io.Reader) (r io.Reader, done func(ok bool) error, err error)
	// Restore makes a machine of a snapshot.
	Restore func(io.Reader) (*machine.Machine, error)
	// Fetched takes the result; Fetch does not call it.
	Fetched func(Result)
}

// Result is the outcome of a fetch.
type Result struct {
	core.Fetch
	Machine *machine.Machine // nil after an error
	Bytes   int64            // received
	Took    time.Duration
	Err     error
}

// Download is a fetch that was started.
type Download struct {
	ID     uint64 // of the snapshot
	cancel context.CancelFunc
}

// Stop ends the download, if it has not ended: its result is then an error.
func (d *Download) Stop() { d.cancel() }

// Start fetches and restores a snapshot on a goroutine of its own, which gives the result to the receiver. There is no
// result if the host is closed.
func (f *Fetcher) Start(what core.Fetch, to Receiver) *Download {
	ctx, cancel := context.WithCancel(f.ctx)
	if !f.run(func() {
		began := time.Now()
		m, bytes, err := f.Fetch(ctx, what, to)
		cancel()
		to.Fetched(Result{what, m, bytes, time.Since(began), err})
	}) {
		cancel()
	}
	return &Download{what.ID, cancel}
}

// Fetch fetches and restores a snapshot, and returns how many bytes it received. The snapshot must be of the entry that what
// names.
func (f *Fetcher) Fetch(ctx context.Context, what core.Fetch, to Receiver) (m *machine.Machine, bytes int64, err error) {
	conn, err := f.connect(ctx, what.From)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	data := receive(ctx, conn, what.ID, to.MaxBytes)
	defer data.Close()
	count := &countingReader{r: data}
	r, done, err := to.Keep(ctx, count)
	if err != nil {
		return nil, 0, err
	}
	m, err = to.Restore(r)
	if err != nil {
		done(false)
		if errors.Is(count.err, ErrTooLarge) {
			err = count.err // the service's Restore need not have returned it
		}
		return nil, count.n, err
	}
	if index, epoch := m.Applied(); index != what.Index || epoch != what.Epoch {
		done(false)
		return nil, count.n, fmt.Errorf("it ends at entry %d of epoch %d, not at %d of %d", index, epoch, what.Index, what.Epoch)
	}
	if err := done(true); err != nil {
		return nil, count.n, err
	}
	return m, count.n, nil
}

type countingReader struct {
	r   io.Reader
	n   int64
	err error // the last one
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.err = err
	return n, err
}
