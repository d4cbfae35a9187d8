package migrate

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/transfer"
	"github.com/roam-go/roam/resolver"
)

// sent counts a snapshot that another host has fetched, or logs why the fetch failed.
func (s *Service) sent(to resolver.Host, bytes int64, err error) {
	if err != nil {
		s.log.Warn("copy not sent", "to", to.ID, "bytes", bytes, "err", err)
		return
	}
	s.call(func() {
		s.counts.snapshotsSent++
		s.counts.snapshotBytesSent += uint64(bytes)
		s.mover.sent(to, bytes)
	})
}

// fetching is the latest fetch of a snapshot. It belongs to the loop, except that stop may be called by any goroutine.
type fetching struct {
	current atomic.Pointer[transfer.Download] // nil: none, or its result has arrived
}

// stop stops the fetch.
func (f *fetching) stop() {
	if d := f.current.Load(); d != nil {
		d.Stop()
	}
}

// done forgets the fetch of a snapshot whose result has arrived.
func (f *fetching) done(id uint64) {
	if d := f.current.Load(); d != nil && d.ID == id {
		f.current.Store(nil)
	}
}

// startFetch fetches and restores a snapshot.
func (s *Service) startFetch(f core.Fetch) {
	s.fetching.stop()
	s.fetching.current.Store(s.node.fetcher.Start(f, s.receiver()))
	if s.board.ended() {
		s.fetching.stop() // the service's stop may have come before Store
	}
}

// receiver returns the service's side of a fetch.
func (s *Service) receiver() transfer.Receiver {
	return transfer.Receiver{MaxBytes: s.policy.MaxState, Keep: s.disk.keep, Restore: s.maker.restore, Fetched: func(r transfer.Result) {
		if errors.Is(r.Err, transfer.ErrTooLarge) {
			r.Err = fmt.Errorf("%w: this host accepts no larger copy (Policy.MaxState)", r.Err)
		}
		if r.Err != nil {
			r.Err = fmt.Errorf("migrate: service %s: no copy from host %s: %w", s.name, r.From.ID, r.Err)
		} else {
			s.log.Info("copy fetched", "from", r.From.ID, "took", r.Took, "bytes", r.Bytes)
		}
		s.call(func() { s.fetched(r) })
	}}
}

// fetched reports the result of a fetch to the core, and uses the machine if the core accepts it.
func (s *Service) fetched(r transfer.Result) {
	s.fetching.done(r.ID)
	if r.Err != nil {
		if s.node.ctx.Err() == nil {
			s.log.Warn("copy not fetched", "err", r.Err)
			s.report(r.Err)
		}
	} else {
		s.counts.snapshotsReceived++
		s.counts.snapshotBytesReceived += uint64(r.Bytes)
	}
	s.replica.Restored(r.Fetch, r.Machine)
}
