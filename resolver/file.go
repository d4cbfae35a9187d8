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
	"syscall"

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
	OpenDir(name string) (directory, error)
	Lock(name string) (io.Closer, error)
}

type syncer interface {
	io.WriteCloser
	Sync() error
}

type directory interface {
	io.Closer
	Sync() error   // forces the names in it to the disk
	Current() bool // whether its path still leads to it
}

// stateFile stores records in a file. Only one goroutine at a time calls its methods.
type stateFile struct {
	fs     filesystem
	path   string
	lock   io.Closer
	dir    directory // the one of path, kept open: opening it for a Sync after the rename could fail
	spare  io.Closer // holds a descriptor for the temporary file; nil if none was available
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
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return nil, nil, transport.Errorf(CodeStore, "resolver: %s can't be written by this process: %v", path, err)
	case err != nil:
		return nil, nil, transport.Errorf(CodeStore, "resolver: cannot lock %s: %v", path, err)
	}
	f := &stateFile{fs: fsys, path: path, lock: lock, frames: make(map[string][]byte)}
	records, err := f.load()
	if err != nil {
		f.close()
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
	if err := f.openDir(); err != nil {
		return nil, fmt.Errorf("resolver: open the directory of %s: %w", f.path, err)
	}
	f.reserve()
	return records, nil
}

// save stores changed and everything saved before. After an error with codeRetry nothing has changed, here or on the disk,
// and save can be called again. After any other error the file holds the old or the new records.
//
// Only a lack of descriptors at the beginning is temporary: neither the file nor f has been touched, and it ends when
// connections do. Later failures, and other ones, end the service, even where the old file is certainly intact. A disk that
// is full or defective needs a person. After a failed Sync the system may forget what it did not write, and report success
// the next time. After a failed Rename or Sync of the directory it is unknown which records a crash would leave.
func (f *stateFile) save(changed map[string]Record) error {
	frames := make(map[string][]byte, len(changed))
	for name, r := range changed {
		b, err := frame(r)
		if err != nil {
			return err
		}
		frames[name] = b
	}
	w, err := f.create()
	if scarce(err) {
		return transport.Errorf(codeRetry, "resolver: no change can be stored at the moment: create: %v", err)
	}
	if err != nil {
		err = fmt.Errorf("create: %w", err)
	} else {
		err = f.replace(w, frames)
	}
	if err != nil {
		return transport.Errorf(CodeStore, "resolver: %v: the content of %s is uncertain, so the resolver "+
			"stops answering; repair the disk and restart the resolver", err, f.path)
	}
	return nil
}

// create opens all that replace needs.
func (f *stateFile) create() (syncer, error) {
	if err := f.openDir(); err != nil {
		return nil, err
	}
	w, err := f.fs.Create(f.temp())
	if scarce(err) && f.spare != nil {
		f.spare.Close()
		f.spare = nil
		w, err = f.fs.Create(f.temp())
	}
	return w, err
}

// openDir opens the directory, again if another one has taken its path.
func (f *stateFile) openDir() error {
	if f.dir != nil && f.dir.Current() {
		return nil
	}
	if f.dir != nil {
		f.dir.Close()
		f.dir = nil
	}
	d, err := f.fs.OpenDir(filepath.Dir(f.path))
	if err == nil {
		f.dir = d
	}
	return err
}

// reserve holds a descriptor for the next temporary file. Connections would otherwise take the one that it needs.
func (f *stateFile) reserve() {
	if f.spare != nil {
		return
	}
	if d, err := f.fs.OpenDir(filepath.Dir(f.path)); err == nil {
		f.spare = d
	}
}

// scarce reports whether err is a lack of descriptors, of this process or the system.
func scarce(err error) bool { return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) }

func (f *stateFile) temp() string { return f.path + ".tmp" }

// replace replaces the file atomically, by w with the records and the changed frames.
func (f *stateFile) replace(w syncer, changed map[string][]byte) error {
	err := f.encode(changed)
	if err == nil {
		_, err = w.Write(f.buf)
	}
	if err == nil {
		err = w.Sync()
	}
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	f.reserve() // at once, before a connection takes the descriptor of w
	if err := f.fs.Rename(f.temp(), f.path); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	if err := f.dir.Sync(); err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	return nil
}

// encode puts the content of the file into f.buf.
func (f *stateFile) encode(changed map[string][]byte) error {
	for name, b := range changed {
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
	return nil
}

func (f *stateFile) close() error {
	for _, c := range []io.Closer{f.spare, f.dir} {
		if c != nil {
			c.Close()
		}
	}
	return f.lock.Close()
}

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

func (osFS) OpenDir(name string) (directory, error) {
	if !canSyncDir {
		return noDir{}, nil
	}
	d, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := d.Stat()
	if err != nil {
		d.Close()
		return nil, err
	}
	return &osDir{d, info}, nil
}

// osDir is an open directory.
type osDir struct {
	*os.File
	info os.FileInfo
}

func (d *osDir) Current() bool {
	now, err := os.Stat(d.Name())
	return err == nil && os.SameFile(d.info, now)
}

// noDir is a directory of a system that cannot force one to the disk. An open one could not be renamed there.
type noDir struct{}

func (noDir) Sync() error   { return nil }
func (noDir) Current() bool { return true }
func (noDir) Close() error  { return nil }

func (osFS) Lock(name string) (io.Closer, error) { return lockFile(name) }
