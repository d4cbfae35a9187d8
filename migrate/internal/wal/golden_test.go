package wal

import (
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
)

// The formats on disk, byte for byte: a later version must read what this one has written.
func TestGolden(t *testing.T) {
	require.Equal(t, goldenHost, hex.EncodeToString(encodeIdentity(owner)))
	state := core.State{
		Meta: core.Meta{Term: core.Term{Loss: 1, Epoch: 5}, Copy: true, Counted: true, Invitation: 3,
			Fresh: core.Term{Loss: 2, Epoch: 6}, Gen: 300, Record: "rec", Proposed: "hosts", Far: core.Term{Loss: 1, Epoch: 2055}},
		Commit: 7, Matched: 8, Base: core.Place{Index: 7, Epoch: 4},
		Entries: []core.Entry{{Index: 8, Epoch: 5, Kind: core.Command, Session: 9, Seq: 2, Low: 1, Time: 1_700_000_000_000,
			Body: []byte("hi")}},
	}
	l := log{salt: [saltSize]byte{1, 2, 3, 4, 5, 6, 7, 8}}
	data := append([]byte(logMagic), l.salt[:]...)
	frame := appendHeader(make([]byte, frameHead), &header{"svc", "host-a", 7, 1, state})
	require.NoError(t, l.seal(frame))
	data = append(data, frame...)
	next := state
	next.Base, next.Entries = core.Place{Index: 8, Epoch: 5}, nil
	next.Record, next.Proposed, next.Far = "", "", core.Term{} // as in a change that concerns neither
	frame = appendState(make([]byte, frameHead), &next)
	require.NoError(t, l.seal(frame))
	data = append(data, frame...)
	require.Equal(t, goldenLog, hex.EncodeToString(data))

	var got core.State
	_, good, err := readLog(data, func(h header) error { got = h.state; return nil },
		func(s core.State) error { return got.Apply(core.Save{State: s}) })
	require.NoError(t, err)
	require.Equal(t, len(data), good)
	state.Proposed, state.Far = "", core.Term{}
	require.Equal(t, state, got)
}

const (
	goldenHost = "726f616d2d69643106686f73742d610700000000000000000000000000000000000000000000000000000000000000000000000000" +
		"00006eb2b587"
	goldenLog = "726f616d2d776c310102030405060708000000003a000000639780320373766306686f73742d610701070105030206ac0207080704" +
		"010372656305686f7374730187100e04080509020180d095ffbc316869cab496df010000000d000000980613b3030105030206ac02070808" +
		"0500"
)
