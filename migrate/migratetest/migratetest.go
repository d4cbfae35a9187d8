// Package migratetest tests implementations of migrate.Migratable: copies of the service must stay equal, and a snapshot
// must hold the whole state of one moment.
//
// # Limits
//
// The suite observes the state through replies, errors, events, answers to Subject.Queries and [migrate.Hasher]. Run does
// not detect differences between copies, or parts missing in a restored copy, that none of these show. A Hash of the whole
// state shows all of them. Run does not compare snapshots, since equal states may have different bytes.
//
// All copies live in one process. Run does not detect differences that appear only between processes, such as a seed of
// hash/maphash in a global variable, the environment, or the program's version. It may miss state that instances share.
//
// Run does not measure the duration of Snapshot and Hash. A stack overflow, or concurrent writes to a map, end the test
// binary, since Go cannot recover from them.
package migratetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"testing"

	"github.com/roam-go/roam/migrate"
)

// Subject is the service under test.
type Subject struct {
	// New returns a new, empty instance.
	New func() migrate.Migratable
	// Commands are at least two commands, which Run applies in order and which must not make Apply panic. Run sets Index,
	// Epoch, Time, Session and Seq where they are zero. As on a host, commands that a [migrate.Validator] refuses do not
	// reach Apply. After the last command Run ends the sessions of a [migrate.SessionCloser]. Tests detect more if
	// commands differ and depend on earlier ones.
	Commands []migrate.Command
	// Queries are requests to a [migrate.Querier] between commands. Copies must give equal answers.
	Queries []migrate.Query
}

// Run tests a service. Each failure names the broken rule. A panic of the service is a failure, reported with its stack.
// Use the race detector, too: Run writes a snapshot while it applies commands. The package's documentation lists limits.
func Run(t *testing.T, s Subject) {
	if s.New == nil || len(s.Commands) < 2 {
		t.Fatal("migratetest: Subject needs New and at least two Commands")
	}
	c := newSuite(s)
	for _, r := range rules {
		ok := t.Run(r.name, func(t *testing.T) {
			t.Helper()
			if err := c.check(r); err != nil {
				t.Errorf("rule broken: %s: %v", r.rule, err)
			}
		})
		if !ok && (r.name == "new" || r.name == "panics") {
			return // the other rules would fail for the same reason, with less detail
		}
	}
}

type rule struct {
	name, rule string
	check      func(*suite) error
}

// rules are the rules that Run checks. They return errors so that tests of this package can see them fail.
var rules = []rule{
	{"new", "New returns a new instance each time", instances},
	{"panics", "no method panics, and at least two commands pass Validate", panics},
	{"deterministic", "equal commands give equal replies and events", deterministic},
	{"hash", "instances that have applied the same commands have the same hash", sameHash},
	{"answers", "instances that have applied the same commands give the same answers to queries", sameAnswers},
	{"restore", "a restored copy continues like the original", restore},
	{"hashrestore", "a restored copy has the hash of the original, at once and after further commands", restoredHash},
	{"answersrestore", "a restored copy gives the answers of the original, at once and after further commands",
		restoredAnswers},
	{"pointintime", "a snapshot holds the state of the moment of Snapshot, even if commands are applied before WriteTo",
		pointInTime},
	{"concurrent", "a snapshot may be written while commands are applied", concurrent},
	{"release", "a snapshot may be released without being written", release},
	{"end", "Restore reads to the end", readsToEnd},
	{"broken", "Restore returns the error of its reader", brokenStream},
	{"query", "a query changes nothing", queries},
	{"hashquiet", "Hash changes nothing and returns the same value again", hashes},
	{"validate", "Validate changes nothing", validate},
}

// instances detects that New returns the same instance twice. Values of size zero may share an address.
func instances(s *suite) error {
	var all []reflect.Value
	for i := range 4 {
		m, err := s.fresh()
		if err != nil {
			return err
		}
		v := reflect.ValueOf(m)
		if v.Kind() != reflect.Map && (v.Kind() != reflect.Pointer || v.Type().Elem().Size() == 0) {
			return nil
		}
		for j, other := range all {
			if other.Type() == v.Type() && other.Pointer() == v.Pointer() {
				return fmt.Errorf("calls %d and %d of New returned the same instance", j+1, i+1)
			}
		}
		all = append(all, v)
	}
	return nil
}

// panics calls all methods; judge has called Validate. The other rules detect panics that come later.
func panics(s *suite) error {
	for _, v := range []view{hash, answers} {
		if _, err := s.pristine(v); err != nil {
			return err
		}
	}
	b, err := s.saved()
	if err == nil {
		_, err = s.load(bytes.NewReader(b))
	}
	return err
}

func deterministic(s *suite) error {
	n := len(s.steps)
	var want []outcome
	for i := range 5 {
		m, err := s.fresh()
		if err != nil {
			return err
		}
		got, err := s.apply(m, 0, n)
		if err != nil {
			return err
		}
		if i == 0 {
			want = got
		}
		if err := s.same(0, want, got); err != nil {
			return err
		}
	}
	return nil
}

func sameHash(s *suite) error        { return s.alike(hash) }
func sameAnswers(s *suite) error     { return s.alike(answers) }
func restoredHash(s *suite) error    { return s.restored(hash) }
func restoredAnswers(s *suite) error { return s.restored(answers) }

func restore(s *suite) error {
	return s.snapshots(func(m migrate.Migratable, snap migrate.Snapshot, cut int) ([]byte, []outcome, error) {
		b, err := save(snap)
		if err != nil {
			return nil, nil, err
		}
		want, err := s.apply(m, cut, len(s.steps))
		return b, want, err
	})
}

func pointInTime(s *suite) error {
	return s.snapshots(func(m migrate.Migratable, snap migrate.Snapshot, cut int) ([]byte, []outcome, error) {
		want, err := s.apply(m, cut, len(s.steps))
		if err != nil {
			return nil, nil, err
		}
		b, err := save(snap)
		return b, want, err
	})
}

func concurrent(s *suite) error {
	return s.snapshots(func(m migrate.Migratable, snap migrate.Snapshot, cut int) (b []byte, want []outcome, err error) {
		var failed error
		done := make(chan struct{})
		go func() {
			defer close(done)
			b, failed = save(snap)
		}()
		want, err = s.apply(m, cut, len(s.steps))
		<-done
		return b, want, errors.Join(err, failed)
	})
}

func release(s *suite) error {
	return s.quiet(func(m migrate.Migratable, i int) error {
		if !slices.Contains(s.cuts(), i) {
			return nil
		}
		snap, err := capture(m)
		if err == nil {
			err = drop(snap)
		}
		if err != nil {
			return fmt.Errorf("a snapshot after %d commands: %w", i, err)
		}
		return nil
	})
}

// watched is a reader that records whether its end was read.
type watched struct {
	io.Reader
	end bool
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.end = w.end || err == io.EOF
	return n, err
}

// saved returns a snapshot after the last command, before the sessions end, when the state may become small.
func (s *suite) saved() ([]byte, error) {
	m, err := s.fresh()
	if err != nil {
		return nil, err
	}
	if _, err := s.apply(m, 0, len(s.Commands)); err != nil {
		return nil, err
	}
	snap, err := capture(m)
	if err != nil {
		return nil, err
	}
	return save(snap)
}

func readsToEnd(s *suite) error {
	b, err := s.saved()
	if err != nil {
		return err
	}
	w := &watched{Reader: bytes.NewReader(b)}
	if _, err := s.load(w); err != nil {
		return err
	}
	if !w.end {
		return errors.New("it returned before io.EOF; data before io.EOF is unverified")
	}
	return nil
}

var errBroken = errors.New("the connection broke")

// broken is a stream that ends with an error.
type broken struct{ r io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		err = errBroken
	}
	return n, err
}

func brokenStream(s *suite) error {
	b, err := s.saved()
	if err != nil {
		return err
	}
	for _, n := range []int{0, len(b) / 2, max(len(b)-1, 0), len(b)} {
		_, err := s.load(broken{bytes.NewReader(b[:n])})
		if err == nil {
			return fmt.Errorf("it succeeded although the stream of %d bytes broke after %d", len(b), n)
		}
		if p, ok := errors.AsType[*panicked](err); ok {
			return fmt.Errorf("the stream of %d bytes broke after %d: %w", len(b), n, p)
		}
	}
	return nil
}

// twice views an instance twice, which must give the same.
func (s *suite) twice(v view) func(m migrate.Migratable, i int) error {
	return func(m migrate.Migratable, i int) error {
		first, err := s.look(m, i, v)
		if err != nil {
			return err
		}
		second, err := s.look(m, i, v)
		if err == nil && first != second {
			err = fmt.Errorf("%s: %s; the second time: %s", s.point(i), first, second)
		}
		return err
	}
}

func queries(s *suite) error { return s.quiet(s.twice(answers)) }

func hashes(s *suite) error { return s.quiet(s.twice(hash)) }

// validate validates a command and the next one: a host validates commands before earlier ones are applied.
func validate(s *suite) error {
	return s.quiet(func(m migrate.Migratable, i int) error {
		if _, ok := m.(migrate.Validator); !ok {
			return nil
		}
		for j := i; j < min(i+2, len(s.Commands)); j++ {
			if _, err := s.refuses(m, j); err != nil {
				return err
			}
		}
		return nil
	})
}
