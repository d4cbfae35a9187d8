package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTimeline(t *testing.T) {
	var out bytes.Buffer
	l := &timeline{out: &out, live: true, total: 6 * time.Second} // 100 ms per column
	l.set("host-1", active, 0)
	l.set("host-2", standby, 0)
	for at := time.Duration(0); at < 3*time.Second; at += 100 * time.Millisecond {
		l.advance(at)
		switch at {
		case time.Second:
			l.set("host-1", latent, at+50*time.Millisecond) // active takes precedence in a column
			l.set("host-2", active, at+50*time.Millisecond)
		case 2 * time.Second:
			l.set("host-2", dead, at+50*time.Millisecond)
		}
	}
	l.draw(3*time.Second, "so far", false)
	require.Equal(t, "\r\x1b[Khost-1   ███████████··················· \n"+
		"\r\x1b[Khost-2   ──────────██████████✗          \n"+
		"\r\x1b[K         0s                  2s                  4s                  6s\n"+
		"\r\x1b[K█ active  ─ standby  · latent  ✗ killed\n"+
		"\r\x1b[Kso far\n", out.String())
	out.Reset()
	l.draw(3*time.Second, "and now", false)
	require.Contains(t, out.String(), "\x1b[5A", "the second chart replaces the first")
}

func TestTimelineWithoutTerminal(t *testing.T) {
	var out bytes.Buffer
	l := &timeline{out: &out, total: 3 * time.Second}
	for at := time.Duration(0); at < 3*time.Second; at += 100 * time.Millisecond {
		l.draw(at, "so far", false)
	}
	l.draw(4*time.Second, "done", true)
	require.Equal(t, "  1s  so far\n  2s  so far\n  3s  done\n", out.String())
}
