package wal

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
)

const snapMagic = "roam-ws1"

// Copy is a snapshot of a service's state that is being written. It is not safe for concurrent use.
type Copy struct {
	s     *Store
	name  string
	file  File
	buf   *bufio.Writer
	sum   hash.Hash
	bytes int64
	fetch uint64 // number of its Fetch, if it was fetched
}

func (s *Store) create() (*Copy, error) {
	// The name is unique, because a removed store may still discard its own copies.
	name := s.path("copy-" + rand.Text() + ".tmp")
	f, err := s.fs.Create(name)
	if err != nil {
		return nil, err
	}
	c := &Copy{s: s, name: name, file: f, sum: sha256.New()}
	c.buf = bufio.NewWriterSize(f, 256<<10)
	_, err = io.WriteString(c, snapMagic)
	return c, err
}

// Write implements [io.Writer].
func (c *Copy) Write(p []byte) (int, error) {
	c.sum.Write(p)
	c.bytes += int64(len(p))
	return c.buf.Write(p)
}

// failed reports whether the disk has failed already.
func (c *Copy) failed() bool {
	_, err := c.buf.Write(nil) // a bufio.Writer keeps its first error
	return err != nil
}

// finish completes and syncs the copy, which keeps its temporary name.
func (c *Copy) finish() error {
	_, err := c.buf.Write(c.sum.Sum(nil))
	if err == nil {
		err = c.buf.Flush()
	}
	if err == nil {
		err = c.file.Sync()
	}
	if cerr := c.file.Close(); err == nil {
		err = cerr
	}
	c.file = nil
	return err
}

// Discard removes the copy.
func (c *Copy) Discard() {
	if c.file != nil {
		c.file.Close()
		c.file = nil
	}
	c.s.fs.Remove(c.name)
}

// snapReader reads a snapshot without its checksum. It returns io.EOF only if the checksum is right.
type snapReader struct {
	f    io.ReadCloser
	r    *bufio.Reader
	name string
	sum  hash.Hash
	at   int64
	err  error
}

func (s *Store) openSnap(name string) (*snapReader, error) {
	f, err := s.fs.Open(name)
	if err != nil {
		return nil, err
	}
	r := &snapReader{f: f, r: bufio.NewReaderSize(f, 64<<10), name: name, sum: sha256.New()}
	var magic [len(snapMagic)]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil || string(magic[:]) != snapMagic {
		f.Close()
		return nil, fmt.Errorf("%s is damaged at byte 0: it does not begin with %q", name, snapMagic)
	}
	return r, nil
}

// Read implements [io.Reader].
func (r *snapReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	b, err := r.r.Peek(min(len(p), 32<<10) + sha256.Size)
	n := min(len(b)-sha256.Size, len(p))
	if n <= 0 {
		if err == nil && len(p) == 0 {
			return 0, nil
		}
		if err == io.EOF {
			if len(b) < sha256.Size || !bytes.Equal(b, r.sum.Sum(nil)) {
				err = fmt.Errorf("%s is damaged before byte %d: the checksum is wrong", r.name, r.at+int64(len(b)))
			}
		} else if err == nil {
			err = errors.New("no progress")
		}
		r.err = err
		return 0, err
	}
	copy(p, b[:n])
	r.sum.Write(b[:n])
	r.r.Discard(n)
	r.at += int64(n)
	return n, nil
}

// Close implements [io.Closer].
func (r *snapReader) Close() error { return r.f.Close() }
