package wal

import (
	"errors"
	"io"
	"os"
	"syscall"
	"unsafe"
)

// Windows cannot force a directory to the disk; its file system journals renames.
const canSyncDir = false

var lockFileEx = syscall.NewLazyDLL("kernel32.dll").NewProc("LockFileEx")

const (
	lockFailImmediately = 1                  // LOCKFILE_FAIL_IMMEDIATELY
	lockExclusive       = 2                  // LOCKFILE_EXCLUSIVE_LOCK
	lockViolation       = syscall.Errno(33)  // ERROR_LOCK_VIOLATION: somebody else has the lock
	ioPending           = syscall.Errno(997) // ERROR_IO_PENDING: the same, as some systems say it
)

// lockFile takes a lock that ends with the process at the latest. Nothing removes the file.
func lockFile(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	var at syscall.Overlapped // the first byte
	ok, _, err := lockFileEx.Call(f.Fd(), lockExclusive|lockFailImmediately, 0, 1, 0, uintptr(unsafe.Pointer(&at)))
	if ok == 0 {
		f.Close()
		if errors.Is(err, lockViolation) || errors.Is(err, ioPending) {
			err = errLocked
		}
		return nil, &os.PathError{Op: "lock", Path: name, Err: err}
	}
	return f, nil
}
