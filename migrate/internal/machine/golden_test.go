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
		"635eabff0b76aa6d b23830f544a9a05e",
		"9a33af92b33ee4a3 abfeb92763d36f78",
		"77a83ab191102fad 798ac7b930807d18",
		"ef5c3f9164a7a3cb a1b4d3cb7b64edcf",
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
