package wal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"github.com/roam-go/roam/migrate/internal/core"
)

// Options of a [Store].
type Options struct {
	Service string
	// Stable is called with the number of the last Save that is on the disk, and Failed, at most once, when nothing is
	// written any more: what is on the disk then is uncertain, and only a new start finds out. Both are called on
	// goroutines of Go's, and a higher number may come before a lower one.
	Stable func(seq uint64)
	Failed func(err error)
	// NoCopy is called, on such a goroutine, when a Source has failed by itself: the store goes on without its copy.
	NoCopy func(err error)
	// Go runs f on a goroutine; false if it can't any more.
	Go func(f func()) bool
	// Grow is how far the log grows before Due, at least; 0 stands for 64 MiB.
	Grow int64
}

// Store is a service's part of a directory. It is safe for concurrent use.
type Store struct {
	home  *Dir
	fs    FS
	dir   string
	owner Owner
	o     Options
	done  chan struct{} // closed when a store that is closed does nothing any more

	mu           sync.Mutex // guards what follows; nothing is written under it
	queue        []op
	busy         bool
	closed       bool
	err          error
	fetch        uint64 // number of the last Fetch
	fetched      *Copy  // was fetched, and waits for the Save that takes it into use
	snapshotting bool   // a copy of the state is being written
	size         int64  // of the log since the last copy was begun
	snap         int64  // of the last copy

	// What follows belongs to the writer.
	number uint64 // of the present log
	anchor uint64 // the store begins with this one
	log    log
	file   File
	buf    []byte
}

// op is something for the writer to do: one of these.
type op struct {
	save    *core.Save
	copy    *Copy       // with save: the copy at its Base
	begin   *checkpoint // begin another log
	install *checkpoint // its copy is written
}

type checkpoint struct {
	state  core.State
	number uint64
	copy   *Copy
}

// maxBatch bounds what is written at once, roughly.
const maxBatch = 8 << 20

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Store) logName(n uint64) string  { return s.path(fmt.Sprintf("%016x.log", n)) }
func (s *Store) snapName(n uint64) string { return s.path(fmt.Sprintf("%016x.snap", n)) }

// Save writes a change, beside the caller: Stable tells when it is on the disk. Changes that come while the disk is busy
// are forced to it together.
func (s *Store) Save(v core.Save) {
	s.mu.Lock()
	o := op{save: &v}
	if v.Rebase {
		o.copy, s.fetched = s.fetched, nil
	}
	s.push(o)
	s.mu.Unlock()
}

// push queues o; s.mu is held.
func (s *Store) push(o op) {
	if s.err != nil || s.closed {
		return
	}
	s.queue = append(s.queue, o)
	if !s.busy {
		s.busy = s.o.Go(s.work)
	}
}

// Fetch begins a copy that comes from another host, the only one that is wanted from now on: the ctx of the one before has
// ended. Kept makes it last; the next Save with Rebase takes it into use.
func (s *Store) Fetch(ctx context.Context) (*Copy, error) {
	s.mu.Lock()
	if ctx.Err() != nil { // a later one may have its number already
		s.mu.Unlock()
		return nil, context.Cause(ctx)
	}
	s.fetch++
	n := s.fetch
	s.mu.Unlock()
	c, err := s.create()
	if err == nil {
		c.fetch = n
	}
	return c, err
}

// Kept makes a fetched copy last, in the place of one that was never used. It fails if a later one was begun meanwhile. A
// store that is closed wants none.
func (s *Store) Keep(c *Copy) error {
	if err := c.finish(); err != nil {
		c.Discard()
		return err
	}
	s.mu.Lock()
	late := c.fetch != s.fetch
	old := s.fetched
	if late || s.closed {
		old = c
	} else {
		s.fetched = c
	}
	s.mu.Unlock()
	if old != nil {
		old.Discard()
	}
	if late {
		return errors.New("a later copy was begun meanwhile")
	}
	return nil
}

// Due reports whether the log has grown so much that it is time for a [Store.Snapshot].
func (s *Store) Due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.snapshotting && s.err == nil && !s.closed && s.size > max(s.o.Grow, s.snap)
}

// Snapshot begins another log with the state as it has been given to the store, and has writeTo write the copy that belongs to
// it, on a goroutine of Go's. src is released, whatever happens.
func (s *Store) Snapshot(state core.State, src Source) {
	c := &checkpoint{state: state}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		src.Release()
		return
	}
	s.snapshotting, s.size = true, 0
	s.push(op{begin: c})
	s.mu.Unlock()
	if !s.o.Go(func() { s.writeSnapshot(c, src) }) {
		src.Release()
		s.mu.Lock()
		s.snapshotting = false
		s.releaseIfIdle()
		s.mu.Unlock()
	}
}

// take writes the copy of a checkpoint. Without it the store still begins where it did, with one log more.
func (s *Store) writeSnapshot(c *checkpoint, src Source) {
	var fault error // of src, which is none of the disk's
	copy, err := s.create()
	if err == nil {
		if _, fault = src.WriteTo(copy); fault == nil || copy.failed() {
			fault, err = nil, copy.finish()
		}
		if fault != nil || err != nil {
			copy.Discard()
		}
	}
	src.Release()
	s.mu.Lock()
	s.snapshotting = false
	closed := s.closed
	switch {
	case closed || fault != nil:
	case err != nil:
		s.push(op{install: &checkpoint{}}) // let the writer fail
		s.err = errors.Join(s.err, fmt.Errorf("copy of the state: %w", err))
	default:
		s.snap = copy.bytes
		c.copy = copy
		s.push(op{install: c})
	}
	s.releaseIfIdle()
	s.mu.Unlock()
	if fault != nil && !closed {
		s.o.NoCopy(fault)
	}
}

// Later puts the next Snapshot off until the log has grown by as much again.
func (s *Store) Postpone() {
	s.mu.Lock()
	s.size = 0
	s.mu.Unlock()
}

// Source is a captured state.
type Source interface {
	io.WriterTo
	Release()
}

// Close stops writing as a crash would. It does not wait.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.queue = true, nil
	s.releaseIfIdle()
}

// settle lets go of what a store that is closed does not need any more; s.mu is held.
func (s *Store) releaseIfIdle() {
	if !s.closed || s.busy {
		return
	}
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
	if !s.snapshotting {
		s.home.exit(s)
	}
}

// Wait waits until a store that is closed does nothing any more.
func (s *Store) Wait() { <-s.done }

// Remove removes all that a store holds that is closed.
func (s *Store) Remove() error {
	s.Wait()
	return s.fs.RemoveAll(s.dir)
}

// work writes what is queued until there is nothing left.
func (s *Store) work() {
	for {
		s.mu.Lock()
		if s.closed || s.err != nil || len(s.queue) == 0 {
			err := s.err
			failed := err != nil && !s.closed
			s.busy, s.queue = false, nil
			s.releaseIfIdle()
			s.mu.Unlock()
			if failed {
				s.o.Failed(err)
			}
			return
		}
		batch := s.queue
		n, bytes := 0, 0
		for n < len(batch) && bytes < maxBatch && (n == 0 || batch[n].plain() && batch[n-1].plain()) {
			if v := batch[n].save; v != nil {
				for _, e := range v.Entries {
					bytes += e.Size()
				}
			}
			n++
		}
		batch, s.queue = batch[:n:n], batch[n:]
		s.mu.Unlock()

		seq, size, err := s.write(batch)
		s.mu.Lock()
		s.size += size
		if err != nil {
			s.err = errors.Join(s.err, err)
		}
		ok, idle := s.err == nil && !s.closed, len(s.queue) == 0
		if ok && idle {
			s.busy = false
		}
		s.mu.Unlock()
		if !ok || seq == 0 {
			if ok && idle {
				return
			}
			continue
		}
		if idle {
			s.o.Stable(seq) // may come back with the next Save, for another goroutine to write
			return
		}
		s.o.Go(func() { s.o.Stable(seq) })
	}
}

// plain reports whether o is a change that goes to the end of the present log.
func (o *op) plain() bool { return o.save != nil && !o.save.Rebase }

// write carries out a batch: changes for the present log, or one thing of another kind. seq is that of the last Save.
func (s *Store) write(batch []op) (seq uint64, size int64, err error) {
	o := &batch[0]
	switch {
	case o.plain():
		b := append(s.buf[:0], make([]byte, frameHead)...)
		for _, o := range batch {
			b = appendState(b, &o.save.State)
			seq = o.save.Seq
		}
		if err := s.log.seal(b); err != nil {
			return 0, 0, err
		}
		if s.buf = b; cap(b) > 4<<20 {
			s.buf = nil
		}
		if err := write(s.file, b); err != nil {
			return 0, 0, fmt.Errorf("%s: %w", s.logName(s.number), err)
		}
		return seq, int64(len(b)), nil
	case o.save != nil:
		return o.save.Seq, 0, s.rebase(o.save, o.copy)
	case o.begin != nil:
		o.begin.number = s.number + 1
		return 0, 0, s.begin(o.begin.number, o.begin.state)
	}
	return 0, 0, s.install(o.install)
}

// rebase begins the store anew, with a copy that is on the disk, or none.
func (s *Store) rebase(v *core.Save, c *Copy) error {
	n := s.number + 1
	if v.Base.Index > 0 {
		if c == nil {
			return fmt.Errorf("the log is to begin after entry %d, of which there is no copy", v.Base.Index)
		}
		err := s.fs.Rename(c.name, s.snapName(n))
		if err == nil {
			err = s.fs.SyncDir(s.dir)
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.snap, s.size = c.bytes, 0
		s.mu.Unlock()
	} else if c != nil {
		c.Discard()
	}
	if err := s.begin(n, v.State); err != nil {
		return err
	}
	s.removeBefore(n)
	return nil
}

// begin begins log n.
func (s *Store) begin(n uint64, state core.State) error {
	var l log
	rand.Read(l.salt[:])
	b := append(append([]byte(logMagic), l.salt[:]...), make([]byte, frameHead)...)
	b = appendHeader(b, &header{s.o.Service, s.owner.ID, s.owner.Inc, n, state})
	if err := l.seal(b[len(logMagic)+saltSize:]); err != nil {
		return err
	}
	name := s.logName(n)
	if err := replace(s.fs, s.dir, name, b); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	f, err := s.fs.Append(name)
	if err != nil {
		return err
	}
	if s.file != nil {
		s.file.Close()
	}
	s.file, s.number, s.log = f, n, l
	return nil
}

// place puts the copy of a checkpoint into its place: the store begins there from now on.
func (s *Store) install(c *checkpoint) error {
	if c.copy == nil {
		return nil
	}
	if c.number < s.anchor {
		c.copy.Discard() // the store has begun anew since
		return nil
	}
	err := s.fs.Rename(c.copy.name, s.snapName(c.number))
	if err == nil {
		err = s.fs.SyncDir(s.dir)
	}
	if err != nil {
		return err
	}
	s.removeBefore(c.number)
	return nil
}

// clear removes what is older than the log with which the store begins. What can't be removed does no harm.
func (s *Store) removeBefore(n uint64) {
	for i := s.anchor; i < n; i++ {
		s.fs.Remove(s.logName(i))
		s.fs.Remove(s.snapName(i))
	}
	s.anchor = n
}
