package migrate

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
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

// storeWait limits how long a service waits for writes that were in progress when it was last closed, so that a disk that
// hangs does not block Host.
const storeWait = 3 * time.Second

// disk is the service in the node's directory. Without NodeConfig.Dir, it holds nothing.
type disk struct {
	*site
	store atomic.Pointer[wal.Store] // nil without NodeConfig.Dir

	// The state that the store contained when it was opened, which is before the loop starts.
	resumed core.Term // with or without a copy
	copied  bool      // there was a copy

	// The fields below belong to the loop.
	past       bool // the record has a higher Loss than resumed
	compacting bool // a snapshot for the store is being captured
}

// open loads the service's state from the node's directory, before the service's loop starts.
func (d *disk) open(k *maker, r *replica.Replica) error {
	dir := d.node.dir
	if dir == nil {
		return nil
	}
	fail := func(err error) error {
		return transport.Errorf(CodeStore, "migrate: service %s on host %s: %v", d.name, d.node.self.ID, err)
	}
	ctx, cancel := context.WithTimeout(d.node.ctx, storeWait)
	defer cancel()
	store, rec, err := dir.Open(ctx, wal.Options{
		Service: d.name,
		Stable:  func(seq uint64) { d.post(item{kind: itemEvent, ev: core.Persisted{Seq: seq}}) },
		Failed:  d.failed,
		NoCopy:  d.noCopy,
		Go:      d.node.spawn,
		Grow:    d.node.cfg.grow,
	})
	if err != nil {
		return fail(err)
	}
	d.store.Store(store)
	d.resumed, d.copied = rec.State.Term, rec.State.Copy
	if rec.Cut > 0 {
		d.log.Warn("the last write to the log was incomplete", "bytes", rec.Cut)
	}
	st := rec.State
	var m *machine.Machine
	if st.Copy {
		if m, err = d.restore(k, &rec); err != nil {
			store.Close()
			return fail(err)
		}
		d.log.Info("resumed from disk", "epoch", st.Term.Epoch, "committed", st.Commit, "last", st.Last())
	}
	if st.Meta != (core.Meta{}) {
		r.Recover(st, m)
	}
	return nil
}

// restore creates the machine of the copy in the store.
func (d *disk) restore(k *maker, rec *wal.Recovered) (*machine.Machine, error) {
	if rec.Copy == nil {
		return k.machine()
	}
	defer rec.Copy.Close()
	m, err := k.restore(rec.Copy)
	if err != nil {
		return nil, err
	}
	if index, epoch := m.Applied(); index != rec.State.Base.Index || epoch != rec.State.Base.Epoch {
		return nil, fmt.Errorf("the copy of the state ends at entry %d of epoch %d, the log begins after %d of %d", index, epoch,
			rec.State.Base.Index, rec.State.Base.Epoch)
	}
	return m, nil
}

// failed halts the service: this host acknowledges nothing more, and the other hosts continue.
func (d *disk) failed(err error) {
	d.post(item{kind: itemHalt, err: fmt.Errorf("nothing can be written to the disk any more: %w", err)})
}

// compact lets the store write a snapshot when its log has grown.
func (d *disk) compact(r *replica.Replica) {
	store := d.store.Load()
	if store == nil || d.compacting || !store.Due() {
		return
	}
	d.compacting = r.Capture(func(c *machine.Capture, index, _ uint64, err error) {
		d.compacting = false
		if err == replica.ErrDropped {
			return
		}
		if err != nil {
			store.Postpone()
			d.noCopy(err)
			return
		}
		st, ok := r.Core().Checkpoint(index)
		if !ok || !st.Copy {
			c.Release()
			return
		}
		store.Snapshot(st, c)
	})
}

// noCopy reports that the state could not be captured or written. Nothing is lost, but the log keeps growing.
func (d *disk) noCopy(err error) {
	d.log.Error("no snapshot for the disk", "err", err)
	d.report(fmt.Errorf("migrate: service %s: no snapshot for the disk of host %s: %w", d.name, d.node.self.ID, err))
}

// close ends writing. If the node has left the service, it removes the service's files.
func (d *disk) close(left bool) {
	store := d.store.Load()
	if store == nil {
		return
	}
	store.Close()
	if left {
		if err := store.Remove(); err != nil {
			d.log.Warn("directory not removed", "err", err)
		}
	}
}

// holds reports whether rec counts the copy in this node's directory.
func (d *disk) holds(rec resolver.Record) bool {
	for _, h := range rec.ISR {
		if h.Same(d.node.self) {
			return d.copied
		}
	}
	return false
}

// forgotten returns an error if this node's directory contains the service. It is called if the resolver has no record of
// it.
func (d *disk) forgotten() error {
	if d.resumed == (core.Term{}) {
		return nil
	}
	return transport.Errorf(CodeNoHost, "migrate: the resolver has no record of service %s, in which host %s participated up to "+
		"epoch %d: if the resolver has lost its records, Reset starts the service from this host's copy", d.name, d.node.self.ID, d.resumed.Epoch)
}

// superseded reports a copy in this node's directory that the record no longer counts, and whether it has done so.
func (d *disk) superseded(rec *resolver.Record) bool {
	if !d.copied || d.past || rec.Loss <= d.resumed.Loss {
		return false
	}
	d.past = true
	if slices.ContainsFunc(rec.ISR, d.node.self.Same) {
		return false // this host continued with it
	}
	d.report(transport.Errorf(CodeStateLost, "migrate: service %s was reset on host %s: its copy in the directory of host %s, up to "+
		"epoch %d, is obsolete%s", d.name, rec.Active.ID, d.node.self.ID, d.resumed.Epoch, d.keptAside()))
	return true
}

// keptAside says where the store keeps a copy that it has given up; empty without a directory.
func (d *disk) keptAside() string {
	store := d.store.Load()
	if store == nil {
		return ""
	}
	return "; its files are kept in " + store.Aside()
}

// keep stores a snapshot on disk while it arrives from another host.
func (d *disk) keep(ctx context.Context, r io.Reader) (io.Reader, func(ok bool) error, error) {
	store := d.store.Load()
	if store == nil {
		return r, func(bool) error { return nil }, nil
	}
	c, err := store.Fetch(ctx)
	if err != nil {
		return nil, nil, err
	}
	return io.TeeReader(r, c), func(ok bool) error {
		if !ok || ctx.Err() != nil {
			c.Discard()
			return context.Cause(ctx)
		}
		return store.Keep(c)
	}, nil
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
