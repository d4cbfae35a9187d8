package wal

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/roam-go/roam/migrate/internal/core"
)

// Recovered is the content of a store when it was opened.
type Recovered struct {
	State core.State
	// Copy is the snapshot of the state at State.Base, nil if that is the empty state. The caller must read it to io.EOF,
	// which only an undamaged snapshot reaches, and close it.
	Copy io.ReadCloser
	// Cut is the number of bytes of an incomplete last frame, which Open removed.
	Cut int
}

// Open opens the store of a service and creates it if it does not exist. ctx bounds the wait for the work of the service's
// previous store.
func (d *Dir) Open(ctx context.Context, o Options) (*Store, Recovered, error) {
	if o.Grow == 0 {
		o.Grow = 64 << 20
	}
	s := &Store{home: d, fs: d.fs, dir: d.Service(o.Service), owner: d.Owner, o: o, done: make(chan struct{})}
	if err := d.enter(ctx, s); err != nil {
		return nil, Recovered{}, err
	}
	r, err := s.open(d.path)
	if err != nil {
		s.Close()
		return nil, r, err
	}
	return s, r, nil
}

func (s *Store) open(parent string) (r Recovered, err error) {
	if err := s.fs.MkdirAll(s.dir); err != nil {
		return r, err
	}
	if err := s.fs.SyncDir(parent); err != nil {
		return r, err
	}
	logs, snaps, err := s.list()
	if err != nil {
		return r, err
	}
	if len(logs) == 0 {
		if len(snaps) > 0 {
			return r, fmt.Errorf("%s is damaged: the log is missing", s.snapName(snaps[0]))
		}
		s.anchor = 1
		return r, s.begin(1, core.State{})
	}
	if err := s.findAnchor(logs, snaps); err != nil {
		return r, err
	}
	if err := s.replay(logs, &r); err != nil {
		return r, err
	}
	if logs[0] < s.anchor {
		switch aside, err := s.lastAsideDir(s.anchor); {
		case err != nil:
			return r, err
		case aside != "": // the host crashed while it put these aside
			if err := s.putAside(aside, logs[0], s.anchor); err != nil {
				return r, err
			}
		}
	}
	for _, n := range logs {
		if n < s.anchor {
			s.fs.Remove(s.logName(n))
		}
	}
	for _, n := range snaps {
		// A snapshot without its log yet has a higher number than all logs.
		if n < s.anchor || n > s.number {
			s.fs.Remove(s.snapName(n))
		}
	}
	if r.State.Base.Index > 0 {
		c, err := s.openSnap(s.snapName(s.anchor))
		if err != nil {
			return r, err
		}
		r.Copy = c
	}
	return r, nil
}

// list returns the numbers of the logs and snapshots, and removes unfinished files.
func (s *Store) list() (logs, snaps []uint64, err error) {
	names, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		base, ext, _ := strings.Cut(name, ".")
		n, perr := strconv.ParseUint(base, 16, 64)
		switch {
		case strings.HasSuffix(name, ".tmp"):
			if err := s.fs.Remove(s.path(name)); err != nil {
				return nil, nil, err
			}
		case perr == nil && n > 0 && len(base) == 16 && ext == "log":
			logs = append(logs, n)
		case perr == nil && n > 0 && len(base) == 16 && ext == "snap":
			snaps = append(snaps, n)
		}
	}
	slices.Sort(logs)
	return logs, snaps, nil
}

// findAnchor finds the last log that begins with the empty state or whose snapshot is there.
func (s *Store) findAnchor(logs, snaps []uint64) error {
	for _, n := range slices.Backward(logs) {
		h, err := s.header(n)
		if err != nil {
			return err
		}
		if h.state.Base.Index == 0 || slices.Contains(snaps, n) {
			s.anchor = n
			return nil
		}
	}
	return fmt.Errorf("%s is damaged: the copy of the state is missing", s.logName(logs[0]))
}

func (s *Store) header(n uint64) (h header, err error) {
	data, err := s.fs.ReadFile(s.logName(n))
	if err != nil {
		return h, err
	}
	stop := fmt.Errorf("enough")
	_, at, err := readLog(data, func(v header) error { h = v; return stop }, nil)
	if err != stop {
		return h, s.damaged(n, at, len(data), err)
	}
	return h, s.checkOwner(n, h)
}

func (s *Store) checkOwner(n uint64, h header) error {
	if h.service != s.o.Service || h.host != s.owner.ID || h.inc != s.owner.Inc || h.number != n {
		return fmt.Errorf("%s is log %d of service %q on host %s, incarnation %d; it does not belong to host %s, incarnation %d",
			s.logName(n), h.number, h.service, h.host, h.inc, s.owner.ID, s.owner.Inc)
	}
	return nil
}

func (s *Store) damaged(n uint64, at, size int, err error) error {
	return fmt.Errorf("%s is damaged at byte %d of %d: %w. The service does not start from it, because acknowledged commands "+
		"could be missing: restore the directory, or remove it so that the service is copied from another host",
		s.logName(n), at, size, err)
}

// replay reads the logs from the anchor on, and opens the last one for writing.
func (s *Store) replay(logs []uint64, r *Recovered) error {
	i := slices.Index(logs, s.anchor)
	st := &r.State
	for ; i < len(logs); i++ {
		n, last := logs[i], i == len(logs)-1
		if i > 0 && n > s.anchor && logs[i-1] != n-1 {
			return fmt.Errorf("%s is missing", s.logName(n-1))
		}
		data, err := s.fs.ReadFile(s.logName(n))
		if err != nil {
			return err
		}
		l, good, err := readLog(data, func(h header) error {
			if n == s.anchor {
				*st = h.state
				return nil
			}
			return checkContinues(st, &h.state)
		}, func(v core.State) error { return st.Apply(core.Save{State: v}) })
		if err == nil && good < len(data) && !last {
			err = errFrame
		}
		if err != nil {
			return s.damaged(n, good, len(data), err)
		}
		s.size += int64(good)
		if !last {
			continue
		}
		// The data may be in the operating system's cache only and, after an error, never reach the disk. So write it again
		// and sync it.
		r.Cut = len(data) - good
		if err := replace(s.fs, s.dir, s.logName(n), data[:good]); err != nil {
			return fmt.Errorf("%s: %w", s.logName(n), err)
		}
		f, err := s.fs.Append(s.logName(n))
		if err != nil {
			return err
		}
		s.file, s.number, s.log = f, n, *l
	}
	return s.fs.SyncDir(s.dir)
}

// checkContinues returns an error unless a log that begins with h continues where st ends.
func checkContinues(st, h *core.State) error {
	ok := st.Meta == h.Meta && st.Last() == h.Last() && h.Base.Index >= st.Base.Index
	for i := h.Base.Index; ok && i <= h.Last(); i++ {
		a, _ := st.At(i)
		b, _ := h.At(i)
		ok = a == b
	}
	if !ok {
		return fmt.Errorf("it does not continue where the previous log ends")
	}
	st.Commit = max(st.Commit, h.Commit)
	return nil
}
