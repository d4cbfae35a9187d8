package migratetest_test

import (
	"encoding/json"
	"io"
	"testing"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/migrate/migratetest"
)

// sum is a service that sums the lengths of its commands.
type sum struct{ Total int }

func (s *sum) Apply(cmd migrate.Command) ([]byte, error) {
	s.Total += len(cmd.Body)
	return json.Marshal(s.Total)
}

func (s *sum) Snapshot() (migrate.Snapshot, error) { return *s, nil }
func (s *sum) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, s)
}

func (s sum) WriteTo(w io.Writer) (int64, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	return int64(n), err
}

func (s sum) Release() {}

func TestSum(t *testing.T) {
	migratetest.Run(t, migratetest.Subject{
		New:      func() migrate.Migratable { return new(sum) },
		Commands: []migrate.Command{{Body: []byte("a")}, {Body: []byte("bc")}, {Body: []byte("def")}},
	})
}
