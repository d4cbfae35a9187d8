//go:build linux || darwin

package resolver

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// useAllDescriptors opens files until the process has no descriptor left. release closes the given number of them, or all.
func useAllDescriptors(t *testing.T) (release func(n int)) {
	t.Helper()
	var before syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	few := before
	few.Cur = min(before.Cur, 256)
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few))
	var open []*os.File
	release = func(n int) {
		for ; n > 0 && len(open) > 0; n-- {
			open[len(open)-1].Close()
			open = open[:len(open)-1]
		}
	}
	t.Cleanup(func() {
		release(len(open))
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)
	})
	for {
		f, err := os.Open(os.DevNull)
		if errors.Is(err, syscall.EMFILE) {
			return release
		}
		require.NoError(t, err)
		open = append(open, f)
	}
}

// TestNoDescriptorsOfTheProcess is TestSavesWithoutDescriptors and TestNoDescriptors with the limit of the system, which
// connections can exhaust.
func TestNoDescriptorsOfTheProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	require.NoError(t, os.Mkdir(dir, 0o700))
	path := filepath.Join(dir, "records")
	open := func() *Server {
		s, err := NewServer(ServerConfig{Transport: transport.NewMemory().Host("dns"), File: path})
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		return s
	}
	s := open()
	release := useAllDescriptors(t)
	for _, name := range []string{"a.com", "b.com", "c.com"} {
		_, err := swap(s, 0, firstRecord(name))
		require.NoError(t, err)
	}

	s.file.spare.Close()
	s.file.spare = nil
	taken, err := os.Open(os.DevNull)
	require.NoError(t, err)
	_, err = swap(s, 0, firstRecord("d.com"))
	require.Equal(t, codeRetry, transport.CodeOf(err))
	taken.Close()
	_, err = swap(s, 0, firstRecord("d.com"))
	require.NoError(t, err)
	release(8)

	// A directory that has taken the path of the first one is the one that is forced to the disk.
	require.NoError(t, os.Rename(dir, dir+".old"))
	require.NoError(t, os.Mkdir(dir, 0o700))
	_, err = swap(s, 0, firstRecord("e.com"))
	require.NoError(t, err)
	require.True(t, s.file.dir.Current())
	require.NoError(t, s.Close())
	s = open()
	require.Len(t, s.store.records, 5)
}
