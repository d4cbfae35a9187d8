package transfer

import (
	"context"
	"time"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

const (
	// aheadFor is how long a connection made ahead waits for a fetch.
	aheadFor = 10 * time.Second
	// maxAhead bounds the connections made ahead.
	maxAhead = 16
)

// ahead is a connection for the next fetch from a host.
type ahead struct {
	made   chan struct{}  // closed when conn is set
	conn   transport.Conn // nil if there is none
	cancel context.CancelFunc
}

// Handle implements [transport.Handler].
func (a *ahead) Handle(_ transport.Conn, r *transport.Request) {
	r.Reply(nil, transport.Errorf(transport.CodeNoMethod, "migrate: method %s is not served here", r.Method))
}

// Closed implements [transport.Handler].
func (a *ahead) Closed(transport.Conn, error) { a.cancel() }

// Prepare connects to a host from which this one is likely to fetch a snapshot soon, unless it has done so already. The
// fetch then need not wait for a connection, which takes four round trips.
func (f *Fetcher) Prepare(from resolver.Host) {
	ctx, cancel := context.WithTimeout(f.ctx, aheadFor)
	a := &ahead{made: make(chan struct{}), cancel: cancel}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ahead[from] != nil || len(f.ahead) >= maxAhead {
		cancel()
		return
	}
	if f.ahead == nil {
		f.ahead = make(map[resolver.Host]*ahead)
	}
	f.ahead[from] = a
	if !f.run(func() {
		defer cancel()
		a.conn, _ = f.links.Connect(ctx, from, a) // after an error, the fetch connects itself
		close(a.made)
		if a.conn != nil {
			<-ctx.Done()
		}
		if f.drop(from, a) && a.conn != nil {
			a.conn.Close()
		}
	}) {
		delete(f.ahead, from)
		cancel()
	}
}

// drop removes a, and reports whether it was still there: then the caller has its connection.
func (f *Fetcher) drop(from resolver.Host, a *ahead) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	mine := f.ahead[from] == a
	if mine {
		delete(f.ahead, from)
	}
	return mine
}

// connect returns the connection made ahead, or another one.
func (f *Fetcher) connect(ctx context.Context, from resolver.Host) (transport.Conn, error) {
	f.mu.Lock()
	a := f.ahead[from]
	f.mu.Unlock()
	if a != nil {
		select {
		case <-a.made:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if f.drop(from, a) && a.conn != nil {
			a.cancel()
			return a.conn, nil
		}
	}
	return f.links.Connect(ctx, from, nil)
}
