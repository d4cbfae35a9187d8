package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const asDNS = "ROAM_TEST_DNS"

// TestMain runs the program itself in the processes that startDNS starts.
func TestMain(m *testing.M) {
	if os.Getenv(asDNS) != "" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

var noNames = "dns: no names are known yet; services that are running bring theirs back"

// command returns the command that runs this program as a DNS with a configuration directory.
func command(config string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asDNS+"=1", "XDG_CONFIG_HOME="+config, "HOME="+config, "AppData="+config)
	cmd.Stderr = os.Stderr
	return cmd
}

// startDNS starts a DNS with a configuration directory, and returns the lines that it prints at the start. stop ends it.
func startDNS(t *testing.T, config string, args ...string) (lines []string, stop func()) {
	t.Helper()
	return startCommand(t, command(config, args...))
}

func startCommand(t *testing.T, cmd *exec.Cmd) (lines []string, stop func()) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Cleanup(stop)
	in := bufio.NewScanner(out)
	for in.Scan() {
		lines = append(lines, in.Text())
		if strings.HasPrefix(in.Text(), "dns: names are kept in") {
			break
		}
	}
	return lines, stop
}

// freePort returns a port that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	lines, stop := startDNS(t, t.TempDir(), "-port", "0")
	stop()
	port := regexp.MustCompile(`listening on .*:(\d+)$`).FindStringSubmatch(lines[0])
	require.Len(t, port, 2, "%q", lines)
	return port[1]
}

func TestState(t *testing.T) {
	config := t.TempDir()
	port, other := freePort(t), freePort(t)
	file := filepath.Join(config, "roam", "dns-"+port+".records")

	// A file by default. DNSs with different ports have different files and keys.
	first, stop := startDNS(t, config, "-port", port)
	require.Contains(t, first, "dns: names are kept in "+file)
	require.Contains(t, first, noNames)
	second, _ := startDNS(t, config, "-port", other)
	_, one := codes(t, first)
	_, two := codes(t, second)
	require.NotEqual(t, one.Key, two.Key, "two DNSs have the same key")
	stop()
	require.FileExists(t, file)
	info, err := os.Stat(filepath.Dir(file))
	require.NoError(t, err)
	require.EqualValues(t, 0o700, info.Mode().Perm())
	again, stop := startDNS(t, config, "-port", port)
	require.Equal(t, first[:4], again[:4], "the DNS keeps its key and its realm")
	require.NotContains(t, again, noNames)
	stop()

	// Memory, and a file of the user's choice.
	config = t.TempDir()
	memory, stop := startDNS(t, config, "-port", port, "-state", "")
	require.Contains(t, memory, noNames)
	require.Contains(t, strings.Join(memory, "\n"), "names are kept in memory only")
	stop()
	chosen := filepath.Join(t.TempDir(), "names")
	lines, stop := startDNS(t, config, "-port", port, "-state", chosen)
	require.Contains(t, lines, "dns: names are kept in "+chosen)
	stop()
	files, err := os.ReadDir(filepath.Join(config, "roam"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.Equal(t, "dns-"+port+".join", files[0].Name())
}
