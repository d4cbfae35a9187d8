package wal

import (
	"errors"
	"io"
	"os"
)

// errLocked is wrapped by the error of FS.Lock if another process, or another Dir in this one, has the lock.
var errLocked = errors.New("it is locked")

// FS is the interface to the file system. Tests implement it with failures and crashes.
type FS interface {
	MkdirAll(dir string) error
	ReadDir(dir string) ([]string, error) // names, sorted
	ReadFile(name string) ([]byte, error)
	Open(name string) (io.ReadCloser, error)
	Create(name string) (File, error) // truncates an existing file
	Append(name string) (File, error) // writes go to the end
	Rename(from, to string) error
	Remove(name string) error
	RemoveAll(dir string) error
	SyncDir(dir string) error
	Lock(name string) (io.Closer, error)
}

// File is a file open for writing.
type File interface {
	io.WriteCloser
	Sync() error
}

// OS is the file system of the operating system.
type OS struct{}

func (OS) MkdirAll(dir string) error               { return os.MkdirAll(dir, 0o700) }
func (OS) ReadFile(name string) ([]byte, error)    { return os.ReadFile(name) }
func (OS) Open(name string) (io.ReadCloser, error) { return os.Open(name) }
func (OS) Rename(from, to string) error            { return os.Rename(from, to) }
func (OS) Remove(name string) error                { return os.Remove(name) }
func (OS) RemoveAll(dir string) error              { return os.RemoveAll(dir) }
func (OS) Lock(name string) (io.Closer, error)     { return lockFile(name) }

func (OS) ReadDir(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = e.Name()
	}
	return names, err
}

func (OS) Create(name string) (File, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
}

func (OS) Append(name string) (File, error) { return os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0) }

func (OS) SyncDir(dir string) error {
	if !canSyncDir {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// replace replaces a file's content atomically: a crash leaves the old file or the new one.
func replace(fs FS, dir, name string, data []byte) error {
	temp := name + ".tmp"
	w, err := fs.Create(temp)
	if err != nil {
		return err
	}
	err = write(w, data)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fs.Rename(temp, name)
	}
	if err == nil {
		err = fs.SyncDir(dir)
	}
	return err
}

// write writes data and syncs the file.
func write(w File, data []byte) error {
	n, err := w.Write(data)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	if err == nil {
		err = w.Sync()
	}
	return err
}
