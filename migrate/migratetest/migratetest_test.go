package migratetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
)

// list is a service that stores its commands, with planted flaws.
type list struct {
	listState
	flaw     string
	id       uint64 // differs between instances
	dirty    int
	restored bool
}

type listState struct {
	Seen  []string
	Sum   uint64
	Ended int
}

func (l *list) panicsIn(method string) {
	if l.flaw == "panic in "+method {
		panic("boom")
	}
}

func (l *list) add(text string) {
	l.Seen = append(l.Seen, text)
	l.dirty++
	if l.flaw != "a copy forgets to go on with the hash" || !l.restored {
		l.Sum = l.Sum*31 + uint64(crc32.ChecksumIEEE([]byte(text)))
	}
}

func (l *list) Apply(cmd migrate.Command) ([]byte, error) {
	if string(cmd.Body) == "3" {
		l.panicsIn("Apply")
	}
	switch {
	case string(cmd.Body) == "refused":
		panic("it was refused")
	case l.flaw == "a copy panics" && l.restored:
		panic("boom")
	case l.flaw == "replies at random":
		l.add(strconv.FormatUint(rand.Uint64(), 10))
	default:
		l.add(string(cmd.Body))
	}
	cmd.Emit(cmd.Body)
	return []byte(fmt.Sprint(l.Seen)), nil
}

func (l *list) SessionClosed(cmd migrate.Command) {
	l.panicsIn("SessionClosed")
	l.Ended++
	if l.flaw == "a session ends at random" {
		l.Ended = rand.Int()
	}
	cmd.Emit(fmt.Append(nil, cmd.Session, " ended, ", l.Ended))
}

func (l *list) Validate(cmd migrate.Command) error {
	l.panicsIn("Validate")
	switch {
	case l.flaw == "Validate changes the state":
		l.add("validated")
	case l.flaw == "Validate relies on what went before" && string(cmd.Body) != "0":
		_ = l.Seen[cmd.Seq-2]
	}
	if string(cmd.Body) == "refused" || l.flaw == "Validate refuses all" {
		return errors.New("refused")
	}
	return nil
}

func (l *list) Query(migrate.Query) ([]byte, error) {
	l.panicsIn("Query")
	switch l.flaw {
	case "a query changes the state":
		l.Seen = append(l.Seen, "asked")
		return nil, nil
	case "a query changes the hash":
		l.Sum++
	case "an answer changes":
		return strconv.AppendUint(nil, rand.Uint64(), 10), nil
	case "each instance has its answers":
		return strconv.AppendUint(nil, l.id, 10), nil
	case "a copy answers differently":
		return fmt.Append(nil, len(l.Seen), l.restored), nil
	}
	return fmt.Append(nil, len(l.Seen), l.Ended), nil
}

func (l *list) Hash() uint64 {
	l.panicsIn("Hash")
	switch l.flaw {
	case "Hash is random":
		return rand.Uint64()
	case "each instance has its hash":
		return l.id
	case "Hash changes the state":
		if l.dirty > 0 {
			l.Seen = append(l.Seen, "hashed")
		}
		l.dirty = 0
	case "Hash depends on when it was called":
		if l.dirty > 0 {
			l.Sum = l.Sum*31 + uint64(l.dirty)
		}
		l.dirty = 0
	}
	return l.Sum
}

func (l *list) Snapshot() (migrate.Snapshot, error) {
	l.panicsIn("Snapshot")
	switch l.flaw {
	case "Snapshot returns none":
		return nil, nil
	case "Snapshot fails":
		return nil, errors.New("full")
	case "Snapshot changes the hash":
		l.Sum++
	}
	s := &listSnapshot{l: l, state: l.listState}
	s.state.Seen = append([]string(nil), l.Seen...)
	if l.flaw == "Snapshot leaves another hash" {
		l.Sum++
	}
	return s, nil
}

type listSnapshot struct {
	l     *list
	state listState
}

func (s *listSnapshot) WriteTo(w io.Writer) (int64, error) {
	s.l.panicsIn("WriteTo")
	state := s.state
	switch s.l.flaw {
	case "a snapshot is late":
		state = s.l.listState
	case "the hash of a snapshot is late":
		state.Sum = s.l.Sum
	case "a snapshot lacks a command":
		state.Seen = state.Seen[min(len(state.Seen), 1):]
	case "a snapshot lacks the hash":
		state.Sum = 0
	case "a snapshot lacks the ends of sessions":
		state.Ended = 7
	}
	b, err := json.Marshal(state)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	return int64(n), err
}

func (s *listSnapshot) Release() {
	s.l.panicsIn("Release")
	if s.l.flaw == "Release changes the state" && len(s.state.Seen) > 0 {
		s.l.Seen = append(s.l.Seen, "released")
	}
}

func (l *list) Restore(r io.Reader) error {
	l.panicsIn("Restore")
	l.restored = true
	if l.flaw == "Restore stops early" {
		var first [1]byte
		io.ReadFull(r, first[:])
		rest := make([]byte, 1<<20)
		n, _ := r.Read(rest)
		return json.Unmarshal(append(first[:], rest[:n]...), &l.listState)
	}
	b, err := io.ReadAll(r)
	if err == nil {
		err = json.Unmarshal(b, &l.listState)
	}
	switch {
	case err != nil && l.flaw == "Restore panics at errors":
		panic(err)
	case l.flaw == "Restore hides errors":
		return nil
	}
	return err
}

func subject(flaw string) Subject {
	made := uint64(0)
	one := new(list)
	s := Subject{Queries: []migrate.Query{{Body: []byte("how many")}}}
	s.New = func() migrate.Migratable {
		made++
		switch flaw {
		case "New returns nil":
			return nil
		case "New returns a nil pointer":
			return (*list)(nil)
		case "New returns one instance":
			return one
		case "New returns one instance later":
			if made > 2 {
				return one
			}
		case "panic in New":
			panic("boom")
		}
		return &list{flaw: flaw, id: made}
	}
	for i := range 10 {
		s.Commands = append(s.Commands, migrate.Command{Body: strconv.AppendInt(nil, int64(i), 10), Session: uint64(i%2 + 5)})
	}
	return s
}

func TestRun(t *testing.T) { Run(t, subject("")) }

// Commands that Validate refuses do not reach Apply.
func TestRefused(t *testing.T) {
	s := subject("")
	s.Commands[4].Body = []byte("refused")
	Run(t, s)
}

// stateless is a service whose instances have size zero and may share an address.
type stateless struct{}

func (*stateless) Apply(migrate.Command) ([]byte, error) { return nil, nil }
func (*stateless) Snapshot() (migrate.Snapshot, error)   { return sum{}, nil }
func (*stateless) Restore(r io.Reader) error             { _, err := io.Copy(io.Discard, r); return err }

type sum struct{}

func (sum) WriteTo(io.Writer) (int64, error) { return 0, nil }
func (sum) Release()                         {}

func TestStateless(t *testing.T) {
	Run(t, Subject{New: func() migrate.Migratable { return new(stateless) }, Commands: make([]migrate.Command, 2)})
}

// The named rule detects each flaw. The race detector finds the other flaws that "concurrent" is for.
var flaws = []struct{ flaw, rule, says string }{
	{"New returns nil", "new", "New returned nil"},
	{"New returns a nil pointer", "new", "New returned a nil *migratetest.list"},
	{"New returns one instance", "new", "calls 1 and 2 of New returned the same instance"},
	{"New returns one instance later", "new", "calls 3 and 4 of New returned the same instance"},
	{"panic in New", "new", "New panicked: boom"},
	{"panic in Apply", "panics", "command 3: Apply panicked: boom"},
	{"panic in SessionClosed", "panics", "end of session 5: SessionClosed panicked: boom"},
	{"panic in Validate", "panics", "command 0: Validate panicked: boom"},
	{"panic in Query", "panics", `before the first command: query "how many": Query panicked: boom`},
	{"panic in Hash", "panics", "before the first command: Hash panicked: boom"},
	{"panic in Snapshot", "panics", "Snapshot panicked: boom"},
	{"panic in WriteTo", "panics", "WriteTo panicked: boom"},
	{"panic in WriteTo", "concurrent", "snapshot after 0 commands: writing the snapshot: WriteTo panicked: boom"},
	{"panic in Release", "panics", "Release panicked: boom"},
	{"panic in Release", "release", "snapshot after 0 commands: Release panicked: boom"},
	{"panic in Restore", "panics", "Restore panicked: boom"},
	{"panic in Restore", "broken", "Restore panicked: boom"},
	{"a copy panics", "restore", "snapshot after 0 commands: command 0: Apply panicked: boom"},
	{"Restore panics at errors", "broken", "broke after 0: Restore panicked: the connection broke"},
	{"Validate refuses all", "panics", "refuses 10 of 10 commands"},
	{"replies at random", "deterministic", "command 0: reply"},
	{"a session ends at random", "deterministic", "end of session 5: reply"},
	{"each instance has its hash", "hash", "before the first command: hash 0x"},
	{"Hash is random", "hash", "before the first command: hash 0x"},
	{"each instance has its answers", "answers", "before the first command: query"},
	{"a snapshot lacks a command", "restore", "snapshot after 1 commands: command 1: reply"},
	{"a snapshot lacks the ends of sessions", "restore", "snapshot after 0 commands: end of session 5: reply"},
	{"Snapshot returns none", "restore", "Snapshot returned nil"},
	{"Snapshot fails", "restore", "snapshot after 0 commands: taking a snapshot: full"},
	{"a snapshot lacks the hash", "hashrestore", "snapshot after 1 commands: after command 0: hash 0x"},
	{"a copy forgets to go on with the hash", "hashrestore", "snapshot after 0 commands: after command 0: hash 0x"},
	{"the hash of a snapshot is late", "hashrestore", "snapshot after 0 commands: before the first command: hash 0x"},
	{"Snapshot changes the hash", "hashrestore", "snapshot after 0 commands: before the first command: hash 0x"},
	{"Snapshot leaves another hash", "hashrestore", "snapshot after 0 commands: before the first command: hash 0x"},
	{"a copy answers differently", "answersrestore", "snapshot after 0 commands: before the first command: query"},
	{"a snapshot is late", "pointintime", "snapshot after 0 commands: command 0: reply"},
	{"Release changes the state", "release", "command 1: reply"},
	{"Restore stops early", "end", "it returned before io.EOF"},
	{"Restore hides errors", "broken", "it succeeded"},
	{"a query changes the state", "query", "command 0: reply"},
	{"a query changes the hash", "query", "after end of session 6: hash 0x"},
	{"an answer changes", "query", "the second time"},
	{"Hash is random", "hashquiet", "the second time"},
	{"Hash changes the state", "hashquiet", "command 1: reply"},
	{"Hash depends on when it was called", "hashquiet", "after end of session 6: hash 0x"},
	{"Validate changes the state", "validate", "command 0: reply"},
	{"Validate relies on what went before", "validate", "command 1: Validate panicked: runtime error: index out of range"},
}

func TestFlawsAreFound(t *testing.T) {
	found := map[string]bool{"concurrent": true}
	for _, r := range rules {
		require.NoError(t, newSuite(subject("")).check(r), r.rule)
		for _, f := range flaws {
			if f.rule != r.name {
				continue
			}
			found[r.name] = true
			err := newSuite(subject(f.flaw)).check(r)
			require.ErrorContains(t, err, f.says, "%s: %s", f.flaw, r.rule)
			if strings.Contains(f.says, "panicked") {
				require.ErrorContains(t, err, "migratetest_test.go:", "the stack is missing: %s", f.flaw)
			}
		}
		require.True(t, found[r.name], "no flaw shows that the rule is tested: %s", r.rule)
	}
}
