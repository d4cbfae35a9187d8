package machine

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMachineGolden pins the running hash and the outcomes of random logs: hosts of different versions compare hashes.
func TestMachineGolden(t *testing.T) {
	for seed, want := range []string{
		"635eabff0b76aa6d aa32aaceeac75ccf",
		"9a33af92b33ee4a3 c3667e103ba91b5b",
		"77a83ab191102fad 7b0919658aa2f9bf",
		"ef5c3f9164a7a3cb 24c1a413c80d9f62",
	} {
		r := rand.New(rand.NewPCG(uint64(seed), 5))
		m := New("journal.example", &journal{}, tightLimits)
		outcomes := fnv.New64a()
		for range 1_500 {
			a := m.Apply(randomEntry(r, m))
			err := ""
			if a.Err != nil {
				err = fmt.Sprintf("%d %q %x", a.Err.Code, a.Err.Message, a.Err.Data)
			}
			fmt.Fprintln(outcomes, a.Index, a.Epoch, a.Kind, a.Session, a.Seq, a.Reply, err, a.Duplicate, a.First, a.Next, a.Ended,
				a.Mismatch)
		}
		outcomes.Write(stream(t, m))
		require.Equal(t, want, fmt.Sprintf("%016x %016x", m.Hash(), outcomes.Sum64()))
	}
}
