package wire

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRandomID(t *testing.T) {
	for range 1000 {
		s := RandomID()
		require.NotZero(t, s)
		require.Less(t, s, uint64(1)<<53)
	}
}
