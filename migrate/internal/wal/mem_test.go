package wal

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// memFS is an in-memory disk with crashes and errors. A crash loses all or part of the data that was not synced, and renames
// and new files whose directory was not synced.
type memFS struct {
	mu      sync.Mutex
	files   map[string]*memFile // as the process sees them
	disk    map[string]*memFile // as a crash leaves them
	locked  map[string]bool
	fail    func(op, name string) error // nil: nothing fails
	ops     int
	syncs   int
	handles int           // files that are open for writing
	hold    chan struct{} // if set, syncs of logs wait for it
}

type memFile struct {
	data   []byte
	synced int // how much of data is on the disk
}

func newMemFS() *memFS {
	return &memFS{files: map[string]*memFile{}, disk: map[string]*memFile{}, locked: map[string]bool{}}
}

func (m *memFS) check(op, name string) error {
	m.ops++
	if m.fail != nil {
		return m.fail(op, name)
	}
	return nil
}

// crash ends all processes. keep returns how many bytes of a file survive, at least the synced ones.
func (m *memFS) crash(keep func(name string, synced, size int) int) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := newMemFS()
	for name, f := range m.disk {
		k := keep(name, f.synced, len(f.data))
		g := &memFile{data: bytes.Clone(f.data[:k]), synced: k}
		n.files[name], n.disk[name] = g, g
	}
	return n
}

func (m *memFS) clone() *memFS {
	return m.crash(func(_ string, _, size int) int { return size })
}

func (m *memFS) MkdirAll(string) error { return nil }

func (m *memFS) ReadDir(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name := range m.files {
		if rest, ok := strings.CutPrefix(name, dir+"/"); ok {
			if first, _, _ := strings.Cut(rest, "/"); !slices.Contains(names, first) {
				names = append(names, first)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

func (m *memFS) ReadFile(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[name]
	if f == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return bytes.Clone(f.data), nil
}

func (m *memFS) Open(name string) (io.ReadCloser, error) {
	b, err := m.ReadFile(name)
	return io.NopCloser(bytes.NewReader(b)), err
}

func (m *memFS) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("create", name); err != nil {
		return nil, err
	}
	f := &memFile{}
	m.files[name] = f
	m.handles++
	return &memHandle{m, name, f}, nil
}

func (m *memFS) Append(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] == nil {
		return nil, fs.ErrNotExist
	}
	m.handles++
	return &memHandle{m, name, m.files[name]}, nil
}

func (m *memFS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("rename", to); err != nil {
		return err
	}
	if m.files[from] == nil {
		return fs.ErrNotExist
	}
	m.files[to] = m.files[from]
	delete(m.files, from)
	return nil
}

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, name)
	return nil
}

func (m *memFS) RemoveAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.files, func(name string, _ *memFile) bool { return strings.HasPrefix(name, dir+"/") })
	return nil
}

func (m *memFS) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("syncdir", dir); err != nil {
		return err
	}
	in := func(name string, _ *memFile) bool { return filepath.Dir(name) == dir }
	maps.DeleteFunc(m.disk, in)
	for name, f := range m.files {
		if in(name, f) {
			m.disk[name] = f
		}
	}
	return nil
}

func (m *memFS) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked[name] {
		return nil, &os.PathError{Op: "lock", Path: name, Err: errLocked}
	}
	m.locked[name] = true
	return memLock{m, name}, nil
}

type memLock struct {
	m    *memFS
	name string
}

func (l memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locked, l.name)
	return nil
}

type memHandle struct {
	m    *memFS
	name string
	f    *memFile
}

func (h *memHandle) Write(p []byte) (int, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if err := h.m.check("write", h.name); err != nil {
		n := 0
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, errShort) {
			n = len(p) / 2
			h.f.data = append(h.f.data, p[:n]...)
		}
		if errors.Is(err, errShort) {
			err = nil
		}
		return n, err
	}
	h.f.data = append(h.f.data, p...)
	return len(p), nil
}

var errShort = errors.New("short")

func (h *memHandle) Sync() error {
	h.m.mu.Lock()
	hold := h.m.hold
	n := len(h.f.data)
	h.m.mu.Unlock()
	if hold != nil && strings.HasSuffix(h.name, ".log") {
		<-hold
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if err := h.m.check("sync", h.name); err != nil {
		return err
	}
	h.m.syncs++
	h.f.synced = n
	return nil
}

func (h *memHandle) Close() error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	h.m.handles--
	return nil
}
