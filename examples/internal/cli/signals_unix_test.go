//go:build unix

package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func raise(t *testing.T, s syscall.Signal) {
	t.Helper()
	require.NoError(t, syscall.Kill(os.Getpid(), s))
}

func awaitEnd(t *testing.T, ctx context.Context) {
	t.Helper()
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("the context has not ended")
	}
}

func TestSignals(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		parent, end := context.WithCancel(t.Context())
		ctx, stop := Interrupted(parent, nil)
		require.NoError(t, ctx.Err())
		raise(t, s)
		awaitEnd(t, ctx)
		raise(t, syscall.SIGHUP) // of the shell, after the terminal's
		time.Sleep(50 * time.Millisecond)
		stop()
		end()
	}
}

// Under nohup, a closed window ends nothing.
func TestIgnoredHangup(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	ctx, stop := Interrupted(t.Context(), nil)
	defer stop()
	raise(t, syscall.SIGHUP)
	time.Sleep(50 * time.Millisecond)
	require.NoError(t, ctx.Err())
	raise(t, syscall.SIGTERM)
	awaitEnd(t, ctx)
}
