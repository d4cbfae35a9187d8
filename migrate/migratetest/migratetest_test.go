package migratetest

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
)

// list is a service that remembers its commands; flaws are planted in it.
type list struct {
	Seen []string
	flaw string
}

func (l *list) Apply(cmd migrate.Command) ([]byte, error) {
	switch l.flaw {
	case "deterministic":
		l.Seen = append(l.Seen, strconv.FormatUint(rand.Uint64(), 10))
	default:
		l.Seen = append(l.Seen, string(cmd.Body))
	}
	cmd.Emit(cmd.Body)
	return []byte(fmt.Sprint(l.Seen)), nil
}

func (l *list) Query(q []byte) ([]byte, error) {
	if l.flaw == "query" {
		l.Seen = append(l.Seen, "asked")
	}
	return strconv.AppendInt(nil, int64(len(l.Seen)), 10), nil
}

func (l *list) Snapshot() (migrate.Snapshot, error) {
	s := &listSnapshot{l: l, seen: append([]string(nil), l.Seen...)}
	if l.flaw == "pointintime" {
		s.late = true
	}
	return s, nil
}

type listSnapshot struct {
	l    *list
	seen []string
	late bool
}

func (s *listSnapshot) WriteTo(w io.Writer) (int64, error) {
	seen := s.seen
	if s.late {
		seen = s.l.Seen
	}
	if s.l.flaw == "restore" && len(seen) > 0 {
		seen = seen[1:]
	}
	b, err := json.Marshal(seen)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	return int64(n), err
}

func (s *listSnapshot) Release() {
	if s.l.flaw == "release" {
		s.l.Seen = append(s.l.Seen, "released")
	}
}

func (l *list) Restore(r io.Reader) error {
	if l.flaw == "end" {
		var first [1]byte
		io.ReadFull(r, first[:])
		rest := make([]byte, 1<<20)
		n, _ := r.Read(rest)
		return json.Unmarshal(append(first[:], rest[:n]...), &l.Seen)
	}
	b, err := io.ReadAll(r)
	if err != nil && l.flaw != "broken" {
		return err
	}
	if err := json.Unmarshal(b, &l.Seen); err != nil && l.flaw != "broken" {
		return err
	}
	return nil
}

func subject(flaw string) Subject {
	s := Subject{New: func() migrate.Migratable { return &list{flaw: flaw} }, Queries: [][]byte{[]byte("how many")}}
	for i := range 10 {
		s.Commands = append(s.Commands, migrate.Command{Body: strconv.AppendInt(nil, int64(i), 10)})
	}
	return s
}

func TestRun(t *testing.T) { Run(t, subject("")) }

// Each rule finds the flaw that is named after it. What "concurrent" is for is found by the race detector.
func TestFlawsAreFound(t *testing.T) {
	for _, r := range rules {
		if r.name == "concurrent" {
			continue
		}
		s := subject(r.name)
		require.Error(t, r.check(&s), r.rule)
		s = subject("")
		require.NoError(t, r.check(&s), r.rule)
	}
}
