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

// Recovered is what a store held when it was opened.
type Recovered struct {
	State core.State
	// Copy is the copy of the state as of State.Base, to be read to io.EOF, which it reaches only if it is undamaged, and
	// closed; nil if that is the empty state.
	Copy io.ReadCloser
	// Cut is how many bytes were cut off because they were not written to their end.
	Cut int
}

// Open opens the store of a service, which it makes if there is none. ctx bounds how long it waits for what a store of the
// service that was open before has under way.
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
	for _, n := range logs {
		if n < s.anchor {
			s.fs.Remove(s.logName(n))
		}
	}
	for _, n := range snaps {
		// One of a higher number than any log was to be the beginning of one.
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

// list returns the numbers of the logs and copies, and removes what was not finished.
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

// findAnchor finds the log with which the store begins.
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
		return fmt.Errorf("%s is log %d of service %q on host %s, incarnation %d, and does not belong here, to host %s, incarnation %d",
			s.logName(n), h.number, h.service, h.host, h.inc, s.owner.ID, s.owner.Inc)
	}
	return nil
}

func (s *Store) damaged(n uint64, at, size int, err error) error {
	return fmt.Errorf("%s is damaged at byte %d of %d: %w. The service does not start from it, because what was acknowledged "+
		"could be missing: restore the directory as it last was, or remove it for the service to be copied from another host",
		s.logName(n), at, size, err)
}

// replay reads the logs from the anchor on, and makes the last one ready to be written.
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
		// What was read may not be on the disk, and after an error never get there from the operating system's cache: only what
		// is written again and forced to the disk is.
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

// continues reports whether a log that begins with h goes on where st ends.
func checkContinues(st, h *core.State) error {
	ok := st.Meta == h.Meta && st.Last() == h.Last() && h.Base.Index >= st.Base.Index
	for i := h.Base.Index; ok && i <= h.Last(); i++ {
		a, _ := st.At(i)
		b, _ := h.At(i)
		ok = a == b
	}
	if !ok {
		return fmt.Errorf("it does not go on where the log before it ends")
	}
	st.Commit = max(st.Commit, h.Commit)
	return nil
}
