// Package migratetest tests implementations of migrate.Migratable: whether copies of the service stay equal, and whether a
// snapshot is what it has to be.
package migratetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/roam-go/roam/migrate"
)

// Subject is a service to be tested.
type Subject struct {
	// New makes an empty instance.
	New func() migrate.Migratable
	// Commands are applied one after the other, several at least. Run fills in what is zero of Index, Epoch, Time, Session and
	// Seq. The more different things they do, and the more they depend on what went before, the more the tests see.
	Commands []migrate.Command
	// Queries, for a [migrate.Querier], are asked in between.
	Queries [][]byte
}

// Run tests a service. Each failure names the rule that is broken. Run it with the race detector, too: a snapshot is written
// while commands are applied.
func Run(t *testing.T, s Subject) {
	if s.New == nil || len(s.Commands) < 2 {
		t.Fatal("migratetest: Subject needs New and two Commands at least")
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Helper()
			if err := r.check(&s); err != nil {
				t.Errorf("rule broken: %s: %v", r.rule, err)
			}
		})
	}
}

// rules are what Run tests. They return errors so that the tests of this package can see them fail.
var rules = []struct {
	name, rule string
	check      func(*Subject) error
}{
	{"deterministic", "equal commands give equal replies and events", deterministic},
	{"restore", "a restored copy goes on like the original", restore},
	{"pointintime", "a snapshot holds the state of the moment at which it was taken, whatever is applied before it is written", pointInTime},
	{"concurrent", "a snapshot may be written while commands are applied", concurrent},
	{"release", "a snapshot may be released without being written", release},
	{"end", "Restore reads to the end", readsToEnd},
	{"broken", "Restore returns the error of its reader", brokenStream},
	{"query", "a query changes nothing", queries},
}

// outcome is all that a client sees of a command.
type outcome struct {
	reply  []byte
	err    string
	events [][]byte
}

func (o outcome) String() string {
	return fmt.Sprintf("reply %q, error %q, events %q", o.reply, o.err, o.events)
}

// apply applies the commands from number from on, and returns what came of them.
func (s *Subject) apply(m migrate.Migratable, from, to int) []outcome {
	var all []outcome
	for i := from; i < to; i++ {
		cmd := s.Commands[i]
		if cmd.Index == 0 {
			cmd.Index = uint64(i + 2)
		}
		if cmd.Epoch == 0 {
			cmd.Epoch = 1
		}
		if cmd.Time.IsZero() {
			cmd.Time = time.UnixMilli(1e12 + int64(i))
		}
		if cmd.Session == 0 {
			cmd.Session = 1
		}
		if cmd.Seq == 0 {
			cmd.Seq = uint64(i + 1)
		}
		cmd.Body = bytes.Clone(cmd.Body)
		var o outcome
		cmd = migrate.NewCommand(cmd, func(body []byte) { o.events = append(o.events, bytes.Clone(body)) })
		reply, err := m.Apply(cmd)
		o.reply = bytes.Clone(reply)
		if err != nil {
			o.err = err.Error()
		}
		all = append(all, o)
	}
	return all
}

// same compares what came of the commands from number from on.
func same(from int, want, got []outcome) error {
	for i := range want {
		if w, g := want[i].String(), got[i].String(); w != g {
			return fmt.Errorf("command %d: %s; the other copy: %s", from+i, w, g)
		}
	}
	return nil
}

// cuts are the points at which snapshots are taken.
func (s *Subject) cuts() []int {
	n := len(s.Commands)
	return []int{0, 1, n / 2, n - 1}
}

func save(snap migrate.Snapshot) ([]byte, error) {
	var b bytes.Buffer
	n, err := snap.WriteTo(&b)
	snap.Release()
	if err != nil {
		return nil, fmt.Errorf("writing the snapshot: %w", err)
	}
	if n != int64(b.Len()) {
		return nil, fmt.Errorf("the snapshot said that it wrote %d bytes, and wrote %d", n, b.Len())
	}
	return b.Bytes(), nil
}

func (s *Subject) load(r io.Reader) (migrate.Migratable, error) {
	m := s.New()
	if err := m.Restore(r); err != nil {
		return nil, fmt.Errorf("restoring: %w", err)
	}
	return m, nil
}

func deterministic(s *Subject) error {
	n := len(s.Commands)
	want := s.apply(s.New(), 0, n)
	for range 4 {
		if err := same(0, want, s.apply(s.New(), 0, n)); err != nil {
			return err
		}
	}
	return nil
}

// snapshots takes a snapshot at each cut, lets during run between taking and writing it, and compares what comes of the
// remaining commands.
func (s *Subject) snapshots(during func(m migrate.Migratable, snap migrate.Snapshot, cut int) ([]byte, []outcome, error)) error {
	for _, cut := range s.cuts() {
		m := s.New()
		s.apply(m, 0, cut)
		snap, err := m.Snapshot()
		if err != nil {
			return fmt.Errorf("taking a snapshot after %d commands: %w", cut, err)
		}
		b, want, err := during(m, snap, cut)
		if err != nil {
			return fmt.Errorf("after %d commands: %w", cut, err)
		}
		restored, err := s.load(bytes.NewReader(b))
		if err != nil {
			return fmt.Errorf("after %d commands: %w", cut, err)
		}
		if err := same(cut, want, s.apply(restored, cut, len(s.Commands))); err != nil {
			return fmt.Errorf("snapshot after %d commands: %w", cut, err)
		}
	}
	return nil
}

func restore(s *Subject) error {
	return s.snapshots(func(m migrate.Migratable, snap migrate.Snapshot, cut int) ([]byte, []outcome, error) {
		b, err := save(snap)
		return b, s.apply(m, cut, len(s.Commands)), err
	})
}

func pointInTime(s *Subject) error {
	return s.snapshots(func(m migrate.Migratable, snap migrate.Snapshot, cut int) ([]byte, []outcome, error) {
		want := s.apply(m, cut, len(s.Commands))
		b, err := save(snap)
		return b, want, err
	})
}

func concurrent(s *Subject) error {
	return s.snapshots(func(m migrate.Migratable, snap migrate.Snapshot, cut int) (b []byte, want []outcome, err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			b, err = save(snap)
		}()
		want = s.apply(m, cut, len(s.Commands))
		<-done
		return b, want, err
	})
}

func release(s *Subject) error {
	m, other := s.New(), s.New()
	for _, cut := range s.cuts() {
		snap, err := m.Snapshot()
		if err != nil {
			return fmt.Errorf("taking a snapshot after %d commands: %w", cut, err)
		}
		snap.Release()
	}
	n := len(s.Commands)
	return same(0, s.apply(other, 0, n), s.apply(m, 0, n))
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

func (s *Subject) saved() ([]byte, error) {
	m := s.New()
	s.apply(m, 0, len(s.Commands))
	snap, err := m.Snapshot()
	if err != nil {
		return nil, err
	}
	return save(snap)
}

func readsToEnd(s *Subject) error {
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

func brokenStream(s *Subject) error {
	b, err := s.saved()
	if err != nil {
		return err
	}
	for _, n := range []int{0, len(b) / 2, max(len(b)-1, 0), len(b)} {
		if err := s.New().Restore(broken{bytes.NewReader(b[:n])}); err == nil {
			return fmt.Errorf("it succeeded, though the stream of %d bytes broke after %d", len(b), n)
		}
	}
	return nil
}

func queries(s *Subject) error {
	m, other := s.New(), s.New()
	q, ok := m.(migrate.Querier)
	if !ok || len(s.Queries) == 0 {
		return nil
	}
	n := len(s.Commands)
	want := s.apply(other, 0, n)
	var got []outcome
	for i := range n {
		for _, question := range s.Queries {
			first, err1 := q.Query(bytes.Clone(question))
			first = bytes.Clone(first)
			second, err2 := q.Query(bytes.Clone(question))
			if !bytes.Equal(first, second) || fmt.Sprint(err1) != fmt.Sprint(err2) {
				return fmt.Errorf("query %q, asked twice, was answered %q (%v) and %q (%v)", question, first, err1, second, err2)
			}
		}
		got = append(got, s.apply(m, i, i+1)...)
	}
	return same(0, want, got)
}
