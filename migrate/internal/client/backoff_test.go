package client

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBackoff(t *testing.T) {
	for n, limit := range []time.Duration{5, 20, 40, 80, 160, 320, 640, 1280, 2000, 2000} {
		for range 100 {
			b := newBackoff()
			b.tries = n
			d := b.next()
			require.GreaterOrEqual(t, d, time.Duration(0))
			require.Less(t, d, limit*time.Millisecond)
		}
	}
	b := newBackoff()
	b.tries = 1 << 30
	require.Less(t, b.next(), maxBackoff)
	b.reset()
	require.Less(t, b.next(), 5*time.Millisecond)
}
