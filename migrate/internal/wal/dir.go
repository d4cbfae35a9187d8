package wal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/roam-go/roam/migrate/internal/binenc"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// identityMagic begins the file "host" of a directory, which names the owner: "roam-id1", the length of the host's ID (1
// byte) and the ID, its incarnation (8 bytes, little-endian), its key (32 bytes), and the CRC-32C of everything before it (4
// bytes, little-endian). The last character of the magic is the version of the format.
const identityMagic = "roam-id1"

// Owner is the host that owns a directory. Its incarnation does not change while the directory exists.
type Owner struct {
	ID  string
	Inc uint64
	Key transport.Key
}

// Dir is the directory of a host, locked for this process.
type Dir struct {
	Owner
	fs   FS
	path string
	lock io.Closer

	mu     sync.Mutex        // guards stores
	stores map[string]*Store // by service: open, or closed and still writing
}

// OpenDir locks a directory and creates it if it does not exist. A directory without an owner gets the owner fresh. wantID,
// unless empty, must be the ID of the owner.
func OpenDir(fsys FS, path string, fresh Owner, wantID string) (*Dir, error) {
	if n := len(fresh.ID); n > resolver.MaxHostID { // the file has one byte for its length
		return nil, fmt.Errorf("host ID has %d bytes, over the limit of %d", n, resolver.MaxHostID)
	}
	if err := fsys.MkdirAll(path); err != nil {
		return nil, cannot("create", path, err)
	}
	lock, err := fsys.Lock(filepath.Join(path, "lock"))
	switch {
	case errors.Is(err, errLocked):
		return nil, fmt.Errorf("%s is in use by another node: %w", path, err)
	case err != nil:
		return nil, cannot("lock", path, err)
	}
	d := &Dir{fs: fsys, path: path, lock: lock, stores: make(map[string]*Store)}
	if err := d.identify(fresh, wantID); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

// cannot returns the error for a directory that err keeps from being used. Mostly that is a directory that only others may
// write, or a file system mounted read-only.
func cannot(what, path string, err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%s can't be written by this process: %w", path, err)
	}
	return fmt.Errorf("cannot %s %s: %w", what, path, err)
}

func (d *Dir) identify(fresh Owner, wantID string) error {
	name := filepath.Join(d.path, "host")
	data, err := d.fs.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		names, err := d.fs.ReadDir(d.path)
		if err != nil {
			return err
		}
		for _, n := range names {
			if n != "lock" && n != "host.tmp" {
				return fmt.Errorf("%s holds %s, but not the file \"host\" with its owner: restore that file, or empty the directory",
					d.path, n)
			}
		}
		d.Owner = fresh
		return replace(d.fs, d.path, name, encodeIdentity(fresh))
	}
	if err != nil {
		return err
	}
	if d.Owner, err = decodeIdentity(data); err != nil {
		return fmt.Errorf("%s is damaged: %w", name, err)
	}
	if wantID != "" && wantID != d.ID {
		return fmt.Errorf("%s belongs to host %s, not to host %s", d.path, d.ID, wantID)
	}
	if d.Key != fresh.Key {
		return fmt.Errorf("%s belongs to host %s with key %s, not with key %s", d.path, d.ID, d.Key, fresh.Key)
	}
	return nil
}

func encodeIdentity(o Owner) []byte {
	b := append([]byte(identityMagic), byte(len(o.ID)))
	b = append(b, o.ID...)
	b = binary.LittleEndian.AppendUint64(b, o.Inc)
	b = append(b, o.Key[:]...)
	return binary.LittleEndian.AppendUint32(b, binenc.CRC(b))
}

func decodeIdentity(b []byte) (o Owner, err error) {
	if !bytes.HasPrefix(b, []byte(identityMagic)) {
		return o, fmt.Errorf("it does not begin with %q", identityMagic)
	}
	n := len(identityMagic)
	if len(b) <= n || len(b) != n+1+int(b[n])+8+len(o.Key)+4 {
		return o, fmt.Errorf("it has %d bytes", len(b))
	}
	if sum := len(b) - 4; binenc.CRC(b[:sum]) != binary.LittleEndian.Uint32(b[sum:]) {
		return o, errors.New("its checksum is wrong")
	}
	p := b[n+1:]
	o.ID = string(p[:b[n]])
	p = p[b[n]:]
	o.Inc = binary.LittleEndian.Uint64(p)
	copy(o.Key[:], p[8:])
	return o, nil
}

// Service is the directory of a service.
func (d *Dir) Service(name string) string { return filepath.Join(d.path, escape(name)) }

// Has reports whether the directory may hold files of the service.
func (d *Dir) Has(name string) bool {
	names, err := d.fs.ReadDir(d.Service(name))
	return len(names) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist)
}

// enter waits until the previous store of the service has finished, and then registers s. Otherwise writes of the previous
// store could replace those of s.
func (d *Dir) enter(ctx context.Context, s *Store) error {
	for {
		d.mu.Lock()
		old := d.stores[s.o.Service]
		if old == nil {
			d.stores[s.o.Service] = s
		}
		d.mu.Unlock()
		if old == nil {
			return nil
		}
		select {
		case <-old.done:
		case <-ctx.Done():
			return fmt.Errorf("%s is still in use: an earlier write has not finished", s.dir)
		}
	}
}

// exit unregisters s, which has finished. A second call does nothing.
func (d *Dir) exit(s *Store) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stores[s.o.Service] == s {
		delete(d.stores, s.o.Service)
		close(s.done)
	}
}

// escape makes a file name of a service's name. Since file systems differ in which names they distinguish, it encodes
// all bytes but lower-case letters, digits, "-" and "." by their percent codes. A long name ends with its hash.
func escape(name string) string {
	var b strings.Builder
	b.WriteString("service-")
	for i := range len(name) {
		if c := name[i]; 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	s := b.String()
	if len(s) > 200 {
		sum := sha256.Sum256([]byte(name))
		s = s[:130] + "%" + hex.EncodeToString(sum[:])
	}
	return s
}

// Close unlocks the directory.
func (d *Dir) Close() error { return d.lock.Close() }
