package resolver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/roam-go/roam/transport"
)

// PROTOCOL.md describes the file of a [Server]. The last character of the magic is the version of the format.
const (
	fileMagic = "roam-rs1"
	maxFrame  = 64 << 10 // more than the largest record
	frameHead = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type fileHeader struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Gen   uint64
	Count uint64 // of the records
}

// errLocked is wrapped by the error of Lock if another process, or another Server in this one, has the lock.
var errLocked = errors.New("it is locked")

// filesystem is the part of the operating system that a stateFile uses. Tests inject failures and crashes.
type filesystem interface {
	ReadFile(name string) ([]byte, error)
	Create(name string) (syncer, error) // empties a file that exists
	Rename(from, to string) error
	SyncDir(name string) error
	Lock(name string) (io.Closer, error)
}

type syncer interface {
	io.WriteCloser
	Sync() error
}

// stateFile stores records in a file. Only one goroutine at a time calls its methods.
type stateFile struct {
	fs     filesystem
	path   string
	lock   io.Closer
	gen    uint64
	frames map[string][]byte // each record's frame
	names  []string          // their names, sorted
	buf    []byte
}

// openFile locks and reads the file at path, and creates it if it does not exist.
func openFile(fsys filesystem, path string) (*stateFile, map[string]Record, error) {
	lock, err := fsys.Lock(path + ".lock")
	switch {
	case errors.Is(err, errLocked):
		return nil, nil, transport.Errorf(CodeStore, "resolver: %s is in use by another resolver: %v", path, err)
	case errors.Is(err, fs.ErrNotExist): // Lock creates the file, not the directory.
		return nil, nil, transport.Errorf(CodeStore, "resolver: cannot create %s: the directory %s does not exist: %v",
			path, filepath.Dir(path), err)
	case err != nil:
		return nil, nil, transport.Errorf(CodeStore, "resolver: cannot lock %s: %v", path, err)
	}
	f := &stateFile{fs: fsys, path: path, lock: lock, frames: make(map[string][]byte)}
	records, err := f.load()
	if err != nil {
		lock.Close()
		return nil, nil, transport.Errorf(CodeStore, "%s", err)
	}
	return f, records, nil
}

func (f *stateFile) load() (map[string]Record, error) {
	data, err := f.fs.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		// It never existed, or it was deleted. Store the new generation before anyone sees it.
		f.gen = newGen()
		return make(map[string]Record), f.save(nil)
	}
	if err != nil {
		return nil, fmt.Errorf("resolver: read %s: %w", f.path, err)
	}
	gen, records, at, err := decodeFile(data)
	if err != nil {
		return nil, fmt.Errorf("resolver: %s is damaged at byte %d of %d: %w. The resolver does not start from it, because "+
			"an epoch could decrease: restore its last content, or move it away to start without records, "+
			"after which each service needs a reset", f.path, at, len(data), err)
	}
	f.gen = gen
	for name, r := range records {
		if f.frames[name], err = frame(r); err != nil {
			return nil, err
		}
	}
	f.names = slices.Sorted(maps.Keys(records))
	return records, nil
}

// save stores changed and everything saved before. After an error the file holds the old or the new records.
func (f *stateFile) save(changed map[string]Record) error {
	for name, r := range changed {
		b, err := frame(r)
		if err != nil {
			return err
		}
		if _, ok := f.frames[name]; !ok {
			i, _ := slices.BinarySearch(f.names, name)
			f.names = slices.Insert(f.names, i, strings.Clone(name))
		}
		f.frames[name] = b
	}
	head, err := frame(fileHeader{Gen: f.gen, Count: uint64(len(f.names))})
	if err != nil {
		return err
	}
	f.buf = append(append(f.buf[:0], fileMagic...), head...)
	for _, name := range f.names {
		f.buf = append(f.buf, f.frames[name]...)
	}
	if err := f.replace(f.buf); err != nil {
		return transport.Errorf(CodeStore, "resolver: %v: the content of %s is uncertain, so the resolver "+
			"stops answering; repair the disk and restart the resolver", err, f.path)
	}
	return nil
}

// replace replaces the file atomically.
func (f *stateFile) replace(data []byte) error {
	temp := f.path + ".tmp"
	w, err := f.fs.Create(temp)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	_, err = w.Write(data)
	if err == nil {
		err = w.Sync()
	}
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := f.fs.Rename(temp, f.path); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	if err := f.fs.SyncDir(filepath.Dir(f.path)); err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	return nil
}

func (f *stateFile) close() error { return f.lock.Close() }

func frame(v any) ([]byte, error) {
	if r, ok := v.(Record); ok {
		v = r.onWire()
	}
	body, err := transport.Marshal(v)
	if err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, frameHead+len(body)), uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, crc32.Update(crc32.Checksum(b, castagnoli), castagnoli, body))
	return append(b, body...), nil
}

// decodeFile decodes the file; at is the offset of an error.
func decodeFile(data []byte) (gen uint64, records map[string]Record, at int, err error) {
	if len(data) == 0 {
		return 0, nil, 0, errors.New("it is empty")
	}
	if len(data) < len(fileMagic) || string(data[:len(fileMagic)]) != fileMagic {
		return 0, nil, 0, fmt.Errorf("it does not begin with %q", fileMagic)
	}
	at = len(fileMagic)
	var head fileHeader
	n, err := readFrame(data[at:], &head)
	if err == nil && (head.Gen == 0 || head.Gen > maxNumber) {
		err = fmt.Errorf("gen %d is not in 1..2^53-1", head.Gen)
	}
	if err != nil {
		return 0, nil, at, err
	}
	at += n
	records = make(map[string]Record)
	last := ""
	for i := range head.Count {
		var r Record
		n, err := readFrame(data[at:], &r)
		if err != nil {
			return 0, nil, at, fmt.Errorf("record %d of %d: %w", i+1, head.Count, err)
		}
		if err := validate(r); err != nil {
			return 0, nil, at, fmt.Errorf("record %d of %d: %w", i+1, head.Count, err)
		}
		if r.Generation != head.Gen || r.Version == 0 || r.Name <= last {
			return 0, nil, at, fmt.Errorf("record %d of %d: service %q, gen %d, version %d does not belong after service %q, gen %d",
				i+1, head.Count, r.Name, r.Generation, r.Version, last, head.Gen)
		}
		last = r.Name
		records[r.Name] = r.clone()
		at += n
	}
	if at < len(data) {
		return 0, nil, at, fmt.Errorf("%d bytes follow the last record", len(data)-at)
	}
	return head.Gen, records, at, nil
}

// readFrame reads the frame at the beginning of data and returns its length.
func readFrame(data []byte, v any) (int, error) {
	if len(data) < frameHead {
		return 0, fmt.Errorf("a frame is cut off after %d bytes", len(data))
	}
	n := binary.BigEndian.Uint32(data)
	if n > maxFrame {
		return 0, fmt.Errorf("a frame of %d bytes, more than %d", n, maxFrame)
	}
	if uint64(len(data)-frameHead) < uint64(n) {
		return 0, fmt.Errorf("a frame of %d bytes is cut off after %d", n, len(data)-frameHead)
	}
	body := data[frameHead : frameHead+int(n)]
	if crc32.Update(crc32.Checksum(data[:4], castagnoli), castagnoli, body) != binary.BigEndian.Uint32(data[4:]) {
		return 0, errors.New("the checksum is wrong")
	}
	return frameHead + len(body), transport.Unmarshal(body, v)
}

// osFS is the filesystem of the operating system.
type osFS struct{}

func (osFS) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }
func (osFS) Rename(from, to string) error         { return os.Rename(from, to) }

func (osFS) Create(name string) (syncer, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
}

func (osFS) SyncDir(name string) error {
	if !canSyncDir {
		return nil
	}
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

func (osFS) Lock(name string) (io.Closer, error) { return lockFile(name) }
