//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd)

package wal

import (
	"io"
	"os"
	"runtime"
)

// Windows has no way to force a directory to the disk, and renames are in its journal.
const canSyncDir = runtime.GOOS != "windows"

// lockFile has no lock to take here: nothing keeps two nodes from using one directory.
func lockFile(name string) (io.Closer, error) { return os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600) }
