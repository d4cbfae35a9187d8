package resolver

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A lock keeps others out until it is closed, also within a process, and the file stays.
func TestLockFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	first, err := lockFile(name)
	require.NoError(t, err)
	_, err = lockFile(name)
	require.ErrorIs(t, err, errLocked)
	require.NoError(t, first.Close())
	again, err := lockFile(name)
	require.NoError(t, err)
	require.NoError(t, again.Close())
	_, err = lockFile(filepath.Join(name, "x"))
	require.Error(t, err)
	require.NotErrorIs(t, err, errLocked)
}

// refusingFS is a file system that refuses locks.
type refusingFS struct {
	filesystem
	err error
}

func (f refusingFS) Lock(name string) (io.Closer, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: f.err}
}

// A file that cannot be written is not in use, and the error names the cause.
func TestFileCannotBeWritten(t *testing.T) {
	for _, cause := range []error{syscall.EACCES, syscall.EROFS, os.ErrPermission} {
		_, _, err := openFile(refusingFS{osFS{}, cause}, "records")
		require.ErrorIs(t, err, ErrStore)
		require.ErrorContains(t, err, "records can't be written by this process: ")
		require.NotContains(t, err.Error(), "in use")
	}
}
