// Package migratetest tests implementations of migrate.Migratable: whether copies of the service stay equal, and whether a
// snapshot is what it has to be.
//
// # What it does not see
//
// Of a state the suite sees what replies, errors, events, answers to Subject.Queries and [migrate.Hasher] show. What none of
// them shows may differ between copies, or be missing in a restored one, and Run succeeds all the same: the best that a
// service can do is a Hash of its whole state. Snapshots are not compared: equal states need not give equal bytes.
//
// All copies live in one process. What differs only from process to process is equal here, such as a seed of hash/maphash in
// a global variable, the environment, or the version of the program. State that instances share is not always noticed.
//
// It does not measure how long Snapshot and Hash take. A stack that overflows and a map that is written to by two goroutines
// end the test binary: nothing recovers from these.
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

// Subject is a service to be tested.
type Subject struct {
	// New makes an empty instance, another one each time.
	New func() migrate.Migratable
	// Commands are applied one after the other, two at least, and must not make Apply panic. Run fills in what is zero of
	// Index, Epoch, Time, Session and Seq. What a [migrate.Validator] refuses does not reach Apply, as it would not on a host.
	// After the last command the sessions end, for a [migrate.SessionCloser]. The more different things commands do, and the
	// more they depend on what went before, the more the tests see.
	Commands []migrate.Command
	// Queries, for a [migrate.Querier], are asked in between. Copies must give equal answers.
	Queries [][]byte
}

// Run tests a service. Each failure names the rule that is broken; a panic of the service is one, with its stack. Run it with
// the race detector, too: a snapshot is written while commands are applied. The package's doc says what Run does not see.
func Run(t *testing.T, s Subject) {
	if s.New == nil || len(s.Commands) < 2 {
		t.Fatal("migratetest: Subject needs New and two Commands at least")
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
			return // the others would fail for the same reason, and say less of it
		}
	}
}

type rule struct {
	name, rule string
	check      func(*suite) error
}

// rules are what Run tests. They return errors so that the tests of this package can see them fail.
var rules = []rule{
	{"new", "New makes another instance each time", instances},
	{"panics", "no method panics, and two commands pass Validate at least", panics},
	{"deterministic", "equal commands give equal replies and events", deterministic},
	{"hash", "instances that have applied the same commands have the same hash", sameHash},
	{"answers", "instances that have applied the same commands give the same answers to queries", sameAnswers},
	{"restore", "a restored copy goes on like the original", restore},
	{"hashrestore", "a restored copy has the hash of the original, at once and after further commands", restoredHash},
	{"answersrestore", "a restored copy gives the answers of the original, at once and after further commands", restoredAnswers},
	{"pointintime", "a snapshot holds the state of the moment at which it was taken, whatever is applied before it is written",
		pointInTime},
	{"concurrent", "a snapshot may be written while commands are applied", concurrent},
	{"release", "a snapshot may be released without being written", release},
	{"end", "Restore reads to the end", readsToEnd},
	{"broken", "Restore returns the error of its reader", brokenStream},
	{"query", "a query changes nothing", queries},
	{"hashquiet", "Hash changes nothing, and is the same when it is called again", hashes},
	{"validate", "Validate changes nothing", validate},
}

// instances finds instances that are one. Things without a size may share an address.
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

// panics calls all methods; Validate was called by judge. What panics later only is found by the other rules.
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

// watched tells whether its end was seen.
type watched struct {
	io.Reader
	end bool
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.end = w.end || err == io.EOF
	return n, err
}

// saved is a snapshot after the last command: when all sessions have ended there may be little in it.
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
		return errors.New("it returned without having seen io.EOF, before which the bytes are not known to be whole")
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
			return fmt.Errorf("it succeeded, though the stream of %d bytes broke after %d", len(b), n)
		}
		if p, ok := errors.AsType[*panicked](err); ok {
			return fmt.Errorf("the stream of %d bytes broke after %d: %w", len(b), n, p)
		}
	}
	return nil
}

// twice looks at an instance twice, and must see the same.
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

// validate asks about a command, and about the one after it: a host does not wait for commands to be applied.
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
