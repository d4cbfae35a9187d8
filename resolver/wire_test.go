package resolver

import (
	"encoding/hex"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// goldenRecord is the record of running, as the first version wrote it.
const goldenRecord = "9aab6261636b656e642e636f6d0905010394a6686f73742d6101a3613a31c42001000000000000000000000000000000000" +
	"00000000000" +
	"0000000000000000009394a6686f73742d6101a3613a31c420010000000000000000000000000000000000000000000000000000000000" +
	"000094a6686f73742d6201a3623a31c420020000000000000000000000000000000000000000000000000000000000000094a6686f7374" +
	"2d6301a3633a31c42003000000000000000000000000000000000000000000000000000000000000000094a6686f73742d6101a3613a31" +
	"c420010000000000000000000000000000000000000000000000000000000000000007"

// The bytes of a record are a promise to other versions and languages.
func TestGoldenRecord(t *testing.T) {
	r := running()
	data, err := transport.Marshal(r.onWire())
	require.NoError(t, err)
	require.Equal(t, goldenRecord, hex.EncodeToString(data))
	got, err := decodeRecord(data)
	require.NoError(t, err)
	require.Equal(t, r, got)
	for _, v := range []any{&r, casParams{Next: r}, []Record{r}} { // as a pointer, a field and an element
		data, err := transport.Marshal(v)
		require.NoError(t, err)
		require.Contains(t, hex.EncodeToString(data), goldenRecord)
	}
}

// The number before the proposer is ignored when read, and 0 when written.
func TestReservedNumber(t *testing.T) {
	data, err := os.ReadFile("testdata/records-level2.v1") // there it is 2
	require.NoError(t, err)
	_, records, _, err := decodeFile(data)
	require.NoError(t, err)
	require.Equal(t, fileRecords(), records)
	want, err := os.ReadFile("testdata/records.v1")
	require.NoError(t, err)
	require.Equal(t, want, fileOf(t, 9, records))
}
