//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package resolver

import (
	"io"
	"os"
)

const canSyncDir = true

// lockFile takes no lock on this platform: it does not prevent two resolvers from using one file.
func lockFile(name string) (io.Closer, error) { return os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600) }
