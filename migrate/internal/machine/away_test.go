package machine

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/transport"
	"github.com/stretchr/testify/require"
)

// idle returns the sessions that m yields as idle.
func idle(m *Machine) (ids []uint64) {
	for id := range m.Idle() {
		ids = append(ids, id)
	}
	return ids
}

// The times that clients have been away belong to the state: an entry sets them, and a snapshot carries them.
func TestAway(t *testing.T) {
	l, _ := newTestMachine(tightLimits)
	l.open(7, transport.Key{})
	l.open(8, transport.Key{})
	body := AppendAway(nil, 8, 90*time.Second)
	body = AppendAway(body, 9, time.Second)        // a session that has ended
	body = AppendAway(body, 7, -time.Second)       // a clock that goes back
	body = append(body, 7, 0xff, 0xff, 0xff, 0xff) // cut off
	l.apply(core.Entry{Kind: core.Away, Body: body})
	require.Zero(t, l.m.Away(7))
	require.Equal(t, 90*time.Second, l.m.Away(8))
	require.Zero(t, l.m.Away(9))
	require.Equal(t, 90*time.Second, viaSnapshot(t, l.m, tightLimits).Away(8))

	l.apply(core.Entry{Kind: core.Away, Body: binary.AppendUvarint([]byte{8}, maxAway+1)})
	require.Equal(t, 90*time.Second, l.m.Away(8))
	l.apply(core.Entry{Kind: core.Away, Body: AppendAway(nil, 8, 0)})
	require.Zero(t, l.m.Away(8))
	require.Equal(t, []uint64{7, 8}, idle(l.m), "to be away is no use of a session")
}
