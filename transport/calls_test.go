package transport

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// A table of calls behaves as a map does.
func TestCallTable(t *testing.T) {
	var table callTable
	model := make(map[uint64]int)
	got := -1
	for n := range 10_000 {
		id := rand.Uint64N(4) // 0 is an id, too
		_, there := model[id]
		require.Equal(t, there, table.has(id))
		if there || rand.IntN(8) == 0 {
			p, ok := table.take(id)
			require.Equal(t, there, ok)
			if ok {
				p.complete(nil, nil)
				require.Equal(t, model[id], got)
			}
			delete(model, id)
		} else {
			table.put(id, pending{done: func([]byte, error) { got = n }})
			model[id] = n
		}
		require.Equal(t, len(model), table.len())
	}
}

func TestCallTableFail(t *testing.T) {
	var table callTable
	var failed []uint64
	reason := errors.New("over")
	for _, id := range []uint64{7, 3, 9, 0} {
		table.put(id, pending{done: func(_ []byte, err error) {
			require.Equal(t, reason, err)
			failed = append(failed, id)
		}})
	}
	table.fail(reason)
	require.Equal(t, []uint64{0, 3, 7, 9}, failed)
	new(callTable).fail(reason)
}
