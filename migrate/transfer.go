package migrate

import (
	"fmt"

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
	s.post(item{kind: itemFunc, fn: func() {
		s.stats.SnapshotsSent++
		s.stats.SnapshotBytesSent += uint64(bytes)
		if s.move != nil && s.move.report.To.Same(to) {
			s.move.report.Bytes = bytes
		}
	}})
}

// startFetch fetches and restores a snapshot.
func (s *Service) startFetch(f core.Fetch) {
	s.mu.Lock()
	s.stopFetch()
	s.mu.Unlock()
	d := s.node.fetcher.Start(f, s.receiver())
	s.mu.Lock()
	s.fetch = d
	if s.stopped {
		s.stopFetch()
	}
	s.mu.Unlock()
}

// receiver returns the service's side of a fetch.
func (s *Service) receiver() transfer.Receiver {
	return transfer.Receiver{Keep: s.keep, Restore: s.restore, Fetched: func(r transfer.Result) {
		if r.Err != nil {
			r.Err = fmt.Errorf("migrate: service %s: no copy from host %s: %w", s.name, r.From.ID, r.Err)
		} else {
			s.log.Info("copy fetched", "from", r.From.ID, "took", r.Took, "bytes", r.Bytes)
		}
		s.call(func() { s.fetched(r) })
	}}
}

// stopFetch stops the latest fetch; s.mu is held.
func (s *Service) stopFetch() {
	if s.fetch != nil {
		s.fetch.Stop()
	}
}

// fetched reports the result of a fetch to the core, and uses the machine if the core accepts it.
func (s *Service) fetched(r transfer.Result) {
	if s.fetch != nil && s.fetch.ID == r.ID {
		s.mu.Lock()
		s.fetch = nil
		s.mu.Unlock()
	}
	if r.Err != nil {
		if s.node.ctx.Err() == nil {
			s.log.Warn("copy not fetched", "err", r.Err)
			s.report(r.Err)
		}
	} else {
		s.stats.SnapshotsReceived++
		s.stats.SnapshotBytesReceived += uint64(r.Bytes)
	}
	s.replica.Restored(r.Fetch, r.Machine)
}
