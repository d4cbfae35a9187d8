package resolver

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

var update = flag.Bool("update", false, "write the golden files anew")

// diskFS is a disk in memory that knows what a crash would leave: a file's content lasts from Sync on, names from
// the Sync of the directory.
type diskFS struct {
	mu   sync.Mutex
	dir  map[string]*inode // names as programs see them
	last map[string]*inode // names as a crash leaves them for certain
	ops  int               // operations so far
	free int               // descriptors that are left, if limited
	few  bool              // descriptors are limited
	// on, if set, is called before each operation; what it returns ends the operation, which was not done.
	on func(op string, n int) error
}

type inode struct{ data, synced []byte }

func newDisk() *diskFS { return &diskFS{dir: make(map[string]*inode), last: make(map[string]*inode)} }

func (d *diskFS) begin(op string) (func(), error) {
	d.mu.Lock()
	n := d.ops
	d.ops++
	on := d.on
	d.mu.Unlock()
	if on != nil {
		if err := on(op, n); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	return d.mu.Unlock, nil
}

func (d *diskFS) ReadFile(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.dir[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(f.data), nil
}

func (d *diskFS) Create(name string) (syncer, error) {
	end, err := d.begin("create")
	if err != nil {
		return nil, err
	}
	defer end()
	if !d.take() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EMFILE}
	}
	f := d.dir[name]
	if f == nil {
		f = &inode{}
		d.dir[name] = f
	}
	f.data = nil
	return &handle{d, f}, nil
}

func (d *diskFS) Rename(from, to string) error {
	end, err := d.begin("rename")
	if err != nil {
		return err
	}
	defer end()
	d.dir[to] = d.dir[from]
	delete(d.dir, from)
	return nil
}

func (d *diskFS) OpenDir(name string) (directory, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.take() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EMFILE}
	}
	return dirHandle{d}, nil
}

// take takes a descriptor. The caller holds d.mu.
func (d *diskFS) take() bool {
	if d.few && d.free <= 0 {
		return false
	}
	d.free--
	return true
}

// leave sets the number of descriptors that are left.
func (d *diskFS) leave(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free, d.few = n, true
}

func (d *diskFS) give() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free++
	return nil
}

type dirHandle struct{ d *diskFS }

func (h dirHandle) Sync() error {
	end, err := h.d.begin("syncdir")
	if err != nil {
		return err
	}
	defer end()
	h.d.last = maps.Clone(h.d.dir)
	return nil
}

func (h dirHandle) Current() bool { return true }
func (h dirHandle) Close() error  { return h.d.give() }

func (d *diskFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

type handle struct {
	d *diskFS
	f *inode
}

func (h *handle) Write(p []byte) (int, error) {
	end, err := h.d.begin("write")
	if err != nil { // Half of it was written.
		h.d.mu.Lock()
		defer h.d.mu.Unlock()
		h.f.data = append(h.f.data, p[:len(p)/2]...)
		return len(p) / 2, err
	}
	defer end()
	h.f.data = append(h.f.data, p...)
	return len(p), nil
}

func (h *handle) Sync() error {
	end, err := h.d.begin("sync")
	if err != nil {
		return err
	}
	defer end()
	h.f.synced = slices.Clone(h.f.data)
	return nil
}

func (h *handle) Close() error { return h.d.give() }

// crash returns the disks that a loss of power can leave.
func (d *diskFS) crash() []*diskFS {
	d.mu.Lock()
	defer d.mu.Unlock()
	var disks []*diskFS
	for _, names := range []map[string]*inode{d.last, d.dir} {
		for _, content := range []func(f *inode) []byte{
			func(f *inode) []byte { return f.synced },
			func(f *inode) []byte { return f.data },
			func(f *inode) []byte {
				if slices.Equal(f.data, f.synced) {
					return f.data
				}
				return f.data[:len(f.data)/2]
			},
		} {
			left := newDisk()
			for name, f := range names {
				c := content(f)
				left.dir[name] = &inode{c, c}
			}
			left.last = maps.Clone(left.dir)
			disks = append(disks, left)
		}
	}
	return disks
}

// serverOn starts a server on a disk.
func serverOn(t testing.TB, fsys filesystem) (*Server, error) {
	net := transport.NewMemory()
	s, err := newServer(ServerConfig{Transport: net.Host("dns"), File: "dir/records"}, fsys)
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

// swap is CompareAndSwap on a server's store.
func swap(s *Server, expect uint64, next Record) (Record, error) {
	type answer struct {
		r   Record
		err error
	}
	ch := make(chan answer, 1)
	s.store.cas(expect, next, func(r Record, err error) { ch <- answer{r, err} })
	a := <-ch
	return a.r, a.err
}

func firstRecord(name string) Record {
	return Record{Name: name, Epoch: 1, Active: hostA, ISR: []Host{hostA}, Proposer: hostA, Nonce: 1}
}

func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records")
	open := func() *Server {
		s, err := NewServer(ServerConfig{Transport: transport.NewMemory().Host("dns"), File: path})
		require.NoError(t, err)
		return s
	}
	s := open()
	var want []Record
	for i := range 10 {
		r, err := swap(s, 0, firstRecord(fmt.Sprint("service-", 9-i)))
		require.NoError(t, err)
		r.Nonce++
		r, err = swap(s, 1, r)
		require.NoError(t, err)
		want = append(want, r)
	}
	require.NoError(t, s.Close())
	require.NoError(t, s.Wait())
	_, err := swap(s, 0, firstRecord("late"))
	require.ErrorIs(t, err, transport.ErrClosed)

	s = open()
	for _, r := range want {
		got, err := s.store.get(r.Name)
		require.NoError(t, err)
		require.Equal(t, r, got)
	}
	_, err = NewServer(ServerConfig{Transport: transport.NewMemory().Host("dns"), File: path})
	require.ErrorIs(t, err, ErrStore)
	require.ErrorContains(t, err, "in use by another resolver")
	require.ErrorContains(t, err, path)
	require.NoError(t, s.Close())

	// Without the file the resolver has another memory, and says so.
	require.NoError(t, os.Remove(path))
	s = open()
	defer s.Close()
	_, err = s.store.get(want[0].Name)
	require.ErrorIs(t, err, ErrNotFound)
	again := want[0]
	again.Nonce++
	_, err = swap(s, want[0].Version, again)
	require.ErrorIs(t, err, ErrAmnesia)
	again.Generation, again.Loss, again.Epoch = 0, again.Loss+1, again.Epoch+1
	r, err := swap(s, 0, again)
	require.NoError(t, err, "a reset brings a lost name back, above everything that was seen of it")
	require.NotEqual(t, want[0].Generation, r.Generation)
}

// TestCrash cuts the power before each operation on the disk, and asserts for everything that the disk may hold then that
// the server starts from it, with every change that was acknowledged.
func TestCrash(t *testing.T) {
	errPower := errors.New("power is gone")
	for at := 0; ; at++ {
		d := newDisk()
		d.on = func(_ string, n int) error {
			if n >= at {
				return errPower
			}
			return nil
		}
		acked, tried := 0, 0
		s, err := serverOn(t, d)
		for i := 0; err == nil && i < 3; i++ {
			tried++
			if _, err = swap(s, 0, firstRecord(fmt.Sprint("service-", i))); err == nil {
				acked++
			}
		}
		for i, left := range d.crash() {
			s, err := serverOn(t, left)
			require.NoError(t, err, "power cut before operation %d, disk %d", at, i)
			n := len(s.store.records)
			require.True(t, acked <= n && n <= tried, "power cut before operation %d, disk %d: %d of %d acknowledged records",
				at, i, n, acked)
		}
		if acked == 3 {
			require.Greater(t, at, 15, "the test did not reach each operation")
			return
		}
	}
}

// TestStorageFails lets one operation on the disk fail, and asserts that nothing is answered from then on, and that the file
// holds all that was.
func TestStorageFails(t *testing.T) {
	for _, op := range []string{"create", "write", "sync", "rename", "syncdir"} {
		t.Run(op, func(t *testing.T) {
			d := newDisk()
			s, err := serverOn(t, d)
			require.NoError(t, err)
			r, err := swap(s, 0, firstRecord("kept.com"))
			require.NoError(t, err)
			watched := make(chan error, 1)
			s.store.watch("kept.com", 1, func(_ Record, err error) { watched <- err })

			errDisk, once := errors.New("disk failed"), true
			d.mu.Lock()
			d.on = func(o string, _ int) error {
				if o == op && once {
					once = false
					return errDisk
				}
				return nil
			}
			d.mu.Unlock()
			_, err = swap(s, 0, firstRecord("doubt.com"))
			require.ErrorIs(t, err, ErrStore)
			require.ErrorContains(t, err, "disk failed")
			require.ErrorContains(t, err, "dir/records")
			require.ErrorIs(t, s.Wait(), ErrStore, "Wait must tell of it")
			require.ErrorIs(t, <-watched, ErrStore)
			r.Nonce++
			_, err = swap(s, 1, r)
			require.ErrorIs(t, err, ErrStore, "a store that failed once accepted a change")
			_, err = s.store.get("kept.com")
			require.ErrorIs(t, err, ErrStore)
			require.NoError(t, s.Close())
			require.ErrorIs(t, s.Wait(), ErrStore)

			for _, left := range d.crash() {
				s, err := serverOn(t, left)
				require.NoError(t, err)
				got, err := s.store.get("kept.com")
				require.NoError(t, err)
				require.EqualValues(t, 1, got.Version)
			}
		})
	}
	t.Run("at the start", func(t *testing.T) {
		d := newDisk()
		d.on = func(string, int) error { return errors.New("disk failed") }
		_, err := serverOn(t, d)
		require.ErrorIs(t, err, ErrStore)
	})
}

// TestGroupCommit asserts that changes that come while the file is written share the next write.
func TestGroupCommit(t *testing.T) {
	d := newDisk()
	s, err := serverOn(t, d)
	require.NoError(t, err)
	entered, release := make(chan struct{}, 100), make(chan struct{})
	d.mu.Lock()
	d.on = func(op string, _ int) error {
		if op == "sync" {
			entered <- struct{}{}
			<-release
		}
		return nil
	}
	d.mu.Unlock()
	const n = 50
	errs := make(chan error, n)
	done := func(_ Record, err error) { errs <- err }
	s.store.cas(0, firstRecord("service-0"), done)
	<-entered
	_, err = s.store.get("service-0")
	require.ErrorIs(t, err, ErrNotFound, "a change was seen before it was on the disk")
	for i := 1; i < n-1; i++ {
		s.store.cas(0, firstRecord(fmt.Sprint("service-", i)), done)
	}
	second := firstRecord("service-1") // Follows on a change of the same batch.
	second.Nonce++
	s.store.cas(1, second, done)
	close(release)
	for range n {
		require.NoError(t, <-errs)
	}
	require.Equal(t, 1, len(entered), "50 changes must take two writes")
	r, err := s.store.get("service-1")
	require.NoError(t, err)
	require.EqualValues(t, 2, r.Version)
}

// fileRecords are the records of the golden file.
func fileRecords() map[string]Record {
	a, b := running(), retired()
	a.Name, b.Name = "a.com", "b.com"
	return map[string]Record{a.Name: a, b.Name: b}
}

// fileOf returns the file with some records.
func fileOf(t testing.TB, gen uint64, records map[string]Record) []byte {
	d := newDisk()
	f := &stateFile{fs: d, path: "records", gen: gen, frames: make(map[string][]byte)}
	require.NoError(t, f.save(records))
	return d.dir["records"].data
}

func TestFileFormat(t *testing.T) {
	const golden = "testdata/records.v1"
	data := fileOf(t, 9, fileRecords())
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o777))
		require.NoError(t, os.WriteFile(golden, data, 0o666))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, want, data, "the format of the file has changed: files of earlier versions must stay readable")
	gen, records, _, err := decodeFile(want)
	require.NoError(t, err)
	require.EqualValues(t, 9, gen)
	require.Equal(t, fileRecords(), records)
}

// TestDamagedFile asserts that a file that lacks bytes, or has one flipped bit, or bytes too many, is refused.
func TestDamagedFile(t *testing.T) {
	data := fileOf(t, 9, fileRecords())
	for n := range len(data) {
		_, _, at, err := decodeFile(data[:n])
		require.Error(t, err, "%d of %d bytes", n, len(data))
		require.LessOrEqual(t, at, n)
	}
	for i := range data {
		for bit := range 8 {
			flipped := slices.Clone(data)
			flipped[i] ^= 1 << bit
			_, _, at, err := decodeFile(flipped)
			require.Error(t, err, "bit %d of byte %d", bit, i)
			require.LessOrEqual(t, at, i, "the offset is behind the damage")
		}
	}
	_, _, _, err := decodeFile(append(slices.Clone(data), 0))
	require.ErrorContains(t, err, "1 bytes follow the last record")

	for name, records := range map[string]map[string]Record{
		"an epoch of zero": {"a.com": {Name: "a.com", Generation: 9, Version: 1, Proposer: hostA, Nonce: 1}},
		"no version":       {"a.com": {Name: "a.com", Generation: 9, Epoch: 1, Proposer: hostA, Nonce: 1}},
		"another gen":      {"a.com": {Name: "a.com", Generation: 8, Version: 1, Epoch: 1, Proposer: hostA, Nonce: 1}},
		"one name twice":   {"a.com": running(), "b.com": running()},
		"an active alone": {"a.com": {Name: "a.com", Generation: 9, Version: 1, Epoch: 1, Active: hostA, Proposer: hostA,
			Nonce: 1}},
		"a space in its name": {"a b": {Name: "a b", Generation: 9, Version: 1, Epoch: 1, Proposer: hostA, Nonce: 1}},
	} {
		_, _, _, err := decodeFile(fileOf(t, 9, records))
		require.ErrorContains(t, err, "record ", name)
	}
	_, _, _, err = decodeFile(fileOf(t, 0, nil))
	require.ErrorContains(t, err, "gen 0")
}

// TestRefusesDamagedFile asserts that a server does not start from a damaged file, says what to do, and leaves the file.
func TestRefusesDamagedFile(t *testing.T) {
	good := fileOf(t, 9, fileRecords())
	flipped := slices.Clone(good)
	flipped[len(flipped)-3] ^= 1
	for name, data := range map[string][]byte{"empty": {}, "torn": good[:len(good)-7], "flipped": flipped,
		"foreign": []byte("{}")} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "records")
			require.NoError(t, os.WriteFile(path, data, 0o600))
			for range 2 {
				_, err := NewServer(ServerConfig{Transport: transport.NewMemory().Host("dns"), File: path})
				require.ErrorIs(t, err, ErrStore)
				require.ErrorContains(t, err, path+" is damaged at byte ")
				require.ErrorContains(t, err, "restore its last content")
			}
			left, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, data, left)
		})
	}
}

func TestFileOnDisk(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no file modes")
	}
	path := filepath.Join(t.TempDir(), "records")
	s, err := NewServer(ServerConfig{Transport: transport.NewMemory().Host("dns"), File: path})
	require.NoError(t, err)
	defer s.Close()
	info, err := os.Stat(path)
	require.NoError(t, err, "Gen must last before anyone hears of it")
	require.EqualValues(t, 0o600, info.Mode().Perm())
	_, err = NewServer(ServerConfig{Transport: transport.NewMemory().Host("dns"), File: t.TempDir()})
	require.ErrorIs(t, err, ErrStore, "a directory is no file")
	_, err = NewServer(ServerConfig{Transport: transport.NewMemory().Host("dns"), File: path + "/in/a/file"})
	require.ErrorIs(t, err, ErrStore)
	require.NotContains(t, err.Error(), "in use")
	dir := filepath.Join(t.TempDir(), "no")
	_, err = NewServer(ServerConfig{Transport: transport.NewMemory().Host("dns"), File: filepath.Join(dir, "records")})
	require.ErrorIs(t, err, ErrStore)
	require.ErrorContains(t, err, "the directory "+dir+" does not exist")
	require.NotContains(t, err.Error(), "in use")
}

func TestFullDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full here")
	}
	dir := t.TempDir()
	require.NoError(t, os.Symlink("/dev/full", filepath.Join(dir, "records.tmp")))
	_, err := NewServer(ServerConfig{Transport: transport.NewMemory().Host("dns"), File: filepath.Join(dir, "records")})
	require.ErrorIs(t, err, ErrStore)
	require.ErrorContains(t, err, "no space left")
}

// reseal puts the right checksums into what may be a file, so that the fuzzer gets behind them.
func reseal(data []byte) []byte {
	data = slices.Clone(data)
	for at := len(fileMagic); at+frameHead <= len(data); {
		n := int64(binary.BigEndian.Uint32(data[at:]))
		if n > int64(len(data)-at-frameHead) {
			break
		}
		body := data[at+frameHead:][:n]
		binary.BigEndian.PutUint32(data[at+4:], crc32.Update(crc32.Checksum(data[at:at+4], castagnoli), castagnoli, body))
		at += frameHead + int(n)
	}
	return data
}

func FuzzDecodeFile(f *testing.F) {
	good := fileOf(f, 9, fileRecords())
	f.Add(good)
	f.Add([]byte{})
	f.Add([]byte(fileMagic))
	f.Add(good[:len(good)/2])
	f.Add(good[:len(good)-1])
	f.Add(fileOf(f, 9, nil))
	for _, i := range []int{3, len(fileMagic) + 1, len(fileMagic) + 9, len(good) / 2, len(good) - 2} {
		flipped := slices.Clone(good)
		flipped[i] ^= 0x10
		f.Add(flipped)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, data := range [][]byte{data, reseal(data)} {
			gen, records, at, err := decodeFile(data)
			require.LessOrEqual(t, at, len(data))
			if err != nil {
				continue
			}
			// What was accepted is sound, and is read back as it was.
			gen2, records2, _, err := decodeFile(fileOf(t, gen, records))
			require.NoError(t, err)
			require.Equal(t, gen, gen2)
			require.Equal(t, records, records2)
		}
	})
}

// BenchmarkSave is a change among a number of services, on the disk of the machine.
func BenchmarkSave(b *testing.B) {
	for _, services := range []int{1, 1_000, 10_000} {
		b.Run(fmt.Sprint("services=", services), func(b *testing.B) {
			f, _, err := openFile(osFS{}, filepath.Join(b.TempDir(), "records"))
			require.NoError(b, err)
			defer f.close()
			all := make(map[string]Record)
			for i := range services {
				r := running()
				r.Name = fmt.Sprintf("service-%06d.example", i)
				all[r.Name] = r
			}
			require.NoError(b, f.save(all))
			one := running()
			one.Name = "service-000000.example"
			var worst time.Duration
			for b.Loop() {
				begin := time.Now()
				one.Version++
				require.NoError(b, f.save(map[string]Record{one.Name: one}))
				worst = max(worst, time.Since(begin))
			}
			b.ReportMetric(float64(len(f.buf)), "bytes/file")
			b.ReportMetric(float64(worst.Microseconds())/1e3, "worst-ms")
		})
	}
}
