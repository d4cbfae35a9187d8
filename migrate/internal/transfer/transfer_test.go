package transfer

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/peer"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// app is a service whose state is one string.
type app struct {
	machine.App
	state string
}

func (a *app) Snapshot() (machine.Snapshot, error) { return text(a.state), nil }
func (a *app) Hash() (uint64, bool)                { return 0, false }
func (a *app) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	a.state = string(b)
	return err
}

type text string

func (s text) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(s))
	return int64(n), err
}
func (text) Release() {}

// counted counts the releases of a snapshot, during each of which the offers must be usable.
type counted struct {
	machine.Snapshot
	b        *bench
	released atomic.Int32
}

func (c *counted) Release() {
	c.b.offers.mu.Lock() // blocks for ever if the caller holds the lock
	defer c.b.offers.mu.Unlock()
	c.released.Add(1)
	c.Snapshot.Release()
}

// bench is a host "a" with offers, and a host "b" that fetches.
type bench struct {
	t       *testing.T
	net     *transport.Memory
	offers  *Offers
	fetcher *Fetcher
	a, b    resolver.Host
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	sent    chan error
	kept    []bool

	mu     sync.Mutex // guards the fields below
	closed bool
}

func inBubble(t *testing.T, f func(*bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, net: transport.NewMemory(), sent: make(chan error, 100)}
		ta, tb := b.net.Host("a"), b.net.Host("b")
		b.a = resolver.Host{ID: "a", Incarnation: 1, Addr: "a:1", Key: ta.Key()}
		b.b = resolver.Host{ID: "b", Incarnation: 2, Addr: "b:1", Key: tb.Key()}
		ctx, cancel := context.WithCancel(t.Context())
		b.cancel = cancel
		b.offers = NewOffers(ctx, "a", b.spawn)
		_, err := ta.Listen("a:1", func(c transport.Conn) transport.Handler { return &conn{b: b} })
		require.NoError(t, err)
		links := peer.New(peer.Config{
			Context: ctx, Self: func() resolver.Host { return b.b }, Transport: tb, FailureTimeout: time.Second,
			Log: slog.New(slog.DiscardHandler), Go: b.spawn, Down: func(resolver.Host) {}, Reset: func(resolver.Host) {},
		})
		b.fetcher = NewFetcher(ctx, links, b.spawn)
		defer b.net.Crash("a")
		defer b.close()
		f(b)
	})
}

func (b *bench) spawn(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.wg.Go(f)
	}
	return !b.closed
}

func (b *bench) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.offers.Close()
	b.wg.Wait()
}

// offer offers a snapshot of a machine that has applied nothing.
func (b *bench) offer(to resolver.Host, state string) (uint64, *counted) {
	snap, err := machine.New("svc", &app{state: state}, machine.Limits{}).Snapshot()
	require.NoError(b.t, err)
	c := &counted{Snapshot: snap, b: b}
	return b.offers.Add(to, c, func(_ int64, err error) { b.sent <- err }), c
}

func (b *bench) receiver(fetched func(Result)) Receiver {
	return Receiver{
		MaxBytes: 1 << 20,
		Keep: func(_ context.Context, r io.Reader) (io.Reader, func(bool) error, error) {
			return r, func(ok bool) error { b.kept = append(b.kept, ok); return nil }, nil
		},
		Restore: func(r io.Reader) (*machine.Machine, error) {
			return machine.Restore("svc", &app{}, machine.Limits{}, r)
		},
		Fetched: fetched,
	}
}

func (b *bench) fetch(f core.Fetch) (*machine.Machine, int64, error) {
	return b.fetcher.Fetch(b.t.Context(), f, b.receiver(nil))
}

// conn is a connection that was made to a.
type conn struct {
	b      *bench
	host   resolver.Host
	upload Upload
}

func (c *conn) Handle(_ transport.Conn, r *transport.Request) {
	if r.Method == wire.MethodHello {
		var h wire.HostHello
		require.NoError(c.b.t, msgpack.UnmarshalSmall(r.Params, &h))
		c.host = h.Host
		r.Reply(transport.Marshal(wire.HostHello{Host: c.b.a}))
		return
	}
	require.True(c.b.t, c.b.offers.Handle(&c.upload, c.host, r), r.Method)
}

func (c *conn) Closed(transport.Conn, error) {}

// A snapshot is fetched once, by the host that it was offered to, and released.
func TestFetch(t *testing.T) {
	inBubble(t, func(b *bench) {
		id, snap := b.offer(b.b, "the state")
		what := core.Fetch{From: b.a, ID: id}
		m, n, err := b.fetch(what)
		require.NoError(t, err)
		require.Equal(t, "the state", m.App().(*app).state)
		require.Positive(t, n)
		require.NoError(t, <-b.sent)
		require.Equal(t, []bool{true}, b.kept)
		require.EqualValues(t, 1, snap.released.Load())
		_, _, err = b.fetch(what)
		require.ErrorIs(t, err, wire.ErrForbidden, "it was fetched already")

		other := b.b
		other.Incarnation++
		id, _ = b.offer(other, "not for b")
		_, _, err = b.fetch(core.Fetch{From: b.a, ID: id})
		require.ErrorIs(t, err, wire.ErrForbidden)
	})
}

// endless is a snapshot that ends far beyond every limit, or when nobody reads it any more.
type endless struct{ wrote int64 }

func (s *endless) WriteTo(w io.Writer) (n int64, err error) {
	for piece := make([]byte, 100_000); err == nil && s.wrote < 16<<20; s.wrote += int64(len(piece)) {
		var k int
		k, err = w.Write(piece)
		n += int64(k)
	}
	return n, err
}
func (*endless) Release() {}

// A fetch takes no more bytes than it may, to its disk and into the service, whatever the other host sends.
func TestFetchEndless(t *testing.T) {
	inBubble(t, func(b *bench) {
		const limit = 1 << 20
		for what, restored := range map[string]error{"the service returns the error": nil, "it returns another": io.ErrNoProgress} {
			id := b.offers.Add(b.b, new(endless), func(_ int64, err error) { b.sent <- err })
			stored, read := 0, int64(0)
			to := b.receiver(nil)
			to.Keep = func(_ context.Context, r io.Reader) (io.Reader, func(bool) error, error) {
				disk := writerFunc(func(p []byte) (int, error) { stored += len(p); return len(p), nil })
				return io.TeeReader(r, disk), func(ok bool) error { b.kept = append(b.kept, ok); return nil }, nil
			}
			to.Restore = func(r io.Reader) (m *machine.Machine, err error) {
				read, err = io.Copy(io.Discard, r)
				require.Error(b.t, err)
				if restored != nil {
					err = restored
				}
				return nil, err
			}
			b.kept = nil
			_, n, err := b.fetcher.Fetch(b.t.Context(), core.Fetch{From: b.a, ID: id}, to)
			require.ErrorIs(b.t, err, ErrTooLarge, what)
			require.ErrorContains(b.t, err, "more than the 1048576 bytes allowed")
			require.LessOrEqual(b.t, n, int64(limit))
			require.LessOrEqual(b.t, stored, limit)
			require.LessOrEqual(b.t, read, int64(limit))
			require.Greater(b.t, n, int64(limit/2))
			require.Equal(b.t, []bool{false}, b.kept)
			require.Error(b.t, <-b.sent, "the other host stops")
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A snapshot of another entry than the one announced is neither used nor kept.
func TestFetchOtherEntry(t *testing.T) {
	inBubble(t, func(b *bench) {
		id, _ := b.offer(b.b, "the state")
		_, _, err := b.fetch(core.Fetch{From: b.a, ID: id, Index: 1})
		require.ErrorContains(t, err, "it ends at entry")
		require.Equal(t, []bool{false}, b.kept)
	})
}

// A snapshot that is not fetched is released after a while, and on Close.
func TestOfferNotFetched(t *testing.T) {
	inBubble(t, func(b *bench) {
		id, late := b.offer(b.b, "x")
		time.Sleep(OfferTimeout + time.Second)
		require.EqualValues(t, 1, late.released.Load())
		_, _, err := b.fetch(core.Fetch{From: b.a, ID: id})
		require.ErrorIs(t, err, wire.ErrForbidden)

		_, held := b.offer(b.b, "x")
		b.offers.Close()
		b.offers.Close()
		require.EqualValues(t, 1, held.released.Load())
		id, refused := b.offer(b.b, "x")
		require.Zero(t, id)
		require.EqualValues(t, 1, refused.released.Load())
		time.Sleep(OfferTimeout + time.Second)
		require.EqualValues(t, 1, held.released.Load())
	})
}

// A download that is stopped ends with an error; one of a closed host does not begin.
func TestStopDownload(t *testing.T) {
	inBubble(t, func(b *bench) {
		id, snap := b.offer(b.b, "the state")
		b.net.SetDelay(time.Second / 10)
		results := make(chan Result, 10)
		to := b.receiver(func(r Result) { results <- r })
		d := b.fetcher.Start(core.Fetch{From: b.a, ID: id}, to)
		require.Equal(t, id, d.ID)
		time.Sleep(time.Second / 4)
		d.Stop()
		r := <-results
		require.Nil(t, r.Machine)
		require.ErrorIs(t, r.Err, context.Canceled)
		time.Sleep(OfferTimeout)
		require.EqualValues(t, 1, snap.released.Load())
		b.close()
		b.fetcher.Start(core.Fetch{From: b.a, ID: id}, to).Stop()
		time.Sleep(time.Second)
		require.Empty(t, results)
	})
}

// What is offered concurrently with Close is released once.
func TestOfferDuringClose(t *testing.T) {
	for range 100 {
		inBubble(t, func(b *bench) {
			snaps := make(chan *counted, 100)
			for range 4 {
				b.spawn(func() {
					for range 10 {
						_, s := b.offer(b.b, "x")
						snaps <- s
					}
				})
			}
			b.close()
			require.Len(t, snaps, 40)
			for range 40 {
				require.EqualValues(t, 1, (<-snaps).released.Load())
			}
		})
	}
}

// A connection made ahead is used by the next fetch, unless it has ended, and closed if no fetch comes.
func TestPrepare(t *testing.T) {
	inBubble(t, func(b *bench) {
		const trip = 100 * time.Millisecond
		b.net.SetDelay(trip / 2)
		fetch := func() time.Duration {
			id, _ := b.offer(b.b, "state")
			began := time.Now()
			_, _, err := b.fetch(core.Fetch{From: b.a, ID: id})
			require.NoError(t, err)
			return time.Since(began)
		}
		waiting := func() int {
			b.fetcher.mu.Lock()
			defer b.fetcher.mu.Unlock()
			return len(b.fetcher.ahead)
		}
		fresh := fetch()
		b.fetcher.Prepare(b.a)
		b.fetcher.Prepare(b.a)
		time.Sleep(time.Second)
		require.Equal(t, 1, waiting())
		require.LessOrEqual(t, fetch(), fresh-3*trip)
		require.Zero(t, waiting())
		b.fetcher.Prepare(b.a)
		require.LessOrEqual(t, fetch(), fresh, "it waits for a connection that is being made")
		b.fetcher.Prepare(b.a)
		time.Sleep(aheadFor + time.Second)
		require.Zero(t, waiting())
		require.Equal(t, fresh, fetch())
		b.fetcher.Prepare(b.a)
		b.fetcher.mu.Lock()
		a := b.fetcher.ahead[b.a]
		b.fetcher.mu.Unlock()
		<-a.made
		a.conn.Close()
		time.Sleep(time.Second)
		require.Zero(t, waiting())
		require.Equal(t, fresh, fetch())
	})
}
