package migrate

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/apply"
)

// An applier that comes into use after the service has ended is dropped: the end of the service did not find it.
func TestApplierAfterEnd(t *testing.T) {
	for _, ended := range []bool{false, true} {
		var b board
		if ended {
			b.end()
		}
		a := apply.New(nil, nil)
		b.use(a)
		require.Same(t, a, b.applierNow())
		require.Equal(t, !ended, a.Push(nil, nil), "a dropped applier takes no jobs")
		b.use(nil)
		require.Nil(t, b.applierNow())
	}
}
