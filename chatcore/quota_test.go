package chatcore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// One key has at most MaxPerKey participants in the room. Other keys, participants without a key, and a new session of a
// participant are not affected.
func TestParticipantsPerKeyAreBounded(t *testing.T) {
	r := newReplica(t, Config{})
	mallory, none := keyOf(1), transport.Key{}
	joined := 0
	for s := range uint64(200) {
		if _, err := r.do(s, mallory, command{Op: opJoin, Text: fmt.Sprintf("m%d", s)}); err == nil {
			joined++
		} else {
			require.ErrorIs(t, err, ErrFull)
			require.ErrorContains(t, err, "64 participants")
		}
	}
	require.Equal(t, 64, joined)
	for s := uint64(200); s < 300; s++ {
		_, err := r.do(s, none, command{Op: opJoin, Text: fmt.Sprintf("n%d", s)})
		require.NoError(t, err, "no key")
	}
	r.join(t, 300, "ann")
	_, err := r.do(301, mallory, command{Op: opJoin, Text: "m7"})
	require.NoError(t, err, "replaces the participant of an old session")
	_, err = r.do(301, mallory, command{Op: opJoin, Text: "m7", Addr: "new:1"})
	require.NoError(t, err, "a new address")
	_, err = r.do(302, mallory, command{Op: opJoin, Text: "more"})
	require.ErrorIs(t, err, ErrFull)

	_, err = r.do(8, mallory, command{Op: opLeave})
	require.NoError(t, err)
	_, err = r.do(302, mallory, command{Op: opJoin, Text: "more"})
	require.NoError(t, err, "after one has left")
	_, err = r.do(303, mallory, command{Op: opJoin, Text: "even.more"})
	require.ErrorIs(t, err, ErrFull)
}

// A snapshot with more participants of one key, or without the limit, is restored in full. The limit holds for new
// participants.
func TestRestoreKeepsParticipantsAboveTheQuota(t *testing.T) {
	r := newReplica(t, Config{MaxPerKey: 100})
	mallory := keyOf(1)
	for s := range uint64(100) {
		_, err := r.do(s, mallory, command{Op: opJoin, Text: fmt.Sprintf("m%d", s)})
		require.NoError(t, err)
	}
	for what, limit := range map[string]int{"a lower limit": 2, "no limit": 0} {
		r.Migratable.(*room).cfg.MaxPerKey = limit
		moved := newReplica(t, Config{MaxPerKey: 1000})
		require.NoError(t, moved.Restore(bytes.NewReader(r.snapshot(t))), what)
		require.Len(t, moved.Migratable.(*room).list, 100, what)
		for s := range uint64(100) {
			_, err := moved.do(s, mallory, command{Op: opSay, Text: "still here"})
			require.NoError(t, err, what)
		}
		_, err := moved.do(200, mallory, command{Op: opJoin, Text: "more"})
		require.ErrorIs(t, err, ErrFull, what)
		want := limit
		if limit == 0 {
			want = 64
		}
		for s := range uint64(100 - want + 1) {
			_, err := moved.do(s, mallory, command{Op: opLeave})
			require.NoError(t, err)
		}
		_, err = moved.do(200, mallory, command{Op: opJoin, Text: "more"})
		require.NoError(t, err, what)
	}

	// A header that ends before the limit, as older versions wrote it.
	s, err := newReplica(t, Config{}).Snapshot()
	require.NoError(t, err)
	var fields []any
	require.NoError(t, transport.Unmarshal(mustMarshal(&s.(*snapshot).header), &fields))
	old := mustMarshal(fields[:len(fields)-1])
	old = append(binary.AppendUvarint(nil, uint64(len(old))), old...)
	moved := newReplica(t, Config{MaxPerKey: 1000})
	require.NoError(t, moved.Restore(bytes.NewReader(old)))
	require.Equal(t, 64, moved.Migratable.(*room).cfg.MaxPerKey)
}
