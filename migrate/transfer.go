package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// outgoing is a captured state that another host may fetch, once.
type outgoing struct {
	to    resolver.Host
	snap  *machineSnapshot
	timer *time.Timer
	pr    *io.PipeReader
}

// fetching is a state on its way to this host.
type fetching struct {
	core.Fetch
	cancel context.CancelFunc
}

// capture takes a snapshot for a joining host, which fetches it on a connection of its own.
func (s *Service) capture(to resolver.Host) {
	ev := core.Captured{To: to}
	if snap, err := s.machine.snapshot(); err != nil {
		s.log.Error("no snapshot", "err", err)
		s.report(fmt.Errorf("migrate: service %s: no snapshot for host %s: %w", s.name, to.ID, err))
	} else {
		ev.ID = s.node.offer(to, snap)
		ev.Index, ev.Epoch = s.machine.applied()
	}
	s.core.Step(s.node.now(), ev)
}

// fetchWait is how long a captured state waits to be fetched.
const fetchWait = 10 * time.Second

func (n *Node) offer(to resolver.Host, snap *machineSnapshot) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := randomID()
	o := &outgoing{to: to, snap: snap}
	o.timer = time.AfterFunc(fetchWait, func() { n.withdrawOffer(id) })
	n.bulk[id] = o
	return id
}

func (n *Node) withdrawOffer(id uint64) {
	n.mu.Lock()
	o := n.bulk[id]
	delete(n.bulk, id)
	n.mu.Unlock()
	if o != nil {
		o.snap.Release()
	}
}

const methodBulk = "roam.bulk"

// handleBulk serves a host that fetches a state, and reports whether r was about that.
func (c *session) handleBulk(r *transport.Request) bool {
	if r.Method != methodBulk {
		return false
	}
	var id uint64
	if err := transport.Unmarshal(r.Params, &id); err != nil {
		r.Reply(nil, err)
		return true
	}
	n := c.node
	n.mu.Lock()
	o := n.bulk[id]
	n.mu.Unlock()
	if o == nil {
		r.Reply(nil, errors.New("no such snapshot"))
		return true
	}
	if o.pr == nil {
		o.timer.Stop()
		pr, pw := io.Pipe()
		o.pr = pr
		n.wg.Go(func() {
			_, err := o.snap.WriteTo(pw)
			o.snap.Release()
			pw.CloseWithError(err)
		})
	}
	b := make([]byte, 256<<10)
	k, err := io.ReadFull(o.pr, b)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		r.Reply(nil, err)
		return true
	}
	r.Reply(transport.Marshal(b[:k]))
	return true
}

type bulkReader struct {
	ctx  context.Context
	conn transport.Conn
	id   []byte
	buf  []byte
	n    int64
}

func (b *bulkReader) Read(p []byte) (int, error) {
	if len(b.buf) == 0 {
		reply, err := b.conn.Call(b.ctx, methodBulk, b.id)
		if err != nil {
			return 0, err
		}
		if err := transport.Unmarshal(reply, &b.buf); err != nil {
			return 0, err
		}
		if len(b.buf) == 0 {
			return 0, io.EOF
		}
	}
	n := copy(p, b.buf)
	b.buf = b.buf[n:]
	b.n += int64(n)
	return n, nil
}

// startFetch fetches and restores a state.
func (s *Service) startFetch(f core.Fetch) {
	if s.fetch != nil {
		s.fetch.cancel()
	}
	ctx, cancel := context.WithCancel(s.node.ctx)
	s.fetch = &fetching{f, cancel}
	s.node.wg.Go(func() {
		began := time.Now()
		m, n, err := s.fetchState(ctx, f)
		cancel()
		if err != nil {
			err = fmt.Errorf("migrate: service %s: no copy from host %s: %w", s.name, f.From.ID, err)
		} else {
			s.log.Info("copy fetched", "from", f.From.ID, "bytes", n, "took", time.Since(began))
		}
		s.post(item{kind: itemFunc, fn: func() { s.fetched(f, m, err) }})
	})
}

func (s *Service) fetchState(ctx context.Context, f core.Fetch) (*machine, int64, error) {
	conn, err := s.node.connect(ctx, f.From, nil)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	id, err := transport.Marshal(f.ID)
	if err != nil {
		return nil, 0, err
	}
	r := &bulkReader{ctx: ctx, conn: conn, id: id}
	m, err := restoreMachine(s.name, s.fresh(), s.limits(), r)
	if err != nil {
		return nil, r.n, err
	}
	if index, epoch := m.applied(); index != f.Index || epoch != f.Epoch {
		return nil, r.n, fmt.Errorf("it ends at entry %d of epoch %d, not at %d of %d", index, epoch, f.Index, f.Epoch)
	}
	return m, r.n, nil
}

// fetched takes the copy into use if it is still wanted.
func (s *Service) fetched(f core.Fetch, m *machine, err error) {
	if s.fetch != nil && s.fetch.ID == f.ID {
		s.fetch = nil
	}
	ev := core.Restored{ID: f.ID, OK: err == nil}
	if err != nil {
		if s.node.ctx.Err() == nil {
			s.log.Warn("copy not fetched", "err", err)
			s.report(err)
		}
	} else {
		ev.Time = m.logTime()
		m.onPanic = s.panicked
	}
	had := s.core.HasState()
	s.core.Step(s.node.now(), ev)
	if !had && s.core.HasState() {
		s.machine = m
	}
}
