package migrate

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/replica"
	"github.com/roam-go/roam/migrate/internal/wal"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// openDir opens the node's directory and reads the host's ID and incarnation from it.
func (n *Node) openDir() error {
	if n.cfg.Dir == "" {
		return nil
	}
	fs := n.cfg.fs
	if fs == nil {
		fs = wal.OS{}
	}
	d, err := wal.OpenDir(fs, n.cfg.Dir, wal.Owner{ID: n.self.ID, Inc: n.self.Incarnation, Key: n.self.Key}, n.cfg.ID)
	if err != nil {
		return transport.Errorf(CodeStore, "migrate: host %s: NodeConfig.Dir: %v", n.self.ID, err)
	}
	n.dir, n.self.ID, n.self.Incarnation = d, d.ID, d.Inc
	return nil
}

// storeWait limits how long a service waits for writes that were in progress when it was last closed, so that a disk that hangs
// does not block Host.
const storeWait = 3 * time.Second

// openStore loads the service's state from the node's directory, before the service's loop starts.
func (s *Service) openStore() error {
	d := s.node.dir
	if d == nil {
		return nil
	}
	fail := func(err error) error {
		return transport.Errorf(CodeStore, "migrate: service %s on host %s: %v", s.name, s.node.self.ID, err)
	}
	ctx, cancel := context.WithTimeout(s.node.ctx, storeWait)
	defer cancel()
	store, rec, err := d.Open(ctx, wal.Options{
		Service: s.name,
		Stable:  func(seq uint64) { s.post(item{kind: itemEvent, ev: core.Persisted{Seq: seq}}) },
		Failed:  s.storeFailed,
		NoCopy:  s.noCopy,
		Go:      s.node.spawn,
		Grow:    s.node.cfg.grow,
	})
	if err != nil {
		return fail(err)
	}
	s.mu.Lock()
	s.store, s.resumed, s.resumedCopy = store, rec.State.Term, rec.State.Copy
	s.mu.Unlock()
	if rec.Cut > 0 {
		s.log.Warn("the last write to the log was incomplete", "bytes", rec.Cut)
	}
	st := rec.State
	var m *machine.Machine
	if st.Copy {
		if m, err = s.restoreCopy(&rec); err != nil {
			store.Close()
			return fail(err)
		}
		s.log.Info("resumed from disk", "epoch", st.Term.Epoch, "committed", st.Commit, "last", st.Last())
	}
	if st.Meta != (core.Meta{}) {
		s.replica.Recover(st, m)
	}
	return nil
}

func (s *Service) restoreCopy(rec *wal.Recovered) (*machine.Machine, error) {
	if rec.Copy == nil {
		return s.newMachine()
	}
	defer rec.Copy.Close()
	m, err := s.restore(rec.Copy)
	if err != nil {
		return nil, err
	}
	if index, epoch := m.Applied(); index != rec.State.Base.Index || epoch != rec.State.Base.Epoch {
		return nil, fmt.Errorf("the copy of the state ends at entry %d of epoch %d, the log begins after %d of %d", index, epoch,
			rec.State.Base.Index, rec.State.Base.Epoch)
	}
	return m, nil
}

// storeFailed halts the service: this host acknowledges nothing more, and the other hosts continue.
func (s *Service) storeFailed(err error) {
	s.post(item{kind: itemHalt, err: fmt.Errorf("nothing can be written to the disk any more: %w", err)})
}

// compact lets the store write a snapshot when its log has grown.
func (s *Service) compact() {
	if s.store == nil || s.compacting || !s.store.Due() {
		return
	}
	s.compacting = s.replica.Capture(func(c *machine.Capture, index, _ uint64, err error) {
		s.compacting = false
		if err == replica.ErrDropped {
			return
		}
		if err != nil {
			s.store.Postpone()
			s.noCopy(err)
			return
		}
		st, ok := s.core.Checkpoint(index)
		if !ok || !st.Copy {
			c.Release()
			return
		}
		s.store.Snapshot(st, c)
	})
}

// noCopy reports that the state could not be captured or written. Nothing is lost, but the log keeps growing.
func (s *Service) noCopy(err error) {
	s.log.Error("no snapshot for the disk", "err", err)
	s.report(fmt.Errorf("migrate: service %s: no snapshot for the disk of host %s: %w", s.name, s.node.self.ID, err))
}

// closeStore ends writing. If the node has left the service, it removes the service's files.
func (s *Service) closeStore(left bool) {
	s.mu.Lock()
	store := s.store
	s.mu.Unlock()
	if store == nil {
		return
	}
	store.Close()
	if left {
		if err := store.Remove(); err != nil {
			s.log.Warn("directory not removed", "err", err)
		}
	}
}

// holds reports whether rec counts the copy in this node's directory.
func (s *Service) holds(rec resolver.Record) bool {
	for _, h := range rec.ISR {
		if h.Same(s.node.self) {
			return s.resumedCopy
		}
	}
	return false
}

// forgotten returns an error if this node's directory contains the service. It is called if the resolver has no record of it.
func (s *Service) forgotten() error {
	if s.resumed == (core.Term{}) {
		return nil
	}
	return transport.Errorf(CodeNoHost, "migrate: the resolver has no record of service %s, in which host %s participated up to "+
		"epoch %d: if the resolver has lost its records, Reset starts the service from this host's copy", s.name, s.node.self.ID, s.resumed.Epoch)
}

// keep stores a snapshot on disk while it arrives from another host.
func (s *Service) keep(ctx context.Context, r io.Reader) (io.Reader, func(ok bool) error, error) {
	if s.store == nil {
		return r, func(bool) error { return nil }, nil
	}
	c, err := s.store.Fetch(ctx)
	if err != nil {
		return nil, nil, err
	}
	return io.TeeReader(r, c), func(ok bool) error {
		if !ok || ctx.Err() != nil {
			c.Discard()
			return context.Cause(ctx)
		}
		return s.store.Keep(c)
	}, nil
}

// begin loads the node's directory, then processes the items queued meanwhile.
func (s *Service) begin() error {
	err := s.openStore()
	if s.node.ctx.Err() != nil {
		err = errStopped
	}
	if err != nil {
		s.loop.Discard()
		s.remove(false)
		return err
	}
	s.loop.Put(item{kind: itemFunc, fn: func() {}})
	s.loop.Begin()
	return nil
}

func (n *Node) closeDir() error {
	if n.dir == nil {
		return nil
	}
	return n.dir.Close()
}

// spawn runs f on a goroutine, unless the node is closed.
func (n *Node) spawn(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.wg.Go(f)
	return true
}
