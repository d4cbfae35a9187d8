//go:build linux || darwin

package transport

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOpenFiles(t *testing.T) {
	var before syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	t.Cleanup(func() { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)) })
	for _, n := range []uint64{300, 200} {
		few := before
		few.Cur = n
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few))
		require.Equal(t, n, openFiles())
	}
}
