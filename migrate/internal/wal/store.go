package wal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/roam-go/roam/migrate/internal/core"
)

// Options of a [Store].
type Options struct {
	Service string
	// Stable is called with the number of the last Save that is on the disk. Failed is called at most once, when the store
	// stops after an error: the content of the disk is then uncertain until the next start. Both run on goroutines of Go,
	// and a higher number may come before a lower one.
	Stable func(seq uint64)
	Failed func(err error)
	// NoCopy is called, on such a goroutine, when a Source fails. The store continues without that snapshot.
	NoCopy func(err error)
	// Go runs f on a goroutine; false if it no longer can.
	Go func(f func()) bool
	// Grow is the growth of the log before the store is Due, at least. It defaults to 64 MiB.
	Grow int64
}

// Store is the part of a directory that belongs to one service. It is safe for concurrent use.
type Store struct {
	home  *Dir
	fs    FS
	dir   string
	owner Owner
	o     Options
	done  chan struct{} // closed when the store is closed and has finished its work

	mu           sync.Mutex // guards the fields up to snap; not held while writing
	queue        []op
	busy         bool
	closed       bool
	err          error
	fetch        uint64 // number of the last Fetch
	fetched      *Copy  // fetched copy that waits for the Save that uses it
	snapshotting bool   // a snapshot is being written
	size         int64  // bytes logged since the last snapshot was begun
	snap         int64  // bytes of the last snapshot

	// The remaining fields belong to the writer.
	number uint64 // of the present log
	anchor uint64 // number of the first log
	log    log
	file   File
	buf    []byte
}

// op is a task of the writer: one of these.
type op struct {
	save    *core.Save
	copy    *Copy       // with save: the copy at its Base
	begin   *checkpoint // begin a new log
	install *checkpoint // install its snapshot, which is written
}

type checkpoint struct {
	state  core.State
	number uint64
	copy   *Copy
}

// maxBatch is an approximate bound for one write.
const maxBatch = 8 << 20

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Store) logName(n uint64) string  { return s.path(fmt.Sprintf("%016x.log", n)) }
func (s *Store) snapName(n uint64) string { return s.path(fmt.Sprintf("%016x.snap", n)) }

// Save writes a change in the background and reports it by Stable once it is on the disk. Changes that come while the disk
// is busy share a sync.
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

// Fetch begins a copy from another host, which replaces an earlier one: the ctx of that one must have ended. Keep completes
// it; the next Save with Rebase uses it.
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

// Keep completes a fetched copy, and discards an earlier one that was never used. It fails if a later Fetch has begun. A
// closed store discards the copy.
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
		return errors.New("a later copy has begun")
	}
	return nil
}

// Due reports whether the log has grown enough for a [Store.Snapshot].
func (s *Store) Due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.snapshotting && s.err == nil && !s.closed && s.size > max(s.o.Grow, s.snap)
}

// Snapshot begins a new log with the given state, which must be the content of the store, and writes the snapshot src that
// belongs to it on a goroutine of Go. It releases src in any case.
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

// writeSnapshot writes the snapshot of a checkpoint. If that fails, the store keeps its beginning and has one log more.
func (s *Store) writeSnapshot(c *checkpoint, src Source) {
	var fault error // of src, not of the disk
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
		s.push(op{install: &checkpoint{}}) // wakes the writer, which then fails
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

// Postpone delays the next Snapshot until the log has grown by the same amount again.
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

// Close stops writing, like a crash. It does not wait.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.queue = true, nil
	s.releaseIfIdle()
}

// releaseIfIdle releases the resources of a closed store that is not writing; s.mu is held.
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

// Wait waits until a closed store has finished its work.
func (s *Store) Wait() { <-s.done }

// Remove removes the files of a closed store.
func (s *Store) Remove() error {
	s.Wait()
	return s.fs.RemoveAll(s.dir)
}

// work is the writer: it runs until the queue is empty.
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
			s.o.Stable(seq) // may call Save, whose write is then for another goroutine
			return
		}
		s.o.Go(func() { s.o.Stable(seq) })
	}
}

// plain reports whether o is a change to append to the present log.
func (o *op) plain() bool { return o.save != nil && !o.save.Rebase }

// write executes a batch: changes to append to the present log, or one op of another kind. seq is that of the last Save.
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

// rebase replaces the content of the store, with a fetched copy or none.
func (s *Store) rebase(v *core.Save, c *Copy) error {
	n := s.number + 1
	if v.Base.Index > 0 {
		if c == nil {
			return fmt.Errorf("the log begins after entry %d, but there is no copy of the state there", v.Base.Index)
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
	var aside string
	if v.Aside { // its directory comes first: open finishes the move if the host crashes before it is complete
		var err error
		if aside, err = s.newAsideDir(n); err != nil {
			return err
		}
	}
	if err := s.begin(n, v.State); err != nil {
		return err
	}
	if aside != "" {
		return s.putAside(aside, s.anchor, n)
	}
	s.removeBefore(n)
	return nil
}

// putAside moves the files from log first to before log n, which becomes the first, to the directory aside.
func (s *Store) putAside(aside string, first, n uint64) error {
	for i := first; i < n; i++ {
		for _, name := range [...]string{s.logName(i), s.snapName(i)} {
			err := s.fs.Rename(name, filepath.Join(aside, filepath.Base(name)))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	s.anchor = n
	if err := s.fs.SyncDir(aside); err != nil {
		return err
	}
	return s.fs.SyncDir(s.dir)
}

// newAsideDir makes the directory for the files before log n. If the host has left the service since it last kept files
// aside, the logs began again at 1, and the name may be taken already.
func (s *Store) newAsideDir(n uint64) (string, error) {
	dir := fmt.Sprintf("%s%016x", s.asidePrefix(), n)
	for again := 2; ; again++ {
		switch names, err := s.fs.ReadDir(dir); {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", err
		case len(names) > 0:
			dir = fmt.Sprintf("%s%016x.%d", s.asidePrefix(), n, again)
			continue
		}
		if err := s.fs.MkdirAll(dir); err != nil {
			return "", err
		}
		return dir, s.fs.SyncDir(s.home.path)
	}
}

// lastAsideDir returns the last directory that newAsideDir has made for the files before log n, "" if there is none.
func (s *Store) lastAsideDir(n uint64) (string, error) {
	names, err := s.fs.ReadDir(s.home.path)
	if err != nil {
		return "", err
	}
	dir, last := "", 0
	for _, name := range names {
		rest, ok := strings.CutPrefix(filepath.Join(s.home.path, name), fmt.Sprintf("%s%016x", s.asidePrefix(), n))
		if again, err := strconv.Atoi(strings.TrimPrefix(rest, ".")); ok && err == nil && again > last {
			dir, last = filepath.Join(s.home.path, name), again
		} else if ok && rest == "" && last == 0 {
			dir, last = filepath.Join(s.home.path, name), 1
		}
	}
	return dir, nil
}

func (s *Store) asidePrefix() string {
	return filepath.Join(s.home.path, "superseded-"+strings.TrimPrefix(filepath.Base(s.dir), "service-")+"-")
}

// Aside is the pattern of the directories with content that was kept aside: see [core.Save]. To use one, stop the host, and
// rename the directory to that of the service.
func (s *Store) Aside() string { return s.asidePrefix() + "*" }

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

// install gives a checkpoint's snapshot its name: the store begins there from now on.
func (s *Store) install(c *checkpoint) error {
	if c.copy == nil {
		return nil
	}
	if c.number < s.anchor {
		c.copy.Discard() // a rebase has replaced the content since
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

// removeBefore removes the files before log n, which becomes the first. A file that cannot be removed does no harm.
func (s *Store) removeBefore(n uint64) {
	for i := s.anchor; i < n; i++ {
		s.fs.Remove(s.logName(i))
		s.fs.Remove(s.snapName(i))
	}
	s.anchor = n
}
