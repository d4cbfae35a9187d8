package migrate

import (
	"context"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// outgoing is a captured state that another host may fetch, once.
type outgoing struct {
	service *Service
	to      resolver.Host
	snap    machine.Snapshot
	source  *transport.BulkSource
	timer   *time.Timer // drops it if it is not fetched
}

// fetching is a state on its way to this host.
type fetching struct {
	core.Fetch
	cancel context.CancelFunc
}

// fetchWait is how long a captured state waits to be fetched.
const fetchWait = 10 * time.Second

func (n *Node) offer(s *Service, to resolver.Host, snap machine.Snapshot) uint64 {
	id := wire.RandomID()
	o := &outgoing{service: s, to: to, snap: snap, source: transport.NewBulkSource(snap)}
	n.mu.Lock()
	closed := n.closed
	if !closed {
		o.timer = time.AfterFunc(fetchWait, func() {
			if n.takeOffer(o, id) {
				o.snap.Release()
			}
		})
		n.offers[id] = o
	}
	n.mu.Unlock()
	if closed {
		snap.Release() // may call the node
		return 0
	}
	return id
}

// takeOffer reports whether the caller is the one who disposes of an offer.
func (n *Node) takeOffer(o *outgoing, id uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	mine := n.offers[id] == o
	delete(n.offers, id)
	return mine
}

// dropOffers releases what was not fetched.
func (n *Node) dropOffers() {
	n.mu.Lock()
	offers := n.offers
	n.offers = nil
	n.mu.Unlock()
	for _, o := range offers {
		o.timer.Stop()
		o.snap.Release()
	}
}

func (o *outgoing) send(ctx context.Context) {
	bytes, err := o.source.Send(ctx)
	o.snap.Release()
	s := o.service
	if err != nil {
		s.log.Warn("copy not sent", "to", o.to.ID, "bytes", bytes, "err", err)
		return
	}
	s.post(item{kind: itemFunc, fn: func() {
		s.stats.SnapshotsSent++
		s.stats.SnapshotBytesSent += uint64(bytes)
		if s.move != nil && s.move.report.To.Same(o.to) {
			s.move.report.Bytes = bytes
		}
	}})
}

// startFetch fetches and restores a state.
func (s *Service) startFetch(f core.Fetch) {
	ctx, cancel := context.WithCancel(s.node.ctx)
	s.mu.Lock()
	s.stopFetch()
	s.fetch = &fetching{f, cancel}
	if s.stopped {
		s.stopFetch()
	}
	s.mu.Unlock()
	s.node.wg.Go(func() {
		began := time.Now()
		m, bytes, err := s.fetchState(ctx, f)
		cancel()
		if err != nil {
			err = fmt.Errorf("migrate: service %s: no copy from host %s: %w", s.name, f.From.ID, err)
		} else {
			s.log.Info("copy fetched", "from", f.From.ID, "took", time.Since(began), "bytes", bytes)
		}
		s.post(item{kind: itemFunc, fn: func() { s.fetched(f, m, bytes, err) }})
	})
}

// stopFetch gives up the state that is on its way; s.mu is held.
func (s *Service) stopFetch() {
	if s.fetch != nil {
		s.fetch.cancel()
	}
}

func (s *Service) fetchState(ctx context.Context, f core.Fetch) (m *machine.Machine, bytes int64, err error) {
	conn, err := s.node.links.Connect(ctx, f.From, nil)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	r := transport.ReceiveBulk(ctx, conn, f.ID, math.MaxInt64)
	defer r.Close()
	count := &countingReader{r: r}
	src, kept, err := s.keep(ctx, count)
	if err != nil {
		return nil, 0, err
	}
	m, err = s.restore(src)
	if err != nil {
		kept(false)
		return nil, count.n, err
	}
	if index, epoch := m.Applied(); index != f.Index || epoch != f.Epoch {
		kept(false)
		return nil, count.n, fmt.Errorf("it ends at entry %d of epoch %d, not at %d of %d", index, epoch, f.Index, f.Epoch)
	}
	return m, count.n, kept(true)
}

// fetched takes the copy into use if it is still wanted.
func (s *Service) fetched(f core.Fetch, m *machine.Machine, bytes int64, err error) {
	if s.fetch != nil && s.fetch.ID == f.ID {
		s.mu.Lock()
		s.fetch = nil
		s.mu.Unlock()
	}
	if err != nil {
		m = nil
		if s.node.ctx.Err() == nil {
			s.log.Warn("copy not fetched", "err", err)
			s.report(err)
		}
	} else {
		s.stats.SnapshotsReceived++
		s.stats.SnapshotBytesReceived += uint64(bytes)
	}
	s.replica.Restored(f, m)
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
