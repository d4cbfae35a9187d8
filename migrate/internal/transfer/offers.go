package transfer

import (
	"context"
	"sync"
	"time"

	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// OfferTimeout is how long an offered snapshot is kept for the host that is to fetch it.
const OfferTimeout = 10 * time.Second

// Offers holds the snapshots that other hosts may fetch, each once. It is safe for concurrent use.
type Offers struct {
	ctx  context.Context
	host string
	run  func(func()) bool

	mu     sync.Mutex // guards the fields below
	offers map[uint64]*offer
	closed bool
}

// offer is a captured snapshot that one host may fetch, once.
type offer struct {
	to     resolver.Host
	snap   machine.Snapshot
	source *source
	sent   func(bytes int64, err error)
	timer  *time.Timer // drops it after OfferTimeout
}

// NewOffers returns the Offers of a host, named by its ID. Snapshots are sent until ctx ends, on goroutines that run starts;
// it reports false if the host is closed.
func NewOffers(ctx context.Context, host string, run func(func()) bool) *Offers {
	return &Offers{ctx: ctx, host: host, run: run, offers: make(map[uint64]*offer)}
}

// Add offers a snapshot to a host, and returns the ID under which it can be fetched. The snapshot is released when it was
// sent, when it was not fetched within OfferTimeout, and on Close; after Close it is released at once, and the ID is 0. No
// lock is held then. sent is called on another goroutine when a fetch of the snapshot has ended.
func (o *Offers) Add(to resolver.Host, snap machine.Snapshot, sent func(bytes int64, err error)) (id uint64) {
	id = wire.RandomID()
	of := &offer{to: to, snap: snap, source: newSource(snap), sent: sent}
	o.mu.Lock()
	closed := o.closed
	if !closed {
		of.timer = time.AfterFunc(OfferTimeout, func() {
			if o.take(of, id) {
				of.snap.Release()
			}
		})
		o.offers[id] = of
	}
	o.mu.Unlock()
	if closed {
		snap.Release()
		return 0
	}
	return id
}

// take removes an offer, and reports whether it was still there: then the caller has to release the snapshot.
func (o *Offers) take(of *offer, id uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	mine := o.offers[id] == of
	if mine {
		delete(o.offers, id)
	}
	return mine
}

// Close releases the snapshots that were not fetched, and ends all offers.
func (o *Offers) Close() {
	o.mu.Lock()
	o.closed = true
	offers := o.offers
	o.offers = nil
	o.mu.Unlock()
	for _, of := range offers {
		of.timer.Stop()
		of.snap.Release()
	}
}

// Upload is what one connection of another host fetches: one snapshot at most. The zero value is ready for use, by the
// connection's reading goroutine.
type Upload struct {
	id     uint64
	source *source // nil: nothing yet
}

// Closed ends the upload when its connection has ended with err.
func (u *Upload) Closed(err error) {
	if u.source != nil {
		u.source.Closed(err)
	}
}

// Handle answers a request that belongs to a fetch, and reports whether it does. from is the host that has proved its key on
// the connection; a snapshot is sent only to the host that it was offered to.
func (o *Offers) Handle(u *Upload, from resolver.Host, r *transport.Request) bool {
	id, ok := requested(r)
	if !ok {
		return false
	}
	if u.source == nil || u.id != id {
		of := o.start(u, from, id)
		if of == nil {
			r.Reply(nil, transport.Errorf(wire.CodeForbidden, "migrate: host %s offers host %q no such snapshot", o.host, from.ID))
			return true
		}
		of.timer.Stop()
		if !o.run(func() { of.send(o.ctx) }) {
			of.snap.Release()
			return true // the connection is about to be closed
		}
		u.id, u.source = id, of.source
	}
	u.source.Handle(r)
	return true
}

// start takes the offer that a host begins to fetch, or returns nil if it may not.
func (o *Offers) start(u *Upload, from resolver.Host, id uint64) *offer {
	o.mu.Lock()
	of := o.offers[id]
	o.mu.Unlock()
	if of == nil || u.source != nil || !of.to.Same(from) || of.to.Key != from.Key || !o.take(of, id) {
		return nil
	}
	return of
}

func (of *offer) send(ctx context.Context) {
	bytes, err := of.source.Send(ctx)
	of.snap.Release()
	of.sent(bytes, err)
}
