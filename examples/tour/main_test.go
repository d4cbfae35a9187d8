package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/examples/internal/leaktest"
	"github.com/roam-go/roam/transport"
)

// TestMain runs a child process if a tour in a test has started this program as one.
func TestMain(m *testing.M) {
	if config := os.Getenv(childEnv); config != "" {
		os.Exit(runChild(config))
	}
	leaktest.Exit(m.Run(), 2) // os/signal keeps one goroutine
}

// runTour runs a tour, which lasts until the chat has moved at least so often, and returns its result.
func runTour(t *testing.T, moves int, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p, err := parse(args, &stderr)
	require.NoError(t, err)
	p.moves = moves
	status := p.run(&stdout, &stderr)
	require.Zero(t, status, "%s", &stderr)
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	require.Len(t, lines, 1, "standard output contains only the JSON object")
	var r result
	d := json.NewDecoder(strings.NewReader(lines[0]))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&r))
	require.Contains(t, stderr.String(), "reordered")
	require.NotContains(t, strings.ToLower(stderr.String()), "error")
	return r
}

func TestTour(t *testing.T) {
	r := runTour(t, 2, "-for", "3s", "-every", "500ms", "-json")
	require.GreaterOrEqual(t, r.Seconds, 3.0)
	require.InEpsilon(t, 200*r.Seconds, r.Sent, 0.1)
	require.Equal(t, r.Sent, r.Acknowledged)
	require.Equal(t, 4*r.Acknowledged, r.Delivered)
	require.True(t, r.clean())
	require.GreaterOrEqual(t, r.Moves, 2)
	require.Zero(t, r.Failovers)
	require.Positive(t, r.Pause.Median)
	require.GreaterOrEqual(t, r.Pause.Longest, r.Pause.Median)
}

func TestTourKill(t *testing.T) {
	r := runTour(t, 0, "-for", "3s", "-every", "1s", "-clients", "2", "-kill", "-json")
	require.Equal(t, r.Sent, r.Acknowledged)
	require.Equal(t, 2*r.Acknowledged, r.Delivered)
	require.True(t, r.clean())
	require.Equal(t, 1, r.Failovers)
}

func TestTourReportsExitOfChild(t *testing.T) {
	var stderr bytes.Buffer
	c, err := newSupervisor()
	require.NoError(t, err)
	defer c.stop()
	tr := &tour{
		plan: plan{total: time.Second, hosts: 1}, supervisor: c, out: io.Discard, line: newTimeline(io.Discard, time.Second),
		hosts: make(map[string]*host), ready: make(map[*child]string),
	}
	dns, err := c.start(childConfig{Role: "dns", Name: "dns"})
	require.NoError(t, err)
	require.NoError(t, tr.await(t.Context(), dns))
	dns.cmd.Process.Kill()
	h, err := tr.addHost(true)
	require.NoError(t, err)
	require.ErrorContains(t, tr.await(t.Context(), h), "has exited", "%s", &stderr)
}

func TestChildrenExitWithTheTour(t *testing.T) {
	c, err := newSupervisor()
	require.NoError(t, err)
	defer c.stop()
	m, err := c.start(childConfig{Role: "dns", Name: "dns"})
	require.NoError(t, err)
	<-c.reports                         // ready
	require.NoError(t, m.stdin.Close()) // as when the tour exits
	select {
	case <-m.ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the child has not exited")
	}
}

func TestStrangersAreRefused(t *testing.T) {
	c, err := newSupervisor()
	require.NoError(t, err)
	defer c.stop()
	m, err := c.start(childConfig{Role: "dns", Name: "dns"})
	require.NoError(t, err)
	require.Len(t, m.cmd.Args, 1, "other users can see arguments")
	dns := <-c.reports
	stranger, err := transport.NewTCP(transport.TCPConfig{Open: true})
	require.NoError(t, err)
	defer stranger.Close()
	_, err = stranger.Dial(t.Context(), transport.Peer{Addr: dns.Ready}, nil)
	require.ErrorIs(t, err, transport.ErrNotMember)
}

func TestFlags(t *testing.T) {
	p, err := parse(nil, io.Discard)
	require.NoError(t, err)
	require.Equal(t, plan{total: 15 * time.Second, every: 2 * time.Second, hosts: 3, clients: 4, rate: 200}, p)
	for _, bad := range []string{
		"-for 1ms", "-for x", "-every 1ms", "-hosts 0", "-hosts 33", "-kill -hosts 1", "-clients 0", "-clients 65", "-rate 0",
		"-rate NaN", "-rate -1", "extra",
	} {
		var stderr bytes.Buffer
		require.Equal(t, 2, run(strings.Fields(bad), io.Discard, &stderr), "%s", bad)
		require.NotEmpty(t, stderr.String(), "%s", bad)
	}
	require.Zero(t, run([]string{"-help"}, io.Discard, io.Discard))
}

func TestUnknownRole(t *testing.T) {
	c, err := newSupervisor()
	require.NoError(t, err)
	defer c.stop()
	_, err = c.start(childConfig{Role: "cook"})
	require.NoError(t, err)
	require.Contains(t, (<-c.reports).Error, "cook")
}
