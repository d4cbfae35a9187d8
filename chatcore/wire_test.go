package chatcore

import (
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// TestGoldenWire pins the bytes that clients in other languages exchange. They never change.
func TestGoldenWire(t *testing.T) {
	for _, tc := range []struct {
		what string
		v    any
		want string
	}{
		{"join", &command{Op: opJoin, Text: "ann", Addr: "h:1"}, "9301a3616e6ea3683a31"},
		{"say", &command{Op: opSay, Text: "hé"}, "9302a368c3a9a0"},
		{"leave", &command{Op: opLeave}, "9303a0a0"},
		{"joined", &joinReply{Name: "ann", Next: 300, Missing: 1, Present: 2}, "94a3616e6ecd012c0102"},
		{"event", &event{Kind: KindMessage, From: "ann", Text: "hi", Time: 1_700_000_000_000},
			"9501a3616e6ea26869cf0000018bcfe5680000"},
		{"event of joining", &event{Kind: KindJoined, From: "ann", Time: 5, Missing: 1, Key: keyOf(7)},
			"9602a3616e6ea00501c4200700000000000000000000000000000000000000000000000000000000000000"},
		{"event of joining without a key", &event{Kind: KindJoined, From: "ann", Time: 5}, "9502a3616e6ea00500"},
		{"history", &query{Op: queryHistory, After: 300}, "9401a0cd012c00"},
		{"said", []storedMessage{{Seq: 3, From: "ann", Text: "hi", Time: 5}}, "919403a3616e6ea2686905"},
		{"who", &roster{Present: 1, List: []participantInfo{{Number: 1, Name: "ann", Key: []byte{}, Time: 5}}},
			"9201919501a3616e6ea0c40005"},
		{"private", &privateParams{To: "b", From: "a", Text: "x", ID: 7, Token: []byte{1}}, "95a162a161a17807c40101"},
	} {
		var got []byte
		if v, ok := tc.v.(interface{ encode() []byte }); ok {
			got = v.encode()
		} else {
			got = mustMarshal(tc.v)
		}
		require.Equal(t, tc.want, hex.EncodeToString(got), tc.what)
	}

	// Trailing fields may be omitted, and additional fields of a later version are skipped.
	for in, want := range map[string]command{
		"9202a26869":         {Op: opSay, Text: "hi"},
		"9103":               {Op: opLeave},
		"9402a26869a0c3":     {Op: opSay, Text: "hi"},
		"93cc02d9026869d900": {Op: opSay, Text: "hi"}, // not the shortest form
	} {
		b, err := hex.DecodeString(in)
		require.NoError(t, err)
		got, err := decodeCommand(b)
		require.NoError(t, err, in)
		require.Equal(t, want, got)
	}
	for _, in := range []string{"", "c0", "02", "90", "9302a26869a0c0", "9302c3a0", "9302a26869", "930201a0", "93ffa0a0",
		"8302a26869a0", "9402a26869a0"} {
		b, err := hex.DecodeString(in)
		require.NoError(t, err)
		_, err = decodeCommand(b)
		require.ErrorIs(t, err, ErrBadCommand, in)
	}
}

// The largest answers and records stay within the limits of a connection and a snapshot.
func TestLargestAnswersFit(t *testing.T) {
	r := newReplica(t, Config{HistoryCount: 10_000, HistoryBytes: 512 << 10, MaxText: 64 << 10, MaxName: 64})
	for s := range uint64(maxPage) {
		name := fmt.Sprintf("%03d", s)
		for range 61 {
			name += "山"
		}
		c := command{Op: opJoin, Text: name, Addr: fmt.Sprintf("%0256d", s)}
		_, err := r.do(s, keyOf(s+1), c)
		require.NoError(t, err)
	}
	answer, err := r.Migratable.(*room).Query(migrate.Query{Body: mustMarshal(&query{Op: queryWho})})
	require.NoError(t, err)
	require.Less(t, len(answer), 512<<10)
	require.NoError(t, transport.Unmarshal(answer, new(roster)))

	_, err = r.do(9999, keyOf(9999), command{Op: opJoin, Text: "a"})
	require.NoError(t, err)
	for range 16_000 {
		_, err = r.do(9999, keyOf(9999), command{Op: opSay, Text: "x"})
		require.NoError(t, err)
	}
	answer, err = r.Migratable.(*room).Query(migrate.Query{Body: mustMarshal(&query{Op: queryHistory, After: 1 << 40})})
	require.NoError(t, err)
	require.Less(t, len(answer), 700<<10)
	var list []storedMessage
	require.NoError(t, transport.Unmarshal(answer, &list))
	require.Len(t, list, 10_000)

	big := newReplica(t, Config{MaxText: 64 << 10, HistoryBytes: 512 << 10})
	big.join(t, 1, "ann")
	text := make([]byte, 64<<10)
	for i := range text {
		text[i] = 'x'
	}
	for range 20 {
		require.NoError(t, big.say(1, string(text)))
	}
	require.Len(t, big.Migratable.(*room).history, 7)
	require.Less(t, len(big.snapshot(t)), 512<<10)
}
