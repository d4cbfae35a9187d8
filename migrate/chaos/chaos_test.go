//go:build unix

package main

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/leak"
)

// TestMain also runs the child processes of the tests. It fails the package if a test leaks a goroutine.
func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" {
		os.Exit(childMain())
	}
	leak.Main(m)
}

// A few faults of the most important kinds, to check that the program works and nothing obvious is broken. The load is low,
// because times measured on a busy machine mean nothing.
func TestRealProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	for _, args := range [][]string{
		{"-scenario", "kill", "-count", "5"},
		{"-scenario", "handoff", "-count", "20"},
		{"-scenario", "partition", "-count", "3"},
		{"-scenario", "power", "-count", "3"},
	} {
		t.Run(args[1], func(t *testing.T) {
			cfg, err := parse(append(args, "-rate", "400", "-min-rate", "100", "-dir", t.TempDir()), io.Discard)
			require.NoError(t, err)
			res, err := execute(t.Context(), cfg, t.Logf)
			var out bytes.Buffer
			res.print(&out)
			t.Log(out.String())
			require.NoError(t, err)
			require.Empty(t, res.Violations)
			require.Equal(t, cfg.count, sum(res.Faults))
			require.Positive(t, res.Sent)
			require.Equal(t, cfg.standbys+1, res.Replicas)
			require.Equal(t, cfg.hosts+cfg.procs+1, res.Closed)
		})
	}
}

func sum(m map[string]int) int {
	n := 0
	for _, v := range m {
		n += v
	}
	return n
}

// A run without enough load proves nothing and reports that.
func TestLoadTooLow(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	cfg, err := parse([]string{"-scenario", "kill", "-count", "1", "-rate", "50", "-min-rate", "1e9", "-dir", t.TempDir()},
		io.Discard)
	require.NoError(t, err)
	cfg.patience = 500 * time.Millisecond
	res, err := execute(t.Context(), cfg, t.Logf)
	require.ErrorIs(t, err, errLoad)
	require.Empty(t, res.Faults)
	require.Empty(t, res.Violations)
}

func TestFlags(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"-scenario", "earthquake"}, `chaos: -scenario is "earthquake", want one of badmove, client`},
		{[]string{"-hosts", "1"}, "chaos: -hosts is 1, want 2 or more"},
		{[]string{"-standbys", "3"}, "chaos: -standbys is 3, want 1 to 2"},
		{[]string{"-clients", "1"}, "chaos: -clients is 1 and -procs 2"},
		{[]string{"-scenario", "names", "-only", "moon"}, `chaos: -only is "moon", want a part of one of empty, older, clone`},
		{[]string{"extra"}, `chaos: "extra" is not a flag`},
	} {
		var out bytes.Buffer
		_, err := parse(tc.args, &out)
		require.ErrorContains(t, err, tc.want)
		require.Contains(t, out.String(), tc.want)
	}
	cfg, err := parse([]string{"-scenario", "partition"}, io.Discard)
	require.NoError(t, err)
	require.True(t, cfg.proxies)
	require.Equal(t, 10, cfg.count)
	require.NotZero(t, cfg.seed)
	cfg, err = parse([]string{"-scenario", "kill", "-for", "1m"}, io.Discard)
	require.NoError(t, err)
	require.Zero(t, cfg.count)
}
