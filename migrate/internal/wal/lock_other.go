//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd)

package wal

import (
	"io"
	"os"
	"runtime"
)

// Windows cannot sync a directory; its file system journals renames.
const canSyncDir = runtime.GOOS != "windows"

// lockFile takes no lock on this platform: it does not prevent two nodes from using one directory.
func lockFile(name string) (io.Closer, error) { return os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600) }
